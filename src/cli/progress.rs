//! How far a long command is, on a terminal.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Characters of the bar.
const WIDTH: u64 = 30;
/// How often it is drawn.
const EVERY: Duration = Duration::from_millis(100);

/// A bar on standard error, if that is a terminal. It goes when this is dropped.
#[derive(Debug)]
pub(super) struct Progress {
    total: u64,
    drawn: Option<Instant>,
    is_shown: bool,
}

impl Progress {
    /// Towards so many events.
    pub(super) fn new(total: u64) -> Self {
        Self { total, drawn: None, is_shown: std::io::stderr().is_terminal() }
    }

    /// So many are done.
    pub(super) fn at(&mut self, done: u64) {
        let is_fresh = self.drawn.is_some_and(|drawn| drawn.elapsed() < EVERY);
        if self.is_shown && !is_fresh {
            self.drawn = Some(Instant::now());
            draw(&format!("\r\x1b[K{}", bar(done, self.total)));
        }
    }

    /// Makes room for a line of output.
    pub(super) fn clear(&mut self) {
        if self.drawn.take().is_some() {
            draw("\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn bar(done: u64, total: u64) -> String {
    let (done, total) = (done.min(total), total.max(1));
    let full = (done * WIDTH / total) as usize;
    let (full, empty) = ("#".repeat(full), ".".repeat(WIDTH as usize - full));
    format!("[{full}{empty}] {} %  {done} of {total} events", done * 100 / total)
}

/// A terminal that is gone takes nothing, which harms nothing.
fn draw(text: &str) {
    let mut terminal = std::io::stderr();
    _ = terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_ends_where_the_work_does() {
        let empty = format!("[{}] 0 %  0 of 200 events", ".".repeat(30));
        let half = format!("[{}{}] 50 %  100 of 200 events", "#".repeat(15), ".".repeat(15));
        let full = format!("[{}] 100 %  200 of 200 events", "#".repeat(30));
        assert_eq!([bar(0, 200), bar(100, 200), bar(200, 200)], [empty, half, full.clone()]);
        assert_eq!(bar(300, 200), full, "more may be kept meanwhile");
        assert!(bar(0, 0).starts_with("[...."));
    }
}
