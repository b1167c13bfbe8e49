//! `[log]`: which lines outboxd logs, and in which form.

use tracing_subscriber::filter::Targets;

use crate::config::reader::Reader;

/// `[log]`
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// Text for people or JSON for collectors.
    pub format: LogFormat,
    /// A filter such as `info` or `warn,outboxd=debug`.
    pub level: String,
}

/// `log.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// One readable line per event.
    Text,
    /// One JSON object per line.
    Json,
}

impl LogConfig {
    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Self {
        let formats =
            [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
        let format = reader
            .setting(
                "format",
                "\"text\" for people, \"json\" for collectors. \"auto\": text on a terminal, else \
                 JSON.",
            )
            .one_of(&formats);

        let level = reader
            .setting(
                "level",
                "Which lines outboxd logs: a level, or levels by module. The default shows what \
                 outboxd does, and only the warnings of the libraries that it uses.",
            )
            .or("warn,outboxd=info".to_owned());

        if level.parse::<Targets>().is_err() {
            reader.mistake("level", "is not a filter such as \"info\" or \"warn,outboxd=debug\"");
        }

        Self { format, level }
    }
}
