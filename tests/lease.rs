//! Any number of relays may run on one outbox: one publishes.

use bson::{Bson, DateTime, Document, Timestamp, doc};

use crate::support::{Relay, Scene, outboxd, until};

#[tokio::test]
async fn of_two_relays_one_publishes_and_the_other_takes_over() {
    let scene = Scene::new().await;
    let mut first = Relay::leading(&scene, &[("NATS_CLIENT_ID", "first")]).await;
    let second = Relay::start(&scene, &[("NATS_CLIENT_ID", "second")]);
    second.says("standing by").await;
    scene.commit((0..200).map(|n| scene.event(&format!("k{}", n % 10), n))).await;
    scene.drained().await;
    let lease = scene.database.collection::<bson::Document>("outboxd_lease");
    let held = lease.find_one(doc! { "_id": "outbox" }).await.unwrap().unwrap();
    assert!(held.get_str("holder").unwrap().starts_with("first "), "{held}");

    first.kill();
    scene.commit((200..400).map(|n| scene.event(&format!("k{}", n % 10), n))).await;
    scene.drained().await;
    let held = lease.find_one(doc! { "_id": "outbox" }).await.unwrap().unwrap();
    assert!(held.get_str("holder").unwrap().starts_with("second "), "{held}");
    let numbers = scene.numbers().await;
    assert_eq!(numbers.values().map(Vec::len).sum::<usize>(), 400);
    assert!(numbers.values().all(|numbers| numbers.is_sorted_by(|a, b| a < b)), "{numbers:?}");
}

#[tokio::test]
async fn a_relay_that_stops_hands_over_at_once() {
    let scene = Scene::new().await;
    // A lease so long that only a resignation can explain the hand-over.
    let settings = [("OUTBOXD_LEASE__TTL", "300s")];
    let first = Relay::leading(&scene, &settings).await;
    let second = Relay::start(&scene, &settings);
    second.says("standing by").await;
    assert_eq!(first.stop(), Some(0));
    second.says("holding the lease").await;
}

#[tokio::test]
async fn a_relay_whose_lease_was_taken_stops_publishing() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &[]).await;
    let lease = scene.database.collection::<bson::Document>("outboxd_lease");
    let far = bson::DateTime::from_millis(bson::DateTime::now().timestamp_millis() + 3_600_000);
    // Someone with a long lease, which does not count as let go by.
    let lease_of = doc! { "holder": "someone else", "expiresAt": far, "ttlMs": 300_000_i64 };
    let other = doc! { "$set": lease_of, "$inc": { "term": 1 } };
    lease.update_one(doc! { "_id": "outbox" }, other).await.unwrap();
    relay.says("lost the lease").await;
    scene.commit([scene.event("k", 1)]).await;
    relay.says("standing by").await;
    assert!(scene.messages().await.is_empty());

    let free = doc! { "$set": { "expiresAt": bson::DateTime::from_millis(0) } };
    lease.update_one(doc! { "_id": "outbox" }, free).await.unwrap();
    until("it leads again", async || (scene.messages().await.len() == 1).then_some(())).await;
}

/// As after a reboot of a host whose clock was an hour ahead.
#[tokio::test]
async fn a_lease_that_nobody_renews_is_free_after_its_ttl_whatever_the_servers_clock_shows() {
    let scene = Scene::new().await;
    let lease = scene.database.collection::<bson::Document>("outboxd_lease");
    let ahead = bson::DateTime::from_millis(bson::DateTime::now().timestamp_millis() + 3_600_000);
    let gone = doc! {
        "_id": "outbox", "holder": "gone 1", "term": 7, "expiresAt": ahead, "ttlMs": 2000_i64,
    };
    lease.insert_one(gone).await.unwrap();

    let relay = Relay::start(&scene, &[]);
    relay.says("standing by").await;
    relay.says("holding the lease; relaying term=8").await;
    scene.commit([scene.event("k", 1)]).await;
    scene.drained().await;
    assert_eq!(relay.stop(), Some(0));
}

fn far() -> Bson {
    Bson::from(DateTime::from_millis(4_000_000_000_000))
}

fn of(expires_at: Bson, others: Document) -> Document {
    let mut lease = doc! { "_id": "outbox", "holder": "x", "term": 5, "expiresAt": expires_at };
    lease.extend(others);
    lease
}

/// Whoever may update the lease can write this into it: a relay takes it over all the same.
async fn is_taken(leases: impl IntoIterator<Item = Document>, is_warned: bool) {
    let scene = Scene::new().await;
    let lease = scene.database.collection::<Document>("outboxd_lease");
    let rules = doc! { "collMod": "outboxd_lease", "validator": {}, "validationLevel": "off" };
    scene.database.run_command(rules).await.unwrap();

    for lease_of in leases {
        let shown: String = lease_of.to_string().chars().take(200).collect();
        lease.delete_many(doc! {}).await.unwrap();
        lease.insert_one(lease_of).await.unwrap();
        let relay = Relay::start(&scene, &[("OUTBOXD_LEASE__TTL", "2s")]);
        relay.says("holding the lease").await;
        let warned = relay.log().contains("took a lease that was not renewed");
        assert_eq!(warned, is_warned, "{shown}");
        let held = lease.find_one(doc! { "_id": "outbox" }).await.unwrap().unwrap();
        assert!(held.get_i64("term").is_ok_and(|term| (1..10).contains(&term)), "{held}");
        assert!(!held.contains_key("big"));
        assert_eq!(relay.stop(), Some(0), "{shown}");
    }
}

