//! What an operator sees of scheduled events, and does to them. No relay runs here: nothing is moved
//! meanwhile.

use std::time::{Duration, SystemTime};

use bson::{DateTime, Document, doc};
use outboxd_client::EventId;
use serde_json::Value;

use super::{HOUR, in_an_hour, kill, later, one, schedule, scheduled};
use crate::support::{Scene, json, outboxd, says};

fn fails(scene: &Scene, args: &[&str], code: i32, wanted: &str) {
    let (found, said) = outboxd(scene, args);
    assert_eq!(found, Some(code), "{said}");
    assert!(said.contains(wanted), "no {wanted:?} in:\n{said}");
}

fn ids(listed: &Value) -> Vec<&str> {
    let events = listed["events"].as_array().expect("events").iter();
    events.map(|event| event["id"].as_str().expect("an id")).collect()
}

#[tokio::test]
async fn how_many_when_and_which_are_told() {
    let scene = Scene::new().await;
    assert_eq!(json(&scene, &["stats"])["scheduled"]["events"], 0);
    says(&scene, &["list", "--scheduled"], &["no scheduled event matches"]);

    let event = |id: &str| scene.event("k", 1).with_id(EventId::string(id).unwrap()).unwrap();
    schedule(&scene, event("last"), in_an_hour() + HOUR).await;
    schedule(&scene, event("first"), in_an_hour()).await;
    schedule(&scene, event("late"), SystemTime::now() - Duration::from_secs(90)).await;

    says(
        &scene,
        &["stats"],
        &[
            "scheduled        3  waiting for their time; the next is due in 59m",
            "overdue          1  due",
        ],
    );
    let stats = &json(&scene, &["stats"])["scheduled"];
    assert_eq!(
        (&stats["events"], &stats["dead"], &stats["overdue"]),
        (&3.into(), &0.into(), &1.into())
    );
    assert!((90..3000).contains(&stats["overdue_seconds"].as_u64().unwrap()), "{stats}");
    let next = stats["next_due_in_seconds"].as_u64().unwrap();
    assert!((600..=3600).contains(&next), "{stats}");

    // In the order of their times, and among themselves.
    says(&scene, &["list", "--scheduled"], &["DUE", " ago", "in ", "1 to 3 of 3"]);
    let listed = json(&scene, &["list", "--scheduled"]);
    assert_eq!(ids(&listed), ["late", "first", "last"]);
    assert_eq!((&listed["events"][1]["state"], &listed["total"]), (&"scheduled".into(), &3.into()));
    assert!(listed["events"][1]["due_in_seconds"].as_i64().unwrap() > 0, "{listed}");
    let page = json(&scene, &["list", "--scheduled", "--limit", "1", "--page", "2"]);
    assert_eq!(ids(&page), ["first"]);
    assert_eq!(ids(&json(&scene, &["list", "--scheduled", "--key", "other"])), [""; 0]);

    // They are healthy: no other list has them.
    says(&scene, &["list"], &["no stuck event matches"]);
    says(&scene, &["groups"], &["no event has failed"]);

    says(&scene, &["show", "first"], &["scheduled", "in ", "`outboxd retry-now first`"]);
    says(&scene, &["show", "late"], &["ago", "has not moved it", "`outboxd check`"]);
    let shown = json(&scene, &["show", "last"]);
    assert_eq!(shown["scheduled"], true);
    assert!(shown["due_in_seconds"].as_i64().unwrap() > 3600, "{shown}");
    assert!(says(&scene, &["show", "last"], &[]).contains("hidden"), "the payload is hidden");
}

#[tokio::test]
async fn a_dead_one_is_seen_among_the_dead() {
    let scene = Scene::new().await;
    later(&scene, "healthy", "a").await;
    let dead = later(&scene, "dead-scheduled", "b").await;
    kill(&scene, &dead, "the subject has a space").await;

    says(&scene, &["list"], &["dead-scheduled", "dead (scheduled)", "1 to 1 of 1"]);
    for args in [vec!["list", "--dead"], vec!["list", "--code", "malformed"]] {
        let listed = json(&scene, &args);
        assert_eq!(ids(&listed), ["dead-scheduled"], "{args:?}");
        assert_eq!(
            (&listed["total"], &listed["events"][0]["scheduled"]),
            (&1.into(), &true.into())
        );
    }
    for args in [["list", "--parked"], ["list", "--failed"]] {
        assert_eq!(ids(&json(&scene, &args)), [""; 0], "{args:?}");
    }
    assert_eq!(ids(&json(&scene, &["list", "--scheduled"])), ["healthy"]);

    let groups = json(&scene, &["groups"]);
    let (group, dead) = (&groups[0]["id"], &groups[0]["dead"]);
    assert_eq!((dead, &groups[0]["sample"]), (&1.into(), &"dead-scheduled".into()));
    let group = group.as_str().unwrap();
    says(&scene, &["groups", group], &["malformed", "the subject has a space", "dead-scheduled"]);
    assert_eq!(ids(&json(&scene, &["list", "--group", group])), ["dead-scheduled"]);

    let stats = json(&scene, &["stats"]);
    assert_eq!(
        (&stats["dead"], &stats["locked"], &stats["backlog"]),
        (&1.into(), &0.into(), &0.into())
    );
    assert_eq!(
        (&stats["scheduled"]["events"], &stats["scheduled"]["dead"]),
        (&1.into(), &1.into())
    );
    assert_eq!(stats["stuck_by_subject"][0]["dead"], 1);

    says(
        &scene,
        &["show", "dead-scheduled"],
        &["dead", "the subject has a space", "`outboxd edit"],
    );
}

