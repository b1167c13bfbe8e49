//! A lease in memory, behind the same network as the outbox.

use std::time::Duration;

use tokio::time::Instant;

use super::connection::Store;
use super::world::Lease;
use crate::relay::ports::{Claimed, LeaseStore, StoreResult};
use crate::relay::watermark::Watermark;

/// The lease's document, as one life of a relay sees it.
#[derive(Clone)]
pub(super) struct LeaseRow {
    pub(super) store: Store,
    pub(super) holder: String,
}

impl LeaseStore for LeaseRow {
    fn holder(&self) -> &str {
        &self.holder
    }

    async fn claim(&self, ttl: Duration) -> StoreResult<Option<Claimed>> {
        let holder = self.holder.clone();
        let claim = self.store.command("claim", move |state| {
            let now = Instant::now();
            let term = match &state.lease {
                None => 1,
                Some(lease) if lease.until <= now || lease.holder == holder => lease.term + 1,
                Some(_) => return None,
            };
            if state.lease.as_ref().is_some_and(|lease| lease.holder != holder) {
                state.count("take-overs");
            }
            let watermark = state.lease.take().and_then(|lease| lease.watermark);
            let until = now + ttl;
            state.lease = Some(Lease { holder, term, until, watermark: watermark.clone() });
            Some(Claimed { term, watermark })
        });

        claim.await
    }

    async fn renew(
        &self,
        term: i64,
        ttl: Duration,
        watermark: Option<Watermark>,
    ) -> StoreResult<bool> {
        let holder = self.holder.clone();
        let renew = self.store.command("renew", move |state| {
            let mine =
                state.lease.as_mut().filter(|lease| lease.holder == holder && lease.term == term);
            mine.map(|lease| lease.set(Instant::now() + ttl, watermark)).is_some()
        });
        renew.await
    }

    async fn release(&self, term: i64, watermark: Option<Watermark>) -> StoreResult<()> {
        let holder = self.holder.clone();
        let release = self.store.command("release", move |state| {
            let mine =
                state.lease.as_mut().filter(|lease| lease.holder == holder && lease.term == term);
            mine.into_iter().for_each(|lease| lease.set(Instant::now(), watermark.clone()));
        });
        release.await
    }
}
