//! Which outboxes of a fleet this daemon relays, so that all daemons relay evenly many.
//!
//! Each daemon announces itself in MongoDB (`mongodb/daemons`) and knows how many there are. Its
//! quota is its part of all outboxes; all quotas together are all outboxes. A daemon takes outboxes whose
//! lease is free until it has its quota, and hands over what it has beyond it: drains, resigns, and rests.
//! The leases alone decide who relays; this only decides who asks for them.
//!
//! What nobody has taken for a while is taken beyond the quota, so that an outbox that another daemon
//! can't relay is not left alone. A daemon announces what it can't relay, and gets none of that.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::mongodb::daemons::Daemon;

/// How long a daemon may try to lead an outbox before it lets others try.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a leader may be without NATS before it lets others try.
const OUTAGE: Duration = Duration::from_secs(30);
/// How long a daemon does not try again what it could not relay.
const PAUSE: Duration = Duration::from_secs(60);
/// How long an outbox may be free before it is taken beyond the quota.
const LEFT_ALONE: Duration = Duration::from_secs(5);

/// What an outbox is to this daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// This daemon leads, and can deliver.
    Led,
    /// This daemon leads, and can't deliver.
    LedInVain,
    /// This daemon tries to lead.
    Tried,
    /// This daemon tried to lead, and another holder was faster.
    Outrun,
    /// Another holder's.
    Anothers,
    /// Nobody's.
    Free,
}

/// What becomes of an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    Take,
    /// Drain, and leave it to others.
    Rest,
}

/// How long each outbox has been what it is.
#[derive(Debug, Default)]
pub(super) struct Shares {
    known: BTreeMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    seen: Seen,
    since: Instant,
    /// Not tried before.
    unable_until: Option<Instant>,
    /// Taken beyond the quota, because nobody else did. It is the last to be handed over: another
    /// daemon may not be able to relay it.
    is_rescued: bool,
}

/// The part of all outboxes of the daemon at this rank.
fn quota(outboxes: usize, daemons: usize, rank: usize) -> usize {
    outboxes / daemons + usize::from(rank < outboxes % daemons)
}

