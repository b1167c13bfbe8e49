//! The events of ids that an operator gave.

use std::collections::HashMap;

use bson::{Bson, Document, doc};
use mongodb::error::Result;
use outboxd_client::field;

use super::bounded::{READ_ALL_TIME, next, parts};
use super::chosen::IDS;
use super::collation::simple;
use super::inspect::{Inspect, state_of_scheduled};
use super::selected::is_withheld;
use super::selection::ids;
use crate::document::record::{MAX_SHOWN_ID, digest, digest_of_long, shown_id};
use crate::document::state::{self, State};

/// An id as it was given, and the event that has it.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) given: String,
    /// Its id, its state, and whether it is among the scheduled events.
    pub(crate) event: Option<Found>,
}

type Found = (Bson, State, bool);

impl Inspect {
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
}
