//! What stops a service or the demo, in one sentence.

/// Shown to a person as it is.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
