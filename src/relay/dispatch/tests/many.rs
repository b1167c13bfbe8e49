//! Dispatch with more keys than it may remember one by one.

use super::*;

/// Two million have no lanes of their own in memory.
const KEYS: u32 = 2_000_000;
/// As the daemon has them by default.
const DEFAULT: DispatchConfig =
    DispatchConfig { max_buffered_events: 4096, max_buffered_bytes: 8 << 20, ..LIMITS };

fn of(number: u32) -> Key {
    Key::new(format!("key-{number:08}")).expect("a short key")
}

fn offer(dispatch: &mut Dispatch, number: u32) {
    dispatch.offer(pending(number, Some(of(number)), State::Locked, TAIL), 0);
}

#[test]
fn two_million_keys_wait_in_bounded_memory_and_others_leave() {
    let mut dispatch = swept(DEFAULT);
    (0..KEYS).for_each(|number| dispatch.hold(Some(&of(number))));

    let (lanes, filters) = dispatch.memory_of_keys();
    assert!(lanes <= DEFAULT.max_buffered_bytes / 8 + 1024, "{lanes} bytes of lanes");
    assert!(filters <= 4 << 20, "{filters} bytes of filters");

    // Whatever comes of them is parked.
    let waiting = (0..KEYS).step_by(997);
    waiting.clone().for_each(|number| offer(&mut dispatch, number));
    assert!(one(&mut dispatch).is_none(), "an event passed what its key waits for");
    let parks = dispatch.take_parks();
    assert_eq!(parks.iter().map(|park| park.ids.len()).sum::<usize>(), waiting.count());
    parks.iter().for_each(|park| dispatch.parked(park));

    // Of ten thousand others, all but a few leave at once.
    let mut left = 0;
    for number in KEYS..KEYS + 10_000 {
        offer(&mut dispatch, number);
        if let Some(dispatched) = one(&mut dispatch) {
            let id = dispatched.record.id.clone();
            dispatch.delivered(dispatched, Stored::Now);
            dispatch.deleted(&id);
            left += 1;
        }
    }
    assert!(left > 9_950, "{left} of 10,000 left");
    dispatch.take_parks().iter().for_each(|park| dispatch.parked(park));

    // The look-up of a key that has nothing in the database opens its lane.
    let mut looked_up = 0;
    while let Some((key, read)) = dispatch.begin_key_read() {
        dispatch.end_key_read(&key, read, Vec::new(), Behind::Nothing);
        looked_up += 1;
    }
    assert!(looked_up >= 2000, "{looked_up} keys");

    let (lanes, filters) = dispatch.memory_of_keys();
    assert!(lanes <= DEFAULT.max_buffered_bytes / 8 + 1024, "{lanes} bytes of lanes");
    assert!(filters <= 4 << 20, "{filters} bytes of filters");
}

#[test]
fn two_million_keys_of_refused_marks_are_blocked_in_bounded_memory() {
    let mut dispatch = swept(DEFAULT);
    for number in 0..KEYS {
        dispatch.block_unmarkable(Some(&of(number)), 0);
    }

    let (lanes, filters) = dispatch.memory_of_keys();
    assert!(lanes <= DEFAULT.max_buffered_bytes / 8 + 1024, "{lanes} bytes of lanes");
    assert!(filters <= 4 << 20, "{filters} bytes of filters");

    (0..KEYS).step_by(997).for_each(|number| offer(&mut dispatch, number));
    assert!(one(&mut dispatch).is_none() && dispatch.take_parks().is_empty());
    assert!(!dispatch.room().is_none());
}

#[test]
fn nothing_of_a_key_is_unlocked_after_the_server_refused_a_write_of_it() {
    let mut dispatch = swept(LIMITS);
    for seq in [1, 2] {
        dispatch.offer(pending(seq, Some(key(1)), State::Locked, TAIL), 0);
    }
    let head = one(&mut dispatch).expect("the head");
    dispatch.block_unmarkable(Some(&key(1)), 0);

    let (_, debt) = dispatch.failed(head);
    assert!(debt.behind.is_none() && dispatch.take_parks().is_empty());
    assert_eq!(dispatch.unsettled(), 1, "what stays locked is forgotten");
}
