//! What a transaction left of the events that it inserted.
//!
//! A transaction may touch an event after its insert: update it, replace it, delete it, insert it
//! again. The change stream shows each step, and only the last one was ever committed. A sweep
//! shows what was committed. So that the tail does the same, it reads such an event from the
//! outbox.
//!
//! All changes of a transaction have one cluster time and follow each other in the stream. A page
//! that may be cut can end within a transaction, and the next page may touch the events of this
//! one. Those are read from the outbox too, which shows the whole transaction. A touch whose insert
//! was in an earlier page therefore changes nothing, and neither does a second insert.
//!
//! A touch by a later transaction changes nothing either: what the stream showed was committed.

use std::collections::{HashMap, HashSet};

use bson::{RawArray, RawDocument, RawDocumentBuf, Timestamp};
use foldhash::fast::RandomState;

use super::change::Change;
use super::found::as_document;
use crate::relay::listing::id_of;
use crate::relay::ports::{
    EventPage as _, EventStore, Room, StoreError, StoreErrorKind, StoreResult,
};

/// What one read of touched events may bring.
const READ: Room = Room { events: 200, bytes: 4 << 20 };

/// The changes of a page, and whether there is anything but inserts with their documents.
#[derive(Debug, Default)]
pub(super) struct Survey<'a> {
    pub(super) changes: Vec<Change<'a>>,
    pub(super) bytes: usize,
    pub(super) is_plain: bool,
    /// Whether its last change is of a transaction, which the next page may continue.
    pub(super) ends_in_transaction: bool,
}

impl<'a> Survey<'a> {
    pub(super) fn of(page: &'a RawArray) -> StoreResult<Self> {
        let mut survey = Self { is_plain: true, ..Self::default() };
        for change in page {
            let change = Change::new(change)?;
            survey.bytes += change.bytes();
            survey.is_plain &= change.operation()? == "insert" && change.document().is_some();
            survey.changes.push(change);
        }

        let last = survey.changes.last();
        survey.ends_in_transaction = last.is_some_and(Change::is_in_transaction);
        Ok(survey)
    }
}

/// What to do about a change.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step<'a> {
    /// Hand over what was inserted.
    Inserted(Change<'a>, &'a RawDocument),
    /// Hand over what was committed of what was inserted.
    Committed(Change<'a>),
    /// Nothing: the event was withdrawn.
    Withdrawn,
    /// Nothing: a later step has the event.
    Nothing,
    /// Look for due events and discards.
    Requested,
    /// Stop, because the collection is gone.
    Ended(&'a str),
}

/// A transaction that the page before began and may not have ended.
#[derive(Debug, Default)]
pub(super) struct Continued {
    at: Option<Timestamp>,
    /// What it deleted that it had inserted in an earlier page, or not at all. Inserted again, it
    /// is what was handed over with the earlier page.
    deleted: HashSet<Box<[u8]>, RandomState>,
}

impl Continued {
    /// Whether an insert of the next page may be of an event that was handed over before.
    pub(super) fn may_repeat(&self) -> bool {
        !self.deleted.is_empty()
    }

    /// The steps of the next page, in the order of its changes. `is_cut` if the page may end within
    /// the transaction of its last change.
    pub(super) fn steps<'a>(
        &mut self,
        changes: &[Change<'a>],
        is_cut: bool,
    ) -> StoreResult<Vec<Step<'a>>> {
        let mut plan = Plan::default();
        let mut last = None;

        for &change in changes {
            let operation = change.operation()?;
            if !matches!(operation, "insert" | "update" | "replace" | "delete") {
                plan.steps.push(Step::Ended(operation));
                continue;
            }

            let (at, event) = (change.at()?, change.event()?);
            last = Some(at);
            match operation {
                "insert" if self.has_handed_over(at, event) => {}
                "insert" => plan.insert((at, event), change),
                "delete" if plan.delete((at, event)) => {}
                "delete" if self.at == Some(at) => _ = self.deleted.insert(event.into()),
                "delete" => {}
                _ => plan.touch((at, event), operation, change),
            }
        }

        let within = last.filter(|_| is_cut);
        if let Some(within) = within {
            plan.touch_all(within);
        }

        self.end_page(within);
        Ok(plan.steps)
    }

    fn has_handed_over(&self, at: Timestamp, event: &[u8]) -> bool {
        self.at == Some(at) && self.deleted.contains(event)
    }

    /// The page is over, and ended within this transaction, if in any.
    fn end_page(&mut self, within: Option<Timestamp>) {
        if within.is_none() || within != self.at {
            *self = Self { at: within, ..Self::default() };
        }
    }
}

