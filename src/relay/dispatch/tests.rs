//! Dispatch step by step.

use std::time::Duration;

use bson::Timestamp;
use outboxd_client::{Headers, Subject};

use super::*;
use crate::config::{OnDead, Ordering};
use crate::relay::dispatch::known::Origin;
use crate::relay::dispatch::pending::Dispatched;
use crate::relay::dispatch::read::{Behind, Read};
use crate::relay::dispatch::turn::Stored;
use crate::relay::listing::Moment;
use crate::relay::ports::Next;

mod bursts;
mod many;
mod shares;

const LIMITS: DispatchConfig = DispatchConfig {
    max_in_flight: 4,
    max_buffered_events: 16,
    max_buffered_bytes: 1 << 20,
    ordering: Ordering::Key,
    on_dead: OnDead::Hold,
};

/// What the change stream brings, whenever it was committed.
const TAIL: Origin = Origin::Tail(Timestamp { time: 1, increment: 1 });

fn key(number: u8) -> Key {
    Key::new(format!("k{number}")).expect("a short key")
}

fn record(seq: u32, key: Option<Key>, state: State) -> OutboxRecord {
    OutboxRecord {
        id: EventId::string(format!("e{seq}")).expect("a short id"),
        ts: Timestamp { time: seq, increment: 1 },
        subject: Subject::new("a").expect("a subject"),
        key,
        over_limit: None,
        payload: vec![0; 10],
        headers: Headers::default(),
        attempts: 0,
        state,
        due_at_ms: 0,
        discard_requested_at_ms: None,
    }
}

fn pending(seq: u32, key: Option<Key>, state: State, origin: Origin) -> Pending {
    Pending { record: record(seq, key, state).into(), origin, committed_ms: None }
}

fn seq_of(id: &EventId) -> u32 {
    id.to_string()[1..].parse().expect("ids are e and a number")
}

/// After a sweep of an empty outbox.
fn swept(limits: DispatchConfig) -> Dispatch {
    let mut dispatch = Dispatch::new(limits);
    dispatch.sweep_began(0);
    dispatch.sweep_ended();
    dispatch
}

/// The next event to publish, one at a time.
fn one(dispatch: &mut Dispatch) -> Option<Dispatched> {
    dispatch.next(1).and_then(|mut burst| burst.pop())
}

/// An event of k1 from the change stream, committed when its number says.
fn tailed(seq: u32) -> Pending {
    let at = Timestamp { time: seq, increment: 1 };
    pending(seq, Some(key(1)), State::Locked, Origin::Tail(at))
}

/// Delivers what leaves next, and returns its number.
fn leave(dispatch: &mut Dispatch) -> u32 {
    let next = one(dispatch).expect("an event that may leave");
    let id = next.record.id.clone();
    dispatch.delivered(next, Stored::Now);
    dispatch.deleted(&id);
    seq_of(&id)
}

#[test]
fn one_event_of_a_key_is_in_flight_and_others_pass_it() {
    let mut dispatch = swept(LIMITS);
    for (seq, number) in [(1, 1), (2, 1), (3, 2)] {
        dispatch.offer(pending(seq, Some(key(number)), State::Locked, TAIL), 0);
    }

    let first = one(&mut dispatch).expect("the head of k1");
    assert_eq!(seq_of(&first.record.id), 1);
    assert_eq!(one(&mut dispatch).map(|next| seq_of(&next.record.id)), Some(3));
    assert!(one(&mut dispatch).is_none(), "k1 has one in flight");
    dispatch.delivered(first, Stored::Now);
    assert_eq!(one(&mut dispatch).map(|next| seq_of(&next.record.id)), Some(2));
}

#[test]
fn what_comes_behind_a_failure_is_parked() {
    let mut dispatch = swept(LIMITS);
    dispatch.offer(pending(1, Some(key(1)), State::Locked, TAIL), 0);
    dispatch.offer(pending(2, Some(key(1)), State::Locked, TAIL), 0);

    let head = one(&mut dispatch).expect("the head");
    let (_, debt) = dispatch.failed(head);
    dispatch.offer(pending(3, Some(key(1)), State::Locked, TAIL), 0);

    let parks = debt.behind.into_iter().chain(dispatch.take_parks());
    let parked: Vec<u32> =
        parks.flat_map(|park| park.ids.iter().map(seq_of).collect::<Vec<_>>()).collect();
    assert_eq!(parked, [2, 3]);
    assert!(one(&mut dispatch).is_none());
}

