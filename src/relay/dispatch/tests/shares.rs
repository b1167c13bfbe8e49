//! What a key may have of the buffer, and the reads of what stays in the database.

use super::*;
use crate::relay::dispatch::rest::{ReadAhead, RestEnd, START};
use crate::relay::ports::RestOf;

/// Offers what a read of the rest of k1 returned, which was between these times.
fn end_rest(dispatch: &mut Dispatch, read: Read, seqs: &[u32], more: bool, moment: [u32; 2]) {
    for seq in seqs {
        let event = pending(*seq, Some(key(1)), State::Locked, Origin::Rest);
        dispatch.offer_rest(&read, event);
    }

    let [after, until] = moment.map(|time| Timestamp { time, increment: 1 });
    let ids = seqs.iter().map(|seq| record(*seq, None, State::Locked).id).collect();
    let last = seqs.last().map_or(START, |seq| Timestamp { time: *seq, increment: 1 });
    let ahead = ReadAhead {
        from: Timestamp { time: 3, increment: 1 },
        moment: Moment { after, until },
        ids,
    };
    dispatch.end_rest(&key(1), Some(RestEnd { cut: more.then_some(last), ahead }));
    dispatch.end_rest_read(read);
}

/// The keys of a read, and where it begins with each.
fn froms(of: &[RestOf]) -> Vec<(Key, u32)> {
    of.iter().map(|rest| (rest.key.clone(), rest.from.time)).collect()
}

#[test]
fn a_key_with_its_share_leaves_room_for_others() {
    let mut dispatch = swept(LIMITS);
    (1..=9).for_each(|seq| dispatch.offer(tailed(seq), 0));
    assert_eq!((dispatch.load().0, dispatch.resting()), (2, vec![key(1)]));
    assert!(dispatch.begin_rest_read().is_none(), "its queue is not half empty");
    dispatch.offer(pending(20, Some(key(2)), State::Locked, TAIL), 0);

    assert_eq!((leave(&mut dispatch), leave(&mut dispatch)), (1, 20));
    let (of, room, read) = dispatch.begin_rest_read().expect("a read");
    assert_eq!((froms(&of), room.events), (vec![(key(1), 3)], 1));
    assert!(dispatch.begin_rest_read().is_none(), "one at a time");

    end_rest(&mut dispatch, read, &[3], true, [9, 9]);
    assert_eq!((leave(&mut dispatch), leave(&mut dispatch)), (2, 3));
    let (of, _, read) = dispatch.begin_rest_read().expect("a read");
    assert_eq!(froms(&of), [(key(1), 3)], "from the last event on");
    end_rest(&mut dispatch, read, &[4, 5], true, [9, 9]);
    assert_eq!((leave(&mut dispatch), leave(&mut dispatch)), (4, 5));
}

#[test]
fn a_rest_ends_with_a_read_of_everything_and_the_tail_brings_nothing_twice() {
    let mut dispatch = swept(LIMITS);
    (1..=3).for_each(|seq| dispatch.offer(tailed(seq), 0));
    assert_eq!((leave(&mut dispatch), leave(&mut dispatch)), (1, 2));

    // The read has one that the change stream didn't bring yet: an earlier one may be unknown, that
    // was committed before that began.
    let (_, _, read) = dispatch.begin_rest_read().expect("a read");
    dispatch.offer(tailed(6), 0);
    end_rest(&mut dispatch, read, &[3, 4], false, [3, 7]);
    assert_eq!(dispatch.resting(), [key(1)]);
    assert_eq!(leave(&mut dispatch), 3);
    assert!(one(&mut dispatch).is_none(), "the read ran ahead of the change stream");

    let (_, _, read) = dispatch.begin_rest_read().expect("a read");
    end_rest(&mut dispatch, read, &[4, 6], false, [6, 9]);
    assert_eq!((leave(&mut dispatch), leave(&mut dispatch)), (4, 6));
    assert_eq!(dispatch.resting(), []);

    for seq in [4, 6, 7, 4, 10] {
        dispatch.offer(tailed(seq), 0);
    }
    assert_eq!((leave(&mut dispatch), leave(&mut dispatch)), (7, 10), "the read had the others");
    assert!(one(&mut dispatch).is_none());
    assert_eq!(dispatch.load(), (0, 0, 0), "nothing is remembered");
    assert!(dispatch.read_ahead.is_empty());
}

