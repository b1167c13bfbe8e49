//! One console for several outboxes.

use super::scene::Fleet;
use crate::console::{Console, OPERATOR, dead};
use crate::support::until;

#[tokio::test]
async fn the_console_shows_every_outbox_the_worst_first() {
    let fleet = Fleet::migrated(2).await;
    let [good, bad] = &fleet.scenes[..] else { panic!("two outboxes") };
    let event = dead(bad, "bad", "k", "10054", "too large");
    bad.events.insert_one(event).await.expect("an event");
    let relay = fleet.run("");

    let file = fleet.file("console", 0..2, "");
    let admin = relay.admin().await;
    let settings = [("OUTBOXD_CONFIG", &*file), ("OUTBOXD_ADMIN__LISTEN", &*admin)];
    let console = Console::start(good, &settings).await;
    let alice = console.person(OPERATOR).await;

    // Each card has its own relay's state.
    let overview = until("both are relayed, and NATS is ready", async || {
        let page = alice.page("/").await;
        let relayed = page.matches("relayed by").count();
        (relayed == 2 && !page.contains("unknown")).then_some(page)
    })
    .await;
    let at = |name: &str| overview.find(&format!("id=\"card-{name}.outbox\"")).expect("its card");
    assert!(at(&bad.name) < at(&good.name), "the worst first: {overview}");

    let groups = alice.page(&format!("/o/{}.outbox/groups", bad.name)).await;
    assert!(groups.contains("too large"), "{groups}");
    let groups = alice.page(&format!("/o/{}.outbox/groups", good.name)).await;
    assert!(!groups.contains("too large"), "another outbox's: {groups}");
}
