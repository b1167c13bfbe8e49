//! Faults of relays, servers and the network between them, under load: nothing is lost, reordered
//! or published twice.
//!
//! Each test is named after what must hold, and fails if its fault never happened. A fault lasts
//! `OUTBOXD_TEST_FAULT` seconds, 6 unless set; `make faults` takes longer and runs those too that
//! are ignored otherwise. `docs/faults.md` lists them all.

mod fleet;
mod mongodb;
mod nats;
mod network;
mod relays;
mod soak;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::support::checker::{self, Report};
use crate::support::{Relay, Scene, Writers};

const KEYS: u32 = 50;
const PER_SECOND: u32 = 200;
/// How long the load runs before the fault, and after it.
const CALM: Duration = Duration::from_secs(2);

/// Relays and writers at work on one outbox.
struct Trial {
    scene: Arc<Scene>,
    relays: Vec<Relay>,
    writers: Writers,
    settings: Vec<(String, String)>,
}

/// How long a fault lasts.
fn length() -> Duration {
    let seconds = std::env::var("OUTBOXD_TEST_FAULT")
        .map(|seconds| seconds.parse().expect("seconds"))
        .unwrap_or(6);
    Duration::from_secs(seconds)
}

/// Does `what` every so often for as long as a fault lasts; returns how often it was done.
async fn again_and_again(every: Duration, mut what: impl AsyncFnMut() -> bool) -> u64 {
    let (over, mut done) = (Instant::now() + length(), 0);
    while Instant::now() < over {
        sleep(every).await;
        done += u64::from(what().await);
    }
    done
}

impl Trial {
    /// So many relays, with these settings each, and writers on 50 keys.
    async fn begin(scene: Scene, relays: usize, settings: &[(&str, &str)]) -> Self {
        let common = [("OUTBOXD_LEASE__TTL", "2s"), ("OUTBOXD_RETRY__MAX_ATTEMPTS", "10000")];
        let settings = common
            .iter()
            .chain(settings)
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        let mut trial = Self {
            writers: Writers::start(&scene, KEYS, PER_SECOND).await,
            scene: Arc::new(scene),
            relays: Vec::new(),
            settings: settings.collect(),
        };
        for name in 0..relays {
            let relay = trial.relay(name);
            trial.relays.push(relay);
        }
        trial.relays[0].says("the lease").await;
        sleep(CALM).await;
        trial
    }

    /// A relay called `r<name>`.
    fn relay(&self, name: usize) -> Relay {
        let name = format!("r{name}");
        let mut settings: Vec<_> =
            self.settings.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        settings.push(("NATS_CLIENT_ID", &name));
        Relay::start(&self.scene, &settings)
    }

    /// Which of the relays holds the lease.
    async fn holder(&self) -> Option<usize> {
        let lease = self.scene.database.collection::<bson::Document>("outboxd_lease");
        let lease = lease.find_one(bson::doc! { "_id": "outbox" }).await.ok()??;
        lease.get_str("holder").ok()?.split(' ').next()?.strip_prefix('r')?.parse().ok()
    }

    /// The load goes on for a moment, ends, and everything drains. `faults` says what happened, and
    /// how often.
    async fn end(self, faults: &[(&str, u64)]) -> Report {
        let rewound = self.relays.iter().any(|relay| relay.log().contains("has gone back"));
        if rewound {
            println!("a relay says that the stream has gone back");
        }
        let report = self.judge(faults).await;
        report.assert_all_delivered();
        assert!(!rewound, "the stream has lost nothing");
        report
    }

    /// The same, and it is for the caller to say what may be.
    async fn judge(self, faults: &[(&str, u64)]) -> Report {
        sleep(CALM).await;
        let ledger = self.writers.stop().await;
        self.scene.drained().await;
        let report = checker::check(&self.scene, &ledger, faults).await;
        println!("{report}");
        for relay in &self.relays {
            assert!(!relay.log().contains("panicked"), "{}", relay.log());
        }
        report
    }
}