#[tokio::test]
async fn deliver_now_makes_it_due_and_a_dead_one_waits_no_more() {
    let scene = Scene::new().await;
    let (plain, dead) = (later(&scene, "plain", "a").await, later(&scene, "dead", "b").await);
    let other = later(&scene, "other", "c").await;
    let long_ago = DateTime::from_millis(1_700_000_000_000);
    let late = schedule(&scene, scene.event("d", 1), long_ago).await;
    kill(&scene, &dead, "x").await;
    // A document that somebody wrote without a time.
    let no_time = doc! { "$set": { "deliverAt": "tomorrow" } };
    let event = doc! { "_id": "dead" };
    let events = scheduled(&scene);
    events.update_one(event, no_time).bypass_document_validation(true).await.unwrap();

    let named = late.to_string();
    says(&scene, &["retry-now", "plain", "dead", &named], &["3 events due now"]);
    let now = DateTime::now().timestamp_millis();
    for id in [&plain, &dead] {
        let event = one(&scene, id).await.unwrap();
        let at = event.get_datetime("deliverAt").unwrap().timestamp_millis();
        // This machine's clock and the server's are one.
        assert!((now - 60_000..=now + 1000).contains(&at), "{event}");
        assert!(!event.contains_key("deadAt") && event.get_bool("isLocked").unwrap(), "{event}");
    }
    let event = one(&scene, &late).await.unwrap();
    assert_eq!(event.get_datetime("deliverAt").unwrap(), &long_ago, "it keeps its place");
    let event = one(&scene, &other).await.unwrap();
    assert!(event.get_datetime("deliverAt").unwrap().timestamp_millis() > now, "{event}");

    // What fails is what failed: the reasons stay.
    assert_eq!(one(&scene, &dead).await.unwrap().get_array("failures").unwrap().len(), 1);

    kill(&scene, &other, "x").await;
    says(&scene, &["retry-now", "--all", "--dead", "--yes"], &["other", "1 event due now"]);
    assert!(!one(&scene, &other).await.unwrap().contains_key("deadAt"));
}

#[tokio::test]
async fn a_discarded_one_is_gone_and_the_audit_has_it() {
    let scene = Scene::new().await;
    for (id, key) in [("one", "a"), ("two", "a"), ("three", "b"), ("dead", "b")] {
        later(&scene, id, key).await;
    }
    kill(&scene, &EventId::string("dead").unwrap(), "x").await;

    says(&scene, &["discard", "one", "--reason", "cancelled by phone"], &["1 event discarded"]);
    fails(&scene, &["discard", "one"], 1, "one is not in the outbox");
    let records: Vec<Document> = {
        let audit = scene.database.collection("outboxd_audit");
        let mut found = audit.find(doc! {}).sort(doc! { "at": 1, "_id": 1 }).await.unwrap();
        let mut records = Vec::new();
        while found.advance().await.unwrap() {
            records.push(found.deserialize_current().unwrap());
        }
        records
    };
    assert_eq!(records.len(), 2, "the request, then what came of it: {records:?}");
    assert_eq!(records[0].get_array("ids").unwrap(), &[bson::Bson::from("one")]);
    assert_eq!(records[0].get_str("outbox").unwrap(), "outbox");
    assert_eq!(records[1].get_i64("events").unwrap(), 1);
    says(&scene, &["audit"], &["discard", "cancelled by phone"]);

    // Without the record, nothing is done.
    let closed = doc! { "collMod": "outboxd_audit", "validator": { "never": true } };
    scene.database.run_command(closed).await.unwrap();
    fails(&scene, &["discard", "two"], 1, "nothing is done");
    let open = doc! { "collMod": "outboxd_audit", "validator": {} };
    scene.database.run_command(open).await.unwrap();
    assert!(one(&scene, &EventId::string("two").unwrap()).await.is_some());

    // All that are scheduled are many: their number has to be given.
    says(&scene, &["discard", "--all", "--scheduled", "--dry-run"], &["2 events in all"]);
    fails(&scene, &["discard", "--all", "--scheduled", "--yes"], 64, "--count 2 --yes");
    says(
        &scene,
        &["discard", "--all", "--scheduled", "--key", "a", "--yes"],
        &["1 event discarded"],
    );
    says(&scene, &["discard", "--all", "--dead", "--yes"], &["1 event discarded"]);
    says(
        &scene,
        &["discard", "--all", "--scheduled", "--count", "1", "--yes"],
        &["1 event discarded"],
    );
    assert_eq!(scheduled(&scene).count_documents(doc! {}).await.unwrap(), 0);
}

