//! The configuration: resolved from flags over environment over file over defaults, and valid,
//! before anything is bound.
//!
//! Data passes the files in this order:
//!
//! | file | holds |
//! | --- | --- |
//! | `sources` | what flags, environment and file give, each value with its source |
//! | `setting` | the types a setting can have |
//! | `info` | what a setting is, as pages and schema show it |
//! | `named_file` | a file that a setting names, as it was when it was read |
//! | `unknown` | what the sources hold and no setting asked for |
//! | `reader` | reads one setting after the other and gathers all mistakes |
//! | `files` | what the named files must hold |
//! | `uri` | what MongoDB's connection string must hold |
//! | `sections` | each section: its struct, its settings with their descriptions |
//! | `settings` | all sections of one outbox: [`Config`] |
//! | `fleet` | every outbox of the configuration: [`Fleet`] |
//! | `schema` | the settings as JSON Schema |
//! | `fuzz` | arbitrary bytes in the place of a file, flags and the environment |
//!
//! Every mistake is reported at once. Secrets are a type that doesn't print. The library reads no
//! environment itself: [`Sources`] carries what `main` found there. `config/outboxd.toml` and the
//! handbook's page are generated from [`Fleet::settings`].

mod files;
mod fleet;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod info;
mod named_file;
mod reader;
mod schema;
mod sections;
mod setting;
mod settings;
mod sources;
mod unknown;
mod uri;

pub(crate) use self::fleet::UNKNOWN_DATABASE;
pub use self::fleet::{Checked, Fleet};
pub use self::info::{SettingInfo, Unset};
pub use self::named_file::NamedFile;
pub use self::sections::{
    AdminConfig, AlertsConfig, Api, Compression, ConsoleConfig, DiscoveredServers, DispatchConfig,
    EventConfig, Follow, KeepConfig, LeaseConfig, LogConfig, LogFormat, MongodbConfig, NatsConfig,
    OnDead, Ordering, OutboxesConfig, PersonConfig, ProxyConfig, Repair, RetryConfig, Role,
    ScheduledConfig, SendBursts, ShutdownConfig, Storage, StreamConfig, SweepConfig, VerifyAcks,
    WebhookFormat,
};
pub use self::setting::Given;
pub use self::settings::Config;
pub use self::sources::Sources;
