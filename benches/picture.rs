//! The figures as bars: throughput by peer, latency by percentile.

use std::fmt::Write as _;

use super::peer::Peer;
use super::report::{Part, short};

/// In pixels.
const WIDTH: f64 = 820.0;
const BAR: f64 = 22.0;
const LABEL: f64 = 250.0;
const FIGURE: f64 = 90.0;
/// Of a latency, so many percentiles are drawn.
const PERCENTILES: usize = 3;

/// An SVG: for each peer a bar for the median and a line for the spread.
pub(super) fn picture(parts: &[Part]) -> String {
    let mut bars = String::new();
    let mut y = BAR;
    for part in parts {
        let columns = if part.title.starts_with("latency") { 0..PERCENTILES } else { 0..1 };
        let spreads = || {
            part.peers
                .iter()
                .flat_map(|measured| columns.clone().filter_map(|column| measured.spread(column)))
        };
        let most = spreads().map(|spread| spread.most).fold(f64::MIN_POSITIVE, f64::max);
        let scale = (WIDTH - LABEL - FIGURE) / most;
        let unit = if columns.len() > 1 {
            "ms"
        } else {
            part.columns.first().copied().unwrap_or_default()
        };
        let _ = write!(
            bars,
            r#"<text x="8" y="{y:.1}" font-weight="bold">{}: {unit}</text>"#,
            part.title
        );
        for measured in &part.peers {
            for column in columns.clone() {
                y += BAR;
                let name = measured.peer.name();
                let label = match part.columns.get(column) {
                    Some(percentile) if columns.len() > 1 => {
                        format!("{name}, {}", percentile.trim_end_matches(" ms"))
                    }
                    _ => name.to_owned(),
                };
                let _ = write!(
                    bars,
                    r#"<text x="{}" y="{y:.1}" text-anchor="end">{label}</text>"#,
                    LABEL - 8.0
                );
                let Some(spread) = measured.spread(column) else {
                    let _ = write!(
                        bars,
                        r##"<text x="{LABEL}" y="{y:.1}" fill="#7f8c8d">not run</text>"##
                    );
                    continue;
                };
                let colour = if measured.peer == Peer::Outboxd { "#27ae60" } else { "#95a5a6" };
                let (top, middle, height) = (y - BAR * 0.65, y - BAR * 0.25, BAR * 0.8);
                let at = |value: f64| LABEL + value.max(0.0) * scale;
                let _ = write!(
                    bars,
                    r#"<rect x="{LABEL}" y="{top:.1}" width="{:.1}" height="{height:.1}" fill="{colour}"/><line x1="{:.1}" x2="{:.1}" y1="{middle:.1}" y2="{middle:.1}" stroke="black"/><text x="{:.1}" y="{y:.1}">{}</text>"#,
                    at(spread.median) - LABEL,
                    at(spread.least),
                    at(spread.most),
                    at(spread.most) + 6.0,
                    short(spread.median)
                );
            }
        }
        y += BAR * 2.0;
    }
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y:.0}" font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>{bars}</svg>
"#
    )
}
