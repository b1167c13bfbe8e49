//! The events that an operator selects, in the outbox and among the scheduled events beside it. A
//! dead event is shown and acted on alike in both.

use std::time::Duration;

use bson::{DateTime, Document, doc};
use futures_util::TryStreamExt;
use mongodb::error::{Error, ErrorKind, Result};
use mongodb::{Collection, Cursor};
use outboxd_client::field;

use super::bounded::{QUERY_TIME, READ_ALL_TIME, next};
use super::code;
use super::collation::simple;
use super::inspect::{Entry, Inspect};
use super::selection::Selection;
use crate::document::state::State;

impl Inspect {
    /// The selected events, oldest first, and how many there are in all. Scheduled events that wait
    /// for their time come in its order.
    pub(crate) async fn list(
        &self,
        selection: &Selection,
        skip: u64,
        limit: i64,
    ) -> Result<(Vec<Entry>, u64)> {
        if selection.group.is_some() {
            return self.list_group(selection, skip, limit).await;
        }

        let now = self.now().await?;
        let skip = i64::try_from(skip).unwrap_or(i64::MAX);
        let page = [doc! { "$skip": skip }, doc! { "$limit": limit }];
        let found = match (selection.state, selection.of_scheduled(&self.layout, now)) {
            (Some(State::Scheduled), Some(filter)) => {
                // From the index, in its order: there may be millions.
                let sort = doc! { "$sort": { field::DELIVER_AT: 1, field::ID: 1 } };
                let fields = doc! { "$project": self.entry_of_document(true) };
                let pipeline = [doc! { "$match": filter }, sort].into_iter().chain(page);
                let found = self.scheduled.aggregate(pipeline.chain([fields]));
                found.max_time(READ_ALL_TIME).collation(simple()).allow_disk_use(true).await?
            }
            _ => {
                let sort = doc! { "$sort": { field::TS: 1, field::ID: 1 } };
                let then: Vec<_> = [sort.clone()].into_iter().chain(page).collect();
                // Fields are made of what can be on the page only: there may be 100,000 others.
                let first = doc! { "$limit": skip.saturating_add(limit) };
                let fields = |is_scheduled| {
                    let fields = doc! { "$project": self.entry_of_document(is_scheduled) };
                    vec![sort.clone(), first.clone(), fields]
                };

                self.find(selection, now, fields, &then, READ_ALL_TIME).await?
            }
        };

        let entries = found.map_ok(|event| Entry::read(&event, &self.layout, now));

        Ok((entries.try_collect().await?, self.count(selection).await?))
    }

    /// No query can select a group: the events are read one by one, and those of the page are kept.
    async fn list_group(
        &self,
        selection: &Selection,
        skip: u64,
        limit: i64,
    ) -> Result<(Vec<Entry>, u64)> {
        let now = self.now().await?;
        let fields = |is_scheduled| vec![doc! { "$project": self.entry_of_document(is_scheduled) }];
        let sort = [doc! { "$sort": { field::TS: 1, field::ID: 1 } }];
        let mut found = self.find(selection, now, fields, &sort, READ_ALL_TIME).await?;

        let limit = usize::try_from(limit).unwrap_or(0);
        let (mut entries, mut total) = (Vec::new(), 0);
        while let Some(event) = next(&mut found).await? {
            let entry = Entry::read(&event, &self.layout, now);
            if entry.group != selection.group {
                continue;
            }

            if total >= skip && entries.len() < limit {
                entries.push(entry);
            }
            total += 1;
        }

        Ok((entries, total))
    }

    /// How many events a selection without a group has.
    pub(crate) async fn count(&self, selection: &Selection) -> Result<u64> {
        let now = self.now().await?;
        let count = async |events: &Collection<Document>, filter: Option<Document>| match filter {
            Some(filter) => {
                events.count_documents(filter).max_time(READ_ALL_TIME).collation(simple()).await
            }
            None => Ok(0),
        };

        let of_outbox = selection.of_outbox(&self.layout, now);
        let is_of_outbox = of_outbox.is_some();
        let in_outbox = count(&self.events, of_outbox).await?;
        let scheduled = count(&self.scheduled, selection.of_scheduled(&self.layout, now)).await;

        match scheduled {
            Err(error) if is_of_outbox && is_withheld(&error) => Ok(in_outbox),
            scheduled => Ok(in_outbox + scheduled?),
        }
    }

    /// Finds the selected events in both collections. `each` are the stages for one event, in the
    /// outbox or among the scheduled ones, and `then` those for all of them. Where the user may not
    /// read scheduled events, those are left out: an outbox that has none needs no right to them.
    pub(super) async fn find(
        &self,
        selection: &Selection,
        now: DateTime,
        each: impl Fn(bool) -> Vec<Document>,
        then: &[Document],
        time: Duration,
    ) -> Result<Cursor<Document>> {
        let stages = |filter: Document, is_scheduled: bool| {
            let mut stages = vec![doc! { "$match": filter }];
            stages.extend(each(is_scheduled));
            stages
        };
        let read = |events: &Collection<Document>, mut stages: Vec<Document>| {
            stages.extend(then.iter().cloned());
            let events = events.clone();
            async move {
                let found = events.aggregate(stages).max_time(time).allow_disk_use(true);
                found.collation(simple()).await
            }
        };

        let scheduled = selection.of_scheduled(&self.layout, now);
        let scheduled = scheduled.map(|filter| stages(filter, true));
        let outbox = selection.of_outbox(&self.layout, now).map(|filter| stages(filter, false));
        let (outbox, scheduled) = match (outbox, scheduled) {
            (Some(outbox), Some(scheduled)) => (outbox, scheduled),
            (Some(outbox), None) => return read(&self.events, outbox).await,
            (None, scheduled) => return read(&self.scheduled, scheduled.unwrap_or_default()).await,
        };

        let mut both = outbox.clone();
        both.push(doc! { "$unionWith": { "coll": self.scheduled.name(), "pipeline": scheduled } });

        match read(&self.events, both).await {
            Err(error) if is_withheld(&error) => read(&self.events, outbox).await,
            found => found,
        }
    }

    /// The whole document of this id, and whether it is a scheduled event's. `only_scheduled` leaves
    /// the outbox out.
    pub(crate) async fn whole(
        &self,
        id: &str,
        only_scheduled: bool,
    ) -> Result<Option<(Document, bool)>> {
        let given = [id.to_owned()];
        let named = match only_scheduled {
            true => self.named_in(&given, true).await?.pop(),
            false => self.named(&given).await?.pop(),
        };
        let Some((id, _, is_scheduled)) = named.and_then(|named| named.event) else {
            return Ok(None);
        };

        let events = if is_scheduled { &self.scheduled } else { &self.events };
        let event = events.find_one(doc! { field::ID: id }).max_time(QUERY_TIME);

        Ok(event.collation(simple()).await?.map(|event| (event, is_scheduled)))
    }
}

/// Whether the user may not read scheduled events, or the server can't read two collections at once.
pub(super) fn is_withheld(error: &Error) -> bool {
    match &*error.kind {
        ErrorKind::Command(error) => {
            code::WITHHELD.contains(&error.code) || error.code == code::UNRECOGNIZED_STAGE
        }
        _ => false,
    }
}
