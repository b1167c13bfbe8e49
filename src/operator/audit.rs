//! The audit: who did what to which events.

use bson::Bson;
use serde::Serialize;

use crate::error::{MongodbContext, Result};
use crate::mongodb::act::{Act, AuditFilter, AuditRecord};
use crate::mongodb::inspect::text;

/// What somebody did to events.
#[derive(Debug, Serialize)]
pub(crate) struct Record {
    pub(crate) at: String,
    pub(crate) who: String,
    pub(crate) action: String,
    /// `None` when the command was interrupted or lost its database: some, or none.
    pub(crate) events: Option<u64>,
    /// How many events it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) requested: Option<i64>,
    pub(crate) selection: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    pub(crate) ids: Vec<String>,
    /// What an edit replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<serde_json::Value>,
}

impl Record {
    /// The newest records of an outbox that are wanted, behind the first `skip`.
    ///
    /// # Errors
    /// MongoDB's.
    pub(crate) async fn newest(
        act: &Act,
        wanted: &AuditFilter,
        skip: u64,
        limit: i64,
    ) -> Result<Vec<Self>> {
        let records = act.audit(wanted, skip, limit).await.during("reading outboxd_audit")?;
        Ok(records.iter().map(Self::read).collect())
    }

    fn read(AuditRecord { request: record, events }: &AuditRecord) -> Self {
        let plain = |name| text(record, name).unwrap_or_default();
        let ids = record.get_array("ids").map(Vec::as_slice).unwrap_or_default();
        Self {
            at: record
                .get_datetime("at")
                .ok()
                .and_then(|at| at.try_to_rfc3339_string().ok())
                .unwrap_or_default(),
            who: plain("who"),
            action: plain("action"),
            events: *events,
            requested: record.get_i64("requested").ok(),
            selection: plain("selection"),
            reason: text(record, "reason"),
            before: record
                .get_document("before")
                .ok()
                .map(|before| Bson::Document(before.clone()).into_relaxed_extjson()),
            ids: ids.iter().filter_map(|id| Some(id.as_str()?.to_owned())).collect(),
        }
    }
}
