//! Events that are published later: written beside the outbox, moved into it when they are due.

mod cancelled; // an event that was cancelled in time is never delivered, and one that wasn't is
mod checked; // check finds what keeps scheduled events from being moved, and each role has what it needs
mod faults; // the leader is killed, deposed and cut off while events are due, and cancels race it
mod library; // the library schedules, cancels and reschedules in the caller's transaction and only there
mod misfits; // what can't be moved is dead with its reason, and holds up nothing
mod moved; // once, when it is due, in the order of its key, by the server's clock
mod operator; // an operator sees scheduled events, and has them delivered, discarded and corrected
mod plan; // what a test schedules, and what must become of it
mod programs; // the program of docs/writers schedules an event and cancels it
mod watched; // how many there are and how late, in metrics and as an alert, at a bounded cost

use std::time::{Duration, SystemTime};

use bson::{Bson, DateTime, Document, doc};
use mongodb::Collection;
use outboxd_client::{Event, EventId};

use crate::support::Scene;

const HOUR: Duration = Duration::from_secs(3600);

fn in_an_hour() -> SystemTime {
    SystemTime::now() + HOUR
}

fn scheduled(scene: &Scene) -> Collection<Document> {
    scene.database.collection("outbox_scheduled")
}

async fn one(scene: &Scene, id: &EventId) -> Option<Document> {
    let event = doc! { "_id": Bson::from(id.clone()) };
    scheduled(scene).find_one(event).await.expect("the scheduled event is read")
}

/// Commits one event for a time.
async fn schedule(scene: &Scene, event: Event, at: impl Into<DateTime>) -> EventId {
    let mut session = scene.transaction().await;
    let id = scene.outbox.schedule(&mut session, event, at).await.expect("the event is written");
    session.commit_transaction().await.expect("the event is committed");
    id
}

/// Commits one event for an hour from now, under this id and of this key.
async fn later(scene: &Scene, id: &str, key: &str) -> EventId {
    let id = EventId::string(id).expect("an id");
    let event = scene.event(key, 1).with_id(id).expect("an event");
    schedule(scene, event, in_an_hour()).await
}

/// Marks a scheduled event as dead, as the relay does when it can't move it.
async fn kill(scene: &Scene, id: &EventId, error: &str) {
    let failure = doc! {
        "at": "$$NOW", "attempt": 1_i64, "class": "poison", "code": "malformed", "error": error,
        "relay": "r1",
    };
    let dead = vec![doc! { "$set": {
        "isLocked": false, "deadAt": "$$NOW", "attempts": 1_i64, "failures": [failure],
    } }];
    let event = doc! { "_id": Bson::from(id.clone()) };
    let killed = scheduled(scene).update_one(event, dead).await.expect("the event is marked");
    assert_eq!(killed.modified_count, 1);
}
