//! How each part of the configuration is read and checked.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use mongodb::options::{ConnectionString, Tls};
use secrecy::ExposeSecret;

use super::reader::Reader;
use super::{
    AdminConfig, AlertsConfig, DispatchConfig, EventConfig, LogConfig, LogFormat, MongodbConfig,
    NatsConfig, OnDead, Ordering, RetryConfig, StreamConfig,
};
use crate::document::layout::Layout;
use outboxd_client::Headers;
use outboxd_client::field;

impl MongodbConfig {
    pub(super) fn read(reader: &mut Reader, client_id: &str) -> Self {
        let uri = reader.secret("mongodb.uri", "mongodb.uri_file");
        let (mut in_path, mut readable) = (None, false);
        match &uri {
            None => reader.missing(
                "mongodb.uri",
                "is not set; give MONGODB_URI=mongodb://host/database?replicaSet=…",
            ),
            Some(uri) => match ConnectionString::parse(uri.expose_secret()) {
                Ok(parsed) => {
                    if let Some(Tls::Enabled(tls)) = &parsed.tls {
                        tls.ca_file_path
                            .iter()
                            .for_each(|path| reader.authorities("mongodb.uri", path));
                        tls.cert_key_file_path
                            .iter()
                            .for_each(|path| reader.identity("mongodb.uri", path, path));
                    }
                    (in_path, readable) = (parsed.default_database, true);
                }
                // The driver's message may repeat parts of the URI.
                Err(_) => reader.mistake(
                    "mongodb.uri",
                    "is not a connection string such as mongodb://host/database?replicaSet=…",
                ),
            },
        }
        let database = reader.optional("mongodb.database").or(in_path).unwrap_or_else(|| {
            if readable {
                reader.missing(
                    "mongodb.database",
                    "is not set; put the database in the URI's path or set it",
                );
            }
            String::new()
        });
        Self {
            uri: uri.unwrap_or_default(),
            database,
            collection: reader.take("mongodb.collection", "outbox".to_owned()),
            app_name: format!("outboxd {client_id}"),
        }
    }
}

impl NatsConfig {
    pub(super) fn read(reader: &mut Reader, stream: &str) -> Self {
        let default_id = format!("outboxd-{}", std::process::id());
        let nats = Self {
            url: reader
                .secret("nats.url", "nats.url_file")
                .unwrap_or_else(|| "nats://127.0.0.1:4222".to_owned().into()),
            client_id: reader.take("nats.client_id", default_id),
            creds: reader.optional("nats.creds"),
            nkey: reader.secret("nats.nkey", "nats.nkey_file"),
            user: reader.optional("nats.user"),
            password: reader.secret("nats.password", "nats.password_file"),
            token: reader.secret("nats.token", "nats.token_file"),
            tls_cert: reader.optional("nats.tls_cert"),
            tls_key: reader.optional("nats.tls_key"),
            tls_ca: reader.optional("nats.tls_ca"),
            inbox_prefix: reader.take("nats.inbox_prefix", format!("_INBOX.outboxd.{stream}")),
            ping_interval: reader.within("nats.ping_interval", secs(5), secs(1)..=secs(120)),
            ack_timeout: reader.within(
                "nats.ack_timeout",
                secs(5),
                Duration::from_millis(100)..=secs(60),
            ),
        };
        if nats.servers().is_none() {
            reader.mistake(
                "nats.url",
                "is not one or more URLs such as nats://host:4222 or tls://host:4222, separated by commas",
            );
        }
        let token = |token: &str| {
            !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic() && !b"*>".contains(&b))
        };
        if reader.is_given("nats.inbox_prefix") && !nats.inbox_prefix.split('.').all(token) {
            reader.mistake(
                "nats.inbox_prefix",
                "is not a subject such as _INBOX.tickets, without wildcards",
            );
        }
        if nats.user.is_some() != nats.password.is_some() {
            reader.missing("nats.user", "user and password go together");
        }
        match (&nats.tls_cert, &nats.tls_key) {
            (Some(cert), Some(key)) => {
                reader.identity("nats.tls_cert", Path::new(cert), Path::new(key))
            }
            (None, None) => {}
            _ => reader.mistake("nats.tls_cert", "certificate and key go together"),
        }
        nats.creds.iter().for_each(|path| reader.credentials("nats.creds", Path::new(path)));
        nats.tls_ca.iter().for_each(|path| reader.authorities("nats.tls_ca", Path::new(path)));
        nats
    }
}

