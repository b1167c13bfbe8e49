//! What becomes of a message: the words in which a handler answers, and what a listener makes of
//! them.
//!
//! | answer | what follows |
//! | --- | --- |
//! | [`Verdict::Done`] | acked |
//! | [`Verdict::Later`] | delivered again after a delay that grows; after 100 times put aside |
//! | [`HandleError::Failed`] | delivered again after a delay that grows; after 10 times put aside |
//! | [`HandleError::Mongodb`] | as `Failed`. If MongoDB could not be reached, the listener keeps the message and tries again itself |
//! | [`HandleError::Unprocessable`] | put aside at once |
//!
//! *Put aside* means written to the collection `<inbox>_failed` with its reason, then acked.

use std::error::Error;

use mongodb::error::{
    ErrorKind, RETRYABLE_WRITE_ERROR, TRANSIENT_TRANSACTION_ERROR,
    UNKNOWN_TRANSACTION_COMMIT_RESULT, WriteFailure,
};

use crate::enqueue::EnqueueError;
use crate::event::EventError;

/// What MongoDB answers while no primary can serve: not primary, recovering, shutting down, and
/// failures of the network that the server reports.
const AWAY_CODES: [i32; 15] =
    [6, 7, 89, 91, 134, 189, 262, 317, 358, 9001, 10058, 10107, 11600, 11602, 13436];
/// What the driver says of a server that it knows nothing of.
const NO_TRANSACTIONS: &str = "not supported by this deployment";
/// What it answers on a read from a member that is no primary.
const NOT_PRIMARY_NO_SECONDARY_OK: i32 = 13435;

/// What a handler made of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is committed, now or before; or it says nothing to this service.
    Done,
    /// An earlier message is missing. Nothing was changed.
    Later,
}

/// Why a handler could not apply a message. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// It can never be applied.
    #[error("{0}")]
    Unprocessable(String),
    /// MongoDB refused a command or could not be reached.
    #[error(transparent)]
    Mongodb(#[from] mongodb::error::Error),
    /// It may work next time.
    #[error(transparent)]
    Failed(Box<dyn Error + Send + Sync>),
}

impl HandleError {
    /// A message that can never be applied, for this reason.
    pub fn unprocessable(reason: impl Into<String>) -> Self {
        Self::Unprocessable(reason.into())
    }

    /// An error that another delivery may get past.
    pub fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed(error.into())
    }

    /// Whether MongoDB was away or busy. Then nothing is wrong with the message.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Mongodb(error) => is_outage(error),
            Self::Unprocessable(_) | Self::Failed(_) => false,
        }
    }

    /// The error and its causes, in one line.
    pub fn reason(&self) -> String {
        let mut reason = self.to_string();
        let mut source = self.source();
        while let Some(cause) = source {
            let cause_says = cause.to_string();
            if !reason.contains(&cause_says) {
                reason = format!("{reason}: {cause_says}");
            }
            source = cause.source();
        }
        reason
    }
}

impl From<EnqueueError> for HandleError {
    fn from(error: EnqueueError) -> Self {
        match error {
            EnqueueError::Mongodb(error) => Self::Mongodb(error),
            other => Self::failed(other),
        }
    }
}

impl From<EventError> for HandleError {
    fn from(error: EventError) -> Self {
        Self::failed(error)
    }
}

/// Whether a command failed because MongoDB was away, or because another transaction was in the
/// way.
pub(crate) fn is_outage(error: &mongodb::error::Error) -> bool {
    let labels =
        [TRANSIENT_TRANSACTION_ERROR, RETRYABLE_WRITE_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT];
    if labels.iter().any(|label| error.contains_label(label)) {
        return true;
    }

    match &*error.kind {
        ErrorKind::ServerSelection { .. }
        | ErrorKind::Io(_)
        | ErrorKind::ConnectionPoolCleared { .. }
        | ErrorKind::Authentication { .. }
        | ErrorKind::DnsResolve { .. } => true,
        // A client that has not seen the server yet says so, too.
        ErrorKind::Transaction { message, .. } => message.contains(NO_TRANSACTIONS),
        ErrorKind::Command(command) => is_away(command.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(error)) => is_away(error.code),
        _ => false,
    }
}

fn is_away(code: i32) -> bool {
    AWAY_CODES.contains(&code) || code == NOT_PRIMARY_NO_SECONDARY_OK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_of_mongodb_is_told_from_an_error_of_the_handler() {
        let away = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let away = mongodb::error::Error::from(ErrorKind::Io(std::sync::Arc::new(away)));
        assert!(HandleError::from(away).is_outage());
        assert!(!HandleError::from(mongodb::error::Error::custom("mine")).is_outage());
        assert!(!HandleError::failed("mine").is_outage());
    }
}
