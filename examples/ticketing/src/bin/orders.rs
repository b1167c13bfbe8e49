//! The orders service as a program.

use std::process::ExitCode;

fn main() -> ExitCode {
    ticketing::orders::main()
}
