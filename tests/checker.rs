//! What the fault tests judge by finds each kind of fault, and only that.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::support::checker::{self, Left, Published, Report, judge};
use crate::support::oplog::History;
use crate::support::{Ledger, Outcome, Relay, Scene, Writers, until};

/// Two keys with three events each, all committed and all in the stream, and one transaction that
/// was rolled back.
fn history() -> (Ledger, Vec<Published>) {
    let mut ledger = Ledger::default();
    let mut stream = Vec::new();
    for number in 1..=3 {
        for key in ["a", "b"] {
            let id = format!("{key}{number}");
            ledger.record(&id, key, number, Outcome::Committed);
            stream.push(message(&id, key, number));
        }
    }
    ledger.record("rolled back", "a", 2, Outcome::Aborted);
    (ledger, stream)
}

fn message(id: &str, key: &str, number: u32) -> Published {
    let (id, key) = (id.to_owned(), key.to_owned());
    Published { sequence: 0, subject: "made".to_owned(), id, key, number, at: 0 }
}

fn waiting(id: &str) -> Left {
    Left { id: id.to_owned(), locked: true, ..Left::default() }
}

/// What a report holds against the relay: copies, lost, phantom, reordered, left.
fn found(report: &Report) -> [usize; 5] {
    let left = report.locked.len() + report.unlocked.len() + report.dead.len();
    [report.copies.len(), report.lost.len(), report.phantom.len(), report.reordered.len(), left]
}

/// What the failed assertion says.
fn complaint(report: &Report) -> String {
    let failed = catch_unwind(AssertUnwindSafe(|| report.assert_all_delivered()))
        .expect_err("the check fails");
    *failed.downcast::<String>().expect("a message")
}

#[test]
fn a_clean_history_passes() {
    let (mut ledger, stream) = history();
    ledger.record("nobody knows", "a", 4, Outcome::Unknown);
    let report = judge(&ledger, &stream, &[], &[("kill", 1)]);
    report.assert_all_delivered();
    assert_eq!((report.committed, report.aborted, report.unknown, report.in_stream), (6, 1, 1, 6));
}

#[test]
fn an_event_whose_commit_is_unknown_may_be_in_the_stream() {
    let (mut ledger, mut stream) = history();
    ledger.record("a4", "a", 4, Outcome::Unknown);
    stream.push(message("a4", "a", 4));
    judge(&ledger, &stream, &[], &[]).assert_all_delivered();
}

#[test]
fn a_lost_event_is_found() {
    let (ledger, mut stream) = history();
    stream.retain(|message| message.id != "a2");
    let report = judge(&ledger, &stream, &[], &[]);
    assert_eq!(found(&report), [0, 1, 0, 0, 0]);
    let complaint = complaint(&report);
    assert!(complaint.contains("lost: a2 (a 2)"), "{complaint}");
    assert!(
        complaint.contains("transactions committed                 6"),
        "the whole table: {complaint}"
    );
}

#[test]
fn a_second_copy_is_found() {
    let (ledger, mut stream) = history();
    stream.push(message("a1", "a", 1));
    let report = judge(&ledger, &stream, &[], &[]);
    assert_eq!(found(&report), [1, 0, 0, 0, 0]);
    assert!(complaint(&report).contains("copies: a1 (a 1 at 0)"));
}

#[test]
fn an_event_that_came_after_a_later_one_is_found() {
    let (ledger, mut stream) = history();
    stream.swap(2, 4);
    let report = judge(&ledger, &stream, &[], &[]);
    assert_eq!(found(&report), [0, 0, 0, 1, 0]);
    assert!(complaint(&report).contains("reordered: a2"));
}

#[test]
fn a_rolled_back_event_in_the_stream_is_found() {
    let (ledger, mut stream) = history();
    stream.push(message("rolled back", "a", 2));
    let report = judge(&ledger, &stream, &[], &[]);
    assert_eq!(found(&report), [0, 0, 1, 0, 0]);
    assert!(complaint(&report).contains("phantom: rolled back"));
}

