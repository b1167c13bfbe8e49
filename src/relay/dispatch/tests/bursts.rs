//! Events of a key that leave together.

use super::*;

/// A key may have eight of these.
const ROOMY: DispatchConfig = DispatchConfig { max_buffered_events: 64, ..LIMITS };

fn seqs(burst: &[Dispatched]) -> Vec<u32> {
    burst.iter().map(|dispatched| seq_of(&dispatched.record.id)).collect()
}

/// Five events of a key wait, the first has left, and four leave together.
fn burst(dispatch: &mut Dispatch) -> Vec<Dispatched> {
    (1..=5).for_each(|seq| dispatch.offer(tailed(seq), 0));
    let first = dispatch.next(64).expect("the head");
    assert_eq!(seqs(&first), [1], "nothing of the key was stored yet");
    first.into_iter().for_each(|first| dispatch.delivered(first, Stored::Now));

    dispatch.offer(tailed(6), 0);
    let burst = dispatch.next(64).expect("those behind it");
    assert_eq!(seqs(&burst), [2, 3, 4, 5]);
    burst
}

#[test]
fn what_comes_back_leaves_before_the_rest_and_alone_at_first() {
    let mut dispatch = swept(ROOMY);
    let mut burst = burst(&mut dispatch);
    let back = burst.split_off(1);
    let bytes = dispatch.load().1;
    dispatch.given_back(back);
    assert!(dispatch.next(64).is_none(), "one of the burst is in flight");
    burst.into_iter().for_each(|first| dispatch.delivered(first, Stored::Now));
    assert!(dispatch.load().1 < bytes && dispatch.in_flight() == 0);

    let alone = dispatch.next(64).expect("the first that came back");
    assert_eq!(seqs(&alone), [3]);
    alone.into_iter().for_each(|alone| dispatch.delivered(alone, Stored::Now));
    let rest = dispatch.next(64).expect("the rest");
    assert_eq!(seqs(&rest), [4, 5, 6]);
    rest.into_iter().for_each(|rest| dispatch.delivered(rest, Stored::Now));
    (1..=6).for_each(|seq| dispatch.deleted(&record(seq, None, State::Locked).id));
    assert_eq!((dispatch.load(), dispatch.unsettled()), ((0, 0, 0), 0));
}

#[test]
fn what_is_behind_a_failed_event_of_a_burst_is_parked_in_its_order() {
    let mut dispatch = swept(ROOMY);
    let mut burst = burst(&mut dispatch);
    let back = burst.split_off(2);
    let failed = burst.pop().expect("the second");
    dispatch.given_back(back);
    burst.into_iter().for_each(|first| dispatch.delivered(first, Stored::Now));

    let (failed, debt) = dispatch.failed(failed);
    assert_eq!(seq_of(&failed.id), 3);
    let parked = debt.behind.expect("what was behind it");
    assert_eq!(parked.ids.iter().map(seq_of).collect::<Vec<_>>(), [4, 5, 6]);
    assert!(dispatch.next(64).is_none());
}
