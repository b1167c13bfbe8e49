//! Compares the stream with the watermark: when a leadership begins, after each reconnect and when
//! an ack has gone back.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tracing::debug;

use crate::backoff::Backoff;
use crate::relay::ports::EventBus;
use crate::relay::publish::Publisher;
use crate::relay::watermark::{Compared, Rewound};

/// Waits between questions that the stream does not answer.
const QUESTIONS: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));

/// The comparison under way, one at most.
#[derive(Debug, Default)]
pub(super) struct Comparing {
    pub(super) under_way: FuturesUnordered<BoxFuture<'static, (u64, Compared)>>,
    /// How an ack has gone back.
    pub(super) back: Option<Rewound>,
}

/// Compares until the stream answers. Returns the connection over which it did.
pub(super) async fn compared<B: EventBus>(publisher: Arc<Publisher<B>>) -> (u64, Compared) {
    let Publisher { bus, clearance, term, .. } = &*publisher;
    let mut backoff = QUESTIONS;

    loop {
        let connection = bus.connection();
        if connection != 0 {
            match bus.compare(term.newest.get().as_ref()).await {
                Ok(compared) if bus.connection() == connection => return (connection, compared),
                Ok(_) => continue,
                Err(rejection) => {
                    debug!(error = rejection.error, "the stream was not compared");
                    clearance.unanswered(rejection);
                }
            }
        }

        tokio::time::sleep(backoff.next_wait()).await;
    }
}
