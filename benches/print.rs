//! Prints a report as tables, and writes it to files: figures and ratios as JSON, bars as SVG.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::{Value, json};

use super::builds::{self, Comparison};
use super::peer::Peer;
use super::picture::picture;
use super::ratios::{self, Ratio};
use super::report::{Measured, Part, Report, Spread, short};

/// The files of the last run.
const JSON: &str = "target/bench-report.json";
const PICTURE: &str = "target/bench-report.svg";

/// Width of a table, in characters.
const WIDTH: u16 = 150;

/// Prints the figures of each measurement, the bounds, and the comparisons with other builds.
pub(crate) fn print(report: &Report) {
    for part in &report.parts {
        let (title, rounds) = (&part.title, report.rounds);
        println!("\n{title}: median of {rounds} rounds (smallest to largest)\n{}", figures(part));
    }

    let ratios = ratios(report);
    if !ratios.is_empty() {
        println!("\nbounds\n{ratios}");
    }

    let comparisons = comparisons(report);
    if !comparisons.is_empty() {
        println!("\noutboxd / other builds: median of the rounds' ratios\n{comparisons}");
    }
}

/// Writes [`JSON`] and [`PICTURE`], and prints their names.
pub(crate) fn write(report: &Report) {
    let json = serde_json::to_string_pretty(&json(report)).expect("valid JSON");
    std::fs::write(JSON, json).expect("the report is written");

    std::fs::write(PICTURE, picture(&report.parts)).expect("the picture is written");

    println!("\nwritten: {JSON}, {PICTURE}");
}

/// One row per peer: its figures, outboxd's first figure divided by its own, its guarantees.
fn figures(Part { columns, peers, .. }: &Part) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);

    let mut header = vec![""];
    header.extend(*columns);
    header.extend(["outboxd is", "guarantees"]);
    table.set_header(header);

    let first = |measured: &Measured| measured.spread(0).map(|spread| spread.median);
    let outboxd = peers.iter().find(|measured| measured.peer == Peer::Outboxd).and_then(first);

    for measured in peers {
        let mut row = vec![measured.peer.name().to_owned()];
        row.extend((0..columns.len()).map(|column| {
            measured.spread(column).map_or_else(|| "not run".to_owned(), Spread::shown)
        }));

        let ratio = outboxd
            .zip(first(measured))
            .filter(|(_, figure)| measured.peer != Peer::Outboxd && *figure != 0.0)
            .map(|(outboxd, figure)| format!("{:.2} ×", outboxd / figure));
        row.push(ratio.unwrap_or_default());

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
    table
}

/// One row per bound that this run has measured.
fn ratios(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(["", "bound", "reached", ""]);

    for Ratio { what, bound, reached } in ratios::of(report) {
        let Some(value) = reached else { continue };
        let verdict = if bound.holds(value) { "" } else { "missed" };
        table.add_row([what.to_owned(), bound.shown(), short(value), verdict.to_owned()]);
    }
    table
}

/// One row per figure of outboxd that another build has too.
fn comparisons(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(["", "", "outboxd /", "ratio"]);

    for Comparison { title, column, build, ratio } in builds::of(report) {
        table.add_row([title, column, build.name(), &ratio.shown()]);
    }
    table
}

fn json(report: &Report) -> Value {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let measured: Vec<_> = report.parts.iter().map(part_json).collect();
    let ratios: Vec<_> = ratios::of(report).iter().map(ratio_json).collect();
    let comparisons: Vec<_> = builds::of(report).iter().map(comparison_json).collect();

    json!({
        "outboxd": env!("CARGO_PKG_VERSION"),
        "cores": cores,
        "measured": measured,
        "ratios": ratios,
        "builds": comparisons,
    })
}

fn part_json(Part { title, columns, peers }: &Part) -> Value {
    let peers: Vec<_> = peers.iter().map(|measured| peer_json(columns, measured)).collect();
    json!({ "title": title, "peers": peers })
}

fn peer_json(columns: &[&str], Measured { peer, rounds }: &Measured) -> Value {
    let named = |round: &Vec<f64>| -> Value {
        columns
            .iter()
            .zip(round)
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let figures = rounds.as_ref().ok().map(|rounds| rounds.iter().map(named).collect::<Vec<_>>());

    json!({
        "peer": peer.name(),
        "promises": peer.guarantees(),
        "rounds": figures,
        "not_run": rounds.as_ref().err(),
    })
}

fn ratio_json(Ratio { what, bound, reached }: &Ratio) -> Value {
    let holds = reached.map(|value| bound.holds(value));
    json!({ "what": what, "bound": bound.shown(), "reached": reached, "holds": holds })
}

fn comparison_json(Comparison { title, column, build, ratio }: &Comparison<'_>) -> Value {
    let Spread { median, least, most } = ratio;
    json!({
        "title": title,
        "figure": column,
        "against": build.name(),
        "ratio": median,
        "least": least,
        "most": most,
    })
}