#[test]
fn what_was_numbered_long_before_it_was_committed_is_read_once_more() {
    let mut dispatch = swept(LIMITS);
    (3..=5).for_each(|seq| dispatch.offer(tailed(seq), 0));
    assert_eq!((leave(&mut dispatch), leave(&mut dispatch)), (3, 4));
    let (_, _, read) = dispatch.begin_rest_read().expect("a read");
    end_rest(&mut dispatch, read, &[5], false, [9, 9]);
    assert_eq!((leave(&mut dispatch), dispatch.resting()), (5, vec![]));

    let at = Timestamp { time: 8, increment: 1 };
    dispatch.offer(pending(2, Some(key(1)), State::Locked, Origin::Tail(at)), 0);
    assert!(one(&mut dispatch).is_none(), "a read may have brought it");
    let (of, _, _) = dispatch.begin_rest_read().expect("a read that tells");
    assert_eq!(froms(&of), [(key(1), 2)]);
}

#[test]
fn a_rest_stays_while_a_sweep_may_pass_it_over() {
    let mut dispatch = swept(LIMITS);
    (1..=3).for_each(|seq| dispatch.offer(tailed(seq), 0));
    assert_eq!(leave(&mut dispatch), 1);
    let (_, _, read) = dispatch.begin_rest_read().expect("a read");
    dispatch.sweep_began(1);
    end_rest(&mut dispatch, read, &[3], false, [9, 9]);

    assert_eq!(dispatch.resting(), [key(1)]);
    assert!(dispatch.begin_rest_read().is_none(), "there was no more");
    dispatch.sweep_ended();
    assert_eq!((leave(&mut dispatch), leave(&mut dispatch)), (2, 3));

    let (_, _, read) = dispatch.begin_rest_read().expect("a read");
    end_rest(&mut dispatch, read, &[], false, [9, 9]);
    assert_eq!((dispatch.resting(), dispatch.load()), (vec![], (0, 0, 0)));
}

#[test]
fn what_fails_leaves_its_rest_alone() {
    let mut dispatch = swept(LIMITS);
    (1..=3).for_each(|seq| dispatch.offer(tailed(seq), 0));
    let first = one(&mut dispatch).expect("the head");
    let (_, _, read) = dispatch.begin_rest_read().expect("a read");
    let (_, debt) = dispatch.failed(first);
    assert_eq!(debt.behind.as_ref().map(|park| park.ids.len()), Some(1), "what was queued");

    end_rest(&mut dispatch, read, &[3], false, [9, 9]);
    dispatch.offer(tailed(4), 0);
    assert!(dispatch.take_parks().is_empty());
    assert!(dispatch.begin_rest_read().is_none(), "what is unlocked is older");
    assert!(dispatch.leaves_out_malformed(Some(&key(1))));
}

/// Offers events of k1 to k3, in turn, in the order of their numbers.
fn offer_in_turn(dispatch: &mut Dispatch, seqs: std::ops::RangeInclusive<u32>) {
    for seq in seqs {
        let mut event = tailed(seq);
        event.record.key = Some(in_turn(seq));
        dispatch.offer(event, 0);
    }
}

fn in_turn(seq: u32) -> Key {
    key(1 + (seq - 1) as u8 % 3)
}

