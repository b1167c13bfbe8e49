//! The steps of the protocol, and what must hold.

use stateright::{Model, Property};

use super::state::{Answer, EVENTS, Faults, KEYS, Lane, Message, RELAYS, Relay, Row, Sent, State};

/// How it is built, or a way to build it wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    AsBuilt,
    /// As built, and events of a key leave together: each names the one before it.
    Chains,
    /// The same in one batch.
    Batches,
    /// The second of a chain names no message before it.
    Unchained,
    /// Of a batch whose first event is refused, the second is stored.
    Torn,
    DeleteBeforeAck,
    NoPark,
    NoLease,
}

#[derive(Debug, Clone)]
pub(super) struct Protocol {
    pub(super) variant: Variant,
    pub(super) faults: Faults,
    /// Of the two keys, how many have events.
    pub(super) keys: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Commit(usize),
    Acquire(usize),
    /// A relay's trust ends, by its own clock.
    Distrust(usize),
    /// The lease ends, by the server's.
    Expire,
    /// What the sweep, the tail or the retrier brings.
    Read(usize, usize),
    Publish(usize, usize),
    /// Two events of a key, without waiting between them.
    Burst(usize, usize),
    /// No answer: the same again.
    Again(usize, usize),
    Serve(usize),
    Refuse(usize),
    Lose(usize),
    Hear(usize),
    Delete(usize),
    Crash(usize),
    Forget,
}

impl Protocol {
    /// How many events of a key may leave now.
    fn may_publish(&self, state: &State, relay: usize, key: usize) -> usize {
        let Relay { trusts, lanes, .. } = &state.relays[relay];
        let Lane { known, in_flight, stalled } = &lanes[key];
        let may = (*trusts || self.variant == Variant::NoLease) && !stalled && in_flight.is_empty();
        if may { known.len() } else { 0 }
    }

    fn bursts(&self) -> bool {
        use Variant::{Batches, Chains, Torn, Unchained};
        matches!(self.variant, Chains | Batches | Unchained | Torn)
    }

