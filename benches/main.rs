//! Measures outboxd side by side with what one could run instead: interleaved, in one run.
//!
//! `make bench` measures everything, which takes about an hour and a half. `make bench ARGS="drain
//! --events 100000"` measures one part. Every peer is a process of its own on the same mongod and
//! nats-server, so its memory and processor time are its own. The servers share the machine with
//! it. Figures of different machines or different runs can't be compared; ratios of one run can.
//!
//! In each round, every peer does the same work once, in turn. The figures are medians over the
//! rounds, with their spread. `docs/benchmarks.md` has the method and the results.
//!
//! The files, in the order the data passes them; each imports only files listed before it:
//!
//! ```text
//! peer      which relays are measured, and what each guarantees
//! process   a running peer: alive or not, processor time, memory
//! stage     one turn's database and stream, the events in them, and when they were delivered
//! start     prepares a stage for a peer and starts the peer's process
//! bare      the bare loops, which this program runs when it is started as a peer
//! load      the service whose transactions write events
//! report    collects the figures of each peer and round
//! proxy     a network between the peer and NATS
//! drain  fleet  latency  hot  outage  idle  kept  scheduled  writers
//!           the measurements: start peers, load them, add figures to the report
//! ratios    compares the figures with the bounds
//! builds    compares the figures with those of other builds of outboxd
//! picture   draws the figures
//! print     prints the report and writes it to files
//! ```

mod bare;
mod builds;
mod drain;
mod fleet;
mod hot;
mod idle;
mod kept;
mod latency;
mod load;
mod outage;
mod peer;
mod picture;
mod print;
mod process;
mod proxy;
mod ratios;
mod report;
mod scheduled;
mod stage;
mod start;
mod writers;

use clap::{Parser, Subcommand};

use self::bare::Loop;
use self::peer::{Build, Peer};
use self::report::Report;

/// Measures outboxd side by side with its peers.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    mode: Option<Mode>,
    /// Rounds per measurement.
    #[arg(long, global = true, default_value_t = 5)]
    rounds: usize,
    /// Another outboxd binary to measure beside this one, such as that of an earlier version. Can
    /// be repeated. The label names it in the report; without one, its path does.
    #[arg(long, global = true, value_name = "[LABEL=]PATH", value_parser = Build::parse)]
    against: Vec<Build>,
    /// Measure only outboxd and the builds of --against.
    #[arg(long, global = true)]
    builds_only: bool,
    /// Cargo passes this to every benchmark.
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Throughput from a backlog that exists before the peer starts.
    Drain {
        /// Events in the backlog.
        #[arg(long, default_value_t = 100_000)]
        events: u32,
        /// Keys of the events.
        #[arg(long, default_value_t = 1000)]
        keys: u32,
        /// Bytes of each payload.
        #[arg(long, default_value_t = 380)]
        bytes: usize,
    },
    /// Throughput while events are inserted in bulk.
    Follow {
        /// Events to insert.
        #[arg(long, default_value_t = 100_000)]
        events: u32,
    },
    /// Time from commit to consumer, at a steady rate.
    Latency {
        /// Transactions per second.
        #[arg(long, default_value_t = 500)]
        rate: u32,
        /// Duration in seconds.
        #[arg(long, default_value_t = 10)]
        seconds: u32,
    },
    /// The same for other keys, without and with a backlog of one hot key; NATS is 4 ms away.
    Hot {
        /// Events of the hot key.
        #[arg(long, default_value_t = 1_000_000)]
        backlog: u32,
        /// Transactions per second.
        #[arg(long, default_value_t = 200)]
        rate: u32,
        /// Duration in seconds.
        #[arg(long, default_value_t = 10)]
        seconds: u32,
    },
    /// Memory during an outage of NATS, and the drain after it.
    Outage {
        /// Duration of the outage in seconds.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Transactions per second.
        #[arg(long, default_value_t = 500)]
        rate: u32,
    },
    /// Processor time, memory and commands of a relay with an empty outbox.
    Idle {
        /// Duration in seconds.
        #[arg(long, default_value_t = 30)]
        seconds: u32,
    },
    /// Many outboxes: one daemon for all, beside a sidecar for each and a single one.
    Fleet {
        /// Outboxes.
        #[arg(long, default_value_t = 100)]
        outboxes: u32,
        /// Transactions per second, over ten of the outboxes.
        #[arg(long, default_value_t = 150)]
        rate: u32,
        /// Duration in seconds, of idleness and of load each.
        #[arg(long, default_value_t = 30)]
        seconds: u32,
    },
    /// What kept events cost: a drain and the latency with and without them.
    Kept {
        /// Events in the backlog.
        #[arg(long, default_value_t = 100_000)]
        events: u32,
    },
    /// How late scheduled events are, and what a million for next month cost.
    Scheduled {
        /// Events whose due times are apart.
        #[arg(long, default_value_t = 100)]
        events: u32,
        /// Events with one due time.
        #[arg(long, default_value_t = 10_000)]
        crowd: u32,
        /// Events for next month.
        #[arg(long, default_value_t = 1_000_000)]
        later: u32,
    },
    /// Throughput of a service's transactions, with and without a relay.
    Writers {
        /// Duration in seconds.
        #[arg(long, default_value_t = 10)]
        seconds: u32,
    },
    /// Runs one of the bare loops; a measurement starts this process as a peer.
    #[command(hide = true)]
    Bare {
        /// The loop to run.
        which: Loop,
    },
}

#[tokio::main]
async fn main() {
    let Args { mode, rounds, against, builds_only, .. } = Args::parse();
    assert!(rounds > 0, "--rounds is 0, so nothing would be measured; pass 1 or more");

    let builds = against.into_iter().map(|build| Peer::Against(Box::leak(Box::new(build))));
    let mut report = Report::new(rounds, builds.collect(), builds_only);
    match mode {
        Some(Mode::Bare { which }) => return bare::run(which).await,
        Some(Mode::Drain { events, keys, bytes }) => {
            drain::drain(&mut report, events, keys, bytes).await
        }
        Some(Mode::Follow { events }) => drain::follow(&mut report, events).await,
        Some(Mode::Latency { rate, seconds }) => latency::latency(&mut report, rate, seconds).await,
        Some(Mode::Hot { backlog, rate, seconds }) => {
            hot::hot(&mut report, backlog, rate, seconds).await
        }
        Some(Mode::Outage { seconds, rate }) => outage::outage(&mut report, seconds, rate).await,
        Some(Mode::Idle { seconds }) => idle::idle(&mut report, seconds).await,
        Some(Mode::Fleet { outboxes, rate, seconds }) => {
            fleet::fleet(&mut report, outboxes, rate, seconds).await;
            fleet::drain(&mut report, 100_000).await;
        }
        Some(Mode::Kept { events }) => kept::kept(&mut report, events).await,
        Some(Mode::Scheduled { events, crowd, later }) => {
            scheduled::late(&mut report, events, crowd).await;
            scheduled::later(&mut report, later).await;
        }
        Some(Mode::Writers { seconds }) => writers::writers(&mut report, seconds).await,
        None => everything(&mut report).await,
    }

    print::print(&report);
    print::write(&report);
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

    hot::hot(report, 1_000_000, 200, 10).await;
    outage::outage(report, 60, 500).await;
    idle::idle(report, 30).await;
    kept::kept(report, 100_000).await;
    scheduled::late(report, 100, 10_000).await;
    scheduled::later(report, 1_000_000).await;
    writers::writers(report, 10).await;
    fleet::fleet(report, 100, 150, 30).await;
    fleet::drain(report, 100_000).await;
}
