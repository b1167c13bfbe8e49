//! The open connections of a server: of the admin endpoint, and of the console. A new one is always
//! taken: when there are too many, one is cut off. So clients that dawdle keep nobody waiting, however
//! many they are, and a probe that sends its request is answered.
//!
//! The one that is cut off is the oldest of the network that has the most. So a flood from one
//! network costs only that network's connections; and since a probe's request is complete when its
//! connection is taken, a flood from its own network has no time to push it out.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

/// The open connections, by their number; numbers rise.
#[derive(Debug, Clone)]
pub(crate) struct Connections(Arc<Mutex<Open>>);

#[derive(Debug)]
struct Open {
    /// So many at once, at least one.
    most: usize,
    latest: u64,
    connections: BTreeMap<u64, (Network, Option<AbortHandle>)>,
}

/// Where a connection is from: an address, or the half of an IPv6 address that a site has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Network(u64);

/// A place among the connections, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    number: u64,
    connections: Connections,
}

impl Connections {
    /// At most so many at once.
    pub(crate) fn new(most: usize) -> Self {
        let connections = BTreeMap::new();
        Self(Arc::new(Mutex::new(Open { most, latest: 0, connections })))
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection from there. Cuts another off if there is none left.
    pub(crate) fn enter(&self, from: IpAddr) -> Place {
        if self.is_full() {
            self.cut_one();
        }

        let mut open = self.lock();
        open.latest += 1;
        let number = open.latest;
        open.connections.insert(number, (Network::of(from), None));
        Place { number, connections: self.clone() }
    }

    /// Whether the next one cuts another off.
    pub(crate) fn is_full(&self) -> bool {
        let open = self.lock();
        open.connections.len() >= open.most
    }

    /// The connection of this number is served by that task, unless it has ended already.
    pub(crate) fn serve(&self, number: u64, task: AbortHandle) {
        if let Some((_, served)) = self.lock().connections.get_mut(&number) {
            *served = Some(task);
        }
    }

    /// Cuts one connection off. Returns whether there was one.
    pub(crate) fn cut_one(&self) -> bool {
        let cut = self.lock().remove_one();
        // Its task drops its place, so the lock must be free.
        let is_one = cut.is_some();
        cut.flatten().inspect(AbortHandle::abort);
        is_one
    }
}

impl Open {
    /// Removes the oldest connection of the network that has the most.
    fn remove_one(&mut self) -> Option<Option<AbortHandle>> {
        let mut counts = HashMap::<Network, usize>::new();
        for (network, _) in self.connections.values() {
            *counts.entry(*network).or_default() += 1;
        }

        let most = counts.values().copied().max()?;
        let oldest = self.connections.iter().find(|(_, (from, _))| counts[from] == most);
        let number = *oldest?.0;
        self.connections.remove(&number).map(|(_, task)| task)
    }
}

impl Network {
    fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
        })
    }
}

impl Place {
    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.lock().connections.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_the_network_with_the_most_is_cut_off() {
        const MOST: usize = 8;
        let connections = Connections::new(MOST);
        let address = |text: &str| -> IpAddr { text.parse().expect("an address") };
        let probe = connections.enter(address("10.0.0.1"));
        let flood: Vec<_> =
            (1..MOST).map(|_| connections.enter(address("::ffff:10.0.0.2"))).collect();
        let sites: Vec<_> =
            (1..4).map(|host| connections.enter(address(&format!("fd00::{host}")))).collect();

        let open = connections.lock();
        assert_eq!(open.connections.len(), MOST);
        let is_open = |place: &Place| open.connections.contains_key(&place.number);
        assert!(is_open(&probe) && sites.iter().all(is_open));
        assert!(flood[..3].iter().all(|place| !is_open(place)) && flood[3..].iter().all(is_open));
        let networks = sites.iter().map(|site| open.connections[&site.number].0);
        assert_eq!(networks.collect::<std::collections::HashSet<_>>().len(), 1);
        drop(open);

        drop((probe, flood, sites));
        assert!(connections.lock().connections.is_empty() && !connections.cut_one());
    }
}
