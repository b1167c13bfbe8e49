//! What the demo says while it works: a line on standard error for each part, and how far the load
//! is: a bar on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Writes a line to standard error. Someone who stops reading (`| head`) doesn't stop the demo.
pub(crate) fn note(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Writes a text to standard output, likewise.
pub(crate) fn say(text: impl std::fmt::Display) {
    let _ = write!(std::io::stdout(), "{text}");
}

/// Counts steps. Cheap to step from many tasks at once.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    done: AtomicU64,
    /// A line is written after each of so many steps.
    each: u64,
    total: Option<u64>,
}

impl Progress {
    /// `total` steps, or as many as there will be.
    pub(crate) fn new(total: Option<u64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| bar(total));
        Self {
            bar,
            done: AtomicU64::new(0),
            each: total.map_or(1000, |total| total.div_ceil(4).max(1)),
            total,
        }
    }

    pub(crate) fn step(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        match (&self.bar, self.total) {
            (Some(bar), _) => bar.inc(1),
            (None, Some(total)) if done.is_multiple_of(self.each) || done == total => {
                note(format_args!("  {done} of {total}"))
            }
            (None, None) if done.is_multiple_of(self.each) => {
                note(format_args!("  {done} requests"))
            }
            _ => {}
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

fn bar(total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), "  {bar:40} {pos} of {len} requests, {elapsed}"),
        None => (ProgressBar::new_spinner(), "  {spinner} {pos} requests, {elapsed}"),
    };
    bar.enable_steady_tick(Duration::from_millis(200));

    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
