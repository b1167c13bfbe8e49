//! The JetStream stream: created once by `outboxd migrate`, from then on only verified, never altered.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, Info};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Nats;
use crate::config::StreamConfig;
use crate::error::{Error, ErrorKind, Result};

/// How old the known subjects of the stream may be when a publish finds no responder.
const COVERAGE_AGE: Duration = Duration::from_secs(1);

/// What `outboxd migrate` found or did.
#[derive(Debug)]
pub struct Ensured {
    /// Whether the stream was made just now.
    pub created: bool,
    /// The stream as it is.
    pub config: Config,
    /// Where it differs from the configuration without harm to the relay.
    pub differences: Vec<String>,
}

/// The stream as `outboxd migrate` would make it.
pub fn wanted(stream: &StreamConfig) -> Config {
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
pub async fn ensure(nats: &Nats, stream: &StreamConfig) -> Result<Ensured> {
    if let Some(info) = info(nats, &stream.name).await? {
        let differences = verify_config(&info.config, stream)?;
        return Ok(Ensured { created: false, config: info.config, differences });
    }
    match nats.context().create_stream(wanted(stream)).await {
        Ok(made) => Ok(Ensured { created: true, config: made.cached_info().config.clone(), differences: Vec::new() }),
        // Another `outboxd migrate` was faster, with other settings.
        Err(error) if matches!(error.kind(), CreateStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NAME_EXIST) =>
        {
            let differences = verify(nats, stream).await?;
            let config = info(nats, &stream.name).await?.map_or_else(|| wanted(stream), |info| info.config);
            Ok(Ensured { created: false, config, differences })
        }
        Err(error) => {
            let message = format!("the stream {} with subjects {:?} could not be made", stream.name, stream.subjects);
            Err(Error::with_source(ErrorKind::Stream, message, error))
        }
    }
}

/// Checks that the stream is there and can serve an outbox; returns harmless differences.
///
/// # Errors
/// [`ErrorKind::Stream`] with what to do.
pub async fn verify(nats: &Nats, stream: &StreamConfig) -> Result<Vec<String>> {
    match info(nats, &stream.name).await? {
        Some(info) => verify_config(&info.config, stream),
        None => {
            let message =
                format!("the stream {} doesn't exist; run `outboxd migrate` with this configuration", stream.name);
            Err(Error::new(ErrorKind::Stream, message))
        }
    }
}

fn verify_config(found: &Config, wanted: &StreamConfig) -> Result<Vec<String>> {
    let refuse = |reason: &str| Err(Error::new(ErrorKind::Stream, format!("the stream {} {reason}", wanted.name)));
    if found.no_ack {
        return refuse("answers no publish (no_ack), so no event could ever be deleted; recreate it without no_ack");
    }
    if found.sealed {
        return refuse("is sealed and takes no messages; name another stream");
    }
    if found.mirror.is_some() {
        return refuse("is a mirror and takes no messages; name its origin");
    }
    if wanted.subjects_given
        && let Some(uncovered) = wanted.subjects.iter().find(|subject| !any_covers(&found.subjects, subject))
    {
        return refuse(&format!(
            "has subjects {:?}, none of which covers {uncovered:?} of stream.subjects; add it to the stream",
            found.subjects
        ));
    }
    let mut differences = Vec::new();
    let mut differs = |what: &str, found: String, wanted: String| {
        if found != wanted {
            differences.push(format!("{what} is {found}, the configuration says {wanted}"));
        }
    };
    let duration = |duration: Duration| humantime::format_duration(duration).to_string();
    differs("duplicate_window", duration(found.duplicate_window), duration(wanted.duplicate_window));
    differs("replicas", found.num_replicas.to_string(), wanted.replicas.to_string());
    differs("max_age", duration(found.max_age), duration(wanted.max_age));
    if found.retention == async_nats::jetstream::stream::RetentionPolicy::Interest {
        differences.push("retention is interest: an event that no consumer wants yet is acked and dropped".to_owned());
    }
    Ok(differences)
}

async fn info(nats: &Nats, name: &str) -> Result<Option<Info>> {
    match nats.context().get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().clone())),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
            GetStreamErrorKind::JetStream(error)
                if [ErrorCode::JETSTREAM_NOT_ENABLED, ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT]
                    .contains(&error.error_code()) =>
            {
                let message =
                    "JetStream is off on this server or for this account; start nats-server with `-js` or enable it";
                Err(Error::with_source(ErrorKind::Stream, message, error))
            }
            _ => Err(Error::with_source(ErrorKind::Nats, format!("NATS: asking for stream {name}"), error)),
        },
    }
}

/// The subjects the stream takes, asked again when they may have changed.
#[derive(Debug)]
pub(crate) struct Coverage {
    nats: Nats,
    name: String,
    known: Mutex<Option<(Instant, Option<Vec<String>>)>>,
}

impl Coverage {
    pub(crate) fn new(nats: Nats, name: &str) -> Self {
        Self { nats, name: name.to_owned(), known: Mutex::new(None) }
    }

    /// Whether the stream takes this subject; `None` when it doesn't say. One asks for all who wait, and not having been
    /// told is known for as long as having been.
    pub(crate) async fn covers(&self, subject: &str) -> Option<bool> {
        let mut known = self.known.lock().await;
        if known.as_ref().is_none_or(|(asked, _)| asked.elapsed() > COVERAGE_AGE) {
            let info = info(&self.nats, &self.name).await.ok().flatten();
            *known = Some((Instant::now(), info.map(|info| info.config.subjects)));
        }
        known.as_ref().and_then(|(_, subjects)| Some(any_covers(subjects.as_ref()?, subject)))
    }
}

fn any_covers(patterns: &[String], subject: &str) -> bool {
    patterns.iter().any(|pattern| covers(pattern, subject))
}

/// Whether every subject that `subject` stands for is one that `pattern` stands for.
fn covers(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for wanted in pattern.split('.') {
        match (wanted, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(token)) if token != ">" => {}
            (wanted, Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_pattern_covers_what_the_server_would_route_to_it() {
        for (pattern, subject) in [
            ("*", "ticket:created"),
            (">", "a"),
            (">", "a.b.>"),
            ("a.*", "a.b"),
            ("a.>", "a.b.c"),
            ("a.b", "a.b"),
            ("a.*", "a.*"),
        ] {
            assert!(covers(pattern, subject), "{pattern} covers {subject}");
        }
        for (pattern, subject) in [
            ("*", "a.b"),
            ("a.>", "a"),
            ("a.*", "a.>"),
            ("a.b", "a.*"),
            ("a.b", "a"),
            ("a", "a.b"),
            ("*", ">"),
            ("a.*", "b.c"),
        ] {
            assert!(!covers(pattern, subject), "{pattern} doesn't cover {subject}");
        }
    }
}
