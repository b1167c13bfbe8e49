//! Malformed documents that can't be marked: they stay as they are, hold their key, and harm no
//! other.

use bson::doc;
use outboxd_client::Event;

use super::Trial;
use super::raw::{ARRAY, INT, STRING, TIMESTAMP, array, text};
use super::rows::Fate::{Malformed, Unmarked};
use super::rows::{Row, row};
use crate::support::{Relay, until};

const NOT_TEXT: [&[u8]; 3] = [b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80"];

async fn fare(rows: Vec<Row>) {
    let mut trial = Trial::new().await;
    trial.write(rows).await;
    let relay = Relay::start(&trial.scene, &[]);
    trial.settled(&relay).await;
    trial.judge(&relay).await;
}

/// Marks of such ids would make a command over 16 MB, which is refused as a whole.
#[tokio::test]
async fn events_with_huge_ids_are_left_and_hold_up_no_other() {
    let huge = |i: i32| {
        row(format!("an id of 7 MB {i}"), Unmarked("a string id has 1 to 255 bytes"), |event| {
            event.set("_id", STRING, text(i.to_string().repeat(7_500_000)));
        })
    };
    fare((0..4).map(huge).collect()).await;
}

#[tokio::test]
async fn an_event_whose_id_is_no_text_is_left() {
    let no_text = |(i, bytes): (usize, &[u8])| {
        row(format!("an id of no text {i}"), Unmarked("not valid BSON"), |event| {
            event.set("_id", STRING, text(bytes))
        })
    };
    fare(NOT_TEXT.into_iter().enumerate().map(no_text).collect()).await;
}

/// Two arrays in the index of unlocked events.
#[tokio::test]
async fn an_event_that_no_index_takes_is_left() {
    let numbers = array(INT, [vec![1, 0, 0, 0], vec![2, 0, 0, 0]]);
    fare(vec![row("arrays as key and time", Unmarked("MongoDB can't mark events"), |event| {
        event.set("key", ARRAY, &numbers);
        event.set("ts", ARRAY, &numbers);
    })])
    .await;
}

/// Nobody can say where such a document ends being one; its key isn't looked for behind that name.
#[tokio::test]
async fn an_event_with_a_name_that_is_no_text_is_dead() {
    fare(vec![row("a name of no text", Malformed("not valid BSON"), |event| {
        event.set(NOT_TEXT[0], INT, [0; 4])
    })])
    .await;
}

/// Writes a malformed event of the key, then a good one. Whether the good one still waits after the
/// retrier looked twice.
async fn waits_behind(malformed: Row) -> bool {
    let mut trial = Trial::new().await;
    let relay = Relay::leading(&trial.scene, &[("OUTBOXD_LOG__LEVEL", "debug")]).await;
    trial.write(vec![malformed]).await;
    let event = |key: &str, payload: &str| Event::new("made.x", payload).unwrap().key(key).unwrap();
    let (behind, last) = (event("held", "behind"), event("another", "last"));
    let (behind_id, last_id) = (behind.id().clone(), last.id().clone());
    trial.scene.commit([behind]).await;
    trial.scene.commit([last]).await;
    let is_there = async |id: &outboxd_client::EventId| {
        trial.scene.one(doc! { "_id": id.clone() }).await.is_some()
    };
    until("what was written last is out", async || (!is_there(&last_id).await).then_some(())).await;
    let looks = || relay.log().matches("looked for due events").count();
    let before = looks();
    until("the retrier looked twice", async || (looks() > before + 2).then_some(())).await;
    is_there(&behind_id).await
}

#[tokio::test]
async fn what_comes_behind_a_malformed_event_waits() {
    assert!(
        waits_behind(row("held", Malformed("not valid BSON"), |event| {
            event.set("key", STRING, text("held"));
            event.set("subject", STRING, text(NOT_TEXT[0]));
        }))
        .await
    );
}

#[tokio::test]
async fn what_comes_behind_an_event_whose_id_is_no_text_waits() {
    assert!(
        waits_behind(row("held", Malformed("not valid BSON"), |event| {
            event.set("_id", STRING, text(NOT_TEXT[0]));
            event.set("key", STRING, text("held"));
        }))
        .await
    );
}

/// A document without a readable id, so old that a safety sweep looks at it.
fn nameless(number: usize) -> Row {
    row(format!("nameless {number}"), Unmarked("not valid BSON"), |event| {
        event.set("_id", STRING, text([NOT_TEXT[0], number.to_string().as_bytes()].concat()));
        let at = [u32::try_from(number + 1).unwrap().to_le_bytes(), 1_u32.to_le_bytes()].concat();
        event.set("ts", TIMESTAMP, at);
    })
}

#[tokio::test]
async fn a_document_without_a_readable_id_is_reported_once() {
    let mut trial = Trial::new().await;
    trial.write((0..3).map(nameless).collect()).await;
    let settings = [("OUTBOXD_SWEEP__INTERVAL", "1s"), ("OUTBOXD_LOG__LEVEL", "debug")];
    let relay = Relay::leading(&trial.scene, &settings).await;
    trial.settled(&relay).await;

    // Each safety sweep reads them again, whenever it is: the interval is that long.
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    assert_eq!(relay.metric("outboxd_events_unwritable_total").await, 3, "{}", relay.log());

    // What was changed is news.
    trial.write(vec![nameless(3)]).await;
    until("the fourth is reported", async || {
        (relay.metric("outboxd_events_unwritable_total").await == 4).then_some(())
    })
    .await;
}

/// With bounds that a test reaches: a list has 20 events, and of those that stay 50 are remembered.
#[tokio::test]
async fn as_many_as_are_remembered_are_passed_over_and_no_more() {
    let settings = [("OUTBOXD_BOUND_LISTED", "20"), ("OUTBOXD_BOUND_REMEMBERED", "50")];
    const BEYOND: &str = "more than the relay can pass over; newer events wait";

    let mut trial = Trial::new().await;
    trial.write((0..49).map(nameless).collect()).await;
    let relay = Relay::leading(&trial.scene, &settings).await;
    let newer = |scene: &crate::support::Scene| {
        let events = scene.events.clone();
        async move { events.count_documents(doc! { "key": "well" }).await.unwrap() }
    };
    until("what is newer is out", async || (newer(&trial.scene).await == 0).then_some(())).await;
    assert!(!relay.log().contains(BEYOND), "{}", relay.log());
    assert_eq!(relay.stop(), Some(0));

    trial.write((49..80).map(nameless).collect()).await;
    let relay = Relay::leading(&trial.scene, &settings).await;
    relay.says(BEYOND).await;
    assert_eq!(newer(&trial.scene).await, 1, "nothing passes them");
    let warned = relay.log().lines().filter(|line| line.contains(BEYOND)).count();
    assert_eq!(warned, 1, "{}", relay.log());

    // An operator removes some.
    let some =
        doc! { "row": { "$in": (0..60).map(|n| format!("nameless {n}")).collect::<Vec<_>>() } };
    trial.scene.events.delete_many(some).await.unwrap();
    until("what is newer is out", async || (newer(&trial.scene).await == 0).then_some(())).await;
    assert_eq!(relay.stop(), Some(0));
}
