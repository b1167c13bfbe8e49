//! The events that an operator's command acts on: read once, shown, and then acted on by their ids.
//! So nothing that comes later is among them.

use std::collections::HashMap;
use std::time::Duration;

use bson::{Bson, Document, doc};
use mongodb::error::Result;
use outboxd_client::field;

use super::bounded::{READ_ALL_TIME, next, parts};
use super::collation::simple;
use super::inspect::{Entry, Inspect, state_of_scheduled};
use super::selected::is_withheld;
use super::selection::{Selection, ids};
use crate::document::record::{MAX_SHOWN_ID, digest, digest_of_long, shown_id};
use crate::document::state::{self, State};

/// Events shown before a bulk action.
const SAMPLE: usize = 5;
/// Most texts of one kind that are counted each for itself.
const MAX_TALLIED: usize = 1000;
/// Most ids in one query.
const IDS: usize = 500;
/// In a projection: when the event was last tried.
const LAST_TRIED: &str = "outboxdLastTried";

/// The chosen events, oldest first, and what they are.
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    /// Those in the outbox.
    pub(crate) ids: Vec<Bson>,
    /// When each of them was last tried, in milliseconds since 1970.
    pub(crate) last_tried: Vec<Option<i64>>,
    /// Those among the scheduled events.
    pub(crate) scheduled: Vec<Bson>,
    /// When each of those was last tried.
    pub(crate) scheduled_last_tried: Vec<Option<i64>>,
    events: u64,
    /// Whether they were only counted: their ids are not here.
    pub(crate) are_counted: bool,
    /// Whether the selection has more events than were wanted.
    pub(crate) are_more: bool,
    /// The first of them.
    pub(crate) sample: Vec<Entry>,
    pub(crate) states: Tally,
    pub(crate) codes: Tally,
    pub(crate) subjects: Tally,
    pub(crate) keys: Tally,
    /// Those that got no answer at their last try, longer ago than the stream remembers.
    pub(crate) may_come_twice: u64,
}

/// How many events have each text.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counts: HashMap<String, u64>,
    /// Events with a text beyond [`MAX_TALLIED`].
    pub(crate) beyond: u64,
}

/// An id as it was given, and the event that has it.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) given: String,
    /// Its id, its state, and whether it is among the scheduled events.
    pub(crate) event: Option<Found>,
}

type Found = (Bson, State, bool);

/// An event after an action.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) entry: Entry,
    pub(crate) last_tried: Option<i64>,
}

impl Inspect {
    /// Chooses the events of a selection, the oldest `most` of them. `window` is how long the stream
    /// remembers message ids.
    pub(crate) async fn chosen(
        &self,
        selection: &Selection,
        window: Duration,
        most: u64,
    ) -> Result<Chosen> {
        self.choose(selection, window, most, Chosen::default()).await
    }

    /// The same without their ids.
    pub(crate) async fn counted(
        &self,
        selection: &Selection,
        window: Duration,
        most: u64,
    ) -> Result<Chosen> {
        let counted = Chosen { are_counted: true, ..Chosen::default() };
        self.choose(selection, window, most, counted).await
    }

    async fn choose(
        &self,
        selection: &Selection,
        window: Duration,
        most: u64,
        mut chosen: Chosen,
    ) -> Result<Chosen> {
        let now = self.now().await?;
        let window = i64::try_from(window.as_millis()).unwrap_or(i64::MAX);
        let remembered = now.timestamp_millis().saturating_sub(window);

        let fields =
            |is_scheduled| vec![doc! { "$project": self.entry_and_last_tried(is_scheduled) }];
        let mut then = vec![doc! { "$sort": { field::TS: 1, field::ID: 1 } }];
        if selection.group.is_none()
            && let Ok(one_more) = i64::try_from(most.saturating_add(1))
        {
            then.push(doc! { "$limit": one_more });
        }
        let mut found = self.find(selection, now, fields, &then, READ_ALL_TIME).await?;

        while let Some(mut event) = next(&mut found).await? {
            let entry = Entry::read(&event, &self.layout, now);
            if selection.group.as_ref().is_some_and(|group| entry.group.as_ref() != Some(group)) {
                continue;
            }

            if chosen.events() >= most {
                chosen.are_more = true;
                break;
            }

            let last_tried = last_tried(&event);
            let Some(id) = event.remove(field::ID) else { continue };
            let is_remembered = last_tried.is_some_and(|at| at > remembered);
            if entry.class.as_deref() == Some("unknown") && !is_remembered {
                chosen.may_come_twice += 1;
            }
            chosen.add(id, last_tried, entry);
        }

        Ok(chosen)
    }

