//! The expiration service as a program.

use std::process::ExitCode;

fn main() -> ExitCode {
    ticketing::expiration::main()
}
