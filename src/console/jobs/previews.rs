//! What people were shown and may confirm, and who counts events for that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bson::Document;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::console::access::{Person, random};
use crate::mongodb::chosen::Chosen;
use crate::operator::act::Action;

/// How long what was shown can be confirmed.
const LASTS: Duration = Duration::from_secs(600);
/// Most previews of everybody.
const MOST: usize = 64;
/// Most events in all previews, and in all actions under way: about 30 MB of ids for each of both.
pub(super) const MAX_EVENTS: u64 = 200_000;
/// The name of a comparison.
pub(super) const VERIFY: &str = "verify";

/// What somebody was shown and may confirm.
#[derive(Debug)]
pub(in crate::console) struct Preview {
    pub(in crate::console) outbox: String,
    pub(in crate::console) what: What,
    /// The selection for the audit.
    pub(in crate::console) selection: String,
    /// Whose session it was.
    session: [u8; 32],
    who: String,
    at: Instant,
}

/// What is done to which events.
#[derive(Debug)]
pub(in crate::console) enum What {
    Act(Action, Box<Chosen>),
    /// Publishes so many kept events again, those that this filter selects.
    Replay(Document, u64),
    /// Compares them with the stream.
    Verify(Document, u64),
}

/// Places of those who count events for a preview: one for each person, and one for each role. So
/// viewers hold up no operator, and nobody's open pages hold up somebody else's.
#[derive(Debug)]
pub(super) struct Places {
    people: Mutex<HashMap<String, Arc<Semaphore>>>,
    operators: Arc<Semaphore>,
    viewers: Arc<Semaphore>,
}

/// Held while somebody counts.
#[derive(Debug)]
pub(in crate::console) struct Place {
    _of_person: OwnedSemaphorePermit,
    _of_role: OwnedSemaphorePermit,
}

impl Places {
    pub(super) fn new() -> Self {
        let [operators, viewers] = [(); 2].map(|()| Arc::new(Semaphore::new(1)));
        Self { people: Mutex::default(), operators, viewers }
    }

    /// Waits for a place.
    pub(super) async fn wait(&self, person: &Person) -> Option<Place> {
        let of_person = {
            let mut people = lock(&self.people);
            // Whoever counts or waits holds a copy.
            people.retain(|_, place| Arc::strong_count(place) > 1);
            let of_person = people.entry(person.name.clone());
            of_person.or_insert_with(|| Arc::new(Semaphore::new(1))).clone()
        };

        let of_role = if person.may_act() { &self.operators } else { &self.viewers };
        let of_person = of_person.acquire_owned().await.ok()?;
        let of_role = of_role.clone().acquire_owned().await.ok()?;
        Some(Place { _of_person: of_person, _of_role: of_role })
    }
}

/// The previews that can still be confirmed, by their names in forms.
#[derive(Debug, Default)]
pub(in crate::console) struct Previews(Mutex<HashMap<String, Preview>>);

impl Previews {
    /// Keeps one. Where there are too many, whoever holds most loses their oldest. Returns its name.
    pub(in crate::console) fn keep(&self, preview: Preview) -> String {
        let name = random();

        let mut previews = lock(&self.0);
        previews.insert(name.clone(), preview);
        previews.retain(|_, preview| preview.at.elapsed() < LASTS);
        while are_too_many(&previews) {
            let Some(oldest) = oldest_of_most(&previews) else { break };
            previews.remove(&oldest);
        }

        name
    }

    /// Looks at one that this person was shown.
    pub(in crate::console) fn look<T>(
        &self,
        person: &Person,
        name: &str,
        at: impl FnOnce(&Preview) -> T,
    ) -> Option<T> {
        lock(&self.0).get(name).filter(|preview| preview.is_of(person)).map(at)
    }

    /// Takes one that this person was shown: it can be confirmed once.
    pub(in crate::console) fn take(&self, person: &Person, name: &str) -> Option<Preview> {
        let mut previews = lock(&self.0);
        previews.get(name).filter(|preview| preview.is_of(person))?;
        previews.remove(name)
    }
}

