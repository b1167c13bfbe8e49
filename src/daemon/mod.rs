//! The daemon: reports about itself, relays, and starts over when secrets are rotated.
//!
//! ```text
//!  run ──▶ admin endpoint, registry of metrics: for the life of the process
//!   │
//!   ├─▶ member: the one outbox
//!   └─▶ fleet ──▶ member: each outbox; one that can't be relayed holds up no other
//!         member: connect, verify, relay ──▶ drained ──▶ again with the rotated secrets …
//! ```
//!
//! When a file of secrets that the settings name is rotated, or a signal asks for a reload, the new
//! settings are tried first. Once they work, the relay drains as on SIGTERM and goes on with the new
//! connections, in the same process. Log, metrics, traces and the address of the admin endpoint
//! stay.

mod announce;
mod connect;
mod connections;
mod fleet;
mod member;
mod outbox;
mod pools;
mod process;
mod rotation;
mod settings;
mod shares;
mod sound;
mod stuck;

use tracing::info;

use self::fleet::Running;
use self::member::Member;
use self::pools::Pools;
pub(crate) use self::process::Asked;
use self::process::Process;
use self::settings::Settings;
use crate::admin;
use crate::config::{Fleet, Sources};
use crate::error::Result;
use crate::jetstream::lines::Lines;
use crate::relay::leadership::parts::Totals;
use crate::relay::schedule::Schedules;
use crate::telemetry::metrics::Registry;

/// Relays every outbox until `stop`, then drains.
///
/// # Errors
/// An admin endpoint that cannot listen on the address from the settings. Of a single outbox also
/// what a retry cannot fix: see [`Relay::connect`](connect::Relay::connect) and
/// [`Relay::run`](connect::Relay::run).
pub(crate) async fn run(fleet: Fleet, sources: &Sources, asked: &Asked) -> Result<()> {
    let first = fleet.any().clone();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        outbox =
            fleet.outboxes().iter().map(|config| config.outbox()).collect::<Vec<_>>().join(", "),
        stream = first.stream.name,
        name = first.nats.client_id,
        "outboxd starts"
    );

    let registry = Registry::start()?;
    let endpoint = admin::start(&first.admin, registry.clone(), fleet.is_fleet()).await?;
    let pools = if fleet.is_fleet() { Pools::shared() } else { Pools::default() };
    let process = Process {
        endpoint,
        registry,
        settings: Settings::new(sources),
        pools,
        lines: Lines::default(),
        schedules: Schedules::default(),
    };

    let totals = match fleet.is_fleet() {
        true => Running::new(process, &first.nats.client_id, &asked.stop).run(fleet, asked).await,
        false => {
            let member = Member::new(&first.outbox(), &process, asked.reload.clone());
            member.turns(first, &asked.stop).await?
        }
    };

    report(totals);
    Ok(())
}

fn report(totals: Totals) {
    info!(
        published = totals.published,
        duplicates = totals.duplicates,
        failed = totals.failed,
        abandoned = totals.abandoned,
        "outboxd stops"
    );
}
