//! A NATS cluster with three copies of the stream that loses its leader; one server that loses its
//! disk, or its memory.

use std::time::Duration;

use tokio::time::sleep;

use super::{KEYS, PER_SECOND, Trial, again_and_again, length};
use outboxd_client::Event;

use crate::support::{ALONE, NatsCluster, NatsServer, Relay, Scene, checker, mongodb_uri, until};

async fn trial(cluster: &NatsCluster, relays: usize) -> Trial {
    let settings = [("OUTBOXD_STREAM__REPLICAS", "3")];
    Trial::begin(
        Scene::among(mongodb_uri(), cluster.url(), Some(cluster.users.clone()), "3").await,
        relays,
        &settings,
    )
    .await
}

#[tokio::test]
async fn a_stream_whose_leader_steps_down_costs_no_event_and_no_attempt() {
    let _alone = ALONE.lock().await;
    let cluster = NatsCluster::start().await;
    let trial = trial(&cluster, 1).await;
    let scene = trial.scene.clone();
    let steps =
        again_and_again(Duration::from_secs(2), async || cluster.step_down(&scene).await).await;
    let report = trial.end(&[("leader stepped down", steps)]).await;
    assert_eq!(report.burned, 0, "{report}");
}

#[tokio::test]
#[ignore = "make faults"]
async fn a_killed_leader_of_the_stream_costs_no_event_and_no_attempt() {
    let _alone = ALONE.lock().await;
    let mut cluster = NatsCluster::start().await;
    let trial = trial(&cluster, 1).await;
    let scene = trial.scene.clone();
    let kills = again_and_again(Duration::from_secs(3), async || {
        let Some(leader) = cluster.leader(&scene).await else { return false };
        cluster.kill(leader);
        sleep(Duration::from_secs(3)).await;
        cluster.start_again(leader);
        true
    })
    .await;
    let report = trial.end(&[("leader killed", kills)]).await;
    assert_eq!(report.burned, 0, "{report}");
}

#[tokio::test]
#[ignore = "make faults"]
async fn a_paused_leader_of_the_stream_costs_no_event_and_no_attempt() {
    let _alone = ALONE.lock().await;
    let cluster = NatsCluster::start().await;
    let trial = trial(&cluster, 1).await;
    let leader =
        until("the stream has a leader", async || cluster.leader(&trial.scene).await).await;
    cluster.pause(leader);
    sleep(length()).await;
    cluster.resume(leader);
    let report = trial.end(&[("leader paused", 1)]).await;
    assert_eq!(report.burned, 0, "{report}");
}

/// They are in the stream all the while.
#[tokio::test]
#[ignore = "make faults"]
async fn publishes_that_nobody_answers_are_tried_until_somebody_does_and_stored_once() {
    let _alone = ALONE.lock().await;
    let scene = Scene::new().await;
    let _relay = Relay::leading(&scene, &[("OUTBOXD_NATS__ACK_TIMEOUT", "100ms")]).await;
    let stream = scene.context.get_stream(&scene.stream).await.expect("the stream");
    let answers = stream.cached_info().config.clone();
    let silent = async_nats::jetstream::stream::Config { no_ack: true, ..answers.clone() };
    scene.context.update_stream(silent).await.expect("the stream answers no more");
    let keyless = |number: u32| {
        Event::new(scene.subject("made"), &bson::doc! { "key": "none", "number": number })
    };
    scene.commit((0..300).map(|number| keyless(number).expect("an event"))).await;
    sleep(length()).await;
    assert_eq!(
        scene.events.count_documents(bson::doc! {}).await.expect("a count"),
        300,
        "without an ack nothing goes"
    );
    scene.context.update_stream(answers).await.expect("the stream answers again");
    scene.drained().await;
    let numbers: std::collections::BTreeSet<_> =
        checker::stream(&scene).await.iter().map(|one| one.number).collect();
    assert!(numbers.into_iter().eq(0..300), "each is there");
}

/// Files can't grow, which is what a full disk is to the server. Some versions answer nothing then
/// and need a restart.
#[tokio::test]
#[ignore = "make faults"]
async fn a_full_disk_of_the_stream_costs_no_event_and_no_attempt() {
    let _alone = ALONE.lock().await;
    let mut nats = NatsServer::start().await;
    let trial = Trial::begin(Scene::alone(&nats).await, 1, &[]).await;
    nats.limit_files(1024);
    sleep(length()).await;
    let waiting = trial.scene.events.count_documents(bson::doc! {}).await.expect("a count");
    nats.kill();
    nats.start_again();
    let report = trial.end(&[("events piled up", waiting.saturating_sub(PER_SECOND.into()))]).await;
    assert_eq!(report.burned, 0, "{report}");
}

/// What was acked after the copy was made is gone from both sides: all that can be done is to say
/// so. What was acked last and not deleted yet is published again, one event of a key at most behind
/// later ones.
#[tokio::test]
#[ignore = "make faults"]
async fn a_stream_restored_from_an_old_copy_is_told_of_and_goes_on() {
    let _alone = ALONE.lock().await;
    let mut nats = NatsServer::start().await;
    let trial = Trial::begin(Scene::alone(&nats).await, 1, &[]).await;
    nats.kill();
    let copy = nats.copy();
    nats.start_again();
    let (context, name) = (trial.scene.context.clone(), trial.scene.stream.clone());
    let stored =
        async || Some(context.get_stream(&name).await.ok()?.cached_info().state.last_sequence);
    let before = until("the stream is back", &stored).await;
    until("it has got a second's worth", async || stored().await.filter(|now| *now > before + 200))
        .await;
    nats.kill();
    nats.restore(&copy);
    nats.start_again();
    until("the relay says so", async || {
        trial.relays[0].log().contains("has gone back").then_some(())
    })
    .await;
    let alerts = async || std::fs::read_to_string(trial.scene.alerts_file()).ok();
    until("the alert log says so", async || {
        alerts().await.filter(|alerts| alerts.contains("rewound"))
    })
    .await;

    let report = trial.judge(&[("stream restored", 1)]).await;
    let early = &report.past.as_ref().expect("the oplog was read").early;
    assert!(report.lost.len() > 100 && early.len() == report.lost.len(), "{report}");
    assert!(report.copies.is_empty() && report.phantom.is_empty(), "{report}");
    assert!(report.reordered.len() <= KEYS as usize, "{report}");
    assert_eq!(report.locked.len() + report.unlocked.len() + report.dead.len(), 0, "{report}");
}
