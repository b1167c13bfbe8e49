//! The protocol as a model, every history of it within bounds: two relays, two keys with two events
//! each, a lease that can pass from one to the other at any moment, publishes and acks that are
//! late, lost or refused, chains and batches of two, crashes, and a dedupe window that ends.
//!
//! What it leaves out: how reads and writes overlap inside one relay. That is checked against the
//! real code by `relay/simulation`.

mod model;
mod state;

use stateright::{Checker, HasDiscoveries, Model};

use self::model::{Protocol, Variant};
use self::state::Faults;

/// One of each.
const ALL: Faults = Faults { crashes: 1, losses: 1, refusals: 1, expiries: 1, forgotten: 1 };
const NONE: Faults = Faults { crashes: 0, losses: 0, refusals: 0, expiries: 0, forgotten: 0 };

/// Every history; returns what must always hold and didn't, and what should happen and did.
fn explore(
    variant: Variant,
    faults: Faults,
    keys: usize,
) -> (Vec<&'static str>, Vec<&'static str>) {
    let checker = Protocol { variant, faults: faults.clone(), keys }.checker().threads(2);
    // The first failure is the shortest one, and enough.
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let states = checker.unique_state_count();
    println!(
        "{variant:?}, {keys} keys, {faults:?}: {states} states, {} steps deep",
        checker.max_depth()
    );
    let mut found: Vec<_> = checker.discoveries().into_keys().collect();
    found.sort_unstable();
    found.into_iter().partition(|name| !name.starts_with("it happens"))
}

#[test]
fn one_key_survives_every_history_with_each_fault_once() {
    let (broken, happened) = explore(Variant::AsBuilt, ALL, 1);
    assert!(broken.is_empty(), "{broken:?}");
    assert_eq!(happened.len(), 4, "not every kind of history was seen: {happened:?}");
}

#[test]
fn two_keys_survive_every_history_with_one_fault() {
    for faults in [
        NONE,
        Faults { crashes: 1, ..NONE },
        Faults { losses: 1, ..NONE },
        Faults { refusals: 1, ..NONE },
        Faults { expiries: 1, ..NONE },
        Faults { forgotten: 1, ..NONE },
    ] {
        let (broken, happened) = explore(Variant::AsBuilt, faults, 2);
        assert!(broken.is_empty(), "{broken:?}");
        assert!(happened.contains(&"it happens: everything is delivered"));
    }
}

#[test]
fn events_that_leave_together_survive_every_history_with_two_faults() {
    for faults in [
        Faults { losses: 2, ..NONE },
        Faults { losses: 1, refusals: 1, ..NONE },
        Faults { losses: 1, crashes: 1, ..NONE },
        Faults { losses: 1, expiries: 1, ..NONE },
        Faults { losses: 1, forgotten: 1, ..NONE },
        Faults { refusals: 1, expiries: 1, ..NONE },
    ] {
        for variant in [Variant::Chains, Variant::Batches] {
            let (broken, happened) = explore(variant, faults.clone(), 1);
            assert!(broken.is_empty(), "{variant:?}, {faults:?}: {broken:?}");
            assert!(happened.contains(&"it happens: everything is delivered"));
        }
    }
}

#[test]
fn a_batch_that_is_stored_in_part_is_found_out() {
    assert_eq!(
        explore(Variant::Torn, Faults { refusals: 1, ..NONE }, 1).0,
        ["events of a key arrive in their order"]
    );
}

#[test]
fn a_chain_whose_events_name_none_before_them_is_found_out() {
    assert_eq!(
        explore(Variant::Unchained, Faults { losses: 1, ..NONE }, 1).0,
        ["events of a key arrive in their order"]
    );
}

#[test]
fn a_delete_before_the_ack_is_found_out() {
    assert_eq!(explore(Variant::DeleteBeforeAck, ALL, 1).0, ["no committed event is lost"]);
}

#[test]
fn a_failed_event_that_holds_nothing_is_found_out() {
    assert_eq!(explore(Variant::NoPark, ALL, 1).0, ["events of a key arrive in their order"]);
}

#[test]
fn a_publish_without_the_lease_is_found_out() {
    assert_eq!(
        explore(Variant::NoLease, ALL, 1).0,
        ["who doesn't trust its lease begins no publish"]
    );
}
