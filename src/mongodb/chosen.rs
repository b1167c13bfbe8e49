//! The events that an operator's command acts on: read once, shown, and then acted on by their ids.
//! So nothing that comes later is among them.

use std::collections::HashMap;
use std::time::Duration;

use bson::{Bson, Document, doc};
use mongodb::error::Result;
use outboxd_client::field;

use super::bounded::{READ_ALL_TIME, next, parts, small};
use super::collation::simple;
use super::inspect::{Entry, IS_SCHEDULED, Inspect, TOO_LARGE, group_of, plain, text};
use super::selection::Selection;
use crate::document::layout::Layout;
use crate::document::record::shown_id;
use crate::document::state::{self, State};

/// Events shown before a bulk action.
const SAMPLE: usize = 5;
/// Most texts of one kind that are counted each for itself.
const MAX_TALLIED: usize = 1000;
/// Most ids in one query.
pub(super) const IDS: usize = 500;
/// In a projection: when the event was last tried.
const LAST_TRIED: &str = "outboxdLastTried";
/// In a projection: the event's state, and what its newest failure has.
const STATE: &str = "outboxdState";
const CODE: &str = "outboxdCode";
const CLASS: &str = "outboxdClass";
const ERROR: &str = "outboxdError";

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

/// What is counted of an event.
struct Kind {
    is_scheduled: bool,
    state: String,
    code: Option<String>,
    subject: Option<String>,
    key: Option<String>,
    /// Only if it matters.
    group: Option<String>,
}

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

        let is_of_group = selection.group.is_some();
        let fields = |is_scheduled| {
            vec![doc! { "$project": self.kind_of_document(is_scheduled, is_of_group) }]
        };
        let mut then = vec![doc! { "$sort": { field::TS: 1, field::ID: 1 } }];
        if !is_of_group && let Ok(one_more) = i64::try_from(most.saturating_add(1)) {
            then.push(doc! { "$limit": one_more });
        }
        let mut found = self.find(selection, now, fields, &then, READ_ALL_TIME).await?;

        let mut first = Vec::new();
        while let Some(mut event) = next(&mut found).await? {
            let kind = Kind::read(&event, &self.layout, is_of_group);
            if is_of_group && kind.group != selection.group {
                continue;
            }

            if chosen.events() >= most {
                chosen.are_more = true;
                break;
            }

            let last_tried = last_tried(&event);
            let is_remembered = last_tried.is_some_and(|at| at > remembered);
            if event.get_str(CLASS).is_ok_and(|class| class == "unknown") && !is_remembered {
                chosen.may_come_twice += 1;
            }

            let Some(id) = event.remove(field::ID) else { continue };
            if first.len() < SAMPLE {
                first.push((id.clone(), kind.is_scheduled));
            }
            chosen.add(id, last_tried, &kind);
        }

        chosen.sample = self.sample(&first).await?;
        Ok(chosen)
    }

    /// These events as they are shown, in this order; those that are still there.
    async fn sample(&self, first: &[(Bson, bool)]) -> Result<Vec<Entry>> {
        let mut sample = Vec::new();
        for is_scheduled in [false, true] {
            let ids = first.iter().filter(|(_, scheduled)| *scheduled == is_scheduled);
            let ids: Vec<_> = ids.map(|(id, _)| id.clone()).collect();
            if !ids.is_empty() {
                let seen = self.seen_in(&ids, is_scheduled).await?;
                sample.extend(seen.into_iter().map(|seen| seen.entry));
            }
        }

        let shown: Vec<_> =
            first.iter().map(|(id, scheduled)| (shown_id(id), *scheduled)).collect();
        sample.sort_by_key(|entry| {
            shown
                .iter()
                .position(|(id, scheduled)| *id == entry.id && *scheduled == entry.scheduled)
        });
        Ok(sample)
    }

    /// A projection of what is counted of an event, which is less than a list shows: there may be
    /// 100,000 of them. The error is for the group alone.
    fn kind_of_document(&self, is_scheduled: bool, with_error: bool) -> Document {
        let mut names = Document::new();
        self.layout.project(&mut names);
        let guarded =
            |name: String| (name.clone(), Bson::from(small(format!("${name}"), "$$REMOVE")));
        let mut kind: Document = names
            .into_iter()
            .map(|(name, _)| name)
            .chain([field::TS.to_owned()])
            .map(guarded)
            .collect();

        let newest = doc! { "$last": state::failures() };
        let of_newest = |name: &str| {
            small(doc! { "$getField": { "field": name, "input": &newest } }, TOO_LARGE)
        };
        kind.insert(CODE, of_newest("code"));
        kind.insert(CLASS, of_newest("class"));
        if with_error {
            kind.insert(ERROR, of_newest("error"));
        }

        let has_died = doc! { "$eq": [{ "$type": format!("${}", field::DEAD_AT) }, "date"] };
        let state = match is_scheduled {
            true => doc! { "$cond": [has_died, State::Dead.word(), State::Scheduled.word()] },
            false => state::word_of_document(),
        };
        kind.insert(STATE, state);
        kind.insert(LAST_TRIED, last_tried_of_document());
        kind.insert(field::ID, 1);
        kind.insert(IS_SCHEDULED, doc! { "$literal": is_scheduled });
        kind
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
        fields.insert(LAST_TRIED, last_tried_of_document());
        fields
    }
}

impl Kind {
    fn read(event: &Document, layout: &Layout, with_group: bool) -> Self {
        let get = |name: &str| event.get(name).cloned();
        let (code, key) = (text(event, CODE), layout.shown_key(get).as_deref().map(plain));
        let group = with_group
            .then(|| group_of(code.as_deref(), text(event, ERROR).as_deref(), key.as_deref()));

        Self {
            is_scheduled: event.get_bool(IS_SCHEDULED).unwrap_or(false),
            subject: layout.shown_subject(get).as_deref().map(plain),
            state: text(event, STATE).unwrap_or_default(),
            code,
            key,
            group,
        }
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

    fn add(&mut self, id: Bson, last_tried: Option<i64>, kind: &Kind) {
        let (ids, tried) = match kind.is_scheduled {
            true => (&mut self.scheduled, &mut self.scheduled_last_tried),
            false => (&mut self.ids, &mut self.last_tried),
        };
        if !self.are_counted {
            ids.push(id);
            tried.push(last_tried);
        }

        self.events += 1;
        self.states.add(&kind.state);
        self.codes.add(kind.code.as_deref().unwrap_or("-"));
        self.subjects.add(kind.subject.as_deref().unwrap_or("-"));
        self.keys.add(kind.key.as_deref().unwrap_or("-"));
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

/// In an aggregation: when the event was last tried, or null.
pub(super) fn last_tried_of_document() -> Document {
    let last = doc! { "$max": format!("${}.at", field::FAILURES) };
    let is_date = doc! { "$eq": [{ "$type": &last }, "date"] };
    doc! { "$cond": [is_date, last, Bson::Null] }
}

fn last_tried(event: &Document) -> Option<i64> {
    event.get_datetime(LAST_TRIED).ok().map(|at| at.timestamp_millis())
}