#[test]
fn intake_stops_at_each_bound() {
    let mut by_count = Dispatch::new(DispatchConfig { max_buffered_events: 2, ..LIMITS });
    let of_two = 2 * pending(1, None, State::Locked, TAIL).size();
    let mut by_bytes = Dispatch::new(DispatchConfig { max_buffered_bytes: of_two, ..LIMITS });

    for dispatch in [&mut by_count, &mut by_bytes] {
        dispatch.offer(pending(1, None, State::Locked, TAIL), 0);
        assert!(!dispatch.room().is_none());
        dispatch.offer(pending(2, None, State::Locked, TAIL), 0);
        assert!(dispatch.room().is_none());
    }
}

#[test]
fn an_event_found_twice_is_published_once() {
    let mut dispatch = swept(LIMITS);
    dispatch.offer(pending(1, None, State::Locked, TAIL), 0);
    dispatch.offer(pending(1, None, State::Locked, Origin::Sweep(1)), 0);
    assert!(one(&mut dispatch).is_some());
    assert!(one(&mut dispatch).is_none());
}

#[test]
fn a_skipped_dead_event_lets_the_rest_of_its_key_be_read() {
    for (on_dead, wanted) in [(OnDead::Hold, None), (OnDead::Skip, Some(key(1)))] {
        let mut dispatch = swept(DispatchConfig { on_dead, ..LIMITS });
        dispatch.offer(pending(1, Some(key(1)), State::Locked, TAIL), 0);
        dispatch.offer(pending(2, Some(key(1)), State::Locked, TAIL), 0);

        let head = one(&mut dispatch).expect("the head");
        let (_, debt) = dispatch.failed(head);
        assert!(dispatch.begin_key_read().is_none(), "its mark isn't written yet");

        dispatch.mark_written(&debt.unmarked, Next::Dead);
        debt.behind.iter().for_each(|park| dispatch.parked(park));
        assert_eq!(dispatch.begin_key_read().map(|(key, _)| key), wanted);
    }
}

#[test]
fn an_event_that_was_repaired_does_not_pass_what_waits_in_its_lane() {
    let mut dispatch = swept(LIMITS);
    dispatch.offer(pending(1, Some(key(1)), State::Locked, TAIL), 0);
    dispatch.offer(pending(2, Some(key(1)), State::Locked, TAIL), 0);

    let read = dispatch.begin_read();
    let repaired = pending(3, Some(key(1)), State::Failed, Origin::Retry);
    assert_eq!(dispatch.end_due_read(read, [repaired]), 0);

    for seq in [1, 2] {
        assert!(dispatch.begin_key_read().is_none(), "its lane isn't empty");
        let head = one(&mut dispatch).expect("what waited");
        assert_eq!(seq_of(&head.record.id), seq);
        dispatch.delivered(head, Stored::Now);
    }
    assert_eq!(dispatch.begin_key_read().map(|(key, _)| key), Some(key(1)));
}

#[test]
fn nothing_passes_an_event_that_an_operator_may_discard() {
    let parked = |seq| pending(seq, Some(key(1)), State::Parked, Origin::Retry);
    let mut dispatch = swept(LIMITS);
    let read = dispatch.begin_read();
    dispatch.end_due_read(read, [pending(1, Some(key(1)), State::Failed, Origin::Retry)]);
    assert_eq!(leave(&mut dispatch), 1);

    let read = dispatch.begin_read();
    let id = parked(2).record.id;
    assert_eq!(dispatch.end_discards_read(read, vec![id.clone()]).len(), 1);

    // It is being let go while the key is read, and then was, and may have stayed.
    let (of, read) = dispatch.begin_key_read().expect("a read of the key");
    let late = dispatch.begin_read();
    dispatch.end_key_read(&of, read, vec![parked(2), parked(3)], Behind::Nothing);
    assert!(one(&mut dispatch).is_none());
    dispatch.deleted(&id);
    assert_eq!(dispatch.end_due_read(late, [parked(2)]), 0, "it began before");

    let read = dispatch.begin_read();
    assert_eq!(dispatch.end_due_read(read, [parked(2)]), 1);
    assert_eq!(leave(&mut dispatch), 2);
    let (of, read) = dispatch.begin_key_read().expect("a read of the key");
    dispatch.end_key_read(&of, read, vec![parked(3)], Behind::Nothing);
    assert_eq!(leave(&mut dispatch), 3);
    assert_eq!(dispatch.load(), (0, 0, 0), "nothing is remembered");

    // MongoDB refuses to let go of it, and it stays.
    let read = dispatch.begin_read();
    dispatch.end_due_read(read, [pending(4, Some(key(1)), State::Failed, Origin::Retry)]);
    assert_eq!(leave(&mut dispatch), 4);
    let read = dispatch.begin_read();
    let id = parked(5).record.id;
    dispatch.end_discards_read(read, vec![id.clone()]);
    dispatch.delete_refused(&id);
    let (of, read) = dispatch.begin_key_read().expect("a read of the key");
    dispatch.end_key_read(&of, read, vec![parked(5), parked(6)], Behind::Nothing);
    assert!(one(&mut dispatch).is_none(), "one behind it");
}

