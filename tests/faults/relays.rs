//! Relays that are killed, paused and started again, several on one outbox.

use std::time::Duration;

use tokio::time::sleep;

use super::{KEYS, Trial, again_and_again, length};
use crate::support::{ALONE, Scene, until};

#[tokio::test]
async fn relays_that_are_killed_at_random_lose_and_reorder_nothing() {
    let _alone = ALONE.lock().await;
    let mut trial = Trial::begin(Scene::new().await, 3, &[]).await;
    let mut victim = 0;
    let kills = again_and_again(Duration::from_millis(1500), async || {
        // Mostly the one that publishes.
        let next = trial.holder().await.unwrap_or(victim) % 3;
        victim = if victim == next { (next + 1) % 3 } else { next };
        trial.relays[victim].kill();
        trial.relays[victim] = trial.relay(victim);
        true
    })
    .await;
    trial.end(&[("relay killed", kills)]).await;
}

/// Pauses whoever holds the lease of two relays until the other has it, and for so long after.
/// Returns how often.
async fn put_holders_to_sleep(trial: &Trial, after: Duration) -> u64 {
    again_and_again(Duration::from_millis(500), async || {
        let Some(holder) = trial.holder().await.filter(|holder| *holder < 2) else { return false };
        trial.relays[holder].pause();
        until("the other has taken over", async || {
            trial.holder().await.filter(|now| *now != holder)
        })
        .await;
        sleep(after).await;
        trial.relays[holder].resume();
        true
    })
    .await
}

#[tokio::test]
async fn a_holder_that_sleeps_longer_than_its_lease_publishes_nothing_when_it_wakes() {
    let _alone = ALONE.lock().await;
    let trial = Trial::begin(Scene::new().await, 2, &[]).await;
    let over = put_holders_to_sleep(&trial, Duration::from_millis(500)).await;
    trial.end(&[("lease taken over", over)]).await;
}

/// The stream has forgotten what the sleeper sent last: some of that may come a second time, and
/// nothing worse.
#[tokio::test]
#[ignore = "make faults"]
async fn a_holder_that_sleeps_longer_than_the_stream_remembers_costs_copies_at_most() {
    let _alone = ALONE.lock().await;
    let trial = Trial::begin(Scene::new().await, 2, &[]).await;
    let stream = trial.scene.context.get_stream(&trial.scene.stream).await.expect("the stream");
    let forgetful = async_nats::jetstream::stream::Config {
        duplicate_window: Duration::from_secs(1),
        ..stream.cached_info().config.clone()
    };
    trial.scene.context.update_stream(forgetful).await.expect("the stream remembers less");
    let slept = put_holders_to_sleep(&trial, Duration::from_secs(2)).await;
    let mut report = trial.judge(&[("slept longer than the window", slept)]).await;
    let copies = std::mem::take(&mut report.copies).len();
    println!("copies: {copies}");
    report.assert_all_delivered();
    assert!(
        copies as u64 <= slept * u64::from(KEYS),
        "of each key one at most was under way: {copies}"
    );
}

#[tokio::test]
#[ignore = "make faults"]
async fn of_many_relays_that_start_at_once_one_leads() {
    let _alone = ALONE.lock().await;
    let mut trial = Trial::begin(Scene::new().await, 1, &[]).await;
    for name in 1..8 {
        let relay = trial.relay(name);
        trial.relays.push(relay);
    }
    sleep(length()).await;
    let leading =
        trial.relays.iter().filter(|relay| relay.log().contains("holding the lease")).count();
    assert_eq!(leading, 1, "each of the others stands by");
    let others = trial.relays.iter().filter(|relay| relay.log().contains("standing by")).count();
    assert_eq!(others, 7);
    trial.end(&[("others stood by", 7)]).await;
}

#[tokio::test]
#[ignore = "make faults"]
async fn a_rolling_restart_under_load_loses_nothing_and_each_hands_over() {
    let _alone = ALONE.lock().await;
    let mut trial = Trial::begin(Scene::new().await, 2, &[("OUTBOXD_LEASE__TTL", "60s")]).await;
    let mut name = 2;
    let restarts = again_and_again(Duration::from_secs(1), async || {
        let Some(holder) = trial.holder().await else { return false };
        let Some(at) = trial.relays.iter().position(|relay| relay.name() == format!("r{holder}"))
        else {
            return false;
        };
        let next = trial.relay(name);
        name += 1;
        let stopped = std::mem::replace(&mut trial.relays[at], next);
        assert_eq!(stopped.stop(), Some(0));
        // The lease is so long that only a resignation explains it.
        until("another holds the lease", async || {
            trial.holder().await.filter(|now| *now != holder)
        })
        .await;
        true
    })
    .await;
    trial.end(&[("restarted", restarts)]).await;
}