    /// What a read would bring that isn't known: of a stalled key the unlocked, else all.
    fn unknown(state: &State, relay: usize, key: usize) -> Vec<u8> {
        let of = &state.relays[relay];
        let there = state
            .all()
            .filter(|(of, _, row)| *of == key && !matches!(row, Row::Unwritten | Row::Gone));
        let unknown = |event: &u8| {
            !of.lanes[key].known.contains(event) && !of.deletes.contains(&(key, *event))
        };
        there.map(|(_, event, _)| event).filter(unknown).collect()
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        // The second key's are there from the start: when each is written makes a difference to one
        // key at a time.
        let second = if self.keys == KEYS { Row::Locked } else { Row::Gone };
        let stored = (0..EVENTS).map(|event| (1, event)).filter(|_| second == Row::Gone);
        vec![State {
            rows: [[Row::Unwritten; EVENTS as usize], [second; EVENTS as usize]],
            stream: stored.collect(),
            window: Vec::new(),
            lease: None,
            relays: Default::default(),
            wire: Vec::new(),
            faults: self.faults.clone(),
            trespassed: false,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let Faults { crashes, losses, refusals, expiries, forgotten } = state.faults;
        for (at, message) in state.wire.iter().enumerate() {
            match message.answer {
                None => steps.push(Step::Serve(at)),
                Some(_) => steps.push(Step::Hear(at)),
            }
            if losses > 0 {
                steps.push(Step::Lose(at));
            }
            if message.answer.is_none() && refusals > 0 {
                steps.push(Step::Refuse(at));
            }
        }
        for relay in 0..RELAYS {
            let of = &state.relays[relay];
            if !of.deletes.is_empty() {
                steps.push(Step::Delete(relay));
            }
            if state.lease.is_none() {
                steps.push(Step::Acquire(relay));
            }
            if of.trusts && expiries > 0 {
                steps.push(Step::Distrust(relay));
            }
            if crashes > 0 && *of != (Relay { life: of.life, ..Relay::default() }) {
                steps.push(Step::Crash(relay));
            }
            for key in 0..KEYS {
                let most = self.may_publish(state, relay, key);
                if most > 0 {
                    steps.push(Step::Publish(relay, key));
                }
                if most > 1 && self.bursts() {
                    steps.push(Step::Burst(relay, key));
                }
                let in_flight = &of.lanes[key].in_flight;
                let mut wire = state.wire.iter();
                let is_under_way = wire.any(|message| {
                    (message.relay, message.life, message.key) == (relay, of.life, key)
                        && in_flight.contains(&message.event)
                });
                if of.trusts && !in_flight.is_empty() && !is_under_way {
                    steps.push(Step::Again(relay, key));
                }
                if of.trusts
                    && (of.lanes[key].stalled || !Self::unknown(state, relay, key).is_empty())
                {
                    steps.push(Step::Read(relay, key));
                }
            }
        }
        if state.lease.is_some_and(|holder| !state.relays[holder].trusts) {
            steps.push(Step::Expire);
        }
        if forgotten > 0 && !state.window.is_empty() {
            steps.push(Step::Forget);
        }
        for key in 0..KEYS {
            if state.rows[key].contains(&Row::Unwritten) {
                steps.push(Step::Commit(key));
            }
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Commit(key) => {
                let first = state.rows[key].iter_mut().find(|row| **row == Row::Unwritten)?;
                *first = Row::Locked;
            }
            Step::Acquire(relay) => {
                state.lease = Some(relay);
                // A new leadership begins with nothing in memory but what is still to be deleted.
                state.relays[relay].trusts = true;
                state.relays[relay].lanes = Default::default();
            }
            Step::Distrust(relay) => {
                state.faults.expiries -= 1;
                state.relays[relay].trusts = false;
            }
            Step::Expire => state.lease = None,
            Step::Read(relay, key) => {
                let unknown = Self::unknown(&state, relay, key);
                let lane = &mut state.relays[relay].lanes[key];
                if std::mem::take(&mut lane.stalled) {
                    // The retrier's turn: the unlocked events in order, and what came meanwhile.
                    lane.known.clear();
                }
                lane.known.extend(unknown);
                lane.known.sort_unstable();
                lane.known.dedup();
            }
            Step::Publish(relay, key) => {
                let lane = &mut state.relays[relay].lanes[key];
                let event = *lane.known.first()?;
                lane.in_flight.push(event);
                state.send(relay, key, event, Sent::Alone);
                if self.variant == Variant::DeleteBeforeAck {
                    state.relays[relay].deletes.push((key, event));
                }
            }
            Step::Burst(relay, key) => {
                let lane = &mut state.relays[relay].lanes[key];
                let burst = lane.known.clone();
                lane.in_flight.clone_from(&burst);
                let [first, second] = burst[..] else { return None };
                let (first_sent, second_sent) = match self.variant {
                    Variant::Batches | Variant::Torn => (Sent::With(second), None),
                    Variant::Unchained => (Sent::Alone, Some(Sent::Alone)),
                    _ => (Sent::Alone, Some(Sent::Behind(first))),
                };
                state.send(relay, key, first, first_sent);
                second_sent.into_iter().for_each(|sent| state.send(relay, key, second, sent));
            }
            Step::Again(relay, key) => {
                // The first of a burst alone; the others are back.
                let in_flight = &mut state.relays[relay].lanes[key].in_flight;
                in_flight.truncate(1);
                let event = *in_flight.first()?;
                state.send(relay, key, event, Sent::Alone);
            }
            Step::Serve(at) => {
                let answer = state.serve(at);
                state.answer(at, answer);
            }
            Step::Refuse(at) => {
                let Message { key, sent, .. } = state.wire[at];
                if let (Variant::Torn, Sent::With(second)) = (self.variant, sent) {
                    state.store(key, second);
                }
                state.faults.refusals -= 1;
                state.answer(at, Answer::Refused);
            }
            Step::Lose(at) => {
                state.faults.losses -= 1;
                state.wire.remove(at);
            }
            Step::Hear(at) => {
                let message = state.wire.remove(at);
                self.hear(&mut state, &message);
            }
            Step::Delete(relay) => {
                let (key, event) = state.relays[relay].deletes.remove(0);
                *state.row(key, event) = Row::Gone;
            }
            Step::Crash(relay) => {
                state.faults.crashes -= 1;
                let life = state.relays[relay].life + 1;
                state.relays[relay] = Relay { life, ..Relay::default() };
            }
            Step::Forget => {
                state.faults.forgotten -= 1;
                state.window.clear();
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no committed event is lost", |_, state: &State| {
                state.all().all(|(key, event, row)| row != Row::Gone || state.has(key, event))
            }),
            Property::always("events of a key arrive in their order", |_, state: &State| {
                state.is_ordered()
            }),
            Property::always(
                "nothing is stored twice while ids are remembered",
                |_, state: &State| {
                    let copies =
                        (0..KEYS).flat_map(|key| (0..EVENTS).map(move |event| (key, event)));
                    state.faults.forgotten == 0
                        || copies.into_iter().all(|id| {
                            state.stream.iter().filter(|stored| **stored == id).count() <= 1
                        })
                },
            ),
            Property::always(
                "who doesn't trust its lease begins no publish",
                |_, state: &State| !state.trespassed,
            ),
            // Each step uses something up, so every history ends: in this.
            Property::always(
                "where nothing more can happen, everything is delivered",
                |model: &Self, state: &State| {
                    let mut steps = Vec::new();
                    let over = || state.all().all(|(.., row)| row == Row::Gone);
                    over() || {
                        model.actions(state, &mut steps);
                        !steps.is_empty()
                    }
                },
            ),
            Property::sometimes("it happens: everything is delivered", |_, state: &State| {
                state.all().all(|(.., row)| row == Row::Gone)
            }),
            Property::sometimes("it happens: one is stored twice", |_, state: &State| {
                state.stream.len() > 4
            }),
            Property::sometimes("it happens: one waits behind a failed one", |_, state: &State| {
                state.all().any(|(.., row)| row == Row::Parked)
            }),
            Property::sometimes("it happens: the lease has passed on", |_, state: &State| {
                state.lease == Some(1) && !state.relays[0].deletes.is_empty()
            }),
        ]
    }
}

impl Protocol {
    /// A relay hears the answer to a publish of its own.
    fn hear(&self, state: &mut State, message: &Message) {
        let Message { relay, life, key, event, sent, answer } = *message;
        let of = &mut state.relays[relay];
        let lane = &mut of.lanes[key];
        if life != of.life || !lane.in_flight.contains(&event) {
            return;
        }

        let second = if let Sent::With(second) = sent { Some(second) } else { None };
        let events: Vec<u8> = [event].into_iter().chain(second).collect();
        // A refused event fails once it is alone, or the first of its chain: until then it is back.
        let fails = second.is_none() && lane.in_flight.first() == Some(&event);
        lane.in_flight.retain(|of| !events.contains(of));
        match answer {
            Some(Answer::Ack) => {
                lane.known.retain(|of| !events.contains(of));
                of.deletes.extend(events.iter().map(|event| (key, *event)));
                of.deletes.sort_unstable();
                of.deletes.dedup();
            }
            Some(Answer::Refused) if fails => {
                lane.known.retain(|of| *of != event);
                self.failed(state, relay, key, event);
            }
            Some(Answer::Refused | Answer::NotStored) | None => {}
        }
    }

    fn failed(&self, state: &mut State, relay: usize, key: usize, event: u8) {
        let of = |row: &mut Row, to| {
            if *row != Row::Gone {
                *row = to;
            }
        };
        of(state.row(key, event), Row::Failed);
        if self.variant == Variant::NoPark {
            return;
        }
        let lane = &mut state.relays[relay].lanes[key];
        let behind = std::mem::take(&mut lane.known);
        lane.in_flight.clear();
        lane.stalled = true;
        for event in behind {
            of(state.row(key, event), Row::Parked);
        }
    }
}
