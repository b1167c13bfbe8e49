//! The subjects of the events: what happened. New services write `ticket.created`, which a wildcard
//! can take; these keep the colon, because consumers elsewhere subscribe to these names.

/// Someone signed up.
pub const USER_CREATED: &str = "user:created";
/// A ticket was offered.
pub const TICKET_CREATED: &str = "ticket:created";
/// A ticket's title, price or reservation changed.
pub const TICKET_UPDATED: &str = "ticket:updated";
/// An order reserves a ticket.
pub const ORDER_CREATED: &str = "order:created";
/// An order waits for its payment, or is complete.
pub const ORDER_UPDATED: &str = "order:updated";
/// An order gives its ticket free.
pub const ORDER_CANCELLED: &str = "order:cancelled";
/// The time of an order is over.
pub const EXPIRATION_COMPLETE: &str = "expiration:complete";
/// An order is paid.
pub const PAYMENT_CREATED: &str = "payment:created";
/// The money went back: the order was cancelled while it was being paid.
pub const PAYMENT_REFUNDED: &str = "payment:refunded";
/// All of them, for the stream.
pub const ALL: [&str; 9] = [
    USER_CREATED,
    TICKET_CREATED,
    TICKET_UPDATED,
    ORDER_CREATED,
    ORDER_UPDATED,
    ORDER_CANCELLED,
    EXPIRATION_COMPLETE,
    PAYMENT_CREATED,
    PAYMENT_REFUNDED,
];
