//! `outboxd run`: relays until SIGTERM or Ctrl-C, drains, exits 0.

use crate::config::{Config, Sources};
use crate::daemon;
use crate::error::Result;
use crate::shutdown::{self, StopSignal};
use crate::telemetry::{logs, traces};

pub(super) async fn run(sources: &Sources) -> Result<()> {
    let config = Config::load(sources)?;
    logs::init(&config.log);
    traces::start("outboxd", &config.nats.client_id)?;

    let stop = shutdown::on_signals(&[StopSignal::Terminate, StopSignal::Interrupt])?;

    let ended = daemon::run(config, sources, &stop).await;

    traces::stop().await;
    ended
}
