//! The error of everything that isn't about one event: set-up, connections, migrations.
//!
//! A failed event is not an [`Error`]: it is an outcome, and stays in the outbox (see
//! `failure.rs`).
//!
//! `Display` prints the error's own sentence, and `source()` returns its cause, as any reporter
//! expects. What people read is [`Error::report`]: the sentence and every cause, on one line.

use std::error::Error as StdError;
use std::fmt;
use std::iter::successors;

use mongodb::error::{ErrorKind as MongodbErrorKind, WriteFailure};

use crate::driver_words;
use crate::tls;

/// MongoDB's code for a query that took longer than its bound.
const MAX_TIME_EXPIRED: i32 = 50;

/// The part of outboxd or its surroundings that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The configuration has mistakes; each is a line of the message.
    Config,
    /// MongoDB can't be reached, or refused.
    Mongodb,
    /// NATS can't be reached, or refused.
    Nats,
    /// The migrations don't match what was applied, or are not applied.
    Migration,
    /// MongoDB would lose events of the outbox, or keeps none; a person must change its collection.
    Outbox,
    /// The JetStream stream isn't as the configuration describes it.
    Stream,
    /// A check failed; its findings are already printed.
    Findings,
    /// The command line's arguments contradict each other.
    Usage,
    /// The requested thing doesn't exist.
    NotFound,
    /// A signal ended the command before it was done.
    Interrupted,
    /// The operating system refused.
    Os,
    /// A defect of outboxd; an earlier log line has the details.
    Internal,
}

/// A sentence for the operator, and its cause.
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The result of everything that fails with an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without a cause.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// An error with its cause.
    pub fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { kind, message: message.into(), source: Some(source.into()) }
    }

    /// The part that failed.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The sentence and every cause on one line, for logs and for people.
    pub fn report(&self) -> Report<'_> {
        Report(self)
    }

    /// The first cause of this type.
    pub(crate) fn cause<E: StdError + 'static>(&self) -> Option<&E> {
        successors(self.source(), |&cause| cause.source()).find_map(|cause| cause.downcast_ref())
    }
}

/// Prints the sentence alone; see [`Error::report`].
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.report())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// An error with its causes, on one line. A cause that an outer error has already printed is left
/// out: many libraries repeat their source in their own message.
#[derive(Debug)]
pub struct Report<'a>(&'a Error);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = self.0.message.clone();
        for cause in successors(self.0.source(), |&cause| cause.source()) {
            let text = cause
                .downcast_ref::<mongodb::error::Error>()
                .map_or_else(|| cause.to_string(), mongodb_reason);
            if !line.contains(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
        }

        f.write_str(&line)
    }
}

/// An error of the driver in one sentence. The driver's own text adds the server's whole reply in
/// hex and, when no server can be used, the state of every server.
pub(crate) fn mongodb_reason(error: &mongodb::error::Error) -> String {
    let text = error.kind.to_string();
    match &*error.kind {
        MongodbErrorKind::ServerSelection { .. } => no_server(&text),
        MongodbErrorKind::Authentication { .. } => format!(
            "{}; `outboxd check` names the user that was refused",
            driver_words::without_inner_error(&text).trim_end_matches('.')
        ),
        MongodbErrorKind::Write(WriteFailure::WriteError(refused)) => refused.message.clone(),
        MongodbErrorKind::Write(WriteFailure::WriteConcernError(unmet)) => unmet.message.clone(),
        MongodbErrorKind::Command(error) if error.code == MAX_TIME_EXPIRED => {
            "MongoDB ended the query because it took too long; select fewer events, such as with \
             --key, --dead or --older-than, and look at the server's load"
                .to_owned()
        }
        MongodbErrorKind::Custom(_) => {
            let own = error.get_custom::<String>().cloned();
            own.or_else(|| error.get_custom::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or(text)
        }
        _ => text,
    }
}

fn no_server(text: &str) -> String {
    let servers: Vec<_> = driver_words::unusable_servers(text)
        .iter()
        .map(|server| {
            let reason = tls::describe(server.error.unwrap_or(server.server_type));
            format!("{}: {reason}", server.address)
        })
        .collect();

    match servers.is_empty() {
        true => {
            format!("{}; `outboxd check` has details", driver_words::without_topology(text))
        }
        false => {
            format!("no server can be used ({}); `outboxd check` has details", servers.join("; "))
        }
    }
}

/// Names the question to MongoDB that failed.
pub(crate) trait MongodbContext<T> {
    fn during(self, what: &'static str) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> MongodbContext<T> for Result<T, E> {
    fn during(self, what: &'static str) -> Result<T> {
        self.map_err(|error| {
            Error::with_source(ErrorKind::Mongodb, format!("MongoDB: {what}"), error)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn refused() -> Error {
        let cause = io::Error::other("connection refused");
        Error::with_source(ErrorKind::Nats, "NATS can't be reached", cause)
    }

    #[test]
    fn an_error_prints_its_own_sentence_and_hands_out_its_cause() {
        let error = refused();
        assert_eq!(error.to_string(), "NATS can't be reached");
        assert_eq!(error.source().expect("a source").to_string(), "connection refused");
        assert!(error.cause::<io::Error>().is_some());
        assert!(Error::new(ErrorKind::Nats, "away").source().is_none());
    }

    #[test]
    fn a_report_has_every_cause_once() {
        let outer = Error::with_source(ErrorKind::Stream, "no stream", refused());
        let line = "no stream: NATS can't be reached: connection refused";
        assert_eq!(outer.report().to_string(), line);
        assert_eq!(format!("{outer:?}"), format!("Stream: {line}"));

        let repeated = format!("no stream: {}", refused().report());
        let repeated = Error::with_source(ErrorKind::Stream, repeated, refused());
        assert_eq!(repeated.report().to_string(), line);
    }

    #[test]
    fn an_error_of_the_driver_is_one_sentence() {
        let custom = mongodb::error::Error::custom("the write concern was not met".to_owned());
        let error = Err::<(), _>(custom).during("deleting").unwrap_err();
        assert_eq!(error.report().to_string(), "MongoDB: deleting: the write concern was not met");
        assert_eq!(
            no_server(
                "Server selection timeout: No available servers. Topology: { Type: Single, \
                 Servers: [ { Address: a:1, Type: Unknown, Error: Kind: I/O error: tls handshake \
                 eof, labels: {} } ] }"
            ),
            "no server can be used (a:1: it does not speak TLS, which the configuration \
             requires); `outboxd check` has details"
        );
    }
}