impl StreamConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let stream = Self {
            name: reader.take("stream.name", String::new()),
            subjects_given: reader.is_given("stream.subjects"),
            subjects: reader.take("stream.subjects", vec!["*".to_owned()]),
            duplicate_window: reader.within(
                "stream.duplicate_window",
                secs(1800),
                Duration::from_millis(100)..=secs(86_400),
            ),
            replicas: to_usize(reader.within("stream.replicas", 1, 1..=5)),
            max_age: reader.take("stream.max_age", Duration::ZERO),
        };
        if stream.name.is_empty() {
            reader.missing(
                "stream.name",
                "is not set; give the JetStream stream, or NATS_CLUSTER_ID",
            );
        } else if stream.name.len() > 255
            || stream.name.contains(|c: char| !c.is_ascii_graphic() || "*>./\\".contains(c))
        {
            reader.mistake("stream.name", "a stream's name has no spaces and none of `* > . / \\`");
        }
        if stream.subjects.is_empty() {
            reader.mistake("stream.subjects", "is empty; give at least one subject");
        }
        if !stream.max_age.is_zero() && stream.max_age < stream.duplicate_window {
            reader.mistake(
                "stream.max_age",
                "is shorter than stream.duplicate_window; the server refuses that",
            );
        }
        stream
    }
}

/// What the settings of `[event]` are unless given, by `event.layout`.
struct Preset {
    subject: &'static str,
    key: &'static str,
    extra_headers: &'static [&'static str],
    /// `None`: the subject.
    cloudevents_type: Option<&'static str>,
}

const OUTBOXD: Preset =
    Preset { subject: "{subject}", key: field::KEY, extra_headers: &[], cloudevents_type: None };
/// Of Debezium's outbox event router for MongoDB, with its own defaults.
const DEBEZIUM: Preset = Preset {
    subject: "outbox.event.{aggregatetype}",
    key: "aggregateid",
    extra_headers: &["id={_id}", "eventType={type}"],
    cloudevents_type: Some("{type}"),
};

impl EventConfig {
    pub(super) fn read(reader: &mut Reader, mongodb: &MongodbConfig) -> Self {
        let (preset, is_outboxd) = reader.one_of(
            "event.layout",
            &[("outboxd", (&OUTBOXD, true)), ("debezium", (&DEBEZIUM, false))],
        );
        let subject = reader.take("event.subject", preset.subject.to_owned());
        let prefix = reader.optional::<String>("event.subject_prefix").unwrap_or_default();
        let key = reader.take("event.key", preset.key.to_owned());
        let payload = reader.take("event.payload", field::PAYLOAD.to_owned());
        let headers = reader.take("event.headers", field::HEADERS.to_owned());
        let extra: Vec<_> = preset.extra_headers.iter().map(|text| (*text).to_owned()).collect();
        let extra = reader.take("event.extra_headers", extra);
        let cloudevents = reader.one_of("event.cloudevents", &[("off", false), ("binary", true)]);
        let source = reader.optional("event.cloudevents_source");
        let source: String =
            source.unwrap_or_else(|| format!("/{}/{}", mongodb.database, mongodb.collection));
        let kind = reader.optional::<String>("event.cloudevents_type");

        let mut layout = Ok(Layout::default());
        let fields = [&*subject, &*key, &*payload, &*headers];
        if !is_outboxd || fields != [OUTBOXD.subject, field::KEY, field::PAYLOAD, field::HEADERS] {
            layout = Layout::of_fields(&key, &payload, &headers)
                .map_err(|error| ("event.key", error.to_string()));
        }
        layout = layout.and_then(|layout| {
            layout
                .with_subject(&prefix, &subject)
                .map_err(|error| ("event.subject", error.to_string()))
        });
        for header in &extra {
            layout = layout.and_then(|layout| {
                let (name, template) = header.split_once('=').unwrap_or((header, ""));
                let is_name = !template.is_empty() && Headers::default().insert(name, "").is_ok();
                let wanted = || {
                    format!(
                        "{header:?} is not a header and its text, such as \"eventType={{type}}\""
                    )
                };
                match is_name {
                    true => layout.with_header(name, template).map_err(|error| error.to_string()),
                    false => Err(wanted()),
                }
                .map_err(|error| ("event.extra_headers", error))
            });
        }
        if cloudevents {
            let kind = kind.as_deref().or(preset.cloudevents_type);
            layout = layout.and_then(|layout| {
                layout
                    .with_cloudevents(&source, kind)
                    .map_err(|error| ("event.cloudevents_type", error.to_string()))
            });
        }
        let layout = layout.unwrap_or_else(|(key, error)| {
            reader.mistake(key, error);
            Layout::default()
        });
        Self { layout: layout.into() }
    }
}