/// Ends a read of the rests of k1 to k3 that returned these events.
fn end_rests(dispatch: &mut Dispatch, read: Read, of: &[RestOf], seqs: &[u32], is_cut: bool) {
    for seq in seqs {
        let event = pending(*seq, Some(in_turn(*seq)), State::Locked, Origin::Rest);
        dispatch.offer_rest(&read, event);
    }

    let at = |time| Timestamp { time, increment: 1 };
    for rest in of {
        let moment = Moment { after: at(100), until: at(100) };
        let ids = seqs.iter().map(|seq| record(*seq, None, State::Locked).id).collect();
        let ahead = ReadAhead { from: rest.from, moment, ids };
        let cut = is_cut.then_some(seqs.last().map_or(START, |seq| at(*seq)));
        dispatch.end_rest(&rest.key, Some(RestEnd { cut, ahead }));
    }
    dispatch.end_rest_read(read);
}

/// A dispatch for three keys with two events each, and rests behind those.
fn three_rests() -> Dispatch {
    let mut dispatch = swept(LIMITS);
    offer_in_turn(&mut dispatch, 1..=30);
    assert_eq!((dispatch.load().0, dispatch.resting().len()), (6, 3));
    dispatch
}

#[test]
fn the_rests_of_all_keys_with_room_are_read_at_once() {
    let mut dispatch = three_rests();
    assert_eq!([(); 6].map(|()| leave(&mut dispatch)), [1, 2, 3, 4, 5, 6]);

    let (of, room, read) = dispatch.begin_rest_read().expect("a read");
    assert_eq!(froms(&of), [(key(1), 7), (key(2), 8), (key(3), 9)]);
    assert_eq!(room.events, 6);
    end_rests(&mut dispatch, read, &of, &[7, 8, 9, 10, 11, 12], true);
    assert_eq!([(); 6].map(|()| leave(&mut dispatch)), [7, 8, 9, 10, 11, 12]);

    // Of a key that the page had more of than there is room for, the others come with the next.
    let (of, _, read) = dispatch.begin_rest_read().expect("a read");
    assert_eq!(froms(&of), [(key(1), 12), (key(2), 12), (key(3), 12)]);
    end_rests(&mut dispatch, read, &of, &[13, 16, 19, 22, 25, 28], true);
    assert_eq!([(); 2].map(|()| leave(&mut dispatch)), [13, 16]);
    let (of, _, _) = dispatch.begin_rest_read().expect("a read");
    assert_eq!(froms(&of), [(key(1), 16), (key(2), 28), (key(3), 28)]);
}

/// A dispatch with an empty buffer, and twelve keys with rests.
fn twelve_rests() -> Dispatch {
    let mut dispatch = swept(LIMITS);
    for seq in 1..=60_u8 {
        let mut event = tailed(seq.into());
        event.record.key = Some(key(1 + seq % 12));
        dispatch.offer(event, 0);
    }

    let buffered = dispatch.load().0;
    (0..buffered).for_each(|_| _ = leave(&mut dispatch));
    assert_eq!(dispatch.resting().len(), 12);
    dispatch
}

#[test]
fn more_keys_are_read_at_once_than_have_their_share_of_the_bytes() {
    let (of, room, _) = twelve_rests().begin_rest_read().expect("a read");
    assert_eq!((of.len(), room.bytes), (12, LIMITS.max_buffered_bytes));
}

#[test]
fn a_read_from_the_start_has_no_more_keys_than_have_their_share() {
    let mut dispatch = twelve_rests();
    dispatch.sweep_began(1);
    dispatch.sweep_ended();

    let (of, _, _) = dispatch.begin_rest_read().expect("a read");
    assert!(of.iter().all(|rest| rest.from == START));
    assert_eq!(of.len(), 8, "an eighth of the bytes each");
}

