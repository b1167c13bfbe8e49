//! What was measured: medians with their spread, ratios within one run, as tables and JSON.

use std::time::Instant;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::json;

use super::peer::Peer;
use super::picture::picture;
use super::ratios;

/// Where the report goes.
const JSON: &str = "target/bench-report.json";
const PICTURE: &str = "target/bench-report.svg";
/// Of a table, in characters.
const WIDTH: u16 = 150;

/// Everything measured in one run, in its order.
#[derive(Debug)]
pub(crate) struct Report {
    /// How often each peer does each task.
    pub(crate) rounds: usize,
    pub(super) parts: Vec<Part>,
    began: Instant,
}

/// The peers at one task.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) title: String,
    /// What is measured; by the first the peers are compared.
    pub(super) columns: &'static [&'static str],
    pub(super) peers: Vec<Measured>,
}

/// One peer at one task.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) peer: Peer,
    /// Once per round, in the order of the columns; or why there is nothing.
    pub(super) rounds: Result<Vec<Vec<f64>>, String>,
}

impl Measured {
    /// Of one column; `None` when it wasn't run.
    pub(super) fn spread(&self, column: usize) -> Option<Spread> {
        let values = self.rounds.as_ref().ok()?.iter().map(|round| round.get(column).copied());
        values.collect::<Option<Vec<_>>>().filter(|values| !values.is_empty()).map(Spread::of)
    }
}

/// Median, smallest and largest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let even = values.len().is_multiple_of(2);
        let median =
            if even { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] };
        Self { median, least: values[0], most: values[values.len() - 1] }
    }

    fn shown(self) -> String {
        match self.least == self.most {
            true => short(self.median),
            false => {
                format!("{} ({} to {})", short(self.median), short(self.least), short(self.most))
            }
        }
    }
}

/// Three digits or more, whatever the size.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

impl Report {
    pub(crate) fn new(rounds: usize) -> Self {
        Self { rounds, parts: Vec::new(), began: Instant::now() }
    }

    /// Begins a task and fetches its peers; returns those that can be run.
    pub(crate) fn begin(
        &mut self,
        title: &str,
        columns: &'static [&'static str],
        peers: &[Peer],
    ) -> Vec<Peer> {
        let measured = |peer: &Peer| {
            let rounds = peer.fetch().map(|()| Vec::new());
            if let Err(reason) = &rounds {
                eprintln!("{title}: {} is not run: {reason}", peer.name());
            }
            Measured { peer: *peer, rounds }
        };
        let peers: Vec<_> = peers.iter().map(measured).collect();
        let run = peers
            .iter()
            .filter(|measured| measured.rounds.is_ok())
            .map(|measured| measured.peer)
            .collect();
        self.parts.push(Part { title: title.to_owned(), columns, peers });
        run
    }

    /// Takes what one peer did in one round, and says so in a line on standard error.
    pub(crate) fn add(&mut self, title: &str, round: usize, peer: Peer, figures: &[f64]) {
        let part =
            self.parts.iter_mut().rfind(|part| part.title == title).expect("a task that has begun");
        let shown: Vec<_> = part
            .columns
            .iter()
            .zip(figures)
            .map(|(name, value)| format!("{} {name}", short(*value)))
            .collect();
        let (elapsed, rounds) = (self.began.elapsed().as_secs(), self.rounds);
        eprintln!(
            "{elapsed:>5} s  {title}, round {round} of {rounds}: {}: {}",
            peer.name(),
            shown.join(", ")
        );
        let measured = part
            .peers
            .iter_mut()
            .find(|measured| measured.peer == peer)
            .expect("a peer of this task");
        measured.rounds.as_mut().expect("a peer that is run").push(figures.to_vec());
    }

    /// The median of one column of a task, if that was measured.
    pub(super) fn median(&self, title: &str, peer: Peer, column: &str) -> Option<f64> {
        let part = self.parts.iter().find(|part| part.title == title)?;
        let column = part.columns.iter().position(|name| *name == column)?;
        let measured = part.peers.iter().find(|measured| measured.peer == peer)?;
        measured.spread(column).map(|spread| spread.median)
    }

    /// The tables, on standard output.
    pub(crate) fn print(&self) {
        for Part { title, columns, peers } in &self.parts {
            let mut table = Table::new();
            table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
            let names = columns.iter().map(|name| (*name).to_owned());
            table.set_header(
                ["".to_owned()]
                    .into_iter()
                    .chain(names)
                    .chain(["outboxd is".to_owned(), "it promises".to_owned()]),
            );
            let of = |peer: &Measured| peer.spread(0).map(|spread| spread.median);
            let ours = peers.iter().find(|measured| measured.peer == Peer::Outboxd).and_then(of);
            for measured in peers {
                let cell = |column| {
                    measured.spread(column).map_or_else(|| "not run".to_owned(), Spread::shown)
                };
                let mut row = vec![measured.peer.name().to_owned()];
                row.extend((0..columns.len()).map(cell));
                let ratio = ours
                    .zip(of(measured))
                    .filter(|(_, theirs)| measured.peer != Peer::Outboxd && *theirs != 0.0);
                row.push(
                    ratio.map_or_else(String::new, |(ours, theirs)| {
                        format!("{:.2} ×", ours / theirs)
                    }),
                );
                row.push(match &measured.rounds {
                    Ok(_) => measured.peer.guarantees().to_owned(),
                    Err(reason) => reason.clone(),
                });
                table.add_row(row);
            }
            for column in 1..=columns.len() + 1 {
                if let Some(column) = table.column_mut(column) {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
            println!("\n{title}; medians of {} rounds, and their spread\n{table}", self.rounds);
        }
    }

    /// JSON and the picture, in `target`.
    pub(crate) fn write(&self) {
        let peer = |columns: &'static [&'static str], measured: &Measured| {
            let named = |round: &Vec<f64>| {
                columns
                    .iter()
                    .zip(round)
                    .map(|(name, value)| ((*name).to_owned(), json!(value)))
                    .collect::<serde_json::Map<_, _>>()
            };
            let rounds =
                measured.rounds.as_ref().map(|rounds| rounds.iter().map(named).collect::<Vec<_>>());
            let (rounds, not_run) = (rounds.ok(), measured.rounds.as_ref().err());
            json!({ "peer": measured.peer.name(), "promises": measured.peer.guarantees(), "rounds": rounds, "not_run": not_run })
        };
        let part = |Part { title, columns, peers }: &Part| {
            let peers: Vec<_> = peers.iter().map(|measured| peer(columns, measured)).collect();
            json!({ "title": title, "peers": peers })
        };
        let parts: Vec<_> = self.parts.iter().map(part).collect();
        let ratios: Vec<_> = ratios::of(self).iter().map(ratios::Ratio::json).collect();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let all = json!({ "outboxd": env!("CARGO_PKG_VERSION"), "cores": cores, "measured": parts, "ratios": ratios });
        std::fs::write(JSON, serde_json::to_string_pretty(&all).expect("JSON"))
            .expect("the report is written");
        std::fs::write(PICTURE, picture(&self.parts)).expect("the picture is written");
        println!("\n{JSON}, {PICTURE}");
    }
}
