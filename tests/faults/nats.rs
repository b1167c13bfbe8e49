//! A NATS cluster with three copies of the stream that loses its leader.

use std::time::Duration;

use tokio::time::sleep;

use super::{Trial, again_and_again, length};
use crate::support::{ALONE, NatsCluster, Scene, mongodb_uri, until};

async fn trial(cluster: &NatsCluster, relays: usize) -> Trial {
    let settings = [("OUTBOXD_STREAM__REPLICAS", "3")];
    Trial::begin(Scene::among(mongodb_uri(), cluster.url(), "3").await, relays, &settings).await
}

#[tokio::test]
#[ignore = "make faults"]
async fn a_stream_whose_leader_steps_down_costs_no_event_and_no_attempt() {
    let _alone = ALONE.lock().await;
    let cluster = NatsCluster::start().await;
    let trial = trial(&cluster, 1).await;
    let scene = trial.scene.clone();
    let steps = again_and_again(Duration::from_secs(2), async || cluster.step_down(&scene).await).await;
    let report = trial.end(&[("leader stepped down", steps)]).await;
    assert_eq!(report.burned, 0, "{report}");
}

#[tokio::test]
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
    let leader = until("the stream has a leader", async || cluster.leader(&trial.scene).await).await;
    cluster.pause(leader);
    sleep(length()).await;
    cluster.resume(leader);
    let report = trial.end(&[("leader paused", 1)]).await;
    assert_eq!(report.burned, 0, "{report}");
}