impl DispatchConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            max_in_flight: to_usize(reader.within("dispatch.max_in_flight", 1024, 1..=4096)),
            max_buffered_events: to_usize(reader.within(
                "dispatch.max_buffered_events",
                8192,
                1..=1_000_000,
            )),
            max_buffered_bytes: to_usize(reader.within(
                "dispatch.max_buffered_bytes",
                16 << 20,
                1 << 16..=1 << 32,
            )),
            ordering: reader
                .one_of("dispatch.ordering", &[("key", Ordering::Key), ("none", Ordering::None)]),
            on_dead: reader
                .one_of("dispatch.on_dead", &[("hold", OnDead::Hold), ("skip", OnDead::Skip)]),
        }
    }
}

impl RetryConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let retry = Self {
            cron: reader.take("retry.cron", "*/10 * * * * *".to_owned()),
            base_delay: reader.within(
                "retry.base_delay",
                secs(5),
                Duration::from_millis(100)..=secs(3600),
            ),
            max_delay: reader.within("retry.max_delay", secs(300), secs(1)..=secs(86_400)),
            max_attempts: u32::try_from(reader.within("retry.max_attempts", 20, 1..=10_000))
                .unwrap_or(u32::MAX),
            outage_grace: reader.within("retry.outage_grace", secs(30), secs(0)..=secs(3600)),
        };
        if retry.max_delay < retry.base_delay {
            reader.mistake("retry.max_delay", "is shorter than retry.base_delay");
        }
        if tokio_cron_scheduler::Job::new(retry.cron.as_str(), |_, _| {}).is_err() {
            let wanted = "is not a cron expression with seconds, such as \"*/10 * * * * *\" for every ten seconds";
            reader.mistake("retry.cron", wanted);
        }
        retry
    }
}

impl AlertsConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let alerts = Self {
            file_given: reader.is_given("alerts.file"),
            file: reader.take("alerts.file", "outboxd-alerts.jsonl".to_owned()).into(),
            after_failures: u32::try_from(reader.within("alerts.after_failures", 5, 1..=10_000))
                .unwrap_or(u32::MAX),
            stuck_after: reader.within("alerts.stuck_after", secs(300), secs(1)..=secs(86_400)),
            webhook: reader.secret("alerts.webhook", "alerts.webhook_file"),
        };
        if let Some(url) = &alerts.webhook
            && !reqwest::Url::parse(url.expose_secret())
                .is_ok_and(|url| ["http", "https"].contains(&url.scheme()))
        {
            reader.mistake("alerts.webhook", "is not a URL such as https://host/path");
        }
        alerts
    }
}

impl AdminConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let default = SocketAddr::from((Ipv4Addr::LOCALHOST, 9464));
        let listen = reader.take("admin.listen", default.to_string());
        let admin = Self {
            listen_given: reader.is_given("admin.listen"),
            listen: listen.parse().unwrap_or_else(|_| {
                reader.mistake(
                    "admin.listen",
                    format!("{listen:?} is not an address such as \"{default}\""),
                );
                default
            }),
            token: reader.secret("admin.token", "admin.token_file"),
        };
        if !admin.listen.ip().is_loopback() && admin.token.is_none() {
            reader.missing(
                "admin.listen",
                "is not on loopback; set admin.token or admin.token_file too",
            );
        }
        admin
    }
}

impl LogConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let formats =
            [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
        let format = reader.one_of("log.format", &formats);
        let level = reader.take("log.level", "warn,outboxd=info".to_owned());
        if level.parse::<tracing_subscriber::filter::Targets>().is_err() {
            reader
                .mistake("log.level", "is not a filter such as \"info\" or \"warn,outboxd=debug\"");
        }
        Self { format, level }
    }
}

pub(super) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Bounded by the caller's range, all of which fits on 64-bit machines; a smaller one gets its
/// largest.
fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
