//! `outboxd config`: the settings in force, their schema, and a check of a file.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Subcommand;

use super::output::print;
use crate::config::{Checked, Config, Fleet, Sources};
use crate::error::{Error, ErrorKind, Result};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Print every setting with its value and where it came from, as TOML; secrets are masked
    Print,
    /// Print the JSON Schema of the file, for editors
    Schema,
    /// Check a file by itself, without the environment and without any server
    Check {
        /// The file
        file: PathBuf,
    },
}

/// Loads the settings for a verb that people run, and warns them on standard error.
///
/// # Errors
/// As [`Config::load`].
pub(super) fn load(sources: &Sources) -> Result<Config> {
    let config = Config::load(sources)?;
    warn(config.warnings());
    Ok(config)
}

/// The same of all outboxes, or of the one that is meant.
///
/// # Errors
/// As [`Fleet::load`] and [`Fleet::meant`].
pub(super) fn load_all(sources: &Sources) -> Result<Fleet> {
    let fleet = Fleet::load(sources)?.meant(sources.outbox.as_deref())?;
    warn(fleet.warnings());
    Ok(fleet)
}

pub(super) fn warn(warnings: &[String]) {
    warnings.iter().for_each(|warning| eprintln!("outboxd: warning: {warning}"));
}

pub(super) fn run(sources: &Sources, verb: &Verb) -> Result<()> {
    match verb {
        Verb::Print => {
            let fleet = Fleet::load(sources)?;
            warn(fleet.warnings());
            match &sources.outbox {
                None => print(&fleet.to_string()),
                one => print(&fleet.only(one.as_deref())?.to_string()),
            }
        }
        Verb::Schema => {
            let schema = serde_json::to_string_pretty(&Fleet::schema()).map_err(|error| {
                Error::with_source(ErrorKind::Internal, "could not be written as JSON", error)
            })?;
            print(&(schema + "\n"))
        }
        Verb::Check { file } => {
            let Checked { missing, warnings } = Fleet::check(file)?;
            let mut out = format!("{}: no mistake\n", file.display());
            warnings.iter().for_each(|line| _ = writeln!(out, "warning: {line}"));
            if !missing.is_empty() {
                out += "required, and not in the file; set them where outboxd runs, such as in the \
                        environment:\n";
                missing.iter().for_each(|line| _ = writeln!(out, "  {line}"));
            }

            print(&out)
        }
    }
}
