//! The JetStream stream: created once by `outboxd migrate`, from then on only verified, never
//! altered.

use std::collections::HashMap;

use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, Info};
use async_nats::jetstream::{Context, ErrorCode};

use super::connection::Nats;
use super::judge::{REFUSED, judge, needed_window};
use crate::config::{Config as OutboxdConfig, StreamConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Finding, Level};
use crate::telemetry::metrics::Metrics;

/// What `outboxd migrate` found or did.
#[derive(Debug)]
pub(crate) struct Ensured {
    /// Whether the stream was made just now.
    pub(crate) created: bool,
    /// The stream as it is.
    pub(crate) config: Config,
    /// What is risky about it, with what mends it.
    pub(crate) differences: Vec<String>,
}

/// The stream as `outboxd migrate` would make it.
pub(crate) fn wanted(stream: &StreamConfig) -> Config {
    Config {
        name: stream.name.clone(),
        subjects: stream.subjects.clone(),
        duplicate_window: stream.duplicate_window,
        num_replicas: stream.replicas,
        max_age: stream.max_age,
        metadata: HashMap::from([("created_by".to_owned(), "outboxd".to_owned())]),
        ..Config::default()
    }
}

/// Makes the stream if it isn't there; verifies it if it is.
///
/// # Errors
/// [`ErrorKind::Stream`] when it can't be made or can't serve an outbox.
pub(crate) async fn ensure(nats: &Nats, config: &OutboxdConfig) -> Result<Ensured> {
    let stream = &config.stream;
    if let Some(info) = info(&nats.context(), &stream.name).await? {
        let differences = verify_config(&info.config, config)?;
        return Ok(Ensured { created: false, config: info.config, differences });
    }
    match nats.context().create_stream(wanted(stream)).await {
        Ok(made) => Ok(Ensured {
            created: true,
            config: made.cached_info().config.clone(),
            differences: Vec::new(),
        }),
        // Another `outboxd migrate` was faster, with other settings.
        Err(error) if matches!(error.kind(), CreateStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NAME_EXIST) =>
        {
            let differences = verify(nats, config, &Metrics::none()).await?;
            let config = info(&nats.context(), &stream.name)
                .await?
                .map_or_else(|| wanted(stream), |info| info.config);
            Ok(Ensured { created: false, config, differences })
        }
        Err(error) => {
            let message = format!(
                "the stream {} with subjects {:?} could not be made",
                stream.name, stream.subjects
            );
            Err(Error::with_source(ErrorKind::Stream, message, error))
        }
    }
}

/// Checks that the stream is there and can serve an outbox; returns what is risky about it.
///
/// # Errors
/// [`ErrorKind::Stream`] with what to do.
pub(crate) async fn verify(
    nats: &Nats,
    config: &OutboxdConfig,
    metrics: &Metrics,
) -> Result<Vec<String>> {
    let stream = &config.stream;
    match info(&nats.context(), &stream.name).await? {
        Some(info) => {
            metrics.dedupe_window(info.config.duplicate_window, needed_window(config));
            verify_config(&info.config, config)
        }
        None => {
            let message = format!(
                "the stream {} doesn't exist; run `outboxd migrate` with this configuration",
                stream.name
            );
            Err(Error::new(ErrorKind::Stream, message))
        }
    }
}

fn verify_config(found: &Config, config: &OutboxdConfig) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for Finding { level, check, found: said, remedy, .. } in judge(found, config) {
        let remedy = remedy.unwrap_or_default();
        match level {
            Level::Ok => {}
            Level::Fail if REFUSED.contains(&check) => {
                return Err(Error::new(
                    ErrorKind::Stream,
                    format!("the stream {} {said}: {remedy}", found.name),
                ));
            }
            Level::Warn | Level::Fail => notes.push(format!("{said}: {remedy}")),
        }
    }
    Ok(notes)
}

/// The stream as it is; `None` when there is none.
pub(crate) async fn info(context: &Context, name: &str) -> Result<Option<Info>> {
    match context.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().clone())),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(error)
                if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                Ok(None)
            }
            GetStreamErrorKind::JetStream(error)
                if [
                    ErrorCode::JETSTREAM_NOT_ENABLED,
                    ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT,
                ]
                .contains(&error.error_code()) =>
            {
                let message = "JetStream is off on this server or for this account; start nats-server with `-js` or enable it";
                Err(Error::with_source(ErrorKind::Stream, message, error))
            }
            _ => Err(Error::with_source(
                ErrorKind::Nats,
                format!("NATS: asking for stream {name}"),
                error,
            )),
        },
    }
}
