//! What lies under an outbox: whether its collection keeps what writers insert.
//!
//! MongoDB may delete events by itself, refuse inserts and marks, or take two ids for one. `run`
//! and `migrate` refuse a collection that loses events; `check` reports every fault.
//!
//! - `found`: reads the collection
//! - `rows`: the table of what harms events, with the lines that fix it

mod found;
mod rows;

use std::sync::Arc;

use mongodb::Database;

use self::found::Found;
use self::rows::{COLLECTION, EXPIRY, OTHER_INDEXES, ROWS, Verdict};
use crate::document::layout::Layout;
use crate::error::{Error, ErrorKind, MongodbContext, Result};
use crate::finding::{Finding, Level};
use crate::mongodb::code;

/// Every check, with what is found when no row of the table applies.
const CHECKS: [(&str, &str); 3] = [
    (EXPIRY, "MongoDB deletes no event by itself"),
    (COLLECTION, "an ordinary collection"),
    (OTHER_INDEXES, "no other index refuses an event"),
];

/// What lies under one outbox.
#[derive(Debug, Clone)]
pub(crate) struct Foundation {
    database: Database,
    collection: String,
    layout: Arc<Layout>,
}

/// The faults of a collection, each with the lines that fix it.
#[derive(Debug)]
pub(crate) struct Soundness {
    /// Events are lost, or none can be read.
    pub(crate) losses: Vec<String>,
    pub(crate) risks: Vec<String>,
}

impl Foundation {
    /// Of the outbox in `collection` of `database`.
    pub(crate) fn new(database: Database, collection: &str, layout: Arc<Layout>) -> Self {
        Self { database, collection: collection.to_owned(), layout }
    }

    /// Judges the collection by the table: a finding for each fault, and one for each check
    /// without.
    ///
    /// # Errors
    /// The driver's, and the server's refusal when the user may not list the collections.
    pub(crate) async fn review(&self) -> mongodb::error::Result<Vec<Finding>> {
        let found = Found::read(&self.database, &self.collection, &self.layout).await?;
        let mut findings = judge(&found);

        // Of the scheduled events' collection only what is wrong is worth a line.
        let scheduled = found.of_scheduled().map(|scheduled| judge(&scheduled));
        let faults = scheduled.into_iter().flatten();
        findings.extend(faults.filter(|finding| finding.level != Level::Ok));
        Ok(findings)
    }

    /// The faults; `None` when the user may not ask.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn soundness(&self) -> mongodb::error::Result<Option<Soundness>> {
        let findings = match self.review().await {
            Ok(findings) => findings,
            Err(error) if is_denied(&error) => return Ok(None),
            Err(error) => return Err(error),
        };

        let of = |level: Level| {
            let of_it = findings.iter().filter(|finding| finding.level == level);
            let line = |Finding { found, remedy, .. }: &Finding| {
                format!("{found}: {}", remedy.as_deref().unwrap_or_default())
            };
            of_it.map(line).collect()
        };

        Ok(Some(Soundness { losses: of(Level::Fail), risks: of(Level::Warn) }))
    }

    /// Refuses a collection that loses events. Returns what else is wrong with it.
    ///
    /// # Errors
    /// [`ErrorKind::Outbox`] with the lines that fix it; [`ErrorKind::Mongodb`].
    pub(crate) async fn require_sound(&self) -> Result<Vec<String>> {
        let soundness = self.soundness().await.during("looking at the outbox's collection")?;
        let Some(Soundness { losses, risks }) = soundness else {
            let note = "this user may not list collections and indexes, so it is unknown whether \
                        MongoDB deletes events by itself: $ outboxd privileges   # prints the \
                        roles";
            return Ok(vec![note.to_owned()]);
        };

        if losses.is_empty() {
            return Ok(risks);
        }

        let outbox = format!("{}.{}", self.database.name(), self.collection);
        let message = format!("the outbox {outbox} would lose events\n{}", losses.join("\n"));
        Err(Error::new(ErrorKind::Outbox, message))
    }
}

fn judge(found: &Found) -> Vec<Finding> {
    let at = format!("outbox {}.{}", found.database, found.name);
    let mut findings = Vec::new();
    for (check, all_is_well) in CHECKS {
        let before = findings.len();
        for row in ROWS.iter().filter(|row| row.check == check) {
            let make = match row.verdict {
                Verdict::Refuse => Finding::fail,
                Verdict::Warn => Finding::warn,
            };
            let faults = (row.faults)(found).into_iter();
            findings.extend(faults.map(|fault| make(check, &at, fault.found, fault.remedy)));
        }

        if findings.len() == before {
            findings.push(Finding::ok(check, &at, all_is_well));
        }
    }

    findings
}

fn is_denied(error: &mongodb::error::Error) -> bool {
    matches!(
        &*error.kind,
        mongodb::error::ErrorKind::Command(refused) if code::WITHHELD.contains(&refused.code)
    )
}
