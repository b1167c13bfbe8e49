//! What was measured: medians with their spread, ratios within one run, as a table, a picture and JSON.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;

use super::peer::Peer;

/// Where the report goes.
const JSON: &str = "target/bench-report.json";
const PICTURE: &str = "target/bench-report.svg";
/// Of the picture, in pixels.
const WIDTH: f64 = 760.0;
const BAR: f64 = 22.0;
const LABEL: f64 = 220.0;

/// What one peer did once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    /// Events a second.
    pub(crate) rate: f64,
    /// Processor time per event, user and system, in microseconds.
    pub(crate) processor_us: f64,
    /// The most memory, in MB.
    pub(crate) peak_mb: f64,
    /// Messages beyond one of each event.
    pub(crate) copies: u64,
}

/// Everything measured in one run, in its order.
#[derive(Debug, Default)]
pub(crate) struct Report {
    parts: Vec<Part>,
}

/// The peers at one task.
#[derive(Debug)]
struct Part {
    title: String,
    peers: Vec<Measured>,
}

/// One peer at one task, once per round.
#[derive(Debug)]
struct Measured {
    peer: Peer,
    rounds: Vec<Figures>,
}

impl Measured {
    fn spread(&self, of: impl Fn(&Figures) -> f64) -> Spread {
        spread(self.rounds.iter().map(of).collect())
    }

    fn rate(&self) -> Spread {
        self.spread(|one| one.rate)
    }
}

/// Median, smallest and largest.
#[derive(Debug, Clone, Copy)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

fn spread(mut values: Vec<f64>) -> Spread {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let even = values.len().is_multiple_of(2);
    let median = if even { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] };
    Spread { median, least: values[0], most: values[values.len() - 1] }
}

impl Report {
    /// One line on standard error.
    pub(crate) fn progress(&self, title: &str, round: usize, rounds: usize, peer: &str) {
        eprintln!("{title}: round {round} of {rounds}, {peer}");
    }

    pub(crate) fn add(&mut self, title: &str, peer: Peer, figures: Figures) {
        let place = self.parts.iter().position(|part| part.title == title).unwrap_or_else(|| {
            self.parts.push(Part { title: title.to_owned(), peers: Vec::new() });
            self.parts.len() - 1
        });
        let peers = &mut self.parts[place].peers;
        match peers.iter_mut().find(|measured| measured.peer == peer) {
            Some(measured) => measured.rounds.push(figures),
            None => peers.push(Measured { peer, rounds: vec![figures] }),
        }
    }

    /// The tables, on standard output.
    pub(crate) fn print(&self) {
        for Part { title, peers } in &self.parts {
            let mut table = Table::new();
            table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
            table.set_header(["", "events/s", "spread", "outboxd is", "µs/event", "peak MB", "copies", "it promises"]);
            let ours = peers.iter().find(|measured| measured.peer == Peer::Outboxd).map(Measured::rate);
            for measured in peers {
                let rate = measured.rate();
                let ratio = ours.map_or_else(String::new, |ours| format!("{:.2} ×", ours.median / rate.median));
                table.add_row([
                    measured.peer.name().to_owned(),
                    format!("{:.0}", rate.median),
                    format!("{:.0} to {:.0}", rate.least, rate.most),
                    ratio,
                    format!("{:.1}", measured.spread(|one| one.processor_us).median),
                    format!("{:.1}", measured.spread(|one| one.peak_mb).median),
                    measured.rounds.iter().map(|one| one.copies).sum::<u64>().to_string(),
                    measured.peer.guarantees().to_owned(),
                ]);
            }
            for column in 1..7 {
                if let Some(column) = table.column_mut(column) {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
            println!("\n{title}\n{table}");
        }
    }

    /// JSON and the picture, in `target`.
    pub(crate) fn write(&self) {
        let round = |one: &Figures| json!({ "rate": one.rate, "processor_us": one.processor_us, "peak_mb": one.peak_mb, "copies": one.copies });
        let peer = |measured: &Measured| {
            let Measured { peer, rounds } = measured;
            let rounds: Vec<_> = rounds.iter().map(round).collect();
            json!({ "peer": peer.name(), "guarantees": peer.guarantees(), "rounds": rounds })
        };
        let part = |Part { title, peers }: &Part| {
            let peers: Vec<_> = peers.iter().map(peer).collect();
            json!({ "title": title, "peers": peers })
        };
        let parts: Vec<_> = self.parts.iter().map(part).collect();
        let text = serde_json::to_string_pretty(&parts).expect("JSON");
        std::fs::write(JSON, text).expect("the report is written");
        std::fs::write(PICTURE, self.picture()).expect("the picture is written");
        println!("\n{JSON}, {PICTURE}");
    }

    /// Throughput by peer: a bar for the median, a line for the spread.
    fn picture(&self) -> String {
        let bars: usize = self.parts.iter().map(|part| part.peers.len() + 2).sum();
        let height = bars as f64 * BAR + BAR;
        let all = self.parts.iter().flat_map(|part| &part.peers).map(|measured| measured.rate().most);
        let scale = (WIDTH - LABEL - 90.0) / all.fold(1.0, f64::max);
        let mut svg = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>"#
        );
        let mut y = BAR;
        for Part { title, peers } in &self.parts {
            let _ = write!(svg, r#"<text x="8" y="{y}" font-weight="bold">{title}, events/s</text>"#);
            for measured in peers {
                y += BAR;
                let (peer, rate) = (measured.peer, measured.rate());
                let colour = if peer == Peer::Outboxd { "#27ae60" } else { "#95a5a6" };
                let (top, middle) = (y - BAR * 0.65, y - BAR * 0.25);
                let _ = write!(svg, r#"<text x="{}" y="{y}" text-anchor="end">{}</text>"#, LABEL - 8.0, peer.name());
                let _ = write!(
                    svg,
                    r#"<rect x="{LABEL}" y="{top}" width="{}" height="{}" fill="{colour}"/>"#,
                    rate.median * scale,
                    BAR * 0.8
                );
                let _ = write!(
                    svg,
                    r#"<line x1="{}" x2="{}" y1="{middle}" y2="{middle}" stroke="black"/>"#,
                    LABEL + rate.least * scale,
                    LABEL + rate.most * scale
                );
                let end = LABEL + rate.most * scale + 6.0;
                let _ = write!(svg, r#"<text x="{end}" y="{y}">{:.0}</text>"#, rate.median);
            }
            y += BAR * 2.0;
        }
        svg + "</svg>\n"
    }
}
