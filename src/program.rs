//! The program: parses the command line, runs the verb, and exits with a code.

use std::process::exit;

use clap::Parser as _;

use crate::cli::Cli;
use crate::error::{Error, ErrorKind};
use crate::printable::printable_lines;
use crate::telemetry::logs::{close, last_words};

/// The verb ran, and found nothing wrong.
const OK: i32 = 0;
/// Something is wrong or doesn't exist.
const FAILED: i32 = 1;
/// The command line is wrong (sysexits.h).
const USAGE: i32 = 64;
/// The configuration has mistakes, or names an outbox that loses events (sysexits.h).
const CONFIG: i32 = 78;

/// Runs the program, and ends the process.
///
/// One thread runs everything. A second one costs more in wake-ups than it saves, on cores that the
/// service, MongoDB and NATS need as well.
#[tokio::main(flavor = "current_thread")]
pub async fn main() -> ! {
    let code = run().await;
    close();

    // Returning would tear down the drivers' tasks one by one, and they panic over each other.
    exit(code)
}
async fn run() -> i32 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version are errors of the parser, too. Nothing can be done when printing fails.
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { USAGE } else { OK };
        }
    };

    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    match cli.run(env.collect()).await {
        Ok(()) => OK,
        Err(error) => {
            // The output of a check that failed already has its findings.
            if error.kind() != ErrorKind::Findings {
                let said = error.report().to_string();
                last_words(&format!("outboxd: {}", printable_lines(&said)));
            }
            exit_code(&error)
        }
    }
}

fn exit_code(error: &Error) -> i32 {
    match error.kind() {
        ErrorKind::Usage => USAGE,
        ErrorKind::Config | ErrorKind::Outbox => CONFIG,
        _ => FAILED,
    }
}
