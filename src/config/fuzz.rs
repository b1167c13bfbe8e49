//! Arbitrary bytes in the place of a file of settings, of flags and of the environment.

use std::path::Path;

use super::fleet::{Fleet, refuse};
use super::sources::{Sources, Values};

/// Where a setting that names a file would wait for somebody, or never end.
const ENDLESS: [&str; 2] = ["/dev", "/proc"];

/// A configuration: lines `name=value` of flags and `env NAME=value` of the environment up to the
/// first empty line, then the file.
pub(crate) fn configuration(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if ENDLESS.iter().any(|folder| text.contains(folder)) {
        return;
    }

    let (direct, file) = text.split_once("\n\n").unwrap_or(("", &text));
    let mut sources = Sources::default();
    for line in direct.lines() {
        match line.strip_prefix("env ").and_then(|variable| variable.split_once('=')) {
            Some((name, value)) => sources.env.push((name.to_owned(), value.to_owned())),
            None => sources.set.push(line.to_owned()),
        }
    }

    let mut mistakes = Vec::new();
    let mut values = Values::without_file(&sources, &mut mistakes);
    values.add_file(Path::new("outboxd.toml"), file, &mut mistakes);
    // Most inputs are no TOML. The settings are then those of an empty file, another input.
    let is_read = direct.is_empty() && !mistakes.is_empty();
    if !is_read {
        let (config, reading) = Fleet::read_values(&values, mistakes);
        assert!(!config.to_string().contains("\n\n\n"), "an empty section is shown");
        mistakes = [reading.missing, reading.mistakes].concat();
    }

    if let Err(error) = refuse(&mistakes, "the configuration") {
        assert!(!error.to_string().is_empty(), "refused without a reason");
    }
}