    /// The event of each id that was given. Where a text may mean several ids, it means the one that
    /// is shown so. An event in the outbox comes before a scheduled one with the same id.
    pub(crate) async fn named(&self, given: &[String]) -> Result<Vec<Named>> {
        let mut named = self.named_in(given, false).await?;
        let missing = named.iter().filter(|named| named.event.is_none());
        let missing: Vec<String> = missing.map(|named| named.given.clone()).collect();

        if missing.is_empty() {
            return Ok(named);
        }

        let mut scheduled = match self.named_in(&missing, true).await {
            Err(error) if is_withheld(&error) => return Ok(named),
            scheduled => scheduled?.into_iter(),
        };

        for named in named.iter_mut().filter(|named| named.event.is_none()) {
            named.event = scheduled.next().and_then(|scheduled| scheduled.event);
        }

        Ok(named)
    }

    /// The same in one collection alone: the outbox, or the scheduled events.
    pub(crate) async fn named_in(
        &self,
        given: &[String],
        is_scheduled: bool,
    ) -> Result<Vec<Named>> {
        let wanted: Vec<Bson> = given.iter().flat_map(|id| ids(id)).collect();
        let mut found: HashMap<String, Found> = HashMap::new();

        for part in parts(&wanted, IDS) {
            self.read_states(doc! { field::ID: { "$in": part } }, is_scheduled, |id, state| {
                found.insert(shown_id(&id), (id, state, is_scheduled));
            })
            .await?;
        }

        let long: Vec<&str> = given.iter().filter_map(|id| digest_of_long(id)).collect();
        let mut by_digest: HashMap<String, Found> = HashMap::new();

        if !long.is_empty() {
            self.read_states(self.long_ids(is_scheduled), is_scheduled, |id, state| {
                let digest = digest(&id);
                if long.contains(&digest.as_str()) {
                    by_digest.insert(digest, (id, state, is_scheduled));
                }
            })
            .await?;
        }

        let event = |given: &String| {
            let of_digest = digest_of_long(given).and_then(|digest| by_digest.get(digest));
            let other = || ids(given).iter().find_map(|id| found.get(&shown_id(id)));
            of_digest.or_else(|| found.get(given)).or_else(other).cloned()
        };

        Ok(given.iter().map(|given| Named { given: given.clone(), event: event(given) }).collect())
    }

    /// In a query: the unlocked or dead events with an id that is not shown whole.
    fn long_ids(&self, is_scheduled: bool) -> Document {
        let states = if is_scheduled { &[State::Dead] } else { State::UNLOCKED };
        let mut unlocked = state::filter(states, &self.layout);
        let size = doc! { "$bsonSize": { field::ID: format!("${}", field::ID) } };
        // Extended JSON is longer than BSON, by up to this factor.
        let least = i64::try_from(MAX_SHOWN_ID / 12).unwrap_or(0);
        unlocked.insert("$expr", doc! { "$gt": [size, least] });

        if is_scheduled { unlocked } else { state::by_index(unlocked, &self.layout) }
    }

    async fn read_states(
        &self,
        filter: Document,
        is_scheduled: bool,
        mut each: impl FnMut(Bson, State),
    ) -> Result<()> {
        let pipeline = [
            doc! { "$match": filter },
            doc! { "$project": {
                field::ID: 1, field::DEAD_AT: 1, "state": state::word_of_document(),
            } },
        ];
        let events = if is_scheduled { &self.scheduled } else { &self.events };
        let found = events.aggregate(pipeline).max_time(READ_ALL_TIME);
        let mut found = found.collation(simple()).await?;

        while let Some(mut event) = next(&mut found).await? {
            let word = event.get_str("state").unwrap_or_default();
            let state = match is_scheduled {
                true => Some(state_of_scheduled(&event)),
                false => State::ALL.into_iter().find(|state| state.word() == word),
            };
            if let (Some(id), Some(state)) = (event.remove(field::ID), state) {
                each(id, state);
            }
        }

        Ok(())
    }

