//! The filter that list, groups, retry-now and discard share.

use std::time::Duration;

use clap::Args;

use super::config::load;
use crate::config::{Config, MongodbConfig, Sources};
use crate::document::state::State;
use crate::error::{Error, ErrorKind, MongodbContext, Result};
use crate::mongodb::inspect::Inspect;
use crate::mongodb::selection::Selection;

/// Selects events; every filter that is given must match.
#[derive(Debug, Args)]
pub(super) struct Filter {
    /// Subject, with * for any characters: 'ticket:*'
    #[arg(long, value_name = "GLOB")]
    subject: Option<String>,
    /// Ordering key of the event, exact
    #[arg(long)]
    key: Option<String>,
    /// Only events older than this, such as 90s, 5m or 2h
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    /// Class of the newest failure: unknown, transient, config or poison
    #[arg(long, value_parser = ["unknown", "transient", "config", "poison"])]
    class: Option<String>,
    /// Code of the newest failure, as `outboxd groups` shows it
    #[arg(long)]
    code: Option<String>,
    /// Only dead events
    #[arg(long, group = "state")]
    dead: bool,
    /// Only events that wait behind another event of their key
    #[arg(long, group = "state")]
    parked: bool,
    /// Only events that failed and are retried
    #[arg(long, group = "state")]
    failed: bool,
}

impl Filter {
    pub(super) fn selection(&self, ids: &[String]) -> Selection {
        let states =
            [(self.dead, State::Dead), (self.parked, State::Parked), (self.failed, State::Failed)];
        Selection {
            ids: ids.to_vec(),
            subject: self.subject.clone(),
            key: self.key.clone(),
            older_than: self.older_than,
            class: self.class.clone(),
            code: self.code.clone(),
            state: states.into_iter().find_map(|(given, state)| given.then_some(state)),
        }
    }

    /// The filter as given, for the audit record.
    pub(super) fn as_given(&self) -> String {
        let age = self.older_than.map(|age| humantime::format_duration(age).to_string());
        let texts = [
            ("--subject", &self.subject),
            ("--key", &self.key),
            ("--older-than", &age),
            ("--class", &self.class),
            ("--code", &self.code),
        ];

        let flags = [("--dead", self.dead), ("--parked", self.parked), ("--failed", self.failed)];
        let texts =
            texts.into_iter().filter_map(|(name, text)| Some(format!("{name} {}", text.as_ref()?)));
        let flags = flags.into_iter().filter(|(_, given)| *given).map(|(name, _)| name.to_owned());

        texts.chain(flags).collect::<Vec<_>>().join(" ")
    }
}

/// Opens the configured outbox. The operator's verbs need only MongoDB.
///
/// # Errors
/// [`ErrorKind::NotFound`] when there is no outbox: numbers of nothing would look like good news.
pub(super) async fn inspect(sources: &Sources) -> Result<(Config, Inspect)> {
    let config = load(sources)?;
    let client = config.mongodb.client("operator").await?;
    let inspect = inspect_by(&config, &client).await?;
    Ok((config, inspect))
}

/// The same, over this client.
pub(super) async fn inspect_by(config: &Config, client: &mongodb::Client) -> Result<Inspect> {
    let MongodbConfig { database, collection, .. } = &config.mongodb;
    let layout = config.event.layout.clone();
    let inspect = Inspect::new(client.database(database), collection, layout);
    if inspect.exists().await.during("looking for the outbox")? {
        return Ok(inspect);
    }

    let message = format!(
        "there is no outbox {database}.{collection}: the database {database} has no collection \
         {collection}; correct the database in MONGODB_URI or mongodb.collection, or create the \
         outbox with `outboxd migrate`"
    );
    Err(Error::new(ErrorKind::NotFound, message))
}
