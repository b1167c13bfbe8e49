//! Wrong tokens, by the address that they came from. After a few, the next token from there counts
//! only a while later, and that while grows. So nobody guesses at the speed of the network, and
//! somebody who mistypes waits for no long time.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Wrong tokens without a delay.
const FREE: u32 = 5;
/// Longest delay. People behind one address or proxy may share it.
const LONGEST: Duration = Duration::from_secs(30);
/// How long a wrong token is remembered.
const LASTS: Duration = Duration::from_secs(600);
/// Most addresses; the one that has been quiet longest makes room.
const MOST: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Guesses(Mutex<HashMap<IpAddr, Guess>>);

#[derive(Debug)]
struct Guess {
    wrong: u32,
    last: Instant,
}

impl Guesses {
    /// How long a token from there doesn't count yet.
    pub(super) fn wait(&self, from: IpAddr) -> Option<Duration> {
        let guesses = self.lock();
        let guess = guesses.get(&network(from))?;
        let wait = delay(guess.wrong).saturating_sub(guess.last.elapsed());
        (!wait.is_zero()).then_some(wait)
    }

    /// A token from there was wrong. Returns how many were, lately.
    pub(super) fn add(&self, from: IpAddr) -> u32 {
        let mut guesses = self.lock();
        guesses.retain(|_, guess| guess.last.elapsed() < LASTS);
        if guesses.len() >= MOST {
            let quiet = guesses.iter().min_by_key(|(_, guess)| guess.last).map(|(from, _)| *from);
            quiet.and_then(|quiet| guesses.remove(&quiet));
        }

        let now = Instant::now();
        let guess = guesses.entry(network(from)).or_insert(Guess { wrong: 0, last: now });
        guess.wrong = guess.wrong.saturating_add(1);
        guess.last = now;
        guess.wrong
    }

    /// A token from there was right.
    pub(super) fn forget(&self, from: IpAddr) {
        self.lock().remove(&network(from));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Guess>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn delay(wrong: u32) -> Duration {
    match wrong.checked_sub(FREE) {
        None => Duration::ZERO,
        Some(beyond) => LONGEST.min(Duration::from_secs(1 << beyond.min(10))),
    }
}

/// An address, or of an IPv6 address the half that a site has.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn wrong_tokens_delay_the_next_one_from_there() {
        let guesses = Guesses::default();
        let [one, site, other] = ["10.0.0.1", "fd00::1", "fd00:0:0:1::1"]
            .map(|address| address.parse::<IpAddr>().expect("an address"));
        let mut waits = Vec::new();
        for _ in 0..12 {
            guesses.add(one);
            waits.push(guesses.wait(one).map_or(0, |wait| wait.as_secs()));
        }
        assert_eq!(waits, [0, 0, 0, 0, 1, 2, 4, 8, 16, 30, 30, 30]);
        assert!(guesses.wait(site).is_none());

        tokio::time::advance(LONGEST).await;
        assert!(guesses.wait(one).is_none());
        for _ in 0..FREE {
            guesses.add(site);
        }
        let near = "fd00::ffff".parse().expect("an address");
        assert!(guesses.wait(near).is_some() && guesses.wait(other).is_none());
        guesses.forget(near);
        assert!(guesses.wait(site).is_none());

        // Many addresses take no memory without end.
        for host in 0..=MOST as u32 {
            guesses.add(IpAddr::V4(host.into()));
        }
        assert_eq!(guesses.lock().len(), MOST);
    }
}
