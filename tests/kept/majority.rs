//! A stream of three copies, of which a majority is put back to an old one.

use std::sync::Arc;

use super::{KEEP, KEYS, PER_SECOND, all_there, grows, in_order, is_back, told_once};
use crate::support::{ALONE, NatsCluster, Relay, Scene, Writers, mongodb_uri, until};

#[tokio::test]
#[ignore = "make faults"]
async fn a_majority_of_stores_put_back_gets_back_what_it_lost() {
    let _alone = ALONE.lock().await;
    let mut cluster = NatsCluster::start().await;
    let users = Some(cluster.users.clone());
    let scene = Arc::new(Scene::among(mongodb_uri(), cluster.url(), users, "3").await);
    let _relay = Relay::leading(&scene, &KEEP).await;
    let writers = Writers::start(&scene, KEYS, PER_SECOND).await;
    grows(&scene, 200).await;
    let whole = async || cluster.is_whole(&scene).await.then_some(());
    until("every copy is current", whole).await;

    let copies: Vec<_> = [0, 1]
        .map(|member| {
            cluster.kill(member);
            cluster.copy(member)
        })
        .into();
    [0, 1].iter().for_each(|member| cluster.start_again(*member));
    is_back(&scene).await;
    grows(&scene, 600).await;

    // The third has everything, and joins when the two have elected a leader and taken more.
    [2, 0, 1].iter().for_each(|member| cluster.kill(*member));
    for (member, copy) in [0, 1].into_iter().zip(&copies) {
        cluster.restore(member, copy);
        cluster.start_again(member);
    }
    is_back(&scene).await;
    grows(&scene, 1).await;
    cluster.start_again(2);
    in_order(&all_there(&scene, writers, "majority put back").await);
    assert_eq!(told_once(&scene).await["how"], "went-back");
}
