//! An event as a document: where its parts stand, what is read from it, and in which state it is.
//!
//! - `template`: texts with the names of fields in braces
//! - `cloudevents`: the attributes of CloudEvents as headers
//! - `written`: when an event was written, which its `ts` or its id tells
//! - `json`: extended JSON with fields in their order
//! - `layout`: the fields that hold the parts of an event
//! - `state`: the state of an event, from its bookkeeping fields
//! - `ids`: the `_id` of any document, by which it is marked
//! - `record`: the event as the relay reads it, or why the document is no event
//! - `scheduled`: what a scheduled event has beside that

mod cloudevents;
mod ids;
pub(crate) mod json;
pub mod layout;
pub mod record;
pub(crate) mod scheduled;
pub mod state;
mod template;
pub(crate) mod written;

pub use template::{LayoutError, MAX_FIELDS};
