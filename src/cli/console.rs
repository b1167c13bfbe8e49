//! `outboxd console`: the web page, until SIGTERM or SIGINT (Ctrl-C).

use super::act::who;
use super::config::load_all;
use super::fleet::{self, Opened};
use super::output::print;
use crate::config::Sources;
use crate::console;
use crate::error::{ErrorKind, Result};
use crate::shutdown::{self, StopSignal};
use crate::telemetry::logs;

pub(super) async fn run(sources: &Sources) -> Result<()> {
    let fleet = load_all(sources)?;
    logs::init(&fleet.any().log)?;
    let stop =
        shutdown::on_signals(&[StopSignal::Terminate, StopSignal::Interrupt, StopSignal::Quit])?;

    // Numbers of an outbox that isn't there would look like good news. If a server of several does
    // not answer, the page reports that.
    let is_one = fleet.outboxes().len() == 1;
    for Opened { inspect, .. } in fleet::open(&fleet).await {
        match inspect {
            Err(error) if is_one || error.kind() == ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }

    let console = console::start(&fleet, sources, &who(sources), &stop).await?;
    match &console.token {
        Some(token) => print(&format!("open {}\nsign in with the token {token}\n", console.url))?,
        None => print(&format!("open {}\n", console.url))?,
    }

    stop.cancelled().await;
    console.ended().await;
    Ok(())
}
