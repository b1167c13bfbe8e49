//! How fast outboxd is beside the loops one could write instead: side by side, interleaved, in one run.
//!
//! `make bench` runs everything; `make bench ARGS="drain --events 100000"` one part. Every peer is a process of its own on the
//! same mongod and nats-server, so that its memory and processor time are its own; the servers share the machine with it, so
//! figures of different machines, or of different runs, don't compare. Ratios within one run do.
//!
//! A round lets each peer do the same work once, in turn; the figures are medians over the rounds, with the spread beside
//! them.

mod bare;
mod drain;
mod peer;
mod report;
mod stage;

use clap::{Parser, Subcommand};

use self::bare::Loop;
use self::report::Report;

/// Measures outboxd beside its peers.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    mode: Option<Mode>,
    /// Rounds per measurement.
    #[arg(long, global = true, default_value_t = 5)]
    rounds: usize,
    /// Cargo says so to every benchmark.
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// A backlog is there when the peer starts.
    Drain {
        /// Events in the backlog.
        #[arg(long, default_value_t = 100_000)]
        events: u32,
        /// Keys they are spread over.
        #[arg(long, default_value_t = 1000)]
        keys: u32,
        /// Bytes of each payload.
        #[arg(long, default_value_t = 380)]
        bytes: usize,
    },
    /// Events come while the peer runs, as fast as they can be inserted.
    Follow {
        /// Events that come.
        #[arg(long, default_value_t = 100_000)]
        events: u32,
    },
    /// One of the bare loops, as a process for the others to start.
    #[command(hide = true)]
    Bare {
        /// Which.
        which: Loop,
    },
}

#[tokio::main]
async fn main() {
    let Args { mode, rounds, .. } = Args::parse();
    let mut report = Report::default();
    match mode {
        Some(Mode::Bare { which }) => return bare::run(which).await,
        Some(Mode::Drain { events, keys, bytes }) => drain::drain(&mut report, rounds, events, keys, bytes).await,
        Some(Mode::Follow { events }) => drain::follow(&mut report, rounds, events).await,
        None => everything(&mut report, rounds).await,
    }
    report.print();
    report.write();
}

async fn everything(report: &mut Report, rounds: usize) {
    for (events, keys, bytes) in [
        (10_000, 1000, 380),
        (100_000, 1000, 380),
        (100_000, 10, 380),
        (10_000, 1, 380),
        (100_000, 100_000, 380),
        (20_000, 1000, 8192),
    ] {
        drain::drain(report, rounds, events, keys, bytes).await;
    }
    drain::follow(report, rounds, 100_000).await;
}
