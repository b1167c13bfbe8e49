//! The tickets service as a program.

use std::process::ExitCode;

fn main() -> ExitCode {
    ticketing::tickets::main()
}
