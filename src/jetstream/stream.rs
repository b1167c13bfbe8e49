//! The JetStream stream. `outboxd migrate` creates it once; afterwards it is verified and never
//! altered.

use async_nats::jetstream::context::{
    CreateStreamError, CreateStreamErrorKind, RequestError, RequestErrorKind,
};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{Config, Info};
use async_nats::jetstream::{Context, ErrorCode};
use tokio::time::Instant;

use super::absent::{self, Absent};
use super::bursts::has_batches;
use super::connection::Nats;
use super::creation::{self, wanted};
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

/// Creates the stream if it doesn't exist, or verifies it. `subjects` are asked for where a stream
/// is created and the settings name none.
///
/// # Errors
/// [`ErrorKind::Stream`] when it can't be created or can't serve an outbox.
pub(crate) async fn ensure(
    nats: &Nats,
    config: &OutboxdConfig,
    subjects: impl AsyncFnOnce() -> Result<Vec<String>>,
) -> Result<Ensured> {
    let name = &config.stream.name;
    if let Some(info) = of(nats, name).await? {
        let differences = judge(nats, &info, config)?;
        return Ok(Ensured { created: false, config: info.config, differences });
    }

    let client = nats.context().client();
    let absent = absent::look(config, &client, &nats.denied).await;
    if let Some((found, remedy)) = absent.forbids() {
        let message = format!("the stream {name} {found}\n{}", indented(&remedy));
        return Err(Error::new(ErrorKind::Stream, message));
    }

    let mut config = config.clone();
    if config.stream.subjects.is_empty() {
        config.stream.subjects = subjects().await?;
    }
    let (config, stream) = (&config, &config.stream);

    let error = match create(nats, stream).await {
        Ok(info) => {
            let mut differences = judge(nats, &info, config)?;
            differences.extend(absent.created(&stream.name));
            return Ok(Ensured { created: true, config: info.config, differences });
        }
        Err(error) => error,
    };

    // The user may not ask for it.
    if error.kind() == ErrorKind::Nats {
        return Err(error);
    }

    // Another `outboxd migrate` was faster, with other settings.
    if exists_already(&error) {
        let differences = verify(nats, config, &Metrics::none()).await?;
        let config =
            of(nats, &stream.name).await?.map_or_else(|| wanted(stream), |info| info.config);
        return Ok(Ensured { created: false, config, differences });
    }

    let takers = match code(&error) {
        Some(ErrorCode::STREAM_SUBJECT_OVERLAP) => {
            absent::takers(config, &client, &nats.denied).await
        }
        _ => Vec::new(),
    };
    Err(explained(stream, error, &absent, &takers))
}

/// Asks for the stream's creation.
async fn create(nats: &Nats, stream: &StreamConfig) -> Result<Info> {
    let subject = format!("{}.STREAM.CREATE.{}", nats.api_prefix, stream.name);
    let (context, asked) = (nats.context(), Instant::now());
    let takes_batches = stream.replicas > 1 && has_batches(&context.client().server_info().version);
    let wanted = Config { allow_atomic_publish: takes_batches, ..wanted(stream) };

    let created = tokio::select! {
        created = context.create_stream(wanted) => created,
        () = nats.denied.after(&subject, asked) => {
            let message = format!(
                "the user may not publish to {subject}, so the stream {} could not be created\n  \
                 $ outboxd privileges --role migrate   # prints the user; paste it into \
                 nats-server.conf",
                stream.name
            );
            return Err(Error::new(ErrorKind::Nats, message));
        }
    };

    created.map(|stream| stream.cached_info().clone()).map_err(|error| {
        let message = format!("the stream {} could not be created", stream.name);
        Error::with_source(ErrorKind::Stream, message, error)
    })
}

/// A refusal, with what it means and the lines that help.
fn explained(stream: &StreamConfig, error: Error, absent: &Absent, takers: &[String]) -> Error {
    let Some(CreateStreamErrorKind::JetStream(refused)) =
        error.cause::<CreateStreamError>().map(|cause| cause.kind())
    else {
        // No answer, or none that is understood. A second try creates nothing twice.
        let message = format!("{}\n  $ outboxd migrate   # again", error.report());
        return Error::new(error.kind(), message);
    };

    let (text, code) = (refused.to_string(), refused.error_code().0);
    let foreseen = absent.foresaw(&code.to_string());
    let refusal = foreseen.unwrap_or_else(|| creation::refused(code, &text));
    let (meaning, remedy) = match takers {
        [] => (refusal.meaning.to_owned(), refusal.remedy.to_owned()),
        takers => {
            let meaning = format!("stream {} takes some of stream.subjects", takers.join(", "));
            (meaning, absent::overlap(takers))
        }
    };

    let message = format!(
        "the stream {} with subjects {:?} could not be created: {meaning} ({text})\n{}",
        stream.name,
        stream.subjects,
        indented(&remedy)
    );
    Error::new(ErrorKind::Stream, message)
}

fn indented(lines: &str) -> String {
    lines.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

fn code(error: &Error) -> Option<ErrorCode> {
    match error.cause::<CreateStreamError>()?.kind() {
        CreateStreamErrorKind::JetStream(error) => Some(error.error_code()),
        _ => None,
    }
}

fn exists_already(error: &Error) -> bool {
    code(error) == Some(ErrorCode::STREAM_NAME_EXIST)
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
    let Some(info) = of(nats, &stream.name).await? else {
        let place = absent::place(config, &nats.context().client());
        let message = format!("the stream {} doesn't exist in {place}", stream.name);
        return Err(Error::new(ErrorKind::Stream, message));
    };

    metrics.dedupe_window(info.config.duplicate_window, needed_window(config));
    judge(nats, &info, config)
}

/// The same at the start, when a stream that doesn't exist is looked for elsewhere.
///
/// # Errors
/// As [`verify`].
pub(crate) async fn require(
    nats: &Nats,
    config: &OutboxdConfig,
    metrics: &Metrics,
) -> Result<Vec<String>> {
    let stream = &config.stream;
    if of(nats, &stream.name).await?.is_some() {
        return verify(nats, config, metrics).await;
    }

    let absent = absent::look(config, &nats.context().client(), &nats.denied).await;
    let (found, remedy) = (absent.found(), absent.remedy(config, &[]));
    let message = format!("the stream {} {found}\n{}", stream.name, indented(&remedy));
    Err(Error::new(ErrorKind::Stream, message))
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
        .map_err(|error| {
            let message = match is_silent(&error) {
                true => format!(
                    "NATS: no JetStream answers for stream {name}; `outboxd check` tells apart a \
                     domain or prefix that nobody has, and a JetStream that is off or starting"
                ),
                false => failed(),
            };
            Error::with_source(ErrorKind::Nats, message, error)
        })?;

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

/// Whether nobody is there to answer.
pub(crate) fn is_silent(error: &RequestError) -> bool {
    error.kind() == RequestErrorKind::NoResponders
}
