//! The daemon and its command line.

use clap::Parser;
use outboxd::cli::Cli;
use outboxd::error::ErrorKind;

/// Exit code for a command line that makes no sense, as in sysexits.h.
const USAGE: i32 = 64;
/// Exit code for a configuration with mistakes, as in sysexits.h.
const CONFIG: i32 = 78;

/// One thread does it all: a second one costs more in waking each other than it brings, on cores
/// that the service, MongoDB and NATS want too.
#[tokio::main(flavor = "current_thread")]
async fn main() {
    // Not by returning: the drivers' tasks, when they are torn down one by one, panic over each
    // other.
    std::process::exit(run().await)
}

async fn run() -> i32 {
    let env = std::env::vars_os()
        .filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(asked) => {
            // Help and version come this way too.
            let _ = asked.print();
            return if asked.use_stderr() { USAGE } else { 0 };
        }
    };
    match cli.run(env.collect()).await {
        Ok(()) => 0,
        // What was printed says it all.
        Err(error) if error.kind() == ErrorKind::Findings => 1,
        Err(error) => {
            eprintln!("outboxd: {error}");
            match error.kind() {
                ErrorKind::Usage => USAGE,
                ErrorKind::Config => CONFIG,
                _ => 1,
            }
        }
    }
}
