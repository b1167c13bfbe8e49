//! Log lines on standard error: text for people, JSON for collectors. Messages are lowercase, and
//! details are fields. No line has a payload or a secret.
//!
//! Nothing waits for the reader of standard error; see `log_writer`.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing::warn;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::log_writer::{CLOSE_TIME, LogWriter};
use super::visible::Visible;
use crate::config::{LogConfig, LogFormat};
use crate::error::{Error, ErrorKind, Result};

/// The process's writer, once it logs.
static WRITER: OnceLock<LogWriter> = OnceLock::new();

/// Installs the process's logger. A second call does nothing.
///
/// # Errors
/// [`ErrorKind::Os`] when no thread can be started.
pub(crate) fn init(log: &LogConfig) -> Result<()> {
    // The configuration's reader has checked the level.
    let level = log.level.parse::<Targets>().unwrap_or_default();
    let terminal = std::io::stderr().is_terminal();

    let report = |lines| warn!(lines, "log lines were dropped: nobody read standard error");
    let writer = LogWriter::start(std::io::stderr(), report).map_err(|error| {
        Error::with_source(ErrorKind::Os, "the thread that writes the log cannot start", error)
    })?;
    let writer = WRITER.get_or_init(|| writer);

    // The standard hook writes to standard error itself.
    std::panic::set_hook(Box::new(|panic| {
        let trace = Backtrace::capture();
        match trace.status() {
            BacktraceStatus::Captured => last_words(&format!("{panic}\n{trace}")),
            _ => last_words(&panic.to_string()),
        }
    }));

    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer.clone())
        .with_ansi(terminal)
        .map_writer(Visible);
    let lines = match log.format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Auto if terminal => lines.with_target(false).boxed(),
        LogFormat::Auto | LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };

    let _ = tracing_subscriber::registry().with(lines.with_filter(level)).try_init();
    Ok(())
}

/// Prints a line that is no log line to standard error, behind the log lines if the process logs.
pub(crate) fn last_words(line: &str) {
    match WRITER.get() {
        Some(writer) => writer.line(format!("{line}\n").into_bytes()),
        None => eprintln!("{line}"),
    }
}

/// Waits for the last lines to be written, for a moment at most.
pub(crate) fn close() {
    WRITER.get().into_iter().for_each(|writer| {
        writer.flush(CLOSE_TIME);
    });
}

/// How many lines were dropped because nobody read them.
pub(crate) fn dropped() -> u64 {
    WRITER.get().map_or(0, LogWriter::dropped)
}