#[test]
fn an_event_that_was_repaired_does_not_pass_what_is_being_parked() {
    let mut dispatch = swept(DispatchConfig { on_dead: OnDead::Skip, ..LIMITS });
    dispatch.offer(pending(1, Some(key(1)), State::Locked, TAIL), 0);
    dispatch.offer(pending(2, Some(key(1)), State::Locked, TAIL), 0);
    let head = one(&mut dispatch).expect("the head");
    let (_, debt) = dispatch.failed(head);
    let parks = debt.behind.expect("what waited behind it");

    // A read now shows the repaired event and not the one before it.
    let repaired = || [pending(3, Some(key(1)), State::Failed, Origin::Retry)];
    dispatch.mark_written(&debt.unmarked, Next::Dead);
    assert!(dispatch.begin_key_read().is_none(), "the park is on its way");
    let read = dispatch.begin_read();
    dispatch.parked(&parks);
    assert_eq!(dispatch.end_due_read(read, repaired()), 0, "it began before the park");

    let (read_key, read) = dispatch.begin_key_read().expect("a read of the key");
    let parked = pending(2, Some(key(1)), State::Parked, Origin::Retry);
    let events = [parked].into_iter().chain(repaired()).collect();
    dispatch.end_key_read(&read_key, read, events, Behind::Nothing);
    assert_eq!(one(&mut dispatch).map(|next| seq_of(&next.record.id)), Some(2));
}

#[test]
fn a_key_is_read_once_everything_older_is_offered() {
    let mut dispatch = swept(LIMITS);
    let due = pending(1, Some(key(1)), State::Parked, Origin::Retry);
    let read = dispatch.begin_read();
    assert_eq!(dispatch.end_due_read(read, [due]), 1);
    let head = one(&mut dispatch).expect("what was due");

    dispatch.sweep_began(1);
    dispatch.delivered(head, Stored::Now);
    assert!(dispatch.begin_key_read().is_none(), "a sweep is under way");
    dispatch.sweep_ended();
    assert!(dispatch.begin_key_read().is_some());
}

#[test]
fn what_is_due_waits_until_everything_older_is_offered() {
    let mut dispatch = Dispatch::new(LIMITS);
    let tick = |dispatch: &mut Dispatch| {
        let read = dispatch.begin_read();
        let due = pending(2, Some(key(1)), State::Parked, Origin::Retry);
        dispatch.end_due_read(read, [due])
    };
    assert_eq!(tick(&mut dispatch), 0, "before the first sweep");
    dispatch.sweep_began(0);
    assert_eq!(tick(&mut dispatch), 0, "during a sweep");
    dispatch.sweep_ended();
    assert_eq!(tick(&mut dispatch), 1);
}

#[test]
fn what_is_due_waits_while_the_mark_of_one_of_its_key_may_not_show() {
    let mut dispatch = swept(LIMITS);
    let due = || [pending(2, Some(key(1)), State::Parked, Origin::Retry)];
    dispatch.offer(pending(1, Some(key(1)), State::Locked, TAIL), 0);

    let first = one(&mut dispatch).expect("the head");
    let (_, debt) = dispatch.failed(first);

    let read = dispatch.begin_read();
    assert_eq!(dispatch.end_due_read(read, due()), 0, "its mark is on its way");

    let read = dispatch.begin_read();
    dispatch.mark_written(&debt.unmarked, Next::RetryAfter(Duration::ZERO));
    assert_eq!(dispatch.end_due_read(read, due()), 0, "it was on its way when the read began");

    let read = dispatch.begin_read();
    assert_eq!(dispatch.end_due_read(read, due()), 1);
}

