//! Compares outboxd with the builds that `--against` names, figure by figure and round by round.

use super::peer::Peer;
use super::report::{Report, Spread};

/// The figures that are compared. The others are counts, or near zero.
const COMPARED: &[&str] = &[
    "events/s",
    "CPU µs/event",
    "peak MB",
    "p50 ms",
    "p99 ms",
    "p50 ms after return",
    "s to drain",
    "% of a core",
    "transactions/s",
];

/// One figure of outboxd, divided by that of another build.
#[derive(Debug)]
pub(crate) struct Comparison<'a> {
    pub(crate) title: &'a str,
    pub(crate) column: &'static str,
    pub(crate) build: Peer,
    /// Of the quotients of all rounds.
    pub(crate) ratio: Spread,
}

/// All comparisons of this run, by build.
pub(crate) fn of(report: &Report) -> Vec<Comparison<'_>> {
    let mut comparisons = Vec::new();
    for build in &report.builds {
        for part in &report.parts {
            let (Some(outboxd), Some(against)) = (part.of(Peer::Outboxd), part.of(*build)) else {
                continue;
            };

            for (place, column) in part.columns.iter().enumerate() {
                if !COMPARED.contains(column) {
                    continue;
                }
                if let Some(ratio) = outboxd.beside(against, place) {
                    let title = part.title.as_str();
                    comparisons.push(Comparison { title, column, build: *build, ratio });
                }
            }
        }
    }
    comparisons
}
