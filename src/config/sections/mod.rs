//! The sections of the configuration, a file each: the struct, its settings with their
//! descriptions, and what is made from it.
//!
//! A section is read by `X::read`, in whatever table it stands. [`ORDER`] is the order for readers.

mod admin;
mod alerts;
mod console;
mod dispatch;
mod event;
mod identity;
mod keep;
mod lease;
mod log;
mod mongodb;
mod nats;
mod outboxes;
mod retry;
mod scheduled;
mod shutdown;
mod stream;
mod sweep;

pub use self::admin::AdminConfig;
pub use self::alerts::{AlertsConfig, WebhookFormat};
pub use self::console::{ConsoleConfig, PersonConfig, ProxyConfig, Role};
pub use self::dispatch::{DispatchConfig, OnDead, Ordering};
pub use self::event::EventConfig;
pub use self::keep::{KeepConfig, Repair};
pub use self::lease::LeaseConfig;
pub use self::log::{LogConfig, LogFormat};
pub use self::mongodb::{Follow, MongodbConfig};
pub use self::nats::{Api, DiscoveredServers, NatsConfig, SendBursts, VerifyAcks};
pub use self::outboxes::OutboxesConfig;
pub use self::retry::RetryConfig;
pub use self::scheduled::ScheduledConfig;
pub use self::shutdown::ShutdownConfig;
pub use self::stream::{Compression, Storage, StreamConfig};
pub use self::sweep::SweepConfig;

/// The sections in the order of `config/outboxd.toml` and the handbook. They are read in another
/// order, because the default of one setting depends on another.
pub(super) const ORDER: [&str; 16] = [
    "outboxes",
    "mongodb",
    "nats",
    "stream",
    "event",
    "scheduled",
    "dispatch",
    "keep",
    "sweep",
    "retry",
    "alerts",
    "admin",
    "console",
    "lease",
    "shutdown",
    "log",
];

/// The sections that all outboxes of a process share.
pub(super) const SHARED: [&str; 5] = ["outboxes", "admin", "console", "shutdown", "log"];
