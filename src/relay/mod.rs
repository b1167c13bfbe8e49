//! The daemon half: wires the stages, owns start and drain order.
//!
//! ```text
//!            ┌─ sweep ─┐
//!  [outbox] ─┤         ├─▶ dispatch ─▶ publish ─▶ [JetStream]
//!     ▲      ├─ tail ──┤      ▲            │
//!     │      └─ retry ─┘      │ settled    ▼ outcome
//!     └──────────────────── settle ◀───────┘
//! ```
//!
//! One leadership is one pipeline: taking the lease builds it, losing the lease or a stop takes it down in the order of
//! the data: intake ends, publishes under way finish, their fate is written, the lease is resigned.

pub(crate) mod dispatch;
mod follow;
mod lane;
pub mod lease;
mod nats;
pub mod policy;
pub(crate) mod publish;
mod pump;
mod retry;
mod settle;
pub mod stream;
mod sweep;
mod tail;
mod twins;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::lease::{Held, Lease};
pub use self::nats::Nats;
use self::pump::{Pump, Stopped};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::migrations::Migrations;
use crate::outbox::store::Store;

/// Wait between attempts to connect at start.
const CONNECT_WAIT: Duration = Duration::from_secs(2);

/// A relay with its connections made and its outbox and stream verified. It has written nothing yet.
#[derive(Debug)]
pub struct Relay {
    config: Config,
    follow: Store,
    store: Store,
    lease: Arc<Lease>,
    nats: Nats,
}

/// What a relay did between start and stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Events acked by the stream.
    pub published: u64,
    /// Of those, how many the stream had already.
    pub duplicates: u64,
    /// Publishes that were marked as failed.
    pub failed: u64,
    /// Events that were given back unpublished when the relay stopped; they stay in the outbox.
    pub abandoned: u64,
}

impl Relay {
    /// Connects to both sides, trying again until they can be reached, and verifies outbox and stream. `None` when stopped
    /// before that.
    ///
    /// # Errors
    /// What waiting doesn't mend: missing migrations, no such stream, a stream that can't serve an outbox, refused
    /// credentials files.
    pub async fn connect(config: Config, stop: &CancellationToken) -> Result<Option<Self>> {
        let mongodb = &config.mongodb;
        let (follow, outbox) = (mongodb.client("follow").await?, mongodb.client("outbox").await?);
        let lease = mongodb.client("lease").await?;
        let migrations = Migrations::new(outbox.database(&mongodb.database), &mongodb.collection);
        let Some(()) = until_reached(stop, || migrations.require_applied()).await? else {
            return Ok(None);
        };
        let Some(nats) = until_reached(stop, || Nats::connect(&config.nats)).await? else {
            return Ok(None);
        };
        let Some(differences) = until_reached(stop, || stream::verify(&nats, &config.stream)).await? else {
            return Ok(None);
        };
        for difference in differences {
            warn!(stream = config.stream.name, "the stream differs: {difference}");
        }
        // A restarted process with the same name is another holder: the old one may still be running.
        let holder = format!("{} {:08x}", config.nats.client_id, rand::random::<u32>());
        Ok(Some(Self {
            follow: Store::new(follow, &mongodb.database, &mongodb.collection, &config.dispatch),
            store: Store::new(outbox, &mongodb.database, &mongodb.collection, &config.dispatch),
            lease: Arc::new(Lease::new(&lease, &mongodb.database, &mongodb.collection, holder, config.lease.ttl)),
            nats,
            config,
        }))
    }

    /// Publishes while it holds the lease and stands by while it doesn't, until `stop`. Then drains: publishes under way
    /// get `shutdown.grace` to finish and to be written down, and the lease is resigned.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the retrier's schedule can't be started; [`ErrorKind::Internal`] when a stage ended that
    /// never should, after what could be drained was.
    pub async fn run(self, stop: CancellationToken) -> Result<Totals> {
        let (mut scheduler, tick) = retry::schedule(&self.config.retry).await?;
        let mut totals = Totals::default();
        let mut ended = Ok(());
        while let Some(held) = self.lease.acquire(&stop).await {
            info!(term = held.term.number, "holding the lease; relaying");
            let pump =
                Pump::build(&self.config, &self.follow, &self.store, &self.nats, held.term.clone(), tick.clone());
            match pump.run(&stop, &held.lost, &mut totals).await {
                Stopped::Drained => self.resign(held).await,
                Stopped::GraceOver(left) => {
                    warn!(left, "the grace is over; what isn't settled stays in the outbox");
                    self.resign(held).await;
                }
                Stopped::LeaseLost => warn!(term = held.term.number, "lost the lease; standing by"),
                Stopped::StageEnded(stage) => {
                    self.resign(held).await;
                    ended =
                        Err(Error::new(ErrorKind::Internal, format!("the {stage} has ended; start the relay again")));
                    break;
                }
            }
        }
        if let Err(error) = scheduler.shutdown().await {
            warn!(%error, "the retrier's schedule did not stop");
        }
        ended.map(|()| totals)
    }

    async fn resign(&self, held: Held) {
        let term = held.term.number;
        match self.lease.resign(held).await {
            Ok(()) => info!(term, "resigned the lease"),
            Err(error) => warn!(%error, term, "could not resign the lease; it expires"),
        }
    }
}

/// Repeats what failed because a server can't be reached; at start the others may not be up yet.
async fn until_reached<T, F>(stop: &CancellationToken, attempt: impl Fn() -> F) -> Result<Option<T>>
where
    F: Future<Output = Result<T>>,
{
    while !stop.is_cancelled() {
        match attempt().await {
            Ok(reached) => return Ok(Some(reached)),
            Err(error) if matches!(error.kind(), ErrorKind::Mongodb | ErrorKind::Nats) => {
                warn!(%error, "trying again");
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(CONNECT_WAIT) => {}
        }
    }
    Ok(None)
}
