//! Which server a client tries when it reconnects.
//!
//! A NATS server advertises the other servers of its cluster, and often by addresses that only
//! work inside of it. Each of those costs the whole time of an attempt. So every second attempt goes to
//! a server from the settings: however many addresses are advertised, the gap between two of these
//! attempts is one attempt and one wait.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::{ReconnectToServer, Server, ServerAddr};

use crate::relay::clock;

/// Takes turns between servers from the settings and advertised ones.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns {
    /// Whether an advertised server is next.
    advertised: Arc<AtomicBool>,
}

impl Turns {
    /// The server to try next. Nothing before the first connection: the client then tries all of
    /// its servers.
    pub(super) fn next(&self, servers: &[Server]) -> Option<ReconnectToServer> {
        servers.iter().find(|server| server.did_connect)?;

        let advertised = self.advertised.fetch_not(Ordering::Relaxed);
        let of_group = choose(servers, advertised).or_else(|| choose(servers, !advertised))?;
        Some(ReconnectToServer { addr: of_group.clone(), delay: None })
    }

    /// The client is connected: the settings' servers go first again.
    pub(super) fn begin(&self) {
        self.advertised.store(false, Ordering::Relaxed);
    }
}

/// The server that failed least often; among several, one at random.
fn choose(servers: &[Server], advertised: bool) -> Option<&ServerAddr> {
    let of_group = servers.iter().filter(|server| server.is_discovered == advertised);
    let ranked = of_group.map(|server| {
        let chance = (clock::chance(0.0..1.0) * f64::from(u32::MAX)) as u32;
        (Reverse((server.failed_attempts, chance)), server)
    });
    ranked.max_by_key(|(rank, _)| *rank).map(|(_, server)| &server.addr)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str, is_discovered: bool, did_connect: bool) -> Server {
        let addr = url.parse().expect("an address");
        Server { addr, failed_attempts: 0, did_connect, is_discovered, last_error: None }
    }

    #[test]
    fn every_second_attempt_goes_to_a_server_from_the_settings() {
        let mut servers =
            vec![server("nats://a:1", false, true), server("nats://b:1", false, false)];
        servers
            .extend((0..5).map(|i| server(&format!("nats://advertised:{}", i + 1), true, false)));

        let turns = Turns::default();
        let mut tried = Vec::new();
        for attempt in 0..20 {
            let next = turns.next(&servers).expect("a server").addr;
            let chosen =
                servers.iter_mut().find(|server| server.addr == next).expect("one of the servers");
            assert_eq!(chosen.is_discovered, attempt % 2 == 1);
            chosen.failed_attempts += 1;
            tried.push(format!("{}:{}", next.host(), next.port()));
        }

        tried.sort();
        tried.dedup();
        assert_eq!(tried.len(), servers.len(), "each gets its turn: {tried:?}");

        turns.next(&servers).expect("a server");
        turns.begin();
        assert!(turns.next(&servers).expect("a server").addr.host() != "advertised");
    }

    #[test]
    fn without_advertised_servers_and_before_the_first_connection_nothing_is_special() {
        let turns = Turns::default();
        let servers = [server("nats://a:1", false, true)];
        assert!((0..3).all(|_| turns.next(&servers).expect("a server").addr.host() == "a"));
        assert!(turns.next(&[server("nats://a:1", false, false)]).is_none());
    }
}
