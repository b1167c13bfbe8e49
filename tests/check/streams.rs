//! Streams that accept nothing, forget what they acked, or store something else than was published:
//! each does on a real server what `check` reports, and no longer once its remedy was run.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::{
    Compression, Config, ConsumerLimits, PersistenceMode, Republish, Source, StorageType,
    SubjectTransform,
};

use super::judged::{Judged, knows};
use crate::support::{ALONE, NatsCluster, NatsServer, Scene, outboxd, until};

const ACCEPTS: &str = "stream.accepts";
const CONTENTS: &str = "stream.contents";

async fn server() -> NatsServer {
    NatsServer::with_config("").await
}

fn source(name: &str) -> Source {
    Source { name: name.to_owned(), ..Source::default() }
}

#[tokio::test]
async fn without_acks_nothing_is_acked() {
    let stream = Judged::alone(|config| config.no_ack = true).await;
    stream.not_acked().await;
    stream.check().has("fail", ACCEPTS, "no_ack", "--ack");
    stream.fix(ACCEPTS).await;
    stream.fill(1).await;
}

#[tokio::test]
async fn a_sealed_stream_gives_its_subjects_to_another() {
    let mut stream = Judged::alone(|_| {}).await;
    let found = stream.scene.context.get_stream(&stream.scene.stream).await.unwrap();
    let sealed = Config { sealed: true, ..found.cached_info().config.clone() };
    stream.scene.context.update_stream(&sealed).await.unwrap();
    assert_eq!(stream.refused(2).await, ErrorCode(10109));
    let (code, output) = outboxd(&stream.scene, &["run"]);
    assert_eq!((code, output.contains("is sealed for good")), (Some(1), true), "{output}");

    let another = format!("NATS_CLUSTER_ID={}-EVENTS outboxd migrate", stream.scene.stream);
    stream.check().has("fail", ACCEPTS, "is sealed for good", &another);
    stream.apply(&stream.remedy(ACCEPTS)).await;
    stream.scene.stream.push_str("-EVENTS");
    let (code, output) = outboxd(&stream.scene, &["migrate"]);
    assert_eq!(code, Some(0), "{output}");
    stream.fill(1).await;
}

#[tokio::test]
async fn a_mirror_and_a_stream_without_subjects_take_no_event() {
    let nats = server().await;
    let origin = Judged::new(&nats, |_| {}).await;
    let mirror = Judged::new(&nats, |config| {
        config.subjects.clear();
        config.duplicate_window = Duration::ZERO;
        config.mirror = Some(source(&origin.scene.stream));
    })
    .await;
    mirror.not_acked().await;
    let remedy = format!("NATS_CLUSTER_ID={}", origin.scene.stream);
    mirror.check().has("fail", ACCEPTS, "is a mirror", &remedy);

    let gathers = Judged::new(&nats, |config| {
        config.subjects.clear();
        config.duplicate_window = Duration::ZERO;
        config.sources = Some(vec![source(&origin.scene.stream)]);
    })
    .await;
    gathers.not_acked().await;
    let (code, output) = outboxd(&gathers.scene, &["run"]);
    assert_eq!((code, output.contains("has no subjects")), (Some(1), true), "{output}");
    gathers.check().has("fail", ACCEPTS, "has no subjects", "--subjects");
    gathers.fix(ACCEPTS).await;

    // The server gives a stream with sources no window by itself.
    assert!(!gathers.publish("twice", 2).await.unwrap().duplicate);
    assert!(!gathers.publish("twice", 2).await.unwrap().duplicate);
    gathers.check().has("fail", "stream.dedupe", "the first retry is stored twice", "30m");
    gathers.fix("stream.dedupe").await;
    gathers.publish("once", 2).await.unwrap();
    assert!(gathers.publish("once", 2).await.unwrap().duplicate);
}

#[tokio::test]
async fn a_counter_refuses_every_event() {
    let nats = server().await;
    if !knows(&Scene::on(&nats).await, 2, 12) {
        return;
    }
    let mut stream = Judged::new(&nats, |config| config.allow_message_counter = true).await;
    let code = stream.refused(2).await;
    let another = format!("NATS_CLUSTER_ID={}-EVENTS outboxd migrate", stream.scene.stream);
    stream.check().has("fail", ACCEPTS, "allow_msg_counter", &another);
    let (exit, output) = outboxd(&stream.scene, &["run"]);
    assert_eq!((exit, output.contains("allow_msg_counter")), (Some(1), true), "{code:?} {output}");

    // Its subjects stay the counter's, so the other stream has others.
    stream.scene.subjects = format!("events.{}", stream.scene.subjects);
    stream.scene.stream.push_str("-EVENTS");
    assert_eq!(outboxd(&stream.scene, &["migrate"]).0, Some(0));
}