impl Shares {
    /// The outboxes that this daemon can't relay.
    pub(super) fn unable(&self, now: Instant) -> Vec<String> {
        let is_unable = |known: &Known| known.unable_until.is_some_and(|until| now < until);
        self.known
            .iter()
            .filter(|(_, known)| is_unable(known))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// What to do, now that all outboxes were seen like this. `daemons` is `None` while they are not
    /// known: then nothing is handed over.
    pub(super) fn moves(
        &mut self,
        seen: &BTreeMap<String, Seen>,
        daemons: Option<&[Daemon]>,
        now: Instant,
    ) -> Vec<(String, Move)> {
        self.learn(seen, now);

        let rank = daemons.and_then(|all| all.iter().position(|daemon| daemon.is_self));
        let others: Vec<_> =
            daemons.unwrap_or_default().iter().filter(|daemon| !daemon.is_self).collect();
        let quota = match (daemons, rank) {
            (Some(all), Some(rank)) => quota(seen.len(), all.len(), rank),
            // Without a place among the daemons, it takes what the others leave alone.
            (Some(_), None) => 0,
            (None, _) => seen.len(),
        };

        let mut moves = Vec::new();
        let mut mine = 0;
        let rescued_first = |(name, known): (&String, &Known)| (!known.is_rescued, name.clone());
        let mut names: Vec<_> = self.known.iter().map(rescued_first).collect();
        names.sort();

        for (_, name) in &names {
            let Some(known) = self.known.get_mut(name) else { continue };
            let lasts = now.duration_since(known.since);
            let is_in_vain = match known.seen {
                Seen::Tried => lasts > PATIENCE,
                Seen::LedInVain => lasts > OUTAGE,
                Seen::Led | Seen::Outrun | Seen::Anothers | Seen::Free => false,
            };
            if known.seen == Seen::Outrun {
                moves.push((name.clone(), Move::Rest));
                continue;
            }

            let is_mine = matches!(known.seen, Seen::Led | Seen::LedInVain | Seen::Tried);
            let may_another = others.iter().any(|other| !other.unable.contains(name));
            if is_mine && is_in_vain && may_another {
                known.unable_until = Some(now + PAUSE);
                moves.push((name.clone(), Move::Rest));
            } else if is_mine && mine >= quota && may_another {
                moves.push((name.clone(), Move::Rest));
            } else if is_mine {
                mine += 1;
            }
        }

        for (name, known) in &mut self.known {
            let is_able = known.unable_until.is_none_or(|until| now >= until) || others.is_empty();
            let is_left = now.duration_since(known.since) > LEFT_ALONE;
            if known.seen == Seen::Free && is_able && (mine < quota || is_left) {
                known.is_rescued = mine >= quota;
                mine += 1;
                moves.push((name.clone(), Move::Take));
            }
        }
        moves
    }

    fn learn(&mut self, seen: &BTreeMap<String, Seen>, now: Instant) {
        self.known.retain(|name, _| seen.contains_key(name));
        for (name, seen) in seen {
            let new = || Known { seen: *seen, since: now, unable_until: None, is_rescued: false };
            let known = self.known.entry(name.clone()).or_insert_with(new);
            if known.seen != *seen {
                (known.seen, known.since) = (*seen, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What daemons do with outboxes, second by second.
    struct World {
        now: Instant,
        leases: BTreeMap<String, Option<usize>>,
        daemons: BTreeMap<usize, Shares>,
        /// Who can't relay what.
        misfit: Option<(usize, String)>,
        moves: usize,
    }

    impl World {
        fn new(outboxes: usize, daemons: usize) -> Self {
            let name = |at| (format!("shop{at}.outbox"), None);
            Self {
                now: Instant::now(),
                leases: (0..outboxes).map(name).collect(),
                daemons: (0..daemons).map(|id| (id, Shares::default())).collect(),
                misfit: None,
                moves: 0,
            }
        }

        fn second(&mut self) {
            self.now += Duration::from_secs(1);
            let unable: BTreeMap<_, _> =
                self.daemons.iter().map(|(id, shares)| (*id, shares.unable(self.now))).collect();

            for (id, shares) in &mut self.daemons {
                let seen = |lease: &Option<usize>| match lease {
                    Some(holder) if holder == id => Seen::Led,
                    Some(_) => Seen::Anothers,
                    None => Seen::Free,
                };
                let is_misfit = |name: &String| self.misfit == Some((*id, name.clone()));
                let seen: BTreeMap<_, _> = self
                    .leases
                    .iter()
                    .map(|(name, lease)| match seen(lease) {
                        Seen::Led if is_misfit(name) => (name.clone(), Seen::LedInVain),
                        seen => (name.clone(), seen),
                    })
                    .collect();

                let daemon = |(other, unable): (&usize, &Vec<String>)| Daemon {
                    is_self: other == id,
                    unable: unable.clone(),
                };
                let daemons: Vec<_> = unable.iter().map(daemon).collect();
                for (name, step) in shares.moves(&seen, Some(&daemons), self.now) {
                    self.moves += 1;
                    let holder = (step == Move::Take).then_some(*id);
                    self.leases.insert(name, holder);
                }
            }
        }

        /// Plays so many seconds; returns how many outboxes each daemon has.
        fn play(&mut self, seconds: usize) -> Vec<usize> {
            (0..seconds).for_each(|_| self.second());
            let has = |id: &usize| self.leases.values().flatten().filter(|of| *of == id).count();
            self.daemons.keys().map(has).collect()
        }

        fn kill(&mut self, id: usize) {
            self.daemons.remove(&id);
            let its = self.leases.values_mut().filter(|holder| **holder == Some(id));
            its.for_each(|holder| *holder = None);
        }
    }

    fn is_even(counts: &[usize], outboxes: usize) -> bool {
        let (least, most) = (counts.iter().min(), counts.iter().max());
        counts.iter().sum::<usize>() == outboxes && most <= least.map(|least| least + 1).as_ref()
    }

    #[test]
    fn any_number_of_daemons_share_any_number_of_outboxes_evenly_and_then_rest() {
        for outboxes in [0, 1, 2, 5, 7, 100] {
            for daemons in 1..=6 {
                let mut world = World::new(outboxes, daemons);
                let counts = world.play(10);
                assert!(is_even(&counts, outboxes), "{outboxes} among {daemons}: {counts:?}");

                let moves = world.moves;
                world.play(120);
                assert_eq!(world.moves, moves, "nothing moves without a reason");
            }
        }
    }

    #[test]
    fn a_daemon_that_comes_gets_its_share_and_that_of_one_that_dies_is_taken() {
        let mut world = World::new(20, 2);
        world.play(10);
        world.daemons.insert(7, Shares::default());
        let counts = world.play(5);
        assert!(is_even(&counts, 20), "{counts:?}");

        world.kill(0);
        let counts = world.play(5);
        assert!(is_even(&counts, 20), "{counts:?}");
        world.kill(7);
        assert_eq!(world.play(5), [20]);
    }

    #[test]
    fn what_one_daemon_cannot_relay_another_has() {
        let mut world = World::new(4, 2);
        world.misfit = Some((1, "shop3.outbox".to_owned()));
        world.leases.insert("shop3.outbox".to_owned(), Some(1));
        world.play(60);
        for second in 0..40 {
            let counts = world.play(1);
            assert_eq!(world.leases["shop3.outbox"], Some(0), "in second {second}: {counts:?}");
        }
    }

    #[test]
    fn an_outbox_that_another_was_faster_to_take_is_left_and_can_be_taken_later() {
        let (mut shares, now) = (Shares::default(), Instant::now());
        let daemon = |is_self| Daemon { is_self, unable: Vec::new() };
        let daemons = [daemon(true), daemon(false)];
        let of = |seen| BTreeMap::from([("a".to_owned(), seen)]);

        let moves = shares.moves(&of(Seen::Outrun), Some(&daemons), now);
        assert_eq!(moves, [("a".to_owned(), Move::Rest)]);
        assert_eq!(shares.unable(now), Vec::<String>::new());
        let moves = shares.moves(&of(Seen::Free), Some(&daemons), now);
        assert_eq!(moves, [("a".to_owned(), Move::Take)]);
    }

    #[test]
    fn a_daemon_that_cannot_ask_for_the_others_keeps_what_it_has_and_takes_what_is_free() {
        let (mut shares, now) = (Shares::default(), Instant::now());
        let seen = [("a", Seen::Led), ("b", Seen::Free), ("c", Seen::Anothers)];
        let seen = seen.map(|(name, seen)| (name.to_owned(), seen)).into();
        assert_eq!(shares.moves(&seen, None, now), [("b".to_owned(), Move::Take)]);
    }
}
