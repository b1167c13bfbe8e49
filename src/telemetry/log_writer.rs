//! Writes log lines to standard error from a thread of its own, so that nothing waits for whoever
//! reads them: a full pipe, a stopped terminal or a slow disk would hang the relay, its probes and
//! SIGTERM.
//!
//! Lines that find [`QUEUE_BYTES`] waiting are dropped and counted. `tracing-appender` does nearly
//! this, but bounds lines instead of bytes, and prints to standard error when it ends.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Bytes of lines that wait to be written: some thousand lines. A burst fits, and an outage of the
/// reader costs no more memory than this.
const QUEUE_BYTES: usize = 1 << 20;
/// How long the last lines may take to be written when the process ends.
pub(super) const CLOSE_TIME: Duration = Duration::from_secs(1);

/// Hands lines to the thread that writes them.
#[derive(Debug, Clone)]
pub(super) struct LogWriter {
    queue: Sender<Queued>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: AtomicUsize,
    dropped: AtomicU64,
}

#[derive(Debug)]
enum Queued {
    Line(Vec<u8>),
    /// Everything before it is written.
    End(Sender<()>),
}

impl LogWriter {
    /// Starts the thread. `report` makes the line about so many dropped ones; it is called from the
    /// thread, once lines can be written again.
    pub(super) fn start(
        into: impl Write + Send + 'static,
        report: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, lines) = mpsc::channel();
        let writer = Self { queue, shared: Arc::default() };

        let shared = writer.shared.clone();
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write(into, &lines, &shared, report))?;

        Ok(writer)
    }

    /// Queues a line, unless too much waits.
    pub(super) fn line(&self, line: Vec<u8>) {
        let Shared { waiting, dropped } = &*self.shared;
        let bytes = line.len();

        if waiting.fetch_add(bytes, Ordering::Relaxed) + bytes > QUEUE_BYTES {
            waiting.fetch_sub(bytes, Ordering::Relaxed);
            dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }

        // The thread ends with the process.
        let _ = self.queue.send(Queued::Line(line));
    }

    /// How many lines were dropped so far.
    pub(super) fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Waits for what is queued to be written. Returns false when it takes longer than `within`.
    pub(super) fn flush(&self, within: Duration) -> bool {
        let (written, end) = mpsc::channel();
        let _ = self.queue.send(Queued::End(written));
        end.recv_timeout(within).is_ok()
    }
}

/// Writes lines until no [`LogWriter`] is left. A line that can't be written is dropped, too.
fn write(mut into: impl Write, lines: &Receiver<Queued>, shared: &Shared, report: impl Fn(u64)) {
    let mut reported = 0;
    while let Ok(queued) = lines.recv() {
        let line = match queued {
            Queued::Line(line) => line,
            Queued::End(written) => {
                // Whoever waited may have given up.
                let _ = written.send(());
                continue;
            }
        };

        let is_written = into.write_all(&line).is_ok();
        shared.waiting.fetch_sub(line.len(), Ordering::Relaxed);
        if !is_written {
            shared.dropped.fetch_add(1, Ordering::Relaxed);
            continue;
        }

        // Once there is room again. The report is a line itself.
        let dropped = shared.dropped.load(Ordering::Relaxed);
        if dropped > reported && shared.waiting.load(Ordering::Relaxed) < QUEUE_BYTES / 2 {
            report(dropped - reported);
            reported = dropped;
        }
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { writer: self, bytes: Vec::new() }
    }
}

/// One line on its way.
#[derive(Debug)]
pub(super) struct Line<'a> {
    writer: &'a LogWriter,
    bytes: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.writer.line(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Blocks until it may write.
    #[derive(Clone, Default)]
    struct Pipe {
        gate: Arc<Mutex<()>>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _open = self.gate.lock().expect("no thread has panicked");
            self.written.lock().expect("no thread has panicked").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_pipe_that_nobody_reads_costs_lines_that_are_counted_and_reported() {
        let pipe = Pipe::default();
        let reported = Arc::new(AtomicU64::new(0));
        let reports = reported.clone();
        let report = move |dropped| {
            reports.fetch_add(dropped, Ordering::Relaxed);
        };
        let writer = LogWriter::start(pipe.clone(), report).expect("a thread");

        let closed = pipe.gate.lock().expect("no thread has panicked");
        let line = vec![b'x'; 1 << 10];
        (0..2000).for_each(|_| writer.line(line.clone()));
        assert!(!writer.flush(Duration::from_millis(10)), "nobody reads");
        let dropped = writer.dropped();
        assert_eq!(dropped, 2000 - (QUEUE_BYTES as u64 >> 10), "a bound of bytes");

        drop(closed);
        assert!(writer.flush(Duration::from_secs(60)));
        assert_eq!(pipe.written.lock().expect("no thread has panicked").len(), QUEUE_BYTES);
        assert_eq!(reported.load(Ordering::Relaxed), dropped);

        writer.line(b"the last\n".to_vec());
        assert!(writer.flush(Duration::from_secs(60)));
        assert!(pipe.written.lock().expect("no thread has panicked").ends_with(b"the last\n"));
    }
}
