//! Log lines on standard error: text for people, JSON for collectors. Messages are lowercase, and
//! details are fields. No line has a payload or a secret.

use std::io::IsTerminal;

use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::visible::Visible;
use crate::config::{LogConfig, LogFormat};

/// Installs the process's logger. A second call does nothing.
pub(crate) fn init(log: &LogConfig) {
    // The configuration's reader has checked the level.
    let level = log.level.parse::<Targets>().unwrap_or_default();
    let terminal = std::io::stderr().is_terminal();

    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(terminal)
        .map_writer(Visible);
    let lines = match log.format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Auto if terminal => lines.with_target(false).boxed(),
        LogFormat::Auto | LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };

    let _ = tracing_subscriber::registry().with(lines.with_filter(level)).try_init();
}
