//! Error codes of MongoDB, by the server's own names where it has one.

pub(super) const BAD_VALUE: i32 = 2;
pub(super) const FAILED_TO_PARSE: i32 = 9;
pub(super) const TYPE_MISMATCH: i32 = 14;
pub(super) const PATH_NOT_VIABLE: i32 = 28;
/// The user may not run the command.
pub(super) const UNAUTHORIZED: i32 = 13;
/// There is no collection of this name.
pub(super) const NAMESPACE_NOT_FOUND: i32 = 26;
/// A collection of this name is there already.
pub(super) const NAMESPACE_EXISTS: i32 = 48;
pub(super) const IMMUTABLE_FIELD: i32 = 66;
pub(super) const DOCUMENT_VALIDATION_FAILURE: i32 = 121;
pub(super) const CANNOT_INDEX_PARALLEL_ARRAYS: i32 = 171;
/// The oplog no longer reaches back far enough for a change stream.
pub(super) const CHANGE_STREAM_HISTORY_LOST: i32 = 286;
/// A document or a change over 16 MB.
pub(super) const BSON_OBJECT_TOO_LARGE: i32 = 10334;
/// A document with this `_id` is there already.
pub(super) const DUPLICATE_KEY: i32 = 11000;
/// An update would make a document larger than 16 MB.
pub(super) const UPDATED_TOO_LARGE: i32 = 17419;
/// An upsert would make a document larger than 16 MB.
pub(super) const UPSERTED_TOO_LARGE: i32 = 17420;
