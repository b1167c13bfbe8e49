//! Several daemons share the outboxes of a fleet: evenly, in order, without a copy.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bson::{Document, doc};

use super::scene::Fleet;
use crate::support::{Relay, until};

/// A new daemon has its share within this time.
const SHARED: Duration = Duration::from_secs(30);

/// A daemon of this name.
fn daemon(fleet: &Fleet, name: &str) -> Relay {
    let file = fleet.file("run", 0..fleet.scenes.len(), "");
    Relay::start(fleet.first(), &[("OUTBOXD_CONFIG", &file), ("NATS_CLIENT_ID", name)])
}

/// How many outboxes each daemon leads now.
async fn leads(fleet: &Fleet) -> BTreeMap<String, usize> {
    let mut leads = BTreeMap::new();
    for scene in &fleet.scenes {
        let held = doc! { "_id": "outbox", "$expr": { "$gt": ["$expiresAt", "$$NOW"] } };
        let leases = scene.database.collection::<Document>("outboxd_lease");
        let Some(lease) = leases.find_one(held).await.expect("the lease is read") else { continue };
        let holder = lease.get_str("holder").expect("a holder");
        let name = holder.split(' ').next().expect("a name").to_owned();
        *leads.entry(name).or_default() += 1;
    }
    leads
}

/// Waits until these daemons lead so many outboxes, the most first; returns how long that took.
async fn share(fleet: &Fleet, wanted: &[usize], names: &[&str]) -> Duration {
    let began = Instant::now();
    until(&format!("{names:?} lead {wanted:?}"), async || {
        let leads = leads(fleet).await;
        let is_theirs = leads.keys().all(|name| names.contains(&name.as_str()));
        let mut counts: Vec<_> = leads.into_values().collect();
        counts.sort_by(|one, other| other.cmp(one));
        (is_theirs && counts == wanted).then_some(())
    })
    .await;
    began.elapsed()
}

/// Commits an event to each outbox, until it is told to stop; returns how many.
async fn write(fleet: &Fleet, stop: &tokio_util::sync::CancellationToken) -> u32 {
    let mut number = 0;
    while !stop.is_cancelled() {
        for scene in &fleet.scenes {
            scene.commit([fleet.first().event(&scene.name, number)]).await;
        }
        number += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    number
}

#[tokio::test]
async fn daemons_that_come_go_and_die_share_evenly_and_nothing_is_lost_reordered_or_doubled() {
    let fleet = Fleet::migrated(5).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let changing = async {
        let one = daemon(&fleet, "one");
        share(&fleet, &[5], &["one"]).await;

        let mut two = daemon(&fleet, "two");
        let took = share(&fleet, &[3, 2], &["one", "two"]).await;
        assert!(took < SHARED, "the second daemon had its share after {took:?}");

        let three = daemon(&fleet, "three");
        let took = share(&fleet, &[2, 2, 1], &["one", "two", "three"]).await;
        assert!(took < SHARED, "the third daemon had its share after {took:?}");

        // It leaves nothing but leases that expire.
        two.kill();
        share(&fleet, &[3, 2], &["one", "three"]).await;

        assert_eq!(one.stop(), Some(0));
        share(&fleet, &[5], &["three"]).await;
        stop.cancel();
        three
    };

    let (written, _three) = tokio::join!(write(&fleet, &stop), changing);
    fleet.drained().await;
    let numbers = fleet.first().numbers().await;
    assert_eq!(numbers.len(), 5, "each outbox was relayed");
    for (outbox, numbers) in numbers {
        assert!(numbers.iter().copied().eq(0..written), "{outbox}: {numbers:?}");
    }
}

#[tokio::test]
async fn a_daemon_that_is_killed_is_replaced_within_the_ttl_and_two_seconds() {
    let fleet = Fleet::migrated(4).await;
    let _stays = daemon(&fleet, "stays");
    let mut dies = daemon(&fleet, "dies");
    share(&fleet, &[2, 2], &["stays", "dies"]).await;

    dies.kill();
    let took = share(&fleet, &[4], &["stays"]).await;
    // Of the scenes.
    let ttl = Duration::from_secs(3);
    assert!(took < ttl + Duration::from_secs(2), "replaced after {took:?}");
}
