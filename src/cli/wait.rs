//! What came of events that were made due: each is delivered, refused, or still held by another.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args as ClapArgs;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::output::{Colour, Screen, colour_of, events, print};
use super::table::wrap;
use crate::duration::for_people;
use crate::error::Result;
use crate::finding::operand;
use crate::mongodb::act::Done;
use crate::mongodb::chosen::Chosen;
use crate::mongodb::inspect::{Entry, Inspect};
use crate::operator::outcomes::{NAMED, Outcomes};
use crate::printable::printable;

/// How long a command waits unless it is told otherwise.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);

#[derive(Debug, ClapArgs)]
pub(super) struct WaitArgs {
    /// Wait for the outcome of each event, 30s unless given; the default on a terminal
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "30s", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
    /// Do not wait
    #[arg(long, conflicts_with = "wait")]
    no_wait: bool,
}

impl WaitArgs {
    /// How long to wait, if at all.
    pub(super) fn patience(&self, screen: Screen) -> Option<Duration> {
        let by_itself = (screen.is_terminal && !self.no_wait).then_some(DEFAULT_WAIT);
        self.wait.or(by_itself)
    }
}

/// Waits until something came of each event, the time is up, or nobody waits any more. Prints what
/// came of them.
///
/// # Errors
/// When an event was not delivered.
pub(super) async fn wait_for(
    (chosen, done): (&Chosen, &Done),
    inspect: &Inspect,
    screen: Screen,
    patience: Duration,
    stop: &CancellationToken,
) -> Result<()> {
    let (began, mut outcomes) = (Instant::now(), Outcomes::of(chosen, done));
    let is_relayed = outcomes.wait(inspect, patience, stop, &|_| {}).await?;
    print(&report(&outcomes, screen, began.elapsed(), is_relayed))?;
    outcomes.verdict(is_relayed)
}

fn report(outcomes: &Outcomes, screen: Screen, waited: Duration, is_relayed: bool) -> String {
    let mut out = String::new();
    if outcomes.delivered() > 0 {
        let delivered = screen.paint(Colour::Green, "delivered");
        let _ = writeln!(out, "{} {delivered}", events(outcomes.delivered()));
    }

    if outcomes.gone() > 0 {
        let why = "already gone: published, or removed by someone else";
        let _ = writeln!(out, "{} {why}", events(outcomes.gone()));
    }

    let mut line = |colour, what: &str, text: String| {
        let text = wrap(&printable(&text), screen.width, 11);
        let _ = writeln!(out, "{}  {text}", screen.paint(colour, &format!("{what:<9}")));
    };
    for entry in outcomes.refused.iter().take(NAMED) {
        let Entry { id, code, error, state, .. } = entry;
        let [code, error] = [code, error].map(|text| text.as_deref().unwrap_or("-"));
        let state = format!("it is {state}");
        line(colour_of(entry.state), "refused", format!("{id}: {code}: {error}; {state}"));
    }
    for (entry, head) in &outcomes.held {
        let why = match head {
            Some(head) => {
                let code = head.code.as_deref().map(|code| format!(", {code}"));
                let (show, code) = (operand(&head.id), code.unwrap_or_default());
                format!("held by {} ({}{code}): `outboxd show {show}`", head.id, head.state)
            }
            None if is_relayed && entry.scheduled => {
                "the relay has not moved it into the outbox yet".to_owned()
            }
            None if is_relayed => "the relay has not tried it yet".to_owned(),
            None => "no relay is running for this outbox; the next one publishes it".to_owned(),
        };

        line(Colour::Cyan, "waits", format!("{}: {why}", entry.id));
    }

    let more = outcomes.refused.len().saturating_sub(NAMED);
    if more > 0 {
        let _ = writeln!(out, "{more} more refused; `outboxd groups` shows why");
    }
    let more = outcomes.pending().saturating_sub(outcomes.held.len());
    if more > 0 {
        let _ = writeln!(out, "{more} more still wait after {}", for_people(waited));
    }
    out
}
