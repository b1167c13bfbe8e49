//! An event as a document: how it is parsed, what state it is in, and where its parts stand.

pub mod layout;
pub mod record;