/// One key whose two events were scheduled for the second and the third second, and one event that
/// was cancelled.
fn scheduled_history() -> (Ledger, Vec<Published>) {
    let (mut ledger, mut stream) = history();
    for number in 1..=2 {
        let id = format!("s{number}");
        ledger.scheduled(&id, "s", number, Outcome::Committed, i64::from(number + 1) * 1000);
        let at = i128::from(number + 1) * 1_000_000_000;
        stream.push(Published { at, ..message(&id, "s", number) });
    }
    ledger.scheduled("taken back", "s", 3, Outcome::Cancelled, 4000);
    (ledger, stream)
}

#[test]
fn scheduled_events_that_came_when_they_were_due_pass() {
    let (ledger, stream) = scheduled_history();
    judge(&ledger, &stream, &[], &[]).assert_all_delivered();
}

#[test]
fn a_scheduled_event_that_is_lost_is_found_and_one_that_waits_is_not() {
    let (ledger, mut stream) = scheduled_history();
    stream.retain(|message| message.id != "s2");
    let waits = Left { scheduled: true, ..waiting("s2") };
    let report = judge(&ledger, &stream, std::slice::from_ref(&waits), &[]);
    report.assert_nothing_lost();
    assert!(complaint(&report).contains("scheduled: s2"));

    let report = judge(&ledger, &stream, &[], &[]);
    assert_eq!(found(&report), [0, 1, 0, 0, 0]);
    assert!(complaint(&report).contains("lost: s2 (s 2)"));
}

#[test]
fn a_second_copy_of_a_scheduled_event_is_found() {
    let (ledger, mut stream) = scheduled_history();
    stream.push(Published { at: 5_000_000_000, ..message("s1", "s", 1) });
    let report = judge(&ledger, &stream, &[], &[]);
    assert_eq!(found(&report), [1, 0, 0, 0, 0]);
}

#[test]
fn a_scheduled_event_that_came_early_is_found() {
    let (ledger, mut stream) = scheduled_history();
    let last = stream.last_mut().expect("a message");
    last.at -= 1;
    let report = judge(&ledger, &stream, &[], &[]);
    assert_eq!(report.premature, ["s2 (s 2 at 0)"]);
    assert!(complaint(&report).contains("premature: s2"));
}

#[test]
fn a_cancelled_event_in_the_stream_is_found() {
    let (ledger, mut stream) = scheduled_history();
    stream.push(Published { at: 5_000_000_000, ..message("taken back", "s", 3) });
    let report = judge(&ledger, &stream, &[], &[]);
    assert!(complaint(&report).contains("cancelled: taken back"));
    assert_eq!(found(&report), [0, 0, 0, 0, 0]);
}

#[test]
fn scheduled_events_of_a_key_that_came_in_another_order_are_found() {
    let (ledger, mut stream) = scheduled_history();
    let last = stream.len() - 1;
    stream.swap(last - 1, last);
    stream.iter_mut().for_each(|message| message.at = 9_000_000_000);
    assert_eq!(found(&judge(&ledger, &stream, &[], &[])), [0, 0, 0, 1, 0]);
}

#[test]
fn a_message_that_nobody_wrote_is_found() {
    let (ledger, mut stream) = history();
    stream.push(message("never", "a", 4));
    assert_eq!(found(&judge(&ledger, &stream, &[], &[])), [0, 0, 1, 0, 0]);
}

#[test]
fn an_event_that_came_with_the_content_of_another_is_found() {
    let (ledger, mut stream) = history();
    stream[5].number = 7;
    let report = judge(&ledger, &stream, &[], &[]);
    assert_eq!(
        found(&report),
        [0, 1, 1, 0, 0],
        "what is in its place is nobody's, and it itself is lost"
    );
}

#[test]
fn an_event_that_waits_in_the_outbox_is_left_and_not_lost() {
    let (mut ledger, mut stream) = history();
    ledger.burned = 2;
    stream.truncate(3);
    let unlocked = Left { locked: false, attempts: 3, failures: 3, ..waiting("a3") };
    let dead = Left { dead: true, ..waiting("b3") };
    let report = judge(&ledger, &stream, &[waiting("b2"), unlocked, dead], &[]);
    assert_eq!(found(&report), [0, 0, 0, 0, 3]);
    assert_eq!((report.locked.len(), report.unlocked.len(), report.dead.len()), (1, 1, 1));
    assert_eq!((report.failed, report.burned), (1, 5));
    report.assert_nothing_lost();
    assert!(complaint(&report).contains("dead: b3"));
}

