//! The picture of several outboxes: one line each, the worst first.

use std::io::{IsTerminal as _, stdout};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::frame::{REST, now};
use super::terminal::{Input, Terminal};
use crate::cli::fleet;
use crate::cli::output::Screen;
use crate::config::{Fleet, Sources};
use crate::error::Result;

/// Shows the fleet at this interval, until it was shown so often or somebody quits.
pub(super) async fn run(
    sources: &Sources,
    fleet: &Fleet,
    (interval, count): (Duration, Option<u64>),
) -> Result<()> {
    let opened = fleet::open(fleet).await;
    let mut terminal = Terminal::start(stdout().is_terminal())?;
    let mut shown = 0;

    loop {
        let began = Instant::now();
        let rows = tokio::select! {
            rows = fleet::rows(&opened) => rows,
            () = terminal.quits() => return Ok(()),
        };
        let took = began.elapsed();
        shown += 1;

        loop {
            let quits = if terminal.is_live() { "q quits   " } else { "" };
            let head = format!("{} outboxes   {quits}{} UTC", rows.len(), now());
            let table = fleet::overview(Screen::of(sources), &rows);
            let lines = [head.as_str(), ""].into_iter().chain(table.lines()).map(str::to_owned);
            let (_, height) = terminal.size();
            let lines: Vec<_> = lines.take(height.unwrap_or(usize::MAX)).collect();
            if !terminal.show(&lines)? {
                return Ok(());
            }

            if count == Some(shown) {
                return fleet::all_read(&rows);
            }

            let rest = interval.max(took * REST).saturating_sub(began.elapsed());
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
