//! Two daemons for five outboxes: whatever happens to a daemon, to NATS or to one of the outboxes, the
//! checker finds each outbox whole.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy};
use tokio::time::sleep;

use super::{CALM, KEYS, again_and_again, length};
use crate::fleet::scene::Fleet;
use crate::support::{ALONE, NatsServer, Relay, Scene, Writers, checker, until};

const OUTBOXES: usize = 5;
/// Transactions for each outbox.
const PER_SECOND: u32 = 40;

/// Daemons and writers at work on several outboxes.
struct Trial {
    nats: NatsServer,
    fleet: Fleet,
    daemons: Vec<Relay>,
    writers: Vec<Writers>,
}

impl Trial {
    async fn begin() -> Self {
        // Without users, whose rights would be those of one stream.
        let nats = NatsServer::with_config("").await;
        let fleet = Fleet::on(&nats, OUTBOXES).await;
        let mut writers = Vec::new();
        for scene in &fleet.scenes {
            writers.push(Writers::start(scene, KEYS, PER_SECOND).await);
        }

        let mut trial = Self { nats, fleet, daemons: Vec::new(), writers };
        trial.daemons = vec![trial.daemon(0), trial.daemon(1)];
        for daemon in &trial.daemons {
            daemon.says("holding the lease").await;
        }
        sleep(CALM).await;
        trial
    }

    fn daemon(&self, name: usize) -> Relay {
        let file = self.fleet.file("run", 0..OUTBOXES, "");
        let settings = [
            ("OUTBOXD_CONFIG", file.as_str()),
            ("NATS_CLIENT_ID", &format!("d{name}")),
            ("OUTBOXD_LEASE__TTL", "2s"),
            ("OUTBOXD_RETRY__MAX_ATTEMPTS", "10000"),
        ];
        Relay::start(self.fleet.first(), &settings)
    }

    /// The load goes on for a moment, ends, and every outbox drains.
    async fn end(self, fault: &str, happened: u64) {
        sleep(CALM).await;
        for (scene, writers) in self.fleet.scenes.iter().zip(self.writers) {
            let ledger = writers.stop().await;
            scene.drained().await;
            let report = checker::check(scene, &ledger, &[(fault, happened)]).await;
            println!("{}: {report}", scene.name);
            report.assert_all_delivered();
        }
        for daemon in &self.daemons {
            assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
        }
    }
}

/// Messages in the stream of an outbox.
async fn stored(scene: &Scene) -> u64 {
    let stream = scene.context.get_stream(&scene.stream).await.expect("the stream");
    stream.cached_info().state.messages
}

#[tokio::test]
#[ignore = "make faults"]
async fn daemons_that_are_killed_in_turn_lose_and_reorder_nothing_of_any_outbox() {
    let _alone = ALONE.lock().await;
    let mut trial = Trial::begin().await;
    let mut victim = 0;
    let kills = again_and_again(Duration::from_secs(3), async || {
        trial.daemons[victim].kill();
        trial.daemons[victim] = trial.daemon(victim);
        victim = 1 - victim;
        true
    })
    .await;
    trial.end("daemon killed", kills).await;
}

#[tokio::test]
#[ignore = "make faults"]
async fn a_daemon_that_sleeps_longer_than_its_leases_publishes_nothing_when_it_wakes() {
    let _alone = ALONE.lock().await;
    let trial = Trial::begin().await;
    let mut sleeper = 0;
    let slept = again_and_again(Duration::from_millis(500), async || {
        trial.daemons[sleeper].pause();
        sleep(Duration::from_secs(3)).await;
        trial.daemons[sleeper].resume();
        sleeper = 1 - sleeper;
        true
    })
    .await;
    trial.end("daemon slept", slept).await;
}

#[tokio::test]
#[ignore = "make faults"]
async fn a_nats_server_that_is_killed_costs_no_outbox_an_event() {
    let _alone = ALONE.lock().await;
    let mut trial = Trial::begin().await;
    let kills = again_and_again(Duration::from_secs(2), async || {
        trial.nats.kill();
        trial.nats.start_again();
        true
    })
    .await;
    trial.end("nats-server killed", kills).await;
}

#[tokio::test]
#[ignore = "make faults"]
async fn a_full_stream_holds_up_its_own_outbox_and_no_other() {
    let _alone = ALONE.lock().await;
    let trial = Trial::begin().await;
    let (full, others) = trial.fleet.scenes.split_first().expect("outboxes");
    let stream = full.context.get_stream(&full.stream).await.expect("the stream");
    let config = stream.cached_info().config.clone();
    let taken = i64::try_from(stream.cached_info().state.messages).expect("a number");
    let closed = Config { max_messages: taken, discard: DiscardPolicy::New, ..config.clone() };
    full.context.update_stream(closed).await.expect("the stream takes nothing more");

    sleep(length()).await;
    assert!(full.one(bson::doc! {}).await.is_some(), "its events wait");
    for scene in others {
        let before = stored(scene).await;
        until("the others are published", async || (stored(scene).await > before).then_some(()))
            .await;
    }
    full.context.update_stream(config).await.expect("the stream takes events again");
    trial.end("stream was full", 1).await;
}
