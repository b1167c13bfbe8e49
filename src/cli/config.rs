//! `outboxd config`.

use clap::Subcommand;

use crate::config::{Config, Sources};
use crate::error::Result;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Print every setting with its value and where it came from, as TOML; secrets are masked
    Print,
}

pub(super) fn run(sources: &Sources, verb: &Verb) -> Result<()> {
    match verb {
        Verb::Print => super::print(&Config::load(sources)?.to_string()),
    }
}
