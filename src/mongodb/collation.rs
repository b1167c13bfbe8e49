//! Compares texts by their bytes, as the relay does, whatever the collection's collation says.
//!
//! A collection may have a default collation by which `t1` and `T1` are one. Queries that name no
//! collation take that one, and would bring events of other keys and ids.

use bson::{Document, doc};
use mongodb::options::Collation;

const SIMPLE: &str = "simple";

/// For a query.
pub(crate) fn simple() -> Collation {
    Collation::builder().locale(SIMPLE.to_owned()).build()
}

/// For a command or an index, as a document. An index without it takes the collection's collation,
/// and serves no query of ours.
pub(super) fn simple_document() -> Document {
    doc! { "locale": SIMPLE }
}