#[tokio::test]
async fn a_window_shorter_than_the_retries_stores_twice() {
    let stream = Judged::alone(|config| {
        config.duplicate_window = Duration::from_millis(100);
    })
    .await;
    stream.publish("again", 2).await.unwrap();
    until("the id is forgotten", async || {
        (!stream.publish("again", 2).await.unwrap().duplicate).then_some(())
    })
    .await;
    assert_eq!(stream.stored().await, 2);
    stream.check().has("fail", "stream.dedupe", "the first retry is stored twice", "30m");
    stream.fix("stream.dedupe").await;
}

#[tokio::test]
async fn what_is_not_on_disk_is_lost_with_the_server() {
    let mut nats = server().await;
    let disk = Judged::new(&nats, |_| {}).await;
    let memory = Judged::new(&nats, |config| config.storage = StorageType::Memory).await;
    memory.check().has("warn", "stream.storage", "when the server restarts", "nats stream backup");
    disk.fill(20).await;
    memory.fill(20).await;
    nats.kill();
    nats.start_again();
    assert_eq!(disk.stored().await, 20);
    disk.check().has("ok", "stream.storage", "file", "");
    let gone = memory.scene.context.get_stream(&memory.scene.stream).await;
    assert!(gone.is_err(), "the stream and all in it");
}

#[tokio::test]
async fn an_asynchronous_stream_loses_what_it_acked_last() {
    let mut nats = server().await;
    if !knows(&Scene::on(&nats).await, 2, 12) {
        return;
    }
    let mode = Some(PersistenceMode::Async);
    let stream = Judged::new(&nats, |config| config.persist_mode = mode).await;
    stream.check().has("warn", "stream.storage", "persist_mode async", "nats stream backup");

    // What it has written by the time of the kill depends on the machine.
    for round in 0.. {
        let before = stream.stored().await;
        stream.fill(20).await;
        nats.kill();
        nats.start_again();
        if stream.stored().await < before + 20 {
            break;
        }
        assert!(round < 10, "it lost nothing");
    }
}

#[tokio::test]
async fn a_single_copy_in_a_cluster_is_away_with_its_server() {
    let _alone = ALONE.lock().await;
    let mut cluster = NatsCluster::start().await;
    let users = Some(cluster.users.clone());
    let scene = Scene::among(crate::support::mongodb_uri(), cluster.url(), users, "1").await;
    let checked = super::check(&scene, &[]);
    checked.has("warn", "stream.replicas", "1 copy in a cluster", "--replicas 3");
    let more = super::check(&scene, &[("OUTBOXD_STREAM__REPLICAS", "3")]);
    more.has("warn", "stream.as_configured", "replicas is 1, but 3 is configured", "--replicas 3");

    let found = scene.context.get_stream(&scene.stream).await.unwrap();
    let two = Config { num_replicas: 2, ..found.cached_info().config.clone() };
    scene.context.update_stream(&two).await.unwrap();
    let checked = super::check(&scene, &[]);
    checked.has("warn", "stream.replicas", "2 copies: while either", "--replicas 3");
    let one = Config { num_replicas: 1, ..two };
    scene.context.update_stream(&one).await.unwrap();

    until("one copy is left", async || {
        let found = scene.context.get_stream(&scene.stream).await.ok()?;
        found.cached_info().cluster.as_ref()?.replicas.is_empty().then_some(())
    })
    .await;

    let leader = until("the stream has a leader", async || cluster.leader(&scene).await).await;
    cluster.kill(leader);
    until("nobody has the stream", async || {
        scene.context.publish(scene.subject("made"), "".into()).await.ok()?.await.err()
    })
    .await;
}

#[tokio::test]
async fn other_streams_messages_take_the_place_of_events() {
    let nats = server().await;
    let other = Judged::new(&nats, |_| {}).await;
    let stream =
        Judged::new(&nats, |config| config.sources = Some(vec![source(&other.scene.stream)])).await;
    other.publish("shop.outbox.1", 2).await.unwrap();
    until("it is there", async || (stream.stored().await == 1).then_some(())).await;
    assert!(stream.publish("shop.outbox.1", 2).await.unwrap().duplicate, "the event is not stored");
    let harm = format!("sources {}", other.scene.stream);
    stream.check().has("warn", CONTENTS, &harm, "jq '.config | del(.sources)'");
}

#[tokio::test]
async fn a_subject_that_begins_with_a_wildcard_takes_what_others_publish() {
    let stream = Judged::alone(|config| config.subjects.push("*".to_owned())).await;
    let client = stream.scene.context.client();
    let answer = client.request("echo", "hi".into()).await.unwrap();
    assert!(String::from_utf8_lossy(&answer.payload).contains("\"seq\":1"), "{answer:?}");
    stream.check().has("warn", CONTENTS, "subject * also takes what others publish", "--subjects");
}

