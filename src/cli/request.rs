//! What an operator asks for: which events, and how.

use clap::Args as ClapArgs;

use crate::operator::filter::Filter;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// Ids of events
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    pub(super) ids: Vec<String>,
    /// Every stuck event that the filters select
    #[arg(long)]
    pub(super) all: bool,
    #[command(flatten)]
    pub(super) filter: Filter,
    /// Do not ask for confirmation
    #[arg(long, short)]
    pub(super) yes: bool,
    /// Only print what would be done
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Limit, in events per second
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rate: Option<u32>,
    /// Reason, for the audit record
    #[arg(long)]
    pub(super) reason: Option<String>,
}
