//! What an operator asks for: which events, and what is to be done to them.

use bson::{DateTime, Document};
use clap::Args as ClapArgs;

use crate::mongodb::act::FieldEdits;
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
    /// Most events per second
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rate: Option<u32>,
    /// Reason, for the audit record
    #[arg(long)]
    pub(super) reason: Option<String>,
}

/// The verb.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    RetryNow,
    Discard,
    Edit(Box<Edit>),
}

/// New content of one dead event.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Edit {
    pub(super) dead_at: DateTime,
    pub(super) edits: FieldEdits,
    /// What is replaced, for the audit.
    pub(super) before: Document,
}

impl Action {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::RetryNow => "retry-now",
            Self::Discard => "discard",
            Self::Edit(_) => "edit",
        }
    }

    pub(super) fn done(&self) -> &'static str {
        match self {
            Self::RetryNow => "due now",
            Self::Discard => "discarded",
            Self::Edit(_) => "edited and due now",
        }
    }
}
