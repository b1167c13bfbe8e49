//! Faults at random, from a seed, for as long as asked: three mongods, three nats-servers, three
//! relays.
//!
//! `OUTBOXD_TEST_SOAK` minutes, 1 unless set; `OUTBOXD_TEST_SEED` plays the same faults again. Run
//! by `make soak`. It ends in liveness mode: one server of each kind and one relay are gone for
//! good, and everything must drain all the same.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::{Instant, sleep};

use super::{CALM, Trial};
use crate::support::{ALONE, NatsCluster, ReplicaSet, Scene, memory};

/// How long the servers may take to be whole again when the faults end.
const HEALED: Duration = Duration::from_secs(300);
/// The relay that is never killed: its memory and descriptors tell of leaks.
const SURVIVOR: usize = 2;

struct Soak {
    set: ReplicaSet,
    cluster: NatsCluster,
    trial: Trial,
    faults: BTreeMap<&'static str, u64>,
    holders: Vec<usize>,
    /// Seconds, kB and descriptors of the survivor.
    curve: Vec<(u64, u64, usize)>,
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

impl Soak {
    /// One fault, from its beginning to its end. Returns its name if it could be done.
    async fn fault(&mut self, random: &mut StdRng) -> Option<&'static str> {
        let long = Duration::from_millis(random.random_range(500..6000));
        let Self { set, cluster, trial, .. } = self;
        match random.random_range(0..8) {
            0 => {
                let victim = random.random_range(0..SURVIVOR);
                trial.relays[victim].kill();
                sleep(long / 4).await;
                trial.relays[victim] = trial.relay(victim);
                Some("relay killed")
            }
            1 => {
                let victim = random.random_range(0..SURVIVOR);
                let next = trial.relay(victim);
                let stopped = std::mem::replace(&mut trial.relays[victim], next);
                assert_eq!(stopped.stop(), Some(0));
                Some("relay restarted")
            }
            2 => {
                let holder = trial.holder().await?;
                trial.relays[holder].pause();
                sleep(long).await;
                trial.relays[holder].resume();
                Some("holder paused")
            }
            3 => set.step_down().await.then_some("primary stepped down"),
            4 => {
                let primary = set.primary().await?;
                set.kill(primary);
                sleep(long).await;
                set.start_again(primary);
                Some("primary killed")
            }
            5 => {
                let member = random.random_range(0..3);
                set.pause(member);
                sleep(long).await;
                set.resume(member);
                Some("mongod paused")
            }
            6 => cluster.step_down(&trial.scene).await.then_some("stream's leader stepped down"),
            _ => {
                let leader = cluster.leader(&trial.scene).await?;
                cluster.kill(leader);
                sleep(long).await;
                cluster.start_again(leader);
                Some("stream's leader killed")
            }
        }
    }

    fn look(&mut self, seconds: u64) {
        let pid = self.trial.relays[SURVIVOR].pid();
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        self.curve.push((seconds, memory(pid, "VmRSS:"), descriptors));
    }
}

#[tokio::test]
#[ignore = "make soak"]
async fn whatever_happens_at_random_nothing_is_lost_and_all_of_it_drains() {
    let _alone = ALONE.lock().await;
    let length = Duration::from_secs(60 * number("OUTBOXD_TEST_SOAK", 1));
    let seed = number("OUTBOXD_TEST_SEED", rand::random::<u32>().into());
    println!("again with: make soak SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    // Ten minutes of writes take a quarter of a gigabyte.
    let (set, cluster) = (ReplicaSet::remembering(3, 4000).await, NatsCluster::start().await);
    let scene = Scene::among(set.uri(), cluster.url(), Some(cluster.users.clone()), "3").await;
    let trial = Trial::begin(scene, 3, &[("OUTBOXD_STREAM__REPLICAS", "3")]).await;
    let mut soak = Soak {
        set,
        cluster,
        trial,
        faults: BTreeMap::new(),
        holders: Vec::new(),
        curve: Vec::new(),
    };
    let began = Instant::now();
    let mut told = began;
    while began.elapsed() < length {
        if let Some(name) = soak.fault(&mut random).await {
            *soak.faults.entry(name).or_default() += 1;
        }
        sleep(Duration::from_millis(random.random_range(200..3000))).await;
        let holder = soak.trial.holder().await;
        soak.holders.extend(holder.filter(|holder| soak.holders.last() != Some(holder)));
        soak.look(began.elapsed().as_secs());
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            let waiting = soak.trial.scene.events.count_documents(bson::doc! {}).await;
            let waiting = waiting.map_or_else(|_| "?".to_owned(), |count| count.to_string());
            let faults: u64 = soak.faults.values().sum();
            let (seconds, rss, descriptors) = soak.curve[soak.curve.len() - 1];
            println!(
                "{seconds:>6} s  {faults:>5} faults  {waiting:>6} waiting  {rss:>6} kB  {descriptors:>3} descriptors"
            );
        }
    }

    // Liveness: what is gone stays gone. A member that was killed a moment ago is still being
    // caught up, and hours of messages take a while: with another one gone there would be no
    // majority.
    let healing = Instant::now();
    while !(soak.set.is_whole().await && soak.cluster.is_whole(&soak.trial.scene).await) {
        assert!(healing.elapsed() < HEALED, "the servers are still not whole");
        sleep(Duration::from_secs(1)).await;
    }
    println!("\nthe servers were whole again after {} s", healing.elapsed().as_secs());
    let primary = soak.set.primary().await.unwrap_or(0);
    soak.set.kill((primary + 1) % 3);
    let leader = soak.cluster.leader(&soak.trial.scene).await.unwrap_or(0);
    soak.cluster.kill((leader + 1) % 3);
    soak.trial.relays[0].kill();
    sleep(CALM * 2).await;
    let Soak { trial, faults, holders, curve, .. } = &mut soak;
    println!("take-overs of the lease: {}", holders.len().saturating_sub(1));
    let quarter = |from: usize, to: usize| {
        let part = &curve[curve.len() * from / 4..curve.len() * to / 4];
        let mean = |of: fn(&(u64, u64, usize)) -> u64| {
            part.iter().map(of).sum::<u64>() / part.len().max(1) as u64
        };
        format!("{} kB, {} descriptors", mean(|at| at.1), mean(|at| at.2 as u64))
    };
    println!(
        "a relay that lived all the time: {} in the second quarter, {} in the last",
        quarter(1, 2),
        quarter(3, 4)
    );
    println!(
        "duplicate acks it saw: {}",
        trial.relays[SURVIVOR].metric("outboxd_duplicate_acks_total").await
    );
    let faults: Vec<_> = faults.iter().map(|(name, times)| (*name, *times)).collect();
    let report = soak.trial.judge(&faults).await;
    report.assert_all_delivered();
    assert!(report.past.is_some_and(|past| past.whole), "the oplog holds all of it");
}
