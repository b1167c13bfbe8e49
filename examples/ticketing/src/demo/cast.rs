//! Which processes the demo runs: an outboxd beside each service, or one for all.

use serde::{Deserialize, Serialize};

/// The services, in the order of their columns.
pub(crate) const SERVICES: [&str; 5] = ["auth", "tickets", "orders", "expiration", "payments"];
/// One for all.
pub(crate) const FLEET: &str = "outboxd";
/// Every name that a process may have: an outboxd for each service first, in the order of the services.
pub(crate) const NAMES: [&str; 11] = [
    "outboxd-auth",
    "outboxd-tickets",
    "outboxd-orders",
    "outboxd-expiration",
    "outboxd-payments",
    FLEET,
    "auth",
    "tickets",
    "orders",
    "expiration",
    "payments",
];

/// Who relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Relays {
    /// An outboxd beside each service.
    Sidecars,
    /// One outboxd for all services: `FLEET=1`.
    Fleet,
}

impl Relays {
    /// As the environment asks for.
    pub(crate) fn wanted() -> Self {
        match std::env::var_os("FLEET").is_some_and(|set| !set.is_empty() && set != "0") {
            true => Self::Fleet,
            false => Self::Sidecars,
        }
    }

    /// What it is called in a sentence.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Sidecars => "five services, each with its outboxd",
            Self::Fleet => "five services, with one outboxd for all of them",
        }
    }

    /// The outboxd of a service.
    pub(crate) fn relay_of(self, service: &str) -> String {
        match self {
            Self::Sidecars => format!("outboxd-{service}"),
            Self::Fleet => FLEET.to_owned(),
        }
    }

    /// The processes, in the order they are started; they are stopped in the reverse order, so that
    /// outboxd publishes what its service wrote last.
    pub(crate) fn names(self) -> Vec<&'static str> {
        let relays = match self {
            Self::Sidecars => &NAMES[..SERVICES.len()],
            Self::Fleet => &[FLEET],
        };
        relays.iter().chain(&SERVICES).copied().collect()
    }
}

/// The services whose events this process relays; none if it is a service.
pub(crate) fn relayed_by(name: &str) -> Vec<&'static str> {
    let service = name.strip_prefix("outboxd-");
    SERVICES.into_iter().filter(|of| name == FLEET || service == Some(of)).collect()
}
