//! `outboxd run`: relays until SIGTERM, SIGINT (Ctrl-C) or SIGQUIT, drains, exits 0. SIGHUP and
//! SIGUSR1 reload.

use tracing::warn;

use crate::config::{Config, Sources};
use crate::daemon::{self, Asked};
use crate::error::Result;
use crate::shutdown::{self, StopSignal};
use crate::telemetry::{logs, traces};

pub(super) async fn run(sources: &Sources) -> Result<()> {
    let config = Config::load(sources)?;
    logs::init(&config.log)?;
    config.warnings().iter().for_each(|warning| warn!("{warning}"));

    // From here on no signal that others use for daemons ends the process undrained.
    let stop =
        shutdown::on_signals(&[StopSignal::Terminate, StopSignal::Interrupt, StopSignal::Quit])?;
    let reload = shutdown::on_reload_signals()?;
    shutdown::outlive_signals()?;

    traces::start("outboxd", &config.nats.client_id)?;

    let ended = daemon::run(config, sources, &Asked { stop, reload }).await;

    traces::stop().await;
    ended
}
