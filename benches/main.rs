//! How fast outboxd is beside what one could run instead: side by side, interleaved, in one run.
//!
//! `make bench` measures everything (about an hour and a half); `make bench ARGS="drain --events
//! 100000"` one part. Every peer is a process of its own on the same mongod and nats-server, so
//! that its memory and processor time are its own; the servers share the machine with it, so
//! figures of different machines, or of different runs, don't compare. Ratios within one run do.
//!
//! A round lets each peer do the same work once, in turn; the figures are medians over the rounds,
//! with the spread beside them. What is measured, on what and how is in `docs/benchmarks.md`.

mod bare;
mod drain;
mod idle;
mod latency;
mod load;
mod outage;
mod peer;
mod picture;
mod ratios;
mod report;
mod stage;
mod writers;

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
    /// From commit to consumer, at a steady pace.
    Latency {
        /// Transactions a second.
        #[arg(long, default_value_t = 500)]
        rate: u32,
        /// How long, in seconds.
        #[arg(long, default_value_t = 10)]
        seconds: u32,
    },
    /// NATS is away for a while.
    Outage {
        /// How long, in seconds.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Transactions a second.
        #[arg(long, default_value_t = 500)]
        rate: u32,
    },
    /// Nothing to do.
    Idle {
        /// How long, in seconds.
        #[arg(long, default_value_t = 30)]
        seconds: u32,
    },
    /// What a service's own transactions lose by a relay beside them.
    Writers {
        /// How long, in seconds.
        #[arg(long, default_value_t = 10)]
        seconds: u32,
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
    assert!(rounds > 0, "--rounds is 0; nothing would be measured");
    let mut report = Report::new(rounds);
    match mode {
        Some(Mode::Bare { which }) => return bare::run(which).await,
        Some(Mode::Drain { events, keys, bytes }) => {
            drain::drain(&mut report, events, keys, bytes).await
        }
        Some(Mode::Follow { events }) => drain::follow(&mut report, events).await,
        Some(Mode::Latency { rate, seconds }) => latency::latency(&mut report, rate, seconds).await,
        Some(Mode::Outage { seconds, rate }) => outage::outage(&mut report, seconds, rate).await,
        Some(Mode::Idle { seconds }) => idle::idle(&mut report, seconds).await,
        Some(Mode::Writers { seconds }) => writers::writers(&mut report, seconds).await,
        None => everything(&mut report).await,
    }
    report.print();
    ratios::print(&report);
    report.write();
}

async fn everything(report: &mut Report) {
    for (events, keys, bytes) in [
        (10_000, 1000, 380),
        (100_000, 1000, 380),
        (1_000_000, 1000, 380),
        (100_000, 10, 380),
        (10_000, 1, 380),
        (100_000, 100_000, 380),
        (20_000, 1000, 8192),
    ] {
        drain::drain(report, events, keys, bytes).await;
    }
    drain::follow(report, 100_000).await;
    for rate in [50, 500, 1500] {
        latency::latency(report, rate, 10).await;
    }
    outage::outage(report, 60, 500).await;
    idle::idle(report, 30).await;
    writers::writers(report, 10).await;
}
