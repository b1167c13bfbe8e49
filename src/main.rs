//! The daemon and its command line.

use std::process::ExitCode;

use clap::Parser;
use outboxd::cli::Cli;

#[tokio::main]
async fn main() -> ExitCode {
    let env = std::env::vars_os().filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)));
    match Cli::parse().run(env.collect()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outboxd: {error}");
            ExitCode::FAILURE
        }
    }
}