#[tokio::test]
async fn a_lease_whose_expiry_is_far_ahead_is_taken_with_a_warning() {
    let soon = DateTime::from_millis(DateTime::now().timestamp_millis() + 200_000);
    let leases = [
        of(far(), doc! {}),
        of(Bson::DateTime(DateTime::MAX), doc! { "term": f64::NAN }),
        of(far(), doc! { "ttlMs": 2000_i64 }),
        of(far(), doc! { "ttlMs": 2000, "holder": ["x"] }),
        of(far(), doc! { "ttlMs": i64::MAX, "holder": Bson::Null, "term": "five" }),
        of(far(), doc! { "ttlMs": -5_i64 }),
        of(far(), doc! { "ttlMs": 0_i64 }),
        of(far(), doc! { "ttlMs": f64::NAN }),
        of(soon.into(), doc! { "ttlMs": 2000_i64 }),
        doc! { "_id": "outbox", "holder": "x", "expiresAt": far() },
        doc! { "_id": "outbox", "expiresAt": far(), "holder": { "a": 1 }, "ttlMs": "long" },
    ];
    is_taken(leases, true).await;
}

#[tokio::test]
async fn what_is_no_expiry_is_taken_at_once_with_a_warning() {
    let expiries: [Bson; 7] = [
        "2099-01-01".into(),
        true.into(),
        Bson::Null,
        i64::MAX.into(),
        Bson::MaxKey,
        Bson::Timestamp(Timestamp { time: u32::MAX, increment: 1 }),
        Bson::Array(vec![far()]),
    ];
    let leases = expiries.into_iter().map(|expires_at| of(expires_at, doc! {}));
    is_taken(leases.chain([doc! { "_id": "outbox", "holder": "x" }]), true).await;
}

#[tokio::test]
async fn a_term_that_cannot_be_counted_on_begins_anew() {
    let terms: [Bson; 6] = [
        i64::MAX.into(),
        f64::INFINITY.into(),
        f64::NAN.into(),
        (-7).into(),
        doc! { "a": 1 }.into(),
        Bson::Array(vec![1.into()]),
    ];
    let past = || Bson::from(DateTime::from_millis(0));
    let leases = terms.into_iter().map(|term| of(past(), doc! { "term": term }));
    let others =
        [of(past(), doc! { "big": "x".repeat((16 << 20) - 300) }), doc! { "_id": "outbox" }];
    is_taken(leases.chain(others), false).await;
}

#[tokio::test]
async fn a_standby_alerts_although_the_lease_is_years_ahead() {
    let scene = Scene::new().await;
    let lease = scene.database.collection::<bson::Document>("outboxd_lease");
    let far = bson::DateTime::from_millis(4_000_000_000_000);
    // A ttl for which the standby waits; it is renewed by nobody.
    let held = doc! {
        "_id": "outbox", "holder": "x", "term": 5, "expiresAt": far, "ttlMs": 8000_i64,
    };
    lease.insert_one(held).await.unwrap();
    let (_, said) = outboxd(&scene, &["stats"]);
    assert!(said.contains("NO RELAY is known to lead: the lease of x"), "{said}");

    // Nothing may be published, so that events stay; and nobody may write the lease.
    let rules = doc! { "collMod": "outboxd_lease", "validator": { "holder": "x" } };
    scene.database.run_command(rules).await.unwrap();
    let relay = Relay::start(&scene, &[("OUTBOXD_ALERTS__STUCK_AFTER", "1s")]);
    scene.commit([scene.event("k", 1)]).await;
    relay.says("standing by").await;
    relay.says("events are stuck").await;
    relay.says("could not claim the lease").await;
}

/// Whoever watches a standby's metrics sees what waits, whatever the leader does.
#[tokio::test]
async fn a_standby_measures_the_oldest_event() {
    let scene = Scene::new().await;
    let settings = [("OUTBOXD_ALERTS__STUCK_AFTER", "1s"), ("NATS_CLIENT_ID", "standby")];
    let leader = Relay::leading(&scene, &[("OUTBOXD_LEASE__TTL", "300s")]).await;
    leader.pause();
    let standby = Relay::start(&scene, &settings);
    standby.says("standing by").await;

    scene.commit([scene.event("k", 1)]).await;
    until("the age is measured", async || {
        (standby.metric("outboxd_oldest_event_age_seconds").await >= 1).then_some(())
    })
    .await;
    assert_eq!(standby.metric("outboxd_backlog_events").await, 1);
    // The leader may yet deliver it; the alert is its own.
    assert!(!standby.log().contains("events are stuck"), "{}", standby.log());

    leader.resume();
    scene.drained().await;
    until("it is measured again", async || {
        (standby.metric("outboxd_oldest_event_age_seconds").await == 0).then_some(())
    })
    .await;
}
