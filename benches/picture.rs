//! The figures as a bar chart: throughput by peer, latency by percentile.

use std::fmt::Write as _;
use std::ops::Range;

use super::peer::Peer;
use super::report::{Measured, Part, Spread, short};

/// Width of the picture, and of its parts from left to right, in pixels.
const WIDTH: f64 = 820.0;
const LABEL: f64 = 250.0;
const FIGURE: f64 = 90.0;

/// Distance from one bar to the next, in pixels.
const BAR: f64 = 22.0;

/// How many percentiles of a latency are drawn.
const PERCENTILES: usize = 3;

/// Draws an SVG with a bar for each peer's median and a line for its spread.
pub(crate) fn picture(parts: &[Part]) -> String {
    let mut svg = String::new();
    let mut y = BAR;

    for part in parts {
        y = draw_part(&mut svg, part, y);
        y += BAR * 2.0;
    }

    let head =
        format!(r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y:.0}""#);
    let font = r#"font-family="sans-serif" font-size="12""#;
    let background = r#"<rect width="100%" height="100%" fill="white"/>"#;
    format!("{head} {font}>{background}{svg}</svg>\n")
}

/// Draws one measurement from `y` downwards. Returns where its last bar is.
fn draw_part(svg: &mut String, part: &Part, mut y: f64) -> f64 {
    let columns = drawn_columns(part);
    let percentiles = columns.len() > 1;

    let title = &part.title;
    let unit = if percentiles { "ms" } else { part.columns[0] };
    text(svg, format_args!(r#"x="8" y="{y:.1}" font-weight="bold""#), &format!("{title}: {unit}"));

    let scale = scale(part, columns.clone());
    for measured in &part.peers {
        for column in columns.clone() {
            y += BAR;

            let name = measured.peer.name();
            let label = match percentiles {
                true => format!("{name}, {}", part.columns[column].trim_end_matches(" ms")),
                false => name.to_owned(),
            };
            let right = LABEL - 8.0;
            text(svg, format_args!(r#"x="{right}" y="{y:.1}" text-anchor="end""#), &label);

            match measured.spread(column) {
                Some(spread) => draw_bar(svg, measured, spread, scale, y),
                None => {
                    text(svg, format_args!(r##"x="{LABEL}" y="{y:.1}" fill="#7f8c8d""##), "not run")
                }
            }
        }
    }

    y
}

fn drawn_columns(part: &Part) -> Range<usize> {
    if part.title.starts_with("latency") { 0..PERCENTILES } else { 0..1 }
}

/// Pixels per unit, so that the largest value of a measurement fits.
fn scale(part: &Part, columns: Range<usize>) -> f64 {
    let largest = part
        .peers
        .iter()
        .flat_map(|measured| columns.clone().filter_map(|column| measured.spread(column)))
        .map(|spread| spread.most)
        .fold(f64::MIN_POSITIVE, f64::max);

    (WIDTH - LABEL - FIGURE) / largest
}

fn draw_bar(svg: &mut String, measured: &Measured, spread: Spread, scale: f64, y: f64) {
    let colour = if measured.peer == Peer::Outboxd { "#27ae60" } else { "#95a5a6" };
    let (top, middle, height) = (y - BAR * 0.65, y - BAR * 0.25, BAR * 0.8);

    let at = |value: f64| LABEL + value.max(0.0) * scale;
    let (median, least, most) = (at(spread.median), at(spread.least), at(spread.most));

    let width = median - LABEL;
    let bar = format_args!(r#"x="{LABEL}" y="{top:.1}" width="{width:.1}" height="{height:.1}""#);
    let _ = write!(svg, r#"<rect {bar} fill="{colour}"/>"#);
    let line = format_args!(r#"x1="{least:.1}" x2="{most:.1}" y1="{middle:.1}" y2="{middle:.1}""#);
    let _ = write!(svg, r#"<line {line} stroke="black"/>"#);

    let right = most + 6.0;
    text(svg, format_args!(r#"x="{right:.1}" y="{y:.1}""#), &short(spread.median));
}

fn text(svg: &mut String, attributes: std::fmt::Arguments<'_>, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = write!(svg, "<text {attributes}>{text}</text>");
}
