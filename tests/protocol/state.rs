//! What the database, the stream, the relays and the wire between them know.

pub(super) const RELAYS: usize = 2;
pub(super) const KEYS: usize = 2;
pub(super) const EVENTS: u8 = 2;

/// An event in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Row {
    Unwritten,
    Locked,
    Failed,
    Parked,
    Gone,
}

/// A key, as one relay knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Lane {
    /// Events in memory, the oldest first.
    pub(super) known: Vec<u8>,
    /// Of those, the ones under way.
    pub(super) in_flight: Vec<u8>,
    /// Its head failed: what comes is parked.
    pub(super) stalled: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Relay {
    /// Rises with each crash: what was meant for an earlier life is lost.
    pub(super) life: u8,
    pub(super) trusts: bool,
    pub(super) lanes: [Lane; KEYS],
    /// Acked, and not deleted yet.
    pub(super) deletes: Vec<(usize, u8)>,
}

/// A publish or the answer to it, on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Message {
    pub(super) relay: usize,
    pub(super) life: u8,
    pub(super) key: usize,
    pub(super) event: u8,
    pub(super) sent: Sent,
    pub(super) answer: Option<Answer>,
}

/// How an event is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Sent {
    Alone,
    /// It must be stored directly behind this event.
    Behind(u8),
    /// In a batch with this event, which comes behind it.
    With(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Answer {
    Ack,
    Refused,
    /// It isn't behind the event that it must be behind, or the stream has an event of the batch.
    NotStored,
}

/// What may still go wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Faults {
    /// Of a relay.
    pub(super) crashes: u8,
    /// Of a publish or an ack.
    pub(super) losses: u8,
    pub(super) refusals: u8,
    /// Of the lease.
    pub(super) expiries: u8,
    /// Ends of the dedupe window.
    pub(super) forgotten: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) rows: [[Row; EVENTS as usize]; KEYS],
    /// Every message stored, in order.
    pub(super) stream: Vec<(usize, u8)>,
    /// The ids that the stream remembers.
    pub(super) window: Vec<(usize, u8)>,
    pub(super) lease: Option<usize>,
    pub(super) relays: [Relay; RELAYS],
    pub(super) wire: Vec<Message>,
    pub(super) faults: Faults,
    /// A relay began a publish that it must not begin.
    pub(super) trespassed: bool,
}

impl State {
    pub(super) fn send(&mut self, relay: usize, key: usize, event: u8, sent: Sent) {
        let life = self.relays[relay].life;
        self.trespassed |= !self.relays[relay].trusts;
        self.wire.push(Message { relay, life, key, event, sent, answer: None });
        self.wire.sort();
    }

    pub(super) fn answer(&mut self, at: usize, answer: Answer) {
        self.wire[at].answer = Some(answer);
        self.wire.sort();
    }

    /// What the stream does with a message, and its answer.
    pub(super) fn serve(&mut self, at: usize) -> Answer {
        let Message { key, event, sent, .. } = self.wire[at];
        let is_known = |event| self.window.contains(&(key, event));
        match sent {
            Sent::With(second) if is_known(event) || is_known(second) => return Answer::NotStored,
            _ if is_known(event) => return Answer::Ack,
            Sent::Behind(before) if self.stream.last() != Some(&(key, before)) => {
                return Answer::NotStored;
            }
            Sent::With(_) | Sent::Behind(_) | Sent::Alone => {}
        }

        self.store(key, event);
        if let Sent::With(second) = sent {
            self.store(key, second);
        }
        Answer::Ack
    }

    pub(super) fn store(&mut self, key: usize, event: u8) {
        self.stream.push((key, event));
        self.window.push((key, event));
        self.window.sort_unstable();
    }

    pub(super) fn row(&mut self, key: usize, event: u8) -> &mut Row {
        &mut self.rows[key][usize::from(event)]
    }

    /// The first event of a key that is stored before one that comes earlier.
    pub(super) fn is_ordered(&self) -> bool {
        (0..KEYS).all(|key| {
            let of_key = self.stream.iter().filter(|(of, _)| *of == key).map(|(_, event)| *event);
            let mut next = 0;
            of_key.into_iter().all(|event| {
                let in_order = event <= next;
                next = next.max(event + 1);
                in_order
            })
        })
    }

    pub(super) fn has(&self, key: usize, event: u8) -> bool {
        self.stream.contains(&(key, event))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (usize, u8, Row)> {
        (0..KEYS).flat_map(move |key| {
            (0..EVENTS).map(move |event| (key, event, self.rows[key][usize::from(event)]))
        })
    }
}
