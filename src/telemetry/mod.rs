//! What the relay says about itself.

pub mod logs;
