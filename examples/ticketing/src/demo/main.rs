//! Drives the five services and their outboxd as separate processes, the way they run in production,
//! and checks what is left: 200 times a ticket is created at 5, set to 10 and set to 15, all at
//! once; orders are paid, cancelled and left to expire in between. No copy may stay at 10, no event
//! and no money may be lost, doubled or out of order.
//!
//! `run` is the story from nothing to a report, and `kills` the same while everything is killed in
//! turn; `up`, `load`, `kill`, `start` and `down` are its parts, for trying things by hand: what
//! happens to the load when a daemon is killed?

mod amount;
mod api;
mod cast;
mod check;
mod commits;
mod events;
mod interrupt;
mod load;
mod members;
mod process;
mod progress;
mod records;
mod report;
mod run;
mod servers;
mod stage;
mod tour;
mod up;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::interrupt::interrupted;

/// The ticketing services and their outboxd, under load, and what is left of it
#[derive(Debug, Parser)]
#[command(name = "demo")]
struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Clone, Subcommand)]
enum Verb {
    /// Start everything on the servers of OUTBOXD_TEST_MONGODB_URI and OUTBOXD_TEST_NATS_URL, load
    /// it, check it, end it
    Run,
    /// Start everything, servers too, kill (-9) each process, MongoDB's primary and nats-server in turn
    /// under load, check, and end it
    Kills,
    /// Start everything, servers too, and leave it running
    Up,
    /// End what `up` started
    Down,
    /// Put load on what `up` started, then check that nothing was lost, doubled or put out of order
    Load {
        /// How long
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
        seconds: u64,
    },
    /// Kill (-9) a process that `up` started
    Kill {
        /// Which
        #[arg(value_parser = cast::NAMES)]
        name: String,
    },
    /// Start a process again
    Start {
        /// Which
        #[arg(value_parser = cast::NAMES)]
        name: String,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Args::parse().verb.unwrap_or(Verb::Run) {
        Verb::Run => run::run(interrupted()).await,
        Verb::Kills => run::kills(interrupted()).await,
        Verb::Up => up::up(interrupted()).await,
        Verb::Down => up::down().await,
        Verb::Load { seconds } => up::load(Duration::from_secs(seconds), interrupted()).await,
        Verb::Kill { name } => up::kill(&name).await,
        Verb::Start { name } => up::start(&name).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            progress::note(format!("demo: {failure}"));
            ExitCode::FAILURE
        }
    }
}
