//! Groups of similar failures, each with what to do.

use serde::Serialize;

use crate::error::{MongodbContext, Result};
use crate::failure::Rejection;
use crate::mongodb::groups::{Group, Groups};
use crate::mongodb::inspect::Inspect;
use crate::mongodb::selection::Selection;

/// A group, and what to do about it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Remedied {
    #[serde(flatten)]
    pub(crate) group: Group,
    pub(crate) remedy: &'static str,
}

impl Remedied {
    /// The groups of the selected events, the most events first, and how many events are in smaller
    /// groups. `are_parked` is whether events may wait behind them.
    ///
    /// # Errors
    /// MongoDB's.
    pub(crate) async fn read(
        inspect: &Inspect,
        selection: &Selection,
        are_parked: bool,
    ) -> Result<(Vec<Self>, u64)> {
        let Groups { shown, left_out } =
            inspect.groups(selection, are_parked).await.during("reading the outbox")?;

        let remedied = shown
            .into_iter()
            .map(|group| Self { remedy: Rejection::new(group.code.clone(), "").remedy(), group });
        Ok((remedied.collect(), left_out))
    }
}
