//! The error of everything that isn't about one event: set-up, connections, migrations.
//!
//! A failed event is not an [`Error`]: it is an outcome, and stays in the outbox (see
//! `relay/policy.rs`).

use std::error::Error as StdError;
use std::fmt;

use crate::tls;

/// What went wrong, coarsely; the message and the chain of sources say the rest.
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
    /// The JetStream stream isn't as the configuration describes it.
    Stream,
    /// A check found something wrong; its output says what.
    Findings,
    /// The command line doesn't fit together.
    Usage,
    /// What was asked for isn't there.
    NotFound,
    /// The operating system refused.
    Os,
    /// A defect of outboxd: it has said more on the way.
    Internal,
}

/// An error with the sentence an operator reads and its cause.
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error that says it all itself.
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

    /// Which part it is about.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

/// The message and every cause, on one line.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut said = self.message.clone();
        let mut source =
            self.source.as_ref().map(|source| source.as_ref() as &(dyn StdError + 'static));
        while let Some(cause) = source {
            // Many libraries repeat their source in their own message.
            let mongodb = cause.downcast_ref::<mongodb::error::Error>();
            let text = mongodb.map_or_else(|| cause.to_string(), mongodb_says);
            if !said.contains(&text) {
                write!(f, ": {text}")?;
                said.push_str(&text);
            }
            source = cause.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}

/// The chain is already in `Display`, so `source` stays empty: reporters that walk it would print
/// it twice.
impl StdError for Error {}

/// An error of the driver in one sentence. Its own words add the server's whole reply in hex, and
/// everything it knows about every server where none can be used.
pub(crate) fn mongodb_says(error: &mongodb::error::Error) -> String {
    let said = error.kind.to_string();
    match &*error.kind {
        mongodb::error::ErrorKind::ServerSelection { .. } => {}
        mongodb::error::ErrorKind::Authentication { .. } => {
            return format!(
                "{}; `outboxd check` says who was refused",
                said.split(": Kind: ").next().unwrap_or(&said)
            );
        }
        mongodb::error::ErrorKind::Custom(_) => {
            let own = error.get_custom::<String>().cloned();
            return own
                .or_else(|| error.get_custom::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or(said);
        }
        _ => return said,
    }
    let servers = said.split("{ Address: ").skip(1).filter_map(|server| {
        let (address, rest) = server.split_once(", Type: ")?;
        let reason = rest
            .split_once("Error: Kind: ")
            .and_then(|(_, error)| error.split(", labels: ").next());
        let kind = rest.split([',', ' ']).next().unwrap_or_default();
        Some(format!("{address}: {}", tls::says(reason.unwrap_or(kind))))
    });
    let servers: Vec<_> = servers.collect();
    match servers.is_empty() {
        true => format!(
            "{}; `outboxd check` says more",
            said.split(" Topology: ").next().unwrap_or(&said)
        ),
        false => {
            format!("no server can be used ({}); `outboxd check` says more", servers.join("; "))
        }
    }
}

/// Names what MongoDB was asked for when it failed.
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
