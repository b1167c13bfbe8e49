//! What the relay says about itself.

pub(crate) mod alerts;
pub mod logs;
pub mod metrics;
pub mod traces;
mod webhook;
