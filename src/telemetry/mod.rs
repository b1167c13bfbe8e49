//! What the relay says about itself.

pub(crate) mod alerts;
pub mod logs;
pub(crate) mod metrics;
mod webhook;