    /// What has become of these events of the outbox: those that are in it.
    pub(crate) async fn seen(&self, ids: &[Bson]) -> Result<Vec<Seen>> {
        self.seen_in(ids, false).await
    }

    /// What has become of these scheduled events: those that are still there, and those that were
    /// moved into the outbox and are in it. They are read in this order, in which an event moves: so
    /// one that is in neither was delivered or removed.
    pub(crate) async fn seen_of_scheduled(&self, ids: &[Bson]) -> Result<Vec<Seen>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }

        let mut seen = self.seen_in(ids, true).await?;
        seen.extend(self.seen_in(ids, false).await?);

        Ok(seen)
    }

    async fn seen_in(&self, ids: &[Bson], is_scheduled: bool) -> Result<Vec<Seen>> {
        let now = self.now().await?;
        let events = if is_scheduled { &self.scheduled } else { &self.events };
        let mut seen = Vec::new();

        for part in parts(ids, IDS) {
            let pipeline = [
                doc! { "$match": { field::ID: { "$in": part } } },
                doc! { "$project": self.entry_and_last_tried(is_scheduled) },
            ];
            let found = events.aggregate(pipeline).max_time(READ_ALL_TIME);
            let mut found = found.collation(simple()).await?;
            while let Some(event) = next(&mut found).await? {
                let entry = Entry::read(&event, &self.layout, now);
                seen.push(Seen { entry, last_tried: last_tried(&event) });
            }
        }

        Ok(seen)
    }

    fn entry_and_last_tried(&self, is_scheduled: bool) -> Document {
        let mut fields = self.entry_of_document(is_scheduled);
        let last = doc! { "$max": format!("${}.at", field::FAILURES) };
        let is_date = doc! { "$eq": [{ "$type": &last }, "date"] };
        fields.insert(LAST_TRIED, doc! { "$cond": [is_date, last, Bson::Null] });
        fields
    }
}

impl Chosen {
    /// How many there are.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    /// Whether there are scheduled events alone.
    pub(crate) fn are_scheduled(&self) -> bool {
        self.events > 0 && self.states.counts.keys().all(|state| state == State::Scheduled.word())
    }

    fn add(&mut self, id: Bson, last_tried: Option<i64>, entry: Entry) {
        let (ids, tried) = match entry.scheduled {
            true => (&mut self.scheduled, &mut self.scheduled_last_tried),
            false => (&mut self.ids, &mut self.last_tried),
        };
        if !self.are_counted {
            ids.push(id);
            tried.push(last_tried);
        }

        self.events += 1;

        self.states.add(entry.state.word());

        self.codes.add(entry.code.as_deref().unwrap_or("-"));

        self.subjects.add(entry.subject.as_deref().unwrap_or("-"));

        self.keys.add(entry.key.as_deref().unwrap_or("-"));

        if self.sample.len() < SAMPLE {
            self.sample.push(entry);
        }
    }
}

impl Tally {
    fn add(&mut self, text: &str) {
        let is_full = self.counts.len() >= MAX_TALLIED;

        match self.counts.get_mut(text) {
            Some(count) => *count += 1,
            None if is_full => self.beyond += 1,
            None => drop(self.counts.insert(text.to_owned(), 1)),
        }
    }

    /// Texts with their events, the most events first.
    pub(crate) fn most(&self) -> Vec<(&str, u64)> {
        let mut most: Vec<_> =
            self.counts.iter().map(|(text, count)| (text.as_str(), *count)).collect();
        most.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        most
    }
}

fn last_tried(event: &Document) -> Option<i64> {
    event.get_datetime(LAST_TRIED).ok().map(|at| at.timestamp_millis())
}
