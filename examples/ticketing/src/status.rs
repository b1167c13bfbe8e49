//! The statuses of an order: who brings an order there, and who takes it away. Only the orders
//! service changes them; the other services keep copies.
//!
//! ```text
//!  created ───reserved───▶ awaiting:payment ───paid───▶ complete
//!     │                        │                           ▲
//!     ├──────────paid──────────┼───────────────────────────┘
//!     └─cancelled, expired─────┴─────────────────────────▶ cancelled
//! ```
//!
//! | status | entered when | left when |
//! | --- | --- | --- |
//! | `created` | the buyer orders (`POST /api/orders`) | any of the four things below happens |
//! | `awaiting:payment` | the tickets service has reserved the ticket (`ticket:updated`) | paid, cancelled, expired |
//! | `complete` | payments has taken the money (`payment:created`) | never |
//! | `cancelled` | the buyer cancels (`DELETE /api/orders/{id}`), or the time is over (`expiration:complete`) | never |
//!
//! An order that was cancelled stays cancelled, even if a payment was under way: payments hears of
//! the cancellation and gives the money back.

use serde::{Deserialize, Serialize};

/// How far an order is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OrderStatus {
    #[serde(rename = "created")]
    Created,
    #[serde(rename = "awaiting:payment")]
    AwaitingPayment,
    #[serde(rename = "cancelled")]
    Cancelled,
    #[serde(rename = "complete")]
    Complete,
}

/// What happens to an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// The tickets service reserved the ticket for it.
    Reserved,
    /// Its buyer cancels it.
    Cancelled,
    /// Its time is over.
    Expired,
    /// Payments took the money.
    Paid,
}

/// What follows for the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Becomes(OrderStatus),
    Stays,
    Refused(&'static str),
}

impl OrderStatus {
    /// The statuses in which an order holds its ticket, as stored.
    pub const HOLDING: [&str; 3] = ["created", "awaiting:payment", "complete"];

    /// The one place where a status changes.
    pub fn after(self, happened: Happened) -> Next {
        use OrderStatus::{AwaitingPayment, Cancelled, Complete, Created};

        match (self, happened) {
            (Created, Happened::Reserved) => Next::Becomes(AwaitingPayment),
            (Created | AwaitingPayment, Happened::Paid) => Next::Becomes(Complete),
            (Created | AwaitingPayment, Happened::Cancelled | Happened::Expired) => {
                Next::Becomes(Cancelled)
            }
            (Complete, Happened::Cancelled) => Next::Refused("the order is paid"),
            // A second time, too late, or overtaken by something stronger.
            (AwaitingPayment, Happened::Reserved) => Next::Stays,
            (Complete, Happened::Reserved | Happened::Expired | Happened::Paid) => Next::Stays,
            (Cancelled, _) => Next::Stays,
        }
    }

    /// Whether a payment may begin.
    pub fn is_payable(self) -> bool {
        matches!(self.after(Happened::Paid), Next::Becomes(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [OrderStatus; 4] = [
        OrderStatus::Created,
        OrderStatus::AwaitingPayment,
        OrderStatus::Cancelled,
        OrderStatus::Complete,
    ];
    const EVERYTHING: [Happened; 4] =
        [Happened::Reserved, Happened::Cancelled, Happened::Expired, Happened::Paid];

    #[test]
    fn each_status_is_left_as_the_table_says() {
        use Next::{Becomes, Refused, Stays};
        use OrderStatus::{AwaitingPayment, Cancelled, Complete};

        let (waits, ends, paid) = (Becomes(AwaitingPayment), Becomes(Cancelled), Becomes(Complete));
        let expected = [
            [waits, ends, ends, paid],
            [Stays, ends, ends, paid],
            [Stays, Stays, Stays, Stays],
            [Stays, Refused("the order is paid"), Stays, Stays],
        ];

        for (status, row) in ALL.into_iter().zip(expected) {
            assert_eq!(EVERYTHING.map(|happened| status.after(happened)), row, "{status:?}");
        }
    }

    #[test]
    fn an_order_holds_its_ticket_unless_it_is_cancelled() {
        let holding = ALL.into_iter().filter(|status| *status != OrderStatus::Cancelled);
        let stored = holding.map(|status| serde_json::to_value(status).unwrap());

        assert_eq!(stored.collect::<Vec<_>>(), OrderStatus::HOLDING);
    }

    #[test]
    fn only_an_open_order_can_be_paid() {
        assert_eq!(ALL.map(OrderStatus::is_payable), [true, true, false, false]);
    }
}
