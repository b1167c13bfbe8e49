//! Kept events: seen, replayed and compared with the stream.

use super::{Console, OPERATOR, location, number};
use crate::support::{Relay, Scene, json};

#[tokio::test]
async fn kept_events_are_replayed_and_compared_with_the_stream() {
    let scene = Scene::new().await;
    let keep = [("OUTBOXD_KEEP__FOR", "1h")];
    let _relay = Relay::leading(&scene, &keep).await;
    scene.commit((0..5).map(|n| scene.event(&format!("k{}", n % 2), n))).await;
    scene.drained().await;
    let console = Console::start(&scene, &keep).await;
    let alice = console.person(OPERATOR).await;
    let outbox = format!("/o/{}.outbox", scene.name);

    let page = alice.page(&format!("{outbox}/published?key=k0")).await;
    assert!(page.contains("3 events, the newest") && !page.contains(">k1<"), "{page}");

    // Three are published again, as the page said before.
    let replay = format!("{outbox}/replay");
    let page = alice.page(&format!("{replay}?key=k0")).await;
    assert!(page.contains("<h1>Replay 3 events"), "{page}");
    let page = alice.confirm(&replay, &page, &[("reason", "lost")]).await;
    assert_eq!(number(&page, "delivered").as_deref(), Some("3"), "{page}");
    assert_eq!(scene.numbers().await["k0"], [0, 2, 4, 0, 2, 4]);
    let audit = json(&scene, &["audit"]);
    assert_eq!((&audit[0]["who"], &audit[0]["reason"]), (&"alice@console".into(), &"lost".into()));

    // One message is gone from the stream; the page names it.
    let verify = format!("{outbox}/verify");
    let csrf = alice.csrf().await;
    let all = async || {
        let answer = alice.post(&verify, &[("csrf", &csrf)]).await;
        assert_eq!(answer.status(), 303);
        alice.ended(location(&answer)).await
    };

    let page = all().await;
    assert_eq!(number(&page, "in the stream").as_deref(), Some("5"), "{page}");
    assert!(page.contains("Finished."), "{page}");
    let stream = scene.context.get_stream(&scene.stream).await.expect("the stream");
    stream.delete_message(2).await.expect("a message is deleted");
    let page = all().await;
    assert_eq!(number(&page, "missing").as_deref(), Some("1"), "{page}");
    assert!(page.contains("sequence 2: the stream has nothing there"), "{page}");
    assert_eq!(json(&scene, &["audit"]).as_array().map(Vec::len), Some(1), "nothing is changed");
}