/// The steps of a page, while its changes are read.
#[derive(Default)]
struct Plan<'a> {
    steps: Vec<Step<'a>>,
    /// The step of each event that was inserted, by the transaction and the event.
    inserted: HashMap<(Timestamp, &'a [u8]), usize, RandomState>,
}

impl<'a> Plan<'a> {
    fn insert(&mut self, event: (Timestamp, &'a [u8]), change: Change<'a>) {
        self.inserted.insert(event, self.steps.len());
        self.steps.push(match change.document() {
            Some(document) => Step::Inserted(change, document),
            None => Step::Committed(change),
        });
    }

    /// Returns whether the same transaction had inserted it.
    fn delete(&mut self, event: (Timestamp, &'a [u8])) -> bool {
        let inserted = self.inserted.remove(&event);
        if let Some(index) = inserted {
            self.steps[index] = Step::Withdrawn;
        }
        inserted.is_some()
    }

    fn touch(&mut self, event: (Timestamp, &'a [u8]), operation: &str, change: Change<'a>) {
        let next = self.steps.len();
        if let Some(index) = self.inserted.get_mut(&event) {
            let step = &mut self.steps[*index];
            if operation == "replace" && step.is_before(change) {
                // A sweep brings it where it is now.
                *step = Step::Nothing;
                *index = next;
                self.steps.push(Step::Committed(change));
            } else {
                step.touch();
            }
        }

        if operation == "update" && change.is_request() {
            self.steps.push(Step::Requested);
        }
    }

    /// The transaction may touch any of its events in the next page.
    fn touch_all(&mut self, within: Timestamp) {
        let events = self.inserted.iter().filter(|((at, _), _)| *at == within);
        events.for_each(|(_, index)| self.steps[*index].touch());
    }
}

impl Step<'_> {
    fn touch(&mut self) {
        if let Self::Inserted(change, _) = *self {
            *self = Self::Committed(change);
        }
    }

    fn is_before(&self, change: Change<'_>) -> bool {
        match self {
            Self::Inserted(insert, _) | Self::Committed(insert) => change.is_newer_than(insert),
            Self::Withdrawn | Self::Nothing | Self::Requested | Self::Ended(_) => false,
        }
    }
}

/// Reads the events of [`Step::Committed`] in the order of the steps, many at a time.
pub(super) struct Committed<'a> {
    steps: &'a [Step<'a>],
    /// What was read and is not handed over yet.
    read: HashMap<Box<[u8]>, RawDocumentBuf, RandomState>,
    /// The steps before this one are read.
    until: usize,
    /// The steps before this one are read one by one: together they were too large.
    singly: usize,
}

impl<'a> Committed<'a> {
    pub(super) fn new(steps: &'a [Step<'a>]) -> Self {
        Self { steps, read: HashMap::default(), until: 0, singly: 0 }
    }

    /// The event of the step with this index, as it was committed. `None` if it is gone.
    pub(super) async fn event(
        &mut self,
        store: &impl EventStore,
        index: usize,
        change: &Change<'_>,
    ) -> StoreResult<Option<RawDocumentBuf>> {
        let Some(id) = change.id() else {
            // It can't be published, and is reported whatever else is in it.
            let document = change.document().map(ToOwned::to_owned);
            let too_large = || StoreError::new(StoreErrorKind::TooLarge, "an event is too large");
            return document.map(Some).ok_or_else(too_large);
        };

        while index >= self.until {
            self.read_from(store, index).await?;
        }

        Ok(self.read.remove(id))
    }

    /// Reads the event of the step with this index and, unless they are too large together, those
    /// of the next.
    async fn read_from(&mut self, store: &impl EventStore, index: usize) -> StoreResult<()> {
        let most = if index < self.singly { 1 } else { READ.events };
        let mut ids = Vec::new();
        let mut at = Timestamp { time: 0, increment: 0 };
        let mut until = index;

        for step in &self.steps[index..] {
            until += 1;
            if let Step::Committed(change) = step {
                ids.extend(change.id());
                at = at.max(change.at()?);
            }
            if ids.len() == most {
                break;
            }
        }

        let fetched = store.fetch(&ids, at, &[]).await?;
        let page = fetched.page.documents()?;
        let is_too_large = fetched.is_cut || page.as_bytes().len() > READ.bytes;
        if is_too_large && most > 1 {
            self.singly = until;
            return Ok(());
        }

        self.read.clear();
        for document in page {
            let document = as_document(document)?;
            let id = id_of(document).map(Box::from);
            self.read.extend(id.map(|id| (id, document.to_owned())));
        }

        self.until = until;
        Ok(())
    }
}
