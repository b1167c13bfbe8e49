//! Who takes the money: what this service needs of a payment provider.

use futures_util::future::BoxFuture;

/// What to take, and from whom.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// The idempotency key. The same key is the same charge, however often it is sent: it is taken
    /// once, and each request gets the answer of the first.
    pub(crate) key: String,
    pub(crate) amount: f64,
    /// What the provider gave the buyer's browser in exchange for the card.
    pub(crate) token: String,
}

/// Why no money was taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProviderError {
    /// It never will be with this token.
    #[error("{0}")]
    Declined(String),
    /// The provider may have taken it or not.
    #[error("the provider's answer is missing: {0}")]
    Unknown(String),
}

/// A payment provider. Each real one has an interface of this kind.
pub(crate) trait Provider: Send + Sync {
    /// Takes the money and returns the receipt.
    fn charge(&self, request: Request) -> BoxFuture<'_, Result<String, ProviderError>>;

    /// Makes sure that nothing is taken under this key: gives back what was, and declines a charge
    /// that still comes. Once more changes nothing.
    fn refund(&self, key: String) -> BoxFuture<'_, Result<(), ProviderError>>;
}
