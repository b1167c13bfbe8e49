//! The payments service as a program.

use std::process::ExitCode;

fn main() -> ExitCode {
    ticketing::payments::main()
}
