//! The driver's errors as the core tells them apart.

use mongodb::error::ErrorKind;

use crate::error::mongodb_reason;
use crate::relay::ports::{StoreError, StoreErrorKind};

/// MongoDB's code for an oplog that no longer reaches back far enough.
const HISTORY_LOST: i32 = 286;
/// MongoDB's code for a change over 16 MB.
const TOO_LARGE: i32 = 10334;

impl From<mongodb::error::Error> for StoreError {
    fn from(error: mongodb::error::Error) -> Self {
        let kind = match &*error.kind {
            ErrorKind::Command(error) if error.code == HISTORY_LOST => StoreErrorKind::HistoryLost,
            ErrorKind::Command(error) if error.code == TOO_LARGE => StoreErrorKind::TooLarge,
            ErrorKind::Command(_) => StoreErrorKind::Refused,
            ErrorKind::Custom(_) => StoreErrorKind::Unexpected,
            _ => StoreErrorKind::Connection,
        };
        Self::new(kind, mongodb_reason(&error))
    }
}
