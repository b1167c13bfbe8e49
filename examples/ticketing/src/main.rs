//! The services as a program: `ticketing auth` is one of them.

use std::process::ExitCode;

use clap::Parser;

/// A service of the ticketing system; its settings are environment variables
#[derive(Debug, Parser)]
#[command(name = "ticketing")]
enum Service {
    /// Sign-up and sessions
    Auth,
    /// Tickets, which one active order reserves
    Tickets,
    /// Orders
    Orders,
    /// The end of an order that nobody paid in time
    Expiration,
    /// Charges
    Payments,
}

fn main() -> ExitCode {
    match Service::parse() {
        Service::Auth => ticketing::auth::main(),
        Service::Tickets => ticketing::tickets::main(),
        Service::Orders => ticketing::orders::main(),
        Service::Expiration => ticketing::expiration::main(),
        Service::Payments => ticketing::payments::main(),
    }
}
