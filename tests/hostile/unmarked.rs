//! Malformed documents that are not yet dead, or don't yet hold their key, as they should.

use bson::doc;
use outboxd::Event;

use super::Trial;
use super::raw::{ARRAY, INT, STRING, array, text};
use super::rows::Fate::Malformed;
use super::rows::{Row, row};
use crate::support::{Relay, until};

const NOT_TEXT: [&[u8]; 3] = [b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80"];

async fn fare(rows: Vec<Row>) {
    let mut trial = Trial::new().await;
    trial.write(rows).await;
    let relay = Relay::start(&trial.scene, &[]);
    trial.settled().await;
    trial.judge(&relay).await;
}

#[tokio::test]
#[ignore = "the marks of a batch can be over the 16 MB of a command, which is then repeated for ever and settles nothing more"]
async fn events_with_huge_ids_are_dead_and_hold_up_no_other() {
    let huge = |i: i32| {
        row(format!("an id of 7 MB {i}"), Malformed("a string id has 1 to 255 bytes"), |event| {
            event.set("_id", STRING, text(i.to_string().repeat(7_500_000)));
        })
    };
    fare((0..4).map(huge).collect()).await;
}

#[tokio::test]
#[ignore = "an id that isn't UTF-8 is taken for null, and the mark finds no document"]
async fn an_event_whose_id_is_no_text_is_dead() {
    let no_text = |(i, bytes): (usize, &[u8])| {
        row(format!("an id of no text {i}"), Malformed("not valid BSON"), |event| event.set("_id", STRING, text(bytes)))
    };
    fare(NOT_TEXT.into_iter().enumerate().map(no_text).collect()).await;
}

#[tokio::test]
#[ignore = "with arrays as key and time it can't enter the index of unlocked events, so MongoDB refuses the mark"]
async fn an_event_that_no_index_takes_is_dead() {
    let numbers = array(INT, [vec![1, 0, 0, 0], vec![2, 0, 0, 0]]);
    fare(vec![row("arrays as key and time", Malformed("is of type array"), |event| {
        event.set("key", ARRAY, &numbers);
        event.set("ts", ARRAY, &numbers);
    })])
    .await;
}

/// Writes a malformed event of the key, then a good one. Whether the good one still waits after the retrier looked twice.
async fn waits_behind(malformed: Row) -> bool {
    let mut trial = Trial::new().await;
    let relay = Relay::leading(&trial.scene, &[("OUTBOXD_LOG__LEVEL", "debug")]).await;
    trial.write(vec![malformed]).await;
    let behind = Event::new("made.x", "behind").unwrap().key("held").unwrap();
    let id = behind.id().clone();
    trial.scene.commit([behind]).await;
    let seen = |trial: &Trial| {
        let (events, id) = (trial.scene.events.clone(), id.clone());
        async move { events.find_one(doc! { "_id": id }).projection(doc! { "isLocked": 1 }).await.unwrap() }
    };
    let parked = |found: &bson::Document| !found.get_bool("isLocked").unwrap();
    until("it is out or parked", async || seen(&trial).await.as_ref().is_none_or(parked).then_some(())).await;
    let looks = || relay.log().matches("looked for due events").count();
    let before = looks();
    until("the retrier looked twice", async || (looks() > before + 2).then_some(())).await;
    seen(&trial).await.is_some()
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
#[ignore = "the mark finds no document, so the event stays locked, and the retrier doesn't see that its key waits"]
async fn what_comes_behind_an_event_whose_id_is_no_text_waits() {
    assert!(
        waits_behind(row("held", Malformed("not valid BSON"), |event| {
            event.set("_id", STRING, text(NOT_TEXT[0]));
            event.set("key", STRING, text("held"));
        }))
        .await
    );
}

#[tokio::test]
#[ignore = "behind a name that isn't UTF-8 the key isn't found"]
async fn what_comes_behind_an_event_with_a_name_that_is_no_text_waits() {
    assert!(
        waits_behind(row("held", Malformed("not valid BSON"), |event| {
            event.set(NOT_TEXT[0], INT, [0; 4]);
            event.set("key", STRING, text("held"));
        }))
        .await
    );
}