#[test]
fn a_key_without_room_is_not_read_with_others() {
    // A key may have eight.
    let mut dispatch = swept(DispatchConfig { max_buffered_events: 64, ..LIMITS });
    offer_in_turn(&mut dispatch, 1..=60);
    let first = one(&mut dispatch).expect("the head of k1");
    assert_eq!([(); 6].map(|()| leave(&mut dispatch)), [2, 3, 5, 6, 8, 9]);
    assert!(dispatch.begin_rest_read().is_none(), "no queue is half empty");

    assert_eq!((leave(&mut dispatch), leave(&mut dispatch)), (11, 12));
    let (of, room, read) = dispatch.begin_rest_read().expect("a read");
    assert_eq!(froms(&of), [(key(2), 26), (key(3), 27)]);
    assert_eq!(room.events, 8);
    end_rests(&mut dispatch, read, &of, &[26, 27, 29, 30], true);
    dispatch.delivered(first, Stored::Now);
    assert_eq!(leave(&mut dispatch), 14, "in turn");
}

#[test]
fn a_read_from_the_start_has_room_for_what_is_on_its_way() {
    let mut dispatch = three_rests();
    let first = one(&mut dispatch).expect("the head of k1");
    assert_eq!([(); 4].map(|()| leave(&mut dispatch)), [2, 3, 5, 6]);
    dispatch.sweep_began(1);
    dispatch.sweep_ended();

    let (of, room, read) = dispatch.begin_rest_read().expect("a read");
    assert_eq!(froms(&of), [(key(1), 0), (key(2), 0), (key(3), 0)]);
    assert_eq!(room, Room { events: 5 + 2, bytes: LIMITS.max_buffered_bytes });
    end_rests(&mut dispatch, read, &of, &[1, 4, 7, 8, 9, 10, 11], true);
    dispatch.delivered(first, Stored::Now);
    assert_eq!([(); 5].map(|()| leave(&mut dispatch)), [8, 9, 4, 11, 7]);
    let (of, _, _) = dispatch.begin_rest_read().expect("a read");
    assert_eq!(froms(&of), [(key(1), 7), (key(2), 11), (key(3), 11)]);
}

#[test]
fn a_cut_read_without_events_of_a_key_gets_on_with_it() {
    let mut dispatch = three_rests();
    assert_eq!([(); 6].map(|()| leave(&mut dispatch)), [1, 2, 3, 4, 5, 6]);

    // The change stream has brought everything up to 30.
    for (seqs, next, left) in [([7, 10], 10, 7), ([13, 40], 30, 10)] {
        let (of, _, read) = dispatch.begin_rest_read().expect("a read");
        end_rests(&mut dispatch, read, &of, &seqs, true);
        let rest = dispatch.lanes[&key(2)].rest.as_ref().expect("a rest");
        assert_eq!(rest.reads_from(START).time, next);
        assert_eq!(leave(&mut dispatch), left);
    }
}

#[test]
fn a_key_that_a_read_did_not_come_to_is_read_alone() {
    let mut dispatch = swept(LIMITS);
    // k1 has a lot before the third event of k2.
    for seq in [1, 4, 7, 10, 13, 16, 19, 20, 23, 26] {
        offer_in_turn(&mut dispatch, seq..=seq);
    }
    assert_eq!([(); 4].map(|()| leave(&mut dispatch)), [1, 20, 4, 23]);

    let (of, _, read) = dispatch.begin_rest_read().expect("a read");
    assert_eq!(froms(&of), [(key(1), 7), (key(2), 26)]);
    end_rests(&mut dispatch, read, &of, &[7, 10], true);
    assert_eq!(leave(&mut dispatch), 7);
    dispatch.rests.rotate_left(1);

    let (of, room, read) = dispatch.begin_rest_read().expect("a read");
    assert_eq!((froms(&of), room.events), (vec![(key(2), 26)], 2), "k1 would take it all again");
    end_rests(&mut dispatch, read, &of, &[26], true);
    assert_eq!([(); 2].map(|()| leave(&mut dispatch)), [10, 26]);
    let (of, _, _) = dispatch.begin_rest_read().expect("a read");
    assert_eq!(froms(&of).len(), 1, "one with numbers that got no further: {of:?}");
}
