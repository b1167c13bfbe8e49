//! The daemon and its command line.

use std::process::ExitCode;

use clap::Parser;
use outboxd::cli::Cli;
use outboxd::error::ErrorKind;

/// Exit code for a command line that makes no sense, as in sysexits.h.
const USAGE: u8 = 64;
/// Exit code for a configuration with mistakes, as in sysexits.h.
const CONFIG: u8 = 78;

#[tokio::main]
async fn main() -> ExitCode {
    let env = std::env::vars_os().filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(asked) => {
            // Help and version come this way too.
            let _ = asked.print();
            return ExitCode::from(if asked.use_stderr() { USAGE } else { 0 });
        }
    };
    match cli.run(env.collect()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outboxd: {error}");
            ExitCode::from(match error.kind() {
                ErrorKind::Usage => USAGE,
                ErrorKind::Config => CONFIG,
                _ => 1,
            })
        }
    }
}