#[tokio::test]
async fn a_dead_one_is_corrected_and_due() {
    let scene = Scene::new().await;
    let dead = later(&scene, "dead", "a").await;
    fails(&scene, &["edit", "dead", "--set", "key=b"], 1, "dead is scheduled");
    kill(&scene, &dead, "x").await;

    says(&scene, &["edit", "dead", "--set", "key=b", "--reason", "typo"], &["1 event edited"]);
    let event = one(&scene, &dead).await.unwrap();
    assert_eq!(event.get_str("key").unwrap(), "b");
    assert!(!event.contains_key("deadAt"), "{event}");
    assert!(
        event.get_datetime("deliverAt").unwrap().timestamp_millis()
            <= DateTime::now().timestamp_millis() + 1000
    );
}

/// One was scheduled with an id that an event in the outbox has, too.
#[tokio::test]
async fn of_two_with_one_id_the_one_in_the_outbox_is_meant_first() {
    let scene = Scene::new().await;
    let id = EventId::string("twice").unwrap();
    later(&scene, "twice", "later").await;
    scene.commit([scene.event("outbox", 1).with_id(id.clone()).unwrap()]).await;
    let stuck = doc! { "$set": { "isLocked": false, "failures": [{ "code": "x" }] } };
    scene.events.update_one(doc! { "_id": "twice" }, stuck).await.unwrap();

    assert_eq!(json(&scene, &["show", "twice"])["event"]["key"], "outbox");
    assert_eq!(json(&scene, &["show", "--scheduled", "twice"])["event"]["key"], "later");
    says(&scene, &["discard", "twice"], &["1 event discarded"]);
    assert!(one(&scene, &id).await.is_some());
    says(&scene, &["discard", "twice"], &["1 event discarded"]);
    assert!(one(&scene, &id).await.is_none());
}

/// Roles that were granted before there were scheduled events serve for everything else.
#[tokio::test]
async fn an_operator_without_the_rights_sees_the_outbox_as_before() {
    let scene = Scene::new().await;
    later(&scene, "unseen", "a").await;
    let stuck = doc! {
        "_id": "stuck", "subject": "a", "payload": {}, "isLocked": false,
        "failures": [{ "code": "malformed", "error": "x" }], "deadAt": DateTime::now(),
    };
    scene.events.insert_one(stuck).bypass_document_validation(true).await.unwrap();
    let role = doc! { "rolesInfo": "outbox-operator", "showPrivileges": true };
    let info = scene.database.run_command(role).await.unwrap();
    let role = info.get_array("roles").unwrap()[0].as_document().unwrap();
    let granted = role.get_array("privileges").unwrap().iter().filter(|privilege| {
        let resource = privilege.as_document().unwrap().get_document("resource").unwrap();
        resource.get_str("collection").is_ok_and(|name| name != "outbox_scheduled")
    });
    let granted: Vec<_> = granted.cloned().collect();
    let update = doc! { "updateRole": "outbox-operator", "privileges": granted };
    scene.database.run_command(update).await.unwrap();

    assert_eq!(json(&scene, &["stats"])["scheduled"], Value::Null);
    assert_eq!(ids(&json(&scene, &["list"])), ["stuck"]);
    assert_eq!(json(&scene, &["groups"])[0]["events"], 1);
    says(&scene, &["show", "stuck"], &["dead"]);
    fails(&scene, &["show", "unseen"], 1, "no event unseen");
    let (code, said) = outboxd(&scene, &["list", "--scheduled"]);
    assert!(code != Some(0) && said.contains("not authorized"), "{said}");
    says(&scene, &["retry-now", "stuck"], &["1 event due now"]);
    says(&scene, &["discard", "stuck"], &["1 event discarded"]);
}
