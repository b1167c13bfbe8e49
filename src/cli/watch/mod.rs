//! `outboxd watch`: the outbox and its relay, live.
//!
//! MongoDB answers what is in the outbox; the relay's admin endpoint answers rates and latencies.
//! When one of them is unreachable, the rest is still shown. On a terminal the picture is redrawn
//! in place until `q`; elsewhere one plain picture follows another. Between questions MongoDB rests
//! for several times as long as its last answer took. Of several outboxes there is one line each.

mod frame;
mod overview;
mod terminal;

use std::collections::VecDeque;
use std::io::{IsTerminal as _, stdout};
use std::time::Duration;

use clap::Args as ClapArgs;
use tokio::time::{Instant, sleep};

use self::frame::View;
use self::terminal::{Input, Terminal};
use super::config::load_all;
use super::selection::inspect_of;
use crate::config::{Config, Sources};
use crate::error::{Error, ErrorKind, Result};
use crate::operator::endpoint::Admin;
use crate::operator::flow::Sample;
use crate::operator::look::look;

/// Rates kept for the small chart.
const HISTORY: usize = 40;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// How often to refresh
    #[arg(long, default_value = "2s", value_parser = interval, value_name = "DURATION")]
    interval: Duration,
    /// Stop after this many refreshes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// The relay's admin endpoint [default: admin.listen]
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
}

fn interval(text: &str) -> std::result::Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration)
            if duration >= Duration::from_millis(100) && duration <= Duration::from_secs(3600) =>
        {
            Ok(duration)
        }
        _ => Err("give a duration from 100ms to 1h, such as 2s".to_owned()),
    }
}

pub(super) async fn run(sources: &Sources, args: &Args) -> Result<()> {
    let fleet = load_all(sources)?;
    match fleet.outboxes() {
        [config] => watch(sources, args, config).await,
        _ => overview::run(sources, &fleet, (args.interval, args.count)).await,
    }
}

async fn watch(sources: &Sources, args: &Args, config: &Config) -> Result<()> {
    let inspect = inspect_of(config).await?;
    let admin = Admin::new(&config.admin, args.admin.as_deref())?;
    let mut view = View {
        outbox: config.outbox(),
        stream: config.stream.name.clone(),
        admin: admin.url().to_owned(),
        now: String::new(),
        outbox_state: Ok(None),
        relay_state: Err("has not been asked yet".to_owned()),
        history: VecDeque::with_capacity(HISTORY),
    };

    let mut terminal = Terminal::start(stdout().is_terminal())?;
    let plain = !terminal.is_live()
        || sources.env.iter().any(|(name, text)| name == "NO_COLOR" && !text.is_empty());
    let mut shown = 0;
    let mut before: Option<Sample> = None;

    loop {
        let began = Instant::now();
        let last = view.outbox_state.as_ref().ok().and_then(Option::as_ref);
        let looked =
            async { tokio::join!(look(&inspect, last), Sample::take(&admin, &view.outbox)) };
        let (outbox, sample) = tokio::select! {
            looked = looked => looked,
            () = terminal.quits() => return Ok(()),
        };
        let took = began.elapsed();

        view.now = frame::now();
        view.outbox_state = outbox.map(Some);
        view.relay_state = sample.map(|sample| {
            let flow = sample.since(before.as_ref());
            if view.history.len() == HISTORY {
                view.history.pop_front();
            }
            view.history.extend(flow.published);
            before = Some(sample);
            flow
        });
        shown += 1;

        loop {
            let (width, height) = terminal.size();
            let picture = frame::picture(&view, width, height, plain);
            if !terminal.show(&picture)? {
                return Ok(());
            }

            if args.count == Some(shown) {
                return match view.outbox_state {
                    Ok(_) => Ok(()),
                    Err(_) => Err(Error::new(ErrorKind::Findings, "MongoDB did not answer")),
                };
            }

            let rest = args.interval.max(took * frame::REST).saturating_sub(began.elapsed());
            tokio::select! {
                () = sleep(rest) => break,
                input = terminal.input() => match input {
                    Input::Quit => return Ok(()),
                    Input::Resized => {}
                }
            }
        }
    }
}
