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

/// MongoDB's code for a command that the user may not run.
const UNAUTHORIZED: i32 = 13;
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
        let causes = self.0.source().into_iter().flat_map(each_cause);
        causes.for_each(|text| extend(&mut line, &text));

        f.write_str(&line)
    }
}

/// An error of the driver in one sentence, with where to look further.
pub(crate) fn mongodb_reason(error: &mongodb::error::Error) -> String {
    let words = mongodb_words(error);
    match &*error.kind {
        MongodbErrorKind::ServerSelection { message, .. } => {
            let may_differ = driver_words::replica_set(message).is_some()
                && !driver_words::unusable_servers(message).is_empty();
            let names = match may_differ {
                true => {
                    "; if MONGODB_URI names other hosts, these are the names that the replica set \
                     gives its members"
                }
                false => "",
            };
            format!("{words}{names}; `outboxd check` has details")
        }
        MongodbErrorKind::Authentication { .. } => {
            format!("{words}; `outboxd check` names the user that was refused")
        }
        MongodbErrorKind::Command(refused) if driver_words::lacks_right(&refused.message) => {
            format!("{words}; `outboxd privileges` prints the rights that each role needs")
        }
        MongodbErrorKind::Command(refused) if refused.code == UNAUTHORIZED => {
            format!("{words}; `outboxd check` has details")
        }
        _ => words,
    }
}

/// An error of the driver in words of its own. Its text adds the server's whole reply in hex and,
/// when no server can be used, the state of every server.
pub(crate) fn mongodb_words(error: &mongodb::error::Error) -> String {
    match &*error.kind {
        MongodbErrorKind::ServerSelection { message, .. } => no_server(message),
        MongodbErrorKind::Authentication { message, .. } => {
            let reason = driver_words::plain(message);
            driver_words::without_mechanism(&reason).trim_end_matches('.').to_owned()
        }
        MongodbErrorKind::Write(WriteFailure::WriteError(refused)) => refused.message.clone(),
        MongodbErrorKind::Write(WriteFailure::WriteConcernError(unmet)) => unmet.message.clone(),
        MongodbErrorKind::Command(error) if error.code == MAX_TIME_EXPIRED => {
            "MongoDB ended the query because it took too long; select fewer events, such as with \
             --key, --dead or --older-than, and look at the server's load"
                .to_owned()
        }
        MongodbErrorKind::Command(error) => {
            let message = driver_words::without_command(&error.message);
            match error.code_name.as_str() {
                "" => format!("{message} (code {})", error.code),
                name => format!("{message} (code {} {name})", error.code),
            }
        }
        MongodbErrorKind::Io(error) => tls::describe(&error.to_string()),
        MongodbErrorKind::DnsResolve { message, .. } => {
            driver_words::without_query(message).to_owned()
        }
        MongodbErrorKind::InvalidArgument { message, .. }
        | MongodbErrorKind::Internal { message, .. }
        | MongodbErrorKind::InvalidResponse { message, .. } => driver_words::plain(message),
        MongodbErrorKind::Custom(_) => {
            let own = error.get_custom::<String>().cloned();
            own.or_else(|| error.get_custom::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_else(|| error.kind.to_string())
        }
        _ => driver_words::plain(&error.kind.to_string()),
    }
}

/// Whether no server could be used because one of them does not answer: it may be overloaded. Where
/// all of them refuse, waiting helps nobody.
pub(crate) fn is_silence(error: &mongodb::error::Error) -> bool {
    let MongodbErrorKind::ServerSelection { message, .. } = &*error.kind else { return false };
    driver_words::unusable_servers(message).iter().any(|server| server.is_silent())
}

fn no_server(text: &str) -> String {
    let servers: Vec<_> = driver_words::unusable_servers(text)
        .iter()
        .map(|server| {
            let reason = server.error.as_deref().map(tls::describe);
            format!("{}: {}", server.address, reason.as_deref().unwrap_or(server.what()))
        })
        .collect();

    match (servers.is_empty(), driver_words::replica_set(text)) {
        (true, Some(set)) => {
            format!("none of the hosts of MONGODB_URI is a member of the replica set {set}")
        }
        (true, None) => driver_words::without_topology(text).trim_end_matches('.').to_owned(),
        (false, _) => format!("no server can be used ({})", servers.join("; ")),
    }
}

/// An error of a library with its causes, on one line.
pub(crate) fn with_causes(error: &(dyn StdError + 'static)) -> String {
    let mut line = String::new();
    each_cause(error).for_each(|text| extend(&mut line, &text));
    line
}

/// The words of an error and of each of its causes. The MongoDB driver's have no further one: it
/// only repeats them.
fn each_cause<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = String> + 'a {
    let next = |&cause: &&'a (dyn StdError + 'static)| {
        if cause.is::<mongodb::error::Error>() { None } else { cause.source() }
    };
    let words = successors(Some(error), next).map(|cause| {
        cause
            .downcast_ref::<mongodb::error::Error>()
            .map_or_else(|| driver_words::plain(&cause.to_string()), mongodb_reason)
    });
    words.filter(|words| !driver_words::INTRODUCTIONS.contains(&words.as_str()))
}

/// Adds a cause that the line doesn't have yet.
fn extend(line: &mut String, cause: &str) {
    if line.contains(cause) {
        return;
    }

    if !line.is_empty() {
        line.push_str(": ");
    }
    line.push_str(cause);
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
        let nowhere = "Server selection timeout: No available servers. Topology: { Type: \
                       ReplicaSetNoPrimary, Set Name: rs1 }";
        assert_eq!(
            no_server(nowhere),
            "none of the hosts of MONGODB_URI is a member of the replica set rs1"
        );
        assert_eq!(
            no_server(
                "Server selection timeout: No available servers. Topology: { Type: Single, \
                 Servers: [ { Address: a:1, Type: Unknown, Error: Kind: I/O error: tls handshake \
                 eof, labels: {} } ] }"
            ),
            "no server can be used (a:1: it does not speak TLS, which the configuration \
             requires)"
        );
    }
}
