//! Malformed documents that can't be marked: they stay as they are, hold their key, and harm no
//! other.

use bson::doc;
use outboxd_client::Event;

use super::Trial;
use super::raw::{ARRAY, INT, STRING, array, text};
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
