//! The subjects of the events: what happened.

/// A ticket was offered.
pub const TICKET_CREATED: &str = "ticket:created";
/// A ticket's title, price or reservation changed.
pub const TICKET_UPDATED: &str = "ticket:updated";
/// An order reserves a ticket.
pub const ORDER_CREATED: &str = "order:created";
/// An order gives its ticket free.
pub const ORDER_CANCELLED: &str = "order:cancelled";
