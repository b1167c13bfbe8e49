//! The JetStream stream. `outboxd migrate` creates it once; afterwards it is verified and never
//! altered.

use std::collections::HashMap;

use async_nats::jetstream::context::CreateStreamErrorKind;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info};
use async_nats::jetstream::{Context, ErrorCode};

use super::connection::Nats;
use super::facts::{Facts, needed_window};
use super::requirements::{REFUSED, review};
use crate::config::{Config as OutboxdConfig, StreamConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Finding, Level};
use crate::telemetry::metrics::Metrics;

/// The stream after `outboxd migrate`.
#[derive(Debug)]
pub(crate) struct Ensured {
    /// Whether it was created just now.
    pub(crate) created: bool,
    pub(crate) config: Config,
    /// What is risky about it, each with its remedy.
    pub(crate) differences: Vec<String>,
}

/// The stream as `outboxd migrate` would create it. It has no limits; should it get one later, a
/// full stream refuses events, which wait in the outbox, and deletes none.
pub(crate) fn wanted(stream: &StreamConfig) -> Config {
    Config {
        name: stream.name.clone(),
        subjects: stream.subjects.get().clone(),
        duplicate_window: stream.duplicate_window,
        num_replicas: stream.replicas,
        max_age: stream.max_age,
        discard: DiscardPolicy::New,
        metadata: HashMap::from([("created_by".to_owned(), "outboxd".to_owned())]),
        ..Config::default()
    }
}

/// Creates the stream if it doesn't exist, or verifies it.
///
/// # Errors
/// [`ErrorKind::Stream`] when it can't be created or can't serve an outbox.
pub(crate) async fn ensure(nats: &Nats, config: &OutboxdConfig) -> Result<Ensured> {
    let stream = &config.stream;
    if let Some(info) = of(nats, &stream.name).await? {
        let differences = judge(nats, &info, config)?;
        return Ok(Ensured { created: false, config: info.config, differences });
    }

    match nats.context().create_stream(wanted(stream)).await {
        Ok(stream) => {
            let info = stream.cached_info();
            let differences = judge(nats, info, config)?;
            Ok(Ensured { created: true, config: info.config.clone(), differences })
        }
        // Another `outboxd migrate` was faster, with other settings.
        Err(error) if exists_already(&error.kind()) => {
            let differences = verify(nats, config, &Metrics::none()).await?;
            let config =
                of(nats, &stream.name).await?.map_or_else(|| wanted(stream), |info| info.config);
            Ok(Ensured { created: false, config, differences })
        }
        Err(error) => {
            let message = format!(
                "the stream {} with subjects {:?} could not be created",
                stream.name,
                stream.subjects.get()
            );
            Err(Error::with_source(ErrorKind::Stream, message, error))
        }
    }
}

fn exists_already(error: &CreateStreamErrorKind) -> bool {
    matches!(
        error,
        CreateStreamErrorKind::JetStream(error)
            if error.error_code() == ErrorCode::STREAM_NAME_EXIST
    )
}

/// Checks that the stream exists and can serve an outbox. Returns what is risky about it.
///
/// # Errors
/// [`ErrorKind::Stream`] with the remedy.
pub(crate) async fn verify(
    nats: &Nats,
    config: &OutboxdConfig,
    metrics: &Metrics,
) -> Result<Vec<String>> {
    let stream = &config.stream;
    match of(nats, &stream.name).await? {
        Some(info) => {
            metrics.dedupe_window(info.config.duplicate_window, needed_window(config));
            judge(nats, &info, config)
        }
        None => {
            let message = match nats.domain() {
                None => format!(
                    "the stream {} doesn't exist; run `outboxd migrate` with this configuration",
                    stream.name
                ),
                Some(domain) => format!(
                    "the stream {} doesn't exist in the JetStream domain {domain}; if it is in \
                     another, set nats.domain (`outboxd check` looks for it), otherwise run \
                     `outboxd migrate` with this configuration",
                    stream.name
                ),
            };
            Err(Error::new(ErrorKind::Stream, message))
        }
    }
}

fn judge(nats: &Nats, info: &Info, config: &OutboxdConfig) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let facts = Facts::new(info, config, nats.max_payload());
    for Finding { level, check, found: fault, remedy, .. } in review(&facts) {
        let remedy = remedy.unwrap_or_default();
        match level {
            Level::Ok => {}
            Level::Fail if REFUSED.contains(&check) => {
                let message = format!("the stream {} {fault}: {remedy}", info.config.name);
                return Err(Error::new(ErrorKind::Stream, message));
            }
            Level::Warn | Level::Fail => notes.push(format!("{fault}: {remedy}")),
        }
    }

    Ok(notes)
}

/// The stream, or `None` when it doesn't exist. From now on, acks count that name its domain.
pub(super) async fn of(nats: &Nats, name: &str) -> Result<Option<Info>> {
    let described = describe(&nats.context(), name).await.inspect_err(|error| {
        if error.kind() == ErrorKind::Nats {
            nats.doubt();
        }
    })?;
    if let Some(Described { domain, .. }) = &described {
        nats.expected.in_domain(domain.as_deref());
    }

    Ok(described.map(|described| described.info))
}

/// A stream as it describes itself.
pub(crate) struct Described {
    pub(crate) info: Info,
    /// The JetStream domain of its servers.
    pub(crate) domain: Option<String>,
    /// The server's clock. Servers since 2.10 send it.
    pub(crate) at: Option<String>,
}

/// The stream, or `None` when it doesn't exist.
pub(crate) async fn describe(context: &Context, name: &str) -> Result<Option<Described>> {
    let failed = || format!("NATS: asking for stream {name}");
    let reply = context
        .request::<_, _, Response<serde_json::Value>>(format!("STREAM.INFO.{name}"), &())
        .await
        .map_err(|error| Error::with_source(ErrorKind::Nats, failed(), error))?;

    let error = match reply {
        Response::Ok(value) => {
            let text = |name: &str| value.get(name)?.as_str().map(str::to_owned);
            let (domain, at) = (text("domain"), text("ts"));
            let info = serde_json::from_value(value)
                .map_err(|error| Error::with_source(ErrorKind::Nats, failed(), error))?;
            return Ok(Some(Described { info, domain, at }));
        }
        Response::Err { error } => error,
    };

    match error.error_code() {
        ErrorCode::STREAM_NOT_FOUND => Ok(None),
        ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => {
            let message = "JetStream is off on this server or for this account; \
                start nats-server with `-js` or enable it";
            Err(Error::with_source(ErrorKind::Stream, message, error))
        }
        _ => Err(Error::with_source(ErrorKind::Nats, failed(), error)),
    }
}
