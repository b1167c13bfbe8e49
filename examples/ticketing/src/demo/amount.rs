//! How much load, and what becomes of each ticket.

use std::time::Duration;

/// Requests of the 3 steps every ticket goes through.
const STEPS: u64 = 3;

/// What becomes of a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Free,
    Paid,
    Cancelled,
    Expires,
}

impl Fate {
    /// Of 20 tickets, 9 are ordered: 3 of each kind.
    pub(crate) fn of(number: u64) -> Self {
        match number % 20 {
            0..3 => Self::Paid,
            3..6 => Self::Cancelled,
            6..9 => Self::Expires,
            _ => Self::Free,
        }
    }

    /// How many of so many tickets.
    pub(crate) fn among(self, tickets: u64) -> u64 {
        (0..tickets).filter(|number| Self::of(*number) == self).count() as u64
    }
}

/// How much load.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Amount {
    Tickets(u64),
    Time(Duration),
}

impl Amount {
    /// The numbers of the tickets, in the order in which they are made. If it is known how many: first
    /// those whose orders are left to expire, because that takes longest.
    pub(crate) fn numbers(self) -> Box<dyn Iterator<Item = u64> + Send> {
        let Self::Tickets(tickets) = self else { return Box::new(0..) };
        let expires = |number: &u64| Fate::of(*number) == Fate::Expires;
        let others = (0..tickets).filter(move |number| !expires(number));
        Box::new((0..tickets).filter(expires).chain(others))
    }

    /// How many steps that is, if it is known.
    pub(crate) fn requests(self) -> Option<u64> {
        let Self::Tickets(tickets) = self else { return None };
        // Each order is placed, an edit refused, and its fate met.
        let orders = tickets - Fate::Free.among(tickets);
        Some(STEPS * tickets + 3 * orders)
    }
}
