//! The auth service as a program.

use std::process::ExitCode;

fn main() -> ExitCode {
    ticketing::auth::main()
}
