//! The command line: one file per verb.

mod act;
mod audit;
mod check;
mod config;
mod explain;
mod groups;
mod list;
mod migrate;
mod output;
mod run;
mod selection;
mod show;
mod stats;

use std::io::{ErrorKind as IoErrorKind, Write as _};
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::Sources;
use crate::error::{Error, ErrorKind, Result};

/// Relays events from a MongoDB outbox to NATS JetStream.
#[derive(Debug, Parser)]
#[command(name = "outboxd", version, max_term_width = 100)]
#[command(
    after_help = "Settings come from flags, then the environment, then the file, then defaults. The shortest start:\n  \
    MONGODB_URI=mongodb://host/shop?replicaSet=rs0 NATS_URL=nats://host:4222 NATS_CLUSTER_ID=SHOP outboxd migrate\n  \
    … the same three … outboxd run"
)]
pub struct Cli {
    /// A TOML file with settings; config/outboxd.toml lists them all
    #[arg(long, short, global = true, env = "OUTBOXD_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, such as dispatch.max_in_flight=64; may be repeated; not for secrets
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Relay events until stopped
    Run,
    /// Make the outbox's collections and index, and the stream, where they are missing
    Migrate(migrate::Args),
    /// Show the outbox in numbers: what is stuck, how old, who relays
    Stats(stats::Args),
    /// Show failures that are alike, with what to do about them
    Groups(groups::Args),
    /// List the stuck events, oldest first
    List(list::Args),
    /// Show one event, why it is where it is, and what to do
    Show(show::Args),
    /// Publish stuck events again now, dead ones too
    RetryNow(act::Args),
    /// Remove stuck events for good, unpublished
    Discard(act::Args),
    /// Show who retried and discarded what
    Audit(audit::Args),
    /// Look at everything that can be wrong on either side; exit with 1 when something is
    Check(check::Args),
    /// Say what a failure's code means and what to do
    Explain(explain::Args),
    /// Show the configuration
    #[command(subcommand)]
    Config(config::Verb),
}

impl Cli {
    /// Does what was asked. `env` is the process's environment.
    ///
    /// # Errors
    /// One sentence that says what to do; the process exits non-zero.
    pub async fn run(self, env: Vec<(String, String)>) -> Result<()> {
        let sources = Sources { file: self.config, env, set: self.set };
        match self.verb {
            Verb::Run => run::run(&sources).await,
            Verb::Migrate(args) => migrate::run(&sources, &args).await,
            Verb::Stats(args) => stats::run(&sources, &args).await,
            Verb::Groups(args) => groups::run(&sources, &args).await,
            Verb::List(args) => list::run(&sources, &args).await,
            Verb::Show(args) => show::run(&sources, &args).await,
            Verb::RetryNow(args) => act::run(&sources, &args, act::Action::RetryNow).await,
            Verb::Discard(args) => act::run(&sources, &args, act::Action::Discard).await,
            Verb::Audit(args) => audit::run(&sources, &args).await,
            Verb::Check(args) => check::run(&sources, &args).await,
            Verb::Explain(args) => explain::run(&args),
            Verb::Config(verb) => config::run(&sources, &verb),
        }
    }
}

/// Writes to standard output. A reader that has seen enough (`| head`) is no error.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != IoErrorKind::BrokenPipe => {
            Err(Error::with_source(ErrorKind::Os, "standard output can't be written", error))
        }
        _ => Ok(()),
    }
}
