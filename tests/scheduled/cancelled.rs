//! A cancel that says yes is true: of ten thousand that race with the relay around the events' due
//! times, none is both delivered and cancelled, and none is neither.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use bson::doc;
use futures_util::future::join_all;
use mongodb::ClientSession;
use outboxd_client::{Event, EventId};

use super::scheduled;
use crate::support::{ALONE, Relay, Scene, until};

/// Services at work at once.
const SERVICES: usize = 16;
/// Events that a service schedules in one transaction, and cancels one by one.
const ROUND: usize = 20;
/// Between the due times of a round.
const APART: Duration = Duration::from_millis(15);

fn events() -> usize {
    let set = std::env::var("OUTBOXD_TEST_CANCELS").ok();
    set.and_then(|set| set.parse().ok()).unwrap_or(10_000)
}

/// Schedules a round of events that are due soon, one after another.
async fn schedule(
    scene: &Scene,
    session: &mut ClientSession,
    first: usize,
) -> Vec<(EventId, SystemTime)> {
    let begin = SystemTime::now() + APART;
    let event = |number: usize| {
        let id = EventId::string(format!("e{number}")).unwrap();
        let event = Event::new(
            scene.subject("due"),
            &doc! { "number": i64::try_from(number).expect("a small number") },
        )
        .unwrap();
        let event = event.with_id(id.clone()).unwrap();
        (id, event, begin + APART * u32::try_from(number - first).expect("a small number"))
    };
    let round: Vec<_> = (first..first + ROUND).map(event).collect();

    let write = async |session: &mut ClientSession| {
        for (_, event, at) in &round {
            scene.outbox.schedule(session, event.clone(), *at).await?;
        }
        Ok(())
    };
    session.start_transaction().and_run2(write).await.expect("the round is committed");
    round.into_iter().map(|(id, _, at)| (id, at)).collect()
}

/// Cancels each event of a round around its due time; returns those of which the cancel says yes.
async fn cancel(
    scene: &Scene,
    session: &mut ClientSession,
    round: Vec<(EventId, SystemTime)>,
) -> Vec<String> {
    let mut cancelled = Vec::new();
    for (place, (id, at)) in round.into_iter().enumerate() {
        // Some a little before, some a little after: a relay takes some milliseconds to look.
        let at = at + Duration::from_millis((place as u64 * 7) % 23);
        if let Ok(ahead) = at.duration_since(SystemTime::now() + Duration::from_millis(8)) {
            tokio::time::sleep(ahead).await;
        }
        let take_back =
            async |session: &mut ClientSession| Ok(scene.outbox.cancel(session, &id).await?);
        let is_cancelled = session.start_transaction().and_run2(take_back).await;
        if is_cancelled.expect("the cancel is committed") {
            cancelled.push(id.to_string());
        }
    }
    cancelled
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_ten_thousand_cancels_around_the_due_time_none_is_wrong() {
    let _alone = ALONE.lock().await;
    let scene = &Scene::new().await;
    let relay = Relay::leading(scene, &[]).await;

    let rounds = events().div_ceil(ROUND);
    let services = (0..SERVICES).map(async |service| {
        let mut session = scene.client.start_session().await.expect("a session");
        let mut cancelled = Vec::new();
        for round in (service..rounds).step_by(SERVICES) {
            let round = schedule(scene, &mut session, round * ROUND).await;
            cancelled.extend(cancel(scene, &mut session, round).await);
        }
        cancelled
    });
    let cancelled: HashSet<String> = join_all(services).await.into_iter().flatten().collect();

    until("nothing waits any more", async || {
        (scheduled(scene).count_documents(doc! {}).await.unwrap() == 0).then_some(())
    })
    .await;
    scene.drained().await;
    let id = |message: &crate::support::Message| {
        message.headers["Nats-Msg-Id"].rsplit('.').next().unwrap().to_owned()
    };
    let messages = scene.messages().await;
    let delivered: HashSet<String> = messages.iter().map(id).collect();
    assert_eq!(messages.len(), delivered.len(), "none is delivered twice");
    let all: HashSet<String> = (0..rounds * ROUND).map(|number| format!("e{number}")).collect();
    let both: Vec<_> = delivered.intersection(&cancelled).collect();
    let neither: Vec<_> =
        all.iter().filter(|&id| !delivered.contains(id) && !cancelled.contains(id)).collect();
    println!(
        "{} events: {} delivered, {} cancelled, {} both, {} neither",
        all.len(),
        delivered.len(),
        cancelled.len(),
        both.len(),
        neither.len()
    );
    assert!(both.is_empty(), "delivered and cancelled: {both:?}");
    assert!(neither.is_empty(), "neither delivered nor cancelled: {neither:?}");
    assert_eq!(delivered.len() + cancelled.len(), all.len(), "nothing else was delivered");
    // It was a race: each side has won some.
    assert!(!delivered.is_empty() && !cancelled.is_empty());
    assert_eq!(relay.stop(), Some(0));
}