#[test]
fn a_key_whose_events_keep_coming_is_read_all_the_same() {
    let mut dispatch = swept(LIMITS);
    dispatch.hold(Some(&key(1)));

    let read = dispatch.begin_read();
    let due = pending(1, Some(key(1)), State::Parked, Origin::Retry);
    dispatch.end_due_read(read, [due]);

    // There is always one more on its way to the database.
    dispatch.offer(pending(2, Some(key(1)), State::Locked, TAIL), 0);
    let first = dispatch.take_parks();
    dispatch.offer(pending(3, Some(key(1)), State::Locked, TAIL), 0);
    first.iter().for_each(|park| dispatch.parked(park));

    let head = one(&mut dispatch).expect("the head");
    dispatch.delivered(head, Stored::Now);

    let (read_key, read) = dispatch.begin_key_read().expect("a read of the key");
    assert_eq!(read_key, key(1));

    let second = pending(2, Some(key(1)), State::Parked, Origin::Retry);
    dispatch.end_key_read(&read_key, read, vec![second], Behind::Nothing);
    assert_eq!(one(&mut dispatch).map(|next| seq_of(&next.record.id)), Some(2));
}

#[test]
fn nothing_is_remembered_of_a_key_that_recovered() {
    let mut dispatch = swept(LIMITS);
    dispatch.offer(pending(1, Some(key(1)), State::Locked, TAIL), 0);
    dispatch.offer(pending(2, Some(key(1)), State::Locked, TAIL), 0);

    let head = one(&mut dispatch).expect("the head");
    let (_, debt) = dispatch.failed(head);

    dispatch.mark_written(&debt.unmarked, Next::RetryAfter(Duration::ZERO));
    debt.behind.iter().for_each(|park| dispatch.parked(park));

    let due = |seq| pending(seq, Some(key(1)), State::Parked, Origin::Retry);
    let read = dispatch.begin_read();
    assert_eq!(dispatch.end_due_read(read, [due(1)]), 1);

    let head = one(&mut dispatch).expect("the head again");
    dispatch.delivered(head, Stored::Now);

    let (_, read) = dispatch.begin_key_read().expect("a read of what is behind it");
    dispatch.deleted(&record(1, None, State::Locked).id);
    assert_eq!(dispatch.known.remembered(), 1, "the read may bring it as it was");
    dispatch.end_key_read(&key(1), read, vec![due(2)], Behind::Nothing);

    let last = one(&mut dispatch).expect("what was behind it");
    dispatch.delivered(last, Stored::Now);
    dispatch.deleted(&record(2, None, State::Locked).id);

    assert_eq!((dispatch.load(), dispatch.unsettled()), ((0, 0, 0), 0));
    assert_eq!(dispatch.known.remembered(), 0);
}

#[test]
fn what_is_due_is_looked_for_once_the_parks_of_a_sweep_are_written() {
    let mut dispatch = Dispatch::new(LIMITS);
    dispatch.sweep_began(0);
    dispatch.hold(Some(&key(1)));
    dispatch.offer(pending(2, Some(key(1)), State::Locked, Origin::Sweep(0)), 0);
    assert!(!dispatch.settles_the_sweep(), "it is under way");

    let parks = dispatch.take_parks();
    dispatch.sweep_ended();
    assert!(!dispatch.settles_the_sweep(), "a park is on its way");
    let read = dispatch.begin_read();
    let due = || [pending(1, Some(key(1)), State::Failed, Origin::Retry)];
    assert_eq!(dispatch.end_due_read(read, due()), 0, "the read may miss the park");

    parks.iter().for_each(|park| dispatch.parked(park));
    assert!(dispatch.settles_the_sweep());
    assert!(!dispatch.settles_the_sweep(), "once for each sweep");
    let read = dispatch.begin_read();
    assert_eq!(dispatch.end_due_read(read, due()), 1);
}
