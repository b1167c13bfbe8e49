//! `outboxd run`: relays until SIGTERM, SIGINT (Ctrl-C) or SIGQUIT, drains, exits 0. SIGHUP and
//! SIGUSR1 reload.

use tracing::warn;

use crate::config::{Fleet, Sources};
use crate::console;
use crate::daemon::{self, Asked};
use crate::error::Result;
use crate::shutdown::{self, StopSignal};
use crate::telemetry::{logs, traces};

pub(super) async fn run(sources: &Sources) -> Result<()> {
    let fleet = Fleet::load(sources)?.meant(sources.outbox.as_deref())?;
    let config = fleet.any();
    logs::init(&config.log)?;
    fleet.warnings().iter().for_each(|warning| warn!("{warning}"));

    // From here on no signal that others use for daemons ends the process undrained.
    let stop =
        shutdown::on_signals(&[StopSignal::Terminate, StopSignal::Interrupt, StopSignal::Quit])?;
    let reload = shutdown::on_reload_signals()?;
    shutdown::outlive_signals()?;

    traces::start("outboxd", &config.nats.client_id)?;

    // The console lives and stops with the process, and not with a leadership.
    let mut console = None;
    if config.console.listen.is_some() {
        if fleet.outboxes().is_empty() {
            warn!(
                "this console does not show outboxes that outboxes.discover finds; run `outboxd \
                 console` for them"
            );
        }

        console = Some(console::start(&fleet, sources, &config.nats.client_id, &stop).await?);
    }

    let ended = daemon::run(fleet, sources, &Asked { stop: stop.clone(), reload }).await;
    // Where the daemon ended by itself, so does the console.
    stop.cancel();
    if let Some(console) = console {
        console.ended().await;
    }

    traces::stop().await;
    ended
}
