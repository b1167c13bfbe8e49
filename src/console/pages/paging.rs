//! Lists in pages.

use serde::Deserialize;

/// Events on a page.
pub(super) const LIMIT: i64 = 50;
/// Highest number of a page: more than there are, and its events can be counted.
const MAX_NUMBER: u64 = u32::MAX as u64;

/// Which page of a list an address names.
#[derive(Debug, Deserialize)]
pub(super) struct Paging {
    /// From 1 on.
    #[serde(default, rename = "page")]
    asked: u64,
}

impl Paging {
    fn number(&self) -> u64 {
        self.asked.clamp(1, MAX_NUMBER)
    }

    /// How many events are on the pages before.
    pub(super) fn skip(&self) -> u64 {
        (self.number() - 1) * LIMIT.unsigned_abs()
    }

    /// The addresses of the pages before and after this one, if there are such, in a list of `total`
    /// events, of which this page shows those up to `to`.
    pub(super) fn neighbours(
        &self,
        (to, total): (u64, u64),
        at: impl Fn(u64) -> String,
    ) -> (Option<String>, Option<String>) {
        let number = self.number();
        ((number > 1).then(|| at(number - 1)), (to < total).then(|| at(number + 1)))
    }
}
