//! One console for several outboxes.

use bson::doc;

use super::scene::Fleet;
use crate::console::{Console, OPERATOR, dead, people};
use crate::support::{Relay, free_ports, until};

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

#[tokio::test]
async fn the_daemon_itself_serves_the_console_of_all_its_outboxes() {
    let fleet = Fleet::migrated(2).await;
    let [first, second] = &fleet.scenes[..] else { panic!("two outboxes") };
    for scene in &fleet.scenes {
        // Who relays may also act.
        let grant = doc! { "grantRolesToUser": "outbox-relay", "roles": ["outbox-operator"] };
        scene.database.run_command(grant).await.expect("both roles");
        let event = dead(first, "stuck", &scene.name, "10054", "too large");
        scene.events.insert_one(event).await.expect("an event");
    }

    let listen = format!("127.0.0.1:{}", free_ports(1)[0]);
    let settings = [
        ("OUTBOXD_CONFIG", &*fleet.file("run", 0..2, "")),
        ("OUTBOXD_CONSOLE__LISTEN", &listen),
        ("OUTBOXD_CONSOLE__TOKENS", &people()),
    ];
    let _relay = Relay::start(first, &settings);
    let console = Console::at(&listen).await;
    let alice = console.person(OPERATOR).await;
    let overview = until("both are relayed", async || {
        let page = alice.page("/").await;
        (page.matches("relayed by").count() == 2).then_some(page)
    })
    .await;
    assert!(fleet.names().iter().all(|name| overview.contains(name)), "{overview}");

    // An action reaches the outbox whose page it was started on, and no other.
    let act = format!("/o/{}/act", fleet.names()[1]);
    let page = alice.page(&format!("{act}?action=retry-now&state=dead")).await;
    let page = alice.confirm(&act, &page, &[]).await;
    assert!(page.contains("<dt>done</dt><dd>1</dd>"), "{page}");
    assert!(page.contains("Finished."), "{page}");
    second.drained().await;
    assert!(first.one(doc! { "_id": "stuck" }).await.is_some(), "it is another outbox's");
}
