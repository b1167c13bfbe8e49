//! Error codes of MongoDB, by the server's own names where it has one.

use mongodb::error::{Error, ErrorKind};

pub(super) const BAD_VALUE: i32 = 2;
const FAILED_TO_PARSE: i32 = 9;
const TYPE_MISMATCH: i32 = 14;
const PATH_NOT_VIABLE: i32 = 28;
/// The user may not run the command.
pub(crate) const UNAUTHORIZED: i32 = 13;
/// A document that is no valid BSON.
const INVALID_BSON: i32 = 22;
/// There is no collection of this name.
pub(super) const NAMESPACE_NOT_FOUND: i32 = 26;
/// A collection of this name is there already.
pub(super) const NAMESPACE_EXISTS: i32 = 48;
/// The server ended a query at its bound.
pub(super) const MAX_TIME_EXPIRED: i32 = 50;
const IMMUTABLE_FIELD: i32 = 66;
/// Another transaction has changed the document, or is about to.
pub(super) const WRITE_CONFLICT: i32 = 112;
const DOCUMENT_VALIDATION_FAILURE: i32 = 121;
const CANNOT_INDEX_PARALLEL_ARRAYS: i32 = 171;
/// A stage of a pipeline that this server doesn't have.
pub(super) const UNRECOGNIZED_STAGE: i32 = 40_324;
/// The oplog no longer reaches back far enough for a change stream.
pub(super) const CHANGE_STREAM_HISTORY_LOST: i32 = 286;
/// A document or a change over 16 MB.
pub(super) const BSON_OBJECT_TOO_LARGE: i32 = 10334;
/// A document with this `_id` is there already.
pub(super) const DUPLICATE_KEY: i32 = 11000;
/// An update would make a document larger than 16 MB.
const UPDATED_TOO_LARGE: i32 = 17419;
/// An upsert would make a document larger than 16 MB.
const UPSERTED_TOO_LARGE: i32 = 17420;

/// The command is not for this user, or not for anybody here: hosted tiers and servers that are like
/// MongoDB lack some.
pub(crate) const WITHHELD: &[i32] = &[
    UNAUTHORIZED,
    59,   // CommandNotFound
    115,  // CommandNotSupported
    238,  // NotImplemented
    303,  // of Amazon DocumentDB: feature not supported
    8000, // AtlasError, of hosted tiers: not allowed here, or not for this user
];

/// Whether the server withholds the command.
pub(super) fn is_withheld(error: &Error) -> bool {
    matches!(&*error.kind, ErrorKind::Command(refused) if WITHHELD.contains(&refused.code))
}

/// The errors that pass by themselves: of the network, of a server that stops or is no primary, of
/// time limits, of other operations in the way, and of a full disk. The codes of retryable writes in
/// the drivers' specification are among them.
pub(super) const PASSING: &[i32] = &[
    6,  // HostUnreachable
    7,  // HostNotFound
    24, // LockTimeout
    43, // CursorNotFound
    46, // LockBusy
    MAX_TIME_EXPIRED,
    63,  // StaleShardVersion
    64,  // WriteConcernFailed
    79,  // UnknownReplWriteConcern
    89,  // NetworkTimeout
    90,  // CallbackCanceled
    91,  // ShutdownInProgress
    100, // UnsatisfiableWriteConcern
    107, // LockFailed
    WRITE_CONFLICT,
    117,    // ConflictingOperationInProgress
    134,    // ReadConcernMajorityNotAvailableYet
    146,    // ExceededMemoryLimit
    150,    // StaleEpoch
    175,    // QueryPlanKilled
    189,    // PrimarySteppedDown
    202,    // NetworkInterfaceExceededTimeLimit
    225,    // TransactionTooOld
    237,    // CursorKilled
    239,    // SnapshotTooOld
    246,    // SnapshotUnavailable
    249,    // StaleDbVersion
    251,    // NoSuchTransaction
    262,    // ExceededTimeLimit
    279,    // ClientDisconnect
    290,    // TransactionExceededLifetimeLimitSeconds
    314,    // ObjectIsBusy
    358,    // InternalTransactionNotSupported
    365,    // TemporarilyUnavailable
    391,    // ReauthenticationRequired
    402,    // ResourceExhausted
    462,    // IngressRequestRateLimitExceeded
    9001,   // SocketException
    10058,  // LegacyNotPrimary
    10107,  // NotWritablePrimary
    11600,  // InterruptedAtShutdown
    11601,  // Interrupted
    11602,  // InterruptedDueToReplStateChange
    12586,  // BackgroundOperationInProgressForDatabase
    12587,  // BackgroundOperationInProgressForNamespace
    13388,  // StaleConfig
    13435,  // NotPrimaryNoSecondaryOk
    13436,  // NotPrimaryOrSecondary
    14031,  // OutOfDiskSpace
    46_841, // ClientMarkedKilled
];

/// The errors of a command that one of its documents or statements causes.
pub(super) const OF_DOCUMENTS: &[i32] = &[
    BAD_VALUE,
    FAILED_TO_PARSE,
    TYPE_MISMATCH,
    PATH_NOT_VIABLE,
    IMMUTABLE_FIELD,
    DOCUMENT_VALIDATION_FAILURE,
    DUPLICATE_KEY,
    CANNOT_INDEX_PARALLEL_ARRAYS,
    INVALID_BSON,
    BSON_OBJECT_TOO_LARGE,
    UPDATED_TOO_LARGE,
    UPSERTED_TOO_LARGE,
];
