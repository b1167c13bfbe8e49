//! The wall clock is set back, forward, or both, on the relay's machine or on the server's: retries
//! go on.

use bson::doc;
use outboxd_client::Event;

use crate::support::{Relay, Scene, WallClock, until};

const HOUR: i64 = 3600;

/// Three of one key, of which the first fails: the others wait behind it.
fn refused(scene: &Scene, key: &str) -> Vec<Event> {
    let event = |number: u32| {
        let payload = doc! { "key": key, "number": number };
        Event::new(scene.subject("late"), &payload).and_then(|event| event.key(key)).unwrap()
    };
    (0..3).map(event).collect()
}

async fn is_marked(scene: &Scene, key: &str) {
    until("the first event is marked", async || {
        scene.one(doc! { "key": key, "attempts": { "$gte": 1 } }).await
    })
    .await;
}

#[tokio::test]
async fn a_relay_whose_wall_clock_jumps_goes_on_retrying() {
    let scene = Scene::new().await;
    let wall = WallClock::new();
    let relay = Relay::leading(&scene, &wall.env()).await;

    let jumps: [(&str, &[i64]); 3] =
        [("back", &[-HOUR]), ("forward", &[HOUR]), ("glitch", &[2 * HOUR, 0])];
    for (key, jumps) in jumps {
        scene.cover(&["made"]).await;
        scene.commit(refused(&scene, key)).await;
        is_marked(&scene, key).await;
        for (passed, seconds) in jumps.iter().enumerate() {
            let seen = relay.log().matches("the wall clock jumped").count();
            wall.set(*seconds);
            until(&format!("jump {passed} of {key} is seen"), async || {
                (relay.log().matches("the wall clock jumped").count() > seen).then_some(())
            })
            .await;
        }
        scene.cover(&["made", "late"]).await;
        scene.drained().await;
        assert_eq!(scene.numbers().await[key], [0, 1, 2]);
    }

    assert_eq!(relay.stop(), Some(0));
}

/// A mark that a server wrote whose clock was an hour ahead then.
#[tokio::test]
async fn an_event_that_seems_due_in_an_hour_because_the_servers_clock_was_set_back_is_due() {
    let scene = Scene::new().await;
    // So long that nothing but the jump can make the event due.
    let settings = [("OUTBOXD_RETRY__BASE_DELAY", "5m"), ("OUTBOXD_RETRY__MAX_DELAY", "10m")];
    let relay = Relay::leading(&scene, &settings).await;
    scene.cover(&["made"]).await;
    scene.commit(refused(&scene, "a")).await;
    is_marked(&scene, "a").await;
    scene.cover(&["made", "late"]).await;

    let ahead = doc! { "$add": ["$$NOW", HOUR * 1000] };
    let set_back = vec![doc! { "$set": { "nextAttemptAt": ahead } }];
    scene.events.update_many(doc! { "attempts": { "$gte": 1 } }, set_back).await.unwrap();
    scene.drained().await;
    assert_eq!(scene.numbers().await["a"], [0, 1, 2]);
    assert_eq!(relay.stop(), Some(0));
}
