//! The subjects of the events: what happened. New services write `ticket.created`, which a wildcard
//! can take; these keep the colon, because consumers elsewhere subscribe to these names.

/// A ticket was offered.
pub const TICKET_CREATED: &str = "ticket:created";
/// A ticket's title, price or reservation changed.
pub const TICKET_UPDATED: &str = "ticket:updated";
/// An order reserves a ticket.
pub const ORDER_CREATED: &str = "order:created";
/// An order gives its ticket free.
pub const ORDER_CANCELLED: &str = "order:cancelled";
/// All of them, for the stream.
pub const ALL: [&str; 4] = [TICKET_CREATED, TICKET_UPDATED, ORDER_CREATED, ORDER_CANCELLED];