fn are_too_many(previews: &HashMap<String, Preview>) -> bool {
    let events: u64 = previews.values().map(|preview| preview.what.held()).sum();
    previews.len() > MOST || previews.len() > 1 && events > MAX_EVENTS
}

/// The oldest preview of the person whose previews hold most.
fn oldest_of_most(previews: &HashMap<String, Preview>) -> Option<String> {
    let mut held = HashMap::<&str, u64>::new();
    for preview in previews.values() {
        // A preview takes room even without ids, about as much as this.
        *held.entry(&preview.who).or_default() += preview.what.held() + MAX_EVENTS / MOST as u64;
    }

    let (most, _) = held.into_iter().max_by_key(|(_, held)| *held)?;
    let of_most = previews.iter().filter(|(_, preview)| preview.who == most);
    of_most.min_by_key(|(_, preview)| preview.at).map(|(name, _)| name.clone())
}

impl What {
    pub(in crate::console) fn name(&self) -> &'static str {
        match self {
            Self::Act(action, _) => action.name(),
            Self::Replay(..) => "replay",
            Self::Verify(..) => VERIFY,
        }
    }

    pub(in crate::console) fn events(&self) -> u64 {
        match self {
            Self::Act(_, chosen) => chosen.events(),
            Self::Replay(_, events) | Self::Verify(_, events) => *events,
        }
    }

    /// How many ids are in memory.
    pub(super) fn held(&self) -> u64 {
        match self {
            Self::Act(_, chosen) => chosen.events(),
            Self::Replay(..) | Self::Verify(..) => 0,
        }
    }
}

impl Preview {
    pub(in crate::console) fn new(
        person: &Person,
        outbox: &str,
        what: What,
        selection: String,
    ) -> Self {
        let (session, who, at) = (person.session, person.name.clone(), Instant::now());
        Self { outbox: outbox.to_owned(), what, selection, session, who, at }
    }

    fn is_of(&self, person: &Person) -> bool {
        self.session == person.session && self.at.elapsed() < LASTS
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::timeout;

    use super::*;
    use crate::config::Role;

    fn person(name: &str, role: Role) -> Person {
        Person { name: name.to_owned(), role, csrf: String::new(), session: [0; 32] }
    }

    #[test]
    fn whoever_is_shown_most_makes_room() {
        let previews = Previews::default();
        let (alice, bob) = (person("alice", Role::Operator), person("bob", Role::Operator));
        let shown = |who| {
            let what = What::Replay(Document::new(), 1);
            previews.keep(Preview::new(who, "a.b", what, String::new()))
        };

        let (bobs, first) = (shown(&bob), shown(&alice));
        for _ in 0..MOST {
            shown(&alice);
        }

        assert!(previews.take(&alice, &first).is_none() && previews.take(&bob, &bobs).is_some());
        assert!(previews.take(&bob, &bobs).is_none(), "it can be confirmed once");
    }

    #[tokio::test(start_paused = true)]
    async fn neither_viewers_nor_one_person_hold_up_the_others() {
        let places = Arc::new(Places::new());
        let [alice, bob, carol] =
            [("alice", Role::Operator), ("bob", Role::Viewer), ("carol", Role::Operator)]
                .map(|(name, role)| person(name, role));
        let _bobs = places.wait(&bob).await.expect("a place");
        let alices = places.wait(&alice).await.expect("a place");

        // Alice opens more pages, then Carol one: hers is next.
        let (again, others) = (alice.clone(), places.clone());
        let waiting = tokio::spawn(async move {
            let _place = others.wait(&again).await;
            pending::<()>().await;
        });
        tokio::task::yield_now().await;
        let soon = Duration::from_secs(1);
        assert!(timeout(soon, places.wait(&carol)).await.is_err(), "one of a role at a time");
        let carols = {
            let mut carols = std::pin::pin!(places.wait(&carol));
            assert!(timeout(soon, &mut carols).await.is_err());
            drop(alices);
            timeout(soon, carols).await
        };
        assert!(carols.is_ok());
        waiting.abort();
    }
}
