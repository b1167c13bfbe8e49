//! A stream made for one row of the table: what the server does to messages in it, what `check`
//! reports of it, and what the printed remedy makes of it.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy};

use super::{Checked, check};
use crate::support::{NatsServer, Scene, until};

pub(super) struct Judged {
    pub(super) scene: Scene,
    /// On top of the scene's.
    settings: Vec<(&'static str, String)>,
    /// The server, if nobody else holds it.
    _nats: Option<NatsServer>,
}

impl Judged {
    /// A migrated scene whose stream is made anew, as `change` has it.
    pub(super) async fn new(nats: &NatsServer, change: impl FnOnce(&mut Config)) -> Self {
        let scene = Scene::alone(nats).await;
        scene.context.delete_stream(&scene.stream).await.unwrap();
        let judged = Self { scene, settings: Vec::new(), _nats: None };
        judged.create(change).await;
        judged
    }

    /// The same, on a server of its own.
    pub(super) async fn alone(change: impl FnOnce(&mut Config)) -> Self {
        let nats = NatsServer::with_config("").await;
        let judged = Self::new(&nats, change).await;
        Self { _nats: Some(nats), ..judged }
    }

    pub(super) async fn create(&self, change: impl FnOnce(&mut Config)) {
        let mut config = Config {
            name: self.scene.stream.clone(),
            subjects: vec![self.scene.subjects.clone()],
            duplicate_window: Duration::from_secs(1800),
            ..Config::default()
        };
        change(&mut config);
        self.scene.context.create_stream(&config).await.unwrap();
    }

    pub(super) fn with(mut self, name: &'static str, text: &str) -> Self {
        self.settings.push((name, text.to_owned()));
        self
    }

    /// As the relay does it: with a message id, and for this stream alone.
    pub(super) async fn publish(&self, id: &str, bytes: usize) -> Result<PublishAck, PublishError> {
        self.publish_to("made", id, bytes).await
    }

    pub(super) async fn publish_to(
        &self,
        subject: &str,
        id: &str,
        bytes: usize,
    ) -> Result<PublishAck, PublishError> {
        let message = PublishMessage::build()
            .message_id(id)
            .expected_stream(&self.scene.stream)
            .payload(vec![b'x'; bytes].into());
        let subject = self.scene.subject(subject);
        self.scene.context.send_publish(subject, message).await?.await
    }

    /// Publishes so many small messages, each of which must be acked as new.
    pub(super) async fn fill(&self, messages: u64) {
        for number in 0..messages {
            let ack = self.publish(&format!("{number} {}", rand::random::<u64>()), 2).await;
            assert!(!ack.unwrap().duplicate);
        }
    }

    /// JetStream's code for a publish that must be refused.
    pub(super) async fn refused(&self, bytes: usize) -> ErrorCode {
        let refused = self.publish(&rand::random::<u64>().to_string(), bytes).await.unwrap_err();
        match std::error::Error::source(&refused).and_then(|source| source.downcast_ref()) {
            Some(error) => async_nats::jetstream::Error::error_code(error),
            None => panic!("{refused:?}"),
        }
    }

    /// A publish that gets no ack.
    pub(super) async fn not_acked(&self) {
        let error = self.publish("lost", 2).await.unwrap_err();
        let kinds = [PublishErrorKind::TimedOut, PublishErrorKind::StreamNotFound];
        assert!(kinds.contains(&error.kind()), "{error:?}");
    }

    /// How many messages the stream has.
    pub(super) async fn stored(&self) -> u64 {
        let name = &self.scene.stream;
        // The server may have been restarted.
        let stream =
            until("the stream answers", async || self.scene.context.get_stream(name).await.ok());
        stream.await.cached_info().state.messages
    }

    pub(super) fn check(&self) -> Checked {
        let mut settings: Vec<_> =
            self.settings.iter().map(|(name, text)| (*name, text.as_str())).collect();
        // Otherwise a window as long as the defaults want would be needed in every test.
        settings.push(("OUTBOXD_RETRY__MAX_DELAY", "1s"));
        check(&self.scene, &settings)
    }

    /// Runs `check`, edits the stream as the remedy of this check's first finding has it, and
    /// returns the remedy.
    #[track_caller]
    pub(super) fn remedy(&self, name: &str) -> String {
        let checked = self.check();
        let finding = checked.finding(name).unwrap_or_else(|| panic!("{}", checked.output));
        finding["remedy"].as_str().unwrap_or_else(|| panic!("{finding}")).to_owned()
    }

    /// Fixes the stream by the remedy of the check's first finding, as the `nats` command would,
    /// and asserts that the check has nothing more to report.
    pub(super) async fn fix(&self, name: &str) {
        self.apply(&self.remedy(name)).await;
        self.check().has("ok", name, "", "");
    }

    pub(super) async fn apply(&self, remedy: &str) {
        let line = remedy.split(" && ").next().unwrap().replace('\'', "").replace('=', " ");
        let mut words = line.strip_prefix("$ nats stream edit ").unwrap().split_whitespace();
        let stream = self.scene.context.get_stream(words.next().unwrap()).await.unwrap();
        let mut config = stream.cached_info().config.clone();
        while let Some(flag) = words.next() {
            set(&mut config, flag, &mut words);
        }
        self.scene.context.update_stream(&config).await.unwrap();
    }
}

/// What the `nats` command makes of a flag.
fn set<'a>(config: &mut Config, flag: &str, words: &mut impl Iterator<Item = &'a str>) {
    let mut word = || words.next().unwrap();
    let duration = |text| humantime::parse_duration(text).unwrap();
    match flag {
        "--ack" => config.no_ack = false,
        "--no-transform" => config.subject_transform = None,
        "--no-allow-rollup" => config.allow_rollup = false,
        "--no-discard-per-subject" => config.discard_new_per_subject = false,
        "--subject-del-markers-ttl" => {
            config.subject_delete_marker_ttl =
                Some(duration(word())).filter(|ttl: &Duration| !ttl.is_zero());
        }
        "--discard" => {
            config.discard = match word() {
                "new" => DiscardPolicy::New,
                other => panic!("{other}"),
            }
        }
        "--retention" => {
            config.retention = match word() {
                "limits" => RetentionPolicy::Limits,
                other => panic!("{other}"),
            }
        }
        "--max-msgs" => config.max_messages = word().parse().unwrap(),
        "--max-bytes" => config.max_bytes = word().parse().unwrap(),
        "--max-msg-size" => config.max_message_size = word().parse().unwrap(),
        "--max-msgs-per-subject" => config.max_messages_per_subject = word().parse().unwrap(),
        "--max-age" => config.max_age = duration(word()),
        "--dupe-window" => config.duplicate_window = duration(word()),
        "--replicas" => config.num_replicas = word().parse().unwrap(),
        "--subjects" => config.subjects = word().split(',').map(str::to_owned).collect(),
        other => panic!("unknown flag {other}"),
    }
}

/// Whether the tests' nats-server is at least this version.
pub(super) fn knows(scene: &Scene, major: u32, minor: u32) -> bool {
    let version = scene.context.client().server_info().version;
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next(), parts.next()) >= (Some(major), Some(minor))
}
