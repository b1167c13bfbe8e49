//! Ports for servers that have to know theirs before they start.
//!
//! None of those that the system gives to outgoing connections: one of the hundreds that the tests
//! open at once would take it before the server does.

use std::net::TcpListener;
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};

const LOWEST: u16 = 10_000;

/// So many ports of 127.0.0.1 that nobody has right now, and that no other test of this process
/// gets.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let usable = usable();
    // Another process of tests begins somewhere else.
    let begin = std::process::id().wrapping_mul(997);
    let mut tries = 0..usable.len() as u32;
    let ports = std::iter::from_fn(|| {
        tries.find_map(|_| {
            let next = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed).into());
            let port = usable.start + (next % usable.len() as u32) as u16;
            TcpListener::bind(("127.0.0.1", port)).is_ok().then_some(port)
        })
    });
    let ports: Vec<_> = ports.take(count).collect();
    assert_eq!(ports.len(), count, "no port of {usable:?} is free");
    ports
}

/// Below what the system gives to outgoing connections.
fn usable() -> Range<u16> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let lowest = range.ok().and_then(|range| range.split_whitespace().next()?.parse().ok());
    LOWEST..lowest.filter(|lowest| *lowest > LOWEST + 1000).unwrap_or(32_768)
}