/// Every event of the clean history was deleted a millisecond after the stream had it.
fn past() -> History {
    let (ledger, stream) = history();
    let inserted = ledger.committed().map(|event| event.id.clone()).collect();
    let deleted = stream.iter().map(|message| (message.id.clone(), 1)).collect();
    History { whole: true, inserted, deleted, ..History::default() }
}

#[test]
fn what_the_oplog_tells_is_judged_too() {
    let (ledger, mut stream) = history();
    let judged = |stream: &[Published], past: &History| {
        let mut report = judge(&ledger, stream, &[], &[]);
        report.look_back(&ledger, stream, past);
        report
    };
    judged(&stream, &past()).assert_all_delivered();

    let made_up = History { inserted: ["rolled back".to_owned()].into(), ..past() };
    assert!(complaint(&judged(&stream, &made_up)).contains("made up: rolled back"));
    let locked = History { locked_again: vec!["a2".to_owned()], ..past() };
    assert!(complaint(&judged(&stream, &locked)).contains("locked again: a2"));
    stream[1].at = 2_000_000;
    assert!(
        complaint(&judged(&stream, &past())).contains("deleted early: b1"),
        "within the same millisecond it may be"
    );
    stream[1].at = 1_999_999;
    judged(&stream, &past()).assert_all_delivered();
    stream.remove(1);
    assert!(complaint(&judged(&stream, &past())).contains("deleted early: b1"));
}

#[test]
fn a_fault_that_never_happened_proves_nothing() {
    let (ledger, stream) = history();
    let report = judge(&ledger, &stream, &[], &[("kill", 3), ("pause", 0)]);
    assert_eq!(found(&report), [0; 5]);
    let complaint = complaint(&report);
    assert!(complaint.contains("the fault \"pause\" never happened"), "{complaint}");
    assert!(!complaint.contains("the fault \"kill\" never"), "{complaint}");
}

#[tokio::test]
async fn writers_write_at_their_pace_and_all_they_commit_is_delivered() {
    let scene = Scene::new().await;
    let _relay = Relay::leading(&scene, &[]).await;
    let began = tokio::time::Instant::now();
    let writers = Writers::start(&scene, 10, 200).await;
    until("two hundred are out", async || {
        (scene.context.get_stream(&scene.stream).await.ok()?.cached_info().state.messages >= 200)
            .then_some(())
    })
    .await;
    let ledger = writers.stop().await;
    let turns = began.elapsed().as_secs_f64() * 200.0 + 1.0;
    assert!(
        ledger.transactions.len() as f64 <= turns,
        "{} in {turns} turns",
        ledger.transactions.len()
    );
    scene.drained().await;
    let report = checker::check(&scene, &ledger, &[]).await;
    report.assert_all_delivered();
    assert!(report.aborted > 0, "some are rolled back\n{report}");
    let past = report.past.as_ref().expect("the oplog is looked at");
    assert_eq!((past.whole, past.deletes), (true, report.committed), "{report}");
    let delays = checker::delays(&ledger, &checker::stream(&scene).await);
    assert_eq!(delays.len(), report.committed);
    assert!(
        delays.iter().all(|delay| delay.abs() < 60_000.0),
        "the ledger's clock is the stream's: {delays:?}"
    );
}

/// A dump is read in one go: a proof has tens of thousands of messages.
#[tokio::test]
async fn the_whole_stream_is_read_however_long_it_is() {
    let scene = Scene::new().await;
    for chunk in 0..10 {
        scene.commit((0..500).map(|n| scene.event("k", chunk * 500 + n))).await;
    }
    let _relay = Relay::leading(&scene, &[("OUTBOXD_DISPATCH__MAX_IN_FLIGHT", "4096")]).await;
    scene.drained().await;
    let stream = checker::stream(&scene).await;
    assert!(stream.iter().map(|message| message.number).eq(0..5000));
    assert!(stream.iter().map(|message| message.sequence).eq(1..=5000));
    assert!(
        stream.iter().all(|message| message.subject == scene.subject("made") && message.at > 0)
    );
}