#[tokio::test]
async fn a_transform_stores_another_subject() {
    let stream = Judged::alone(|_| {}).await;
    let transform = SubjectTransform {
        source: stream.scene.subject("made"),
        destination: stream.scene.subject("changed"),
    };
    let found = stream.scene.context.get_stream(&stream.scene.stream).await.unwrap();
    let config = found.cached_info().config.clone();
    let changed = Config { subject_transform: Some(transform), ..config };
    stream.scene.context.update_stream(&changed).await.unwrap();
    stream.fill(1).await;
    assert_eq!(stream.scene.messages().await[0].subject, stream.scene.subject("changed"));
    stream.check().has("warn", CONTENTS, "subject_transform", "--no-transform");
    stream.fix(CONTENTS).await;
    stream.fill(1).await;
    assert_eq!(stream.scene.messages().await[1].subject, stream.scene.subject("made"));
}

#[tokio::test]
async fn a_rollup_deletes_what_others_published() {
    let stream = Judged::alone(|config| config.allow_rollup = true).await;
    stream.fill(5).await;
    let roll = || {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Rollup", "all");
        stream.scene.context.publish_with_headers(stream.scene.subject("x"), headers, "".into())
    };
    roll().await.unwrap().await.unwrap();
    assert_eq!(stream.stored().await, 1);
    stream.check().has("warn", CONTENTS, "allow_rollup_hdrs", "--no-allow-rollup");
    stream.fix(CONTENTS).await;
    assert!(roll().await.unwrap().await.is_err());
}

#[tokio::test]
async fn a_delete_marker_is_a_message_that_nobody_published() {
    let nats = server().await;
    if !knows(&Scene::on(&nats).await, 2, 11) {
        return;
    }
    let stream = Judged::new(&nats, |config| {
        config.max_age = Duration::from_secs(1);
        config.duplicate_window = Duration::from_secs(1);
        config.allow_message_ttl = true;
        config.allow_rollup = true;
        config.subject_delete_marker_ttl = Some(Duration::from_secs(60));
    })
    .await;
    stream.fill(1).await;
    let marker = until("the marker is there", async || {
        let messages = stream.scene.context.get_stream(&stream.scene.stream).await.ok()?;
        let newest = messages.get_last_raw_message_by_subject(&stream.scene.subject("made")).await;
        newest.ok().filter(|message| message.payload.is_empty())
    })
    .await;
    assert_eq!(marker.headers.get("Nats-Rollup").map(|value| value.as_str()), Some("sub"));
    let harms = stream.check().all(CONTENTS);
    assert_eq!(harms.len(), 2, "{harms:?}");
    assert!(harms[0].contains("subject_delete_marker_ttl 1m"), "{harms:?}");
    stream.apply(&stream.remedy(CONTENTS)).await;
    stream.fix(CONTENTS).await;
}

#[tokio::test]
async fn settings_that_harm_no_event_are_not_reported() {
    let nats = server().await;
    let scene = Scene::on(&nats).await;
    let stream = Judged::new(&nats, |config| {
        config.deny_delete = true;
        config.deny_purge = true;
        config.allow_direct = true;
        config.compression = Some(Compression::S2);
        config.first_sequence = Some(1000);
        config.max_consumers = 1;
        config.description = Some("events".to_owned());
        config.allow_message_ttl = knows(&scene, 2, 11);
        config.allow_atomic_publish = knows(&scene, 2, 12);
        config.consumer_limits =
            Some(ConsumerLimits { max_ack_pending: 10, ..ConsumerLimits::default() });
        config.republish = Some(Republish {
            source: ">".to_owned(),
            destination: "copies.>".to_owned(),
            headers_only: false,
        });
    })
    .await;
    stream.fill(10).await;
    stream.publish("again", 2).await.unwrap();
    assert!(stream.publish("again", 2).await.unwrap().duplicate);
    assert_eq!(stream.stored().await, 11);
    let checked = stream.check();
    for name in ["accepts", "dedupe", "retention", "limits", "storage", "contents", "replicas"] {
        checked.has("ok", &format!("stream.{name}"), "", "");
    }
}

/// What is too short for the retries is shorter than configured, too. It is said once.
#[tokio::test]
async fn a_window_that_is_too_short_is_named_once() {
    let scene = Scene::new().await;
    let stream = scene.context.get_stream(&scene.stream).await.unwrap();
    let mut config = stream.cached_info().config.clone();
    for (window, words) in
        [(1, "a retry after an outage may be stored twice"), (60, "shorter than retry.max_delay")]
    {
        config.duplicate_window = std::time::Duration::from_secs(window);
        scene.context.update_stream(&config).await.unwrap();
        for args in ["check", "migrate"] {
            let (_, said) = outboxd(&scene, &[args]);
            let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(said.contains(words), "{said}");
            assert_eq!(said.matches("--dupe-window").count(), 1, "{said}");
        }
    }
}
