//! The driver's errors as the core tells them apart.

use mongodb::error::ErrorKind;

use super::code;
use super::write::is_lasting;
use crate::error::mongodb_reason;
use crate::relay::ports::{StoreError, StoreErrorKind};

impl From<mongodb::error::Error> for StoreError {
    fn from(error: mongodb::error::Error) -> Self {
        let kind = match &*error.kind {
            ErrorKind::Command(error) => match error.code {
                code::CHANGE_STREAM_HISTORY_LOST => StoreErrorKind::HistoryLost,
                code::BSON_OBJECT_TOO_LARGE => StoreErrorKind::TooLarge,
                _ => StoreErrorKind::Refused,
            },
            ErrorKind::Write(_) => StoreErrorKind::Refused,
            ErrorKind::Custom(_) => StoreErrorKind::Unexpected,
            _ => StoreErrorKind::Connection,
        };
        let read = Self::new(kind, mongodb_reason(&error));
        if is_lasting(&error) { read.lasting() } else { read }
    }
}
