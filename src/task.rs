//! Starts tasks that log as their parent does: in a fleet, with the name of the outbox.

use tokio::task::JoinHandle;
use tracing::Instrument as _;

/// Starts a task within the current span.
pub(crate) fn spawn<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    tokio::spawn(task.in_current_span())
}
