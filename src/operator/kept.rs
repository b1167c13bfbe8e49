//! Kept events: the filter that selects them, and both sides of the relay.

use bson::{Bson, DateTime, Document};
use clap::Args as ClapArgs;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, MongodbConfig};
use crate::duration::for_people;
use crate::error::{Error, ErrorKind, MongodbContext, Result};
use crate::finding::option;
use crate::jetstream::bus::JetStream;
use crate::jetstream::connection::Nats;
use crate::jetstream::lines::Lines;
use crate::mongodb::kept::{KeptSelection, Time};
use crate::mongodb::outbox::Store;
use crate::relay::leadership::parts::of_command;
use crate::relay::ports::EventBus as _;
use crate::relay::publish::Publisher;

/// Selects kept events; every filter that is given must match.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct KeptFilter {
    /// Subject, with the wildcards of NATS: 'tickets.>', 'tickets.*.made', 'ticket:*'
    #[arg(long, value_name = "SUBJECT")]
    pub(crate) subject: Option<String>,
    /// Ordering key of the event, exact
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// Only events published since then: 2h for two hours ago, or a time such as 2026-11-26T09:30:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) since: Option<Time>,
    /// Only events published before this time, written like --since
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) until: Option<Time>,
}

impl KeptFilter {
    pub(crate) fn selection(&self, ids: Option<Vec<Bson>>) -> KeptSelection {
        let Self { subject, key, since, until } = self.clone();
        KeptSelection { ids, subject, key, since, until }
    }

    /// As words of a command line, for the audit.
    pub(crate) fn words(&self) -> String {
        let time = |time: &Option<Time>| time.map(shown);
        let texts = [
            ("--subject", self.subject.clone()),
            ("--key", self.key.clone()),
            ("--since", time(&self.since)),
            ("--until", time(&self.until)),
        ];
        let given = texts.iter().filter_map(|(name, text)| Some(option(name, text.as_ref()?)));
        given.collect::<Vec<_>>().join(" ")
    }
}

/// A time of the command line.
pub(crate) fn time(text: &str) -> std::result::Result<Time, String> {
    if let Ok(age) = humantime::parse_duration(text) {
        return Ok(Time::Ago(age));
    }

    let at = humantime::parse_rfc3339_weak(text).map_err(|_| {
        "neither a duration such as 90m or 2h nor a time such as 2026-11-26T09:30:00Z".to_owned()
    })?;
    Ok(Time::At(at.into()))
}

pub(crate) fn shown(time: Time) -> String {
    match time {
        Time::Ago(age) => humantime::format_duration(age).to_string(),
        Time::At(at) => rfc3339(at),
    }
}

fn rfc3339(at: DateTime) -> String {
    at.try_to_rfc3339_string().unwrap_or_else(|_| at.to_string())
}

/// The configured outbox, of which only kept events are read.
pub(crate) struct Outbox {
    pub(crate) config: Config,
    pub(crate) client: mongodb::Client,
    pub(crate) store: Store,
}

impl Outbox {
    /// The configured outbox, through this client.
    pub(crate) fn new(config: Config, client: mongodb::Client) -> Self {
        let MongodbConfig { database, collection, .. } = &config.mongodb;
        let database = client.database(database);
        let store = Store::new(&database, collection, config.event.layout.clone(), &config);
        Self { config, client, store }
    }

    /// The filter of these events, and how many they are.
    pub(crate) async fn select(&self, selection: &KeptSelection) -> Result<(Document, u64)> {
        let filter = self.store.kept_filter(selection).await.during("reading kept events")?;
        let count = self.store.count_matching(&filter).await.during("counting kept events")?;

        Ok((filter, count))
    }

    /// Why there may be no kept event.
    pub(crate) fn why_none(&self) -> String {
        let lasts = self.config.keep.lasts;
        match self.config.keep.is_on() {
            true => format!("no kept event matches; keep.for is {}", for_people(lasts)),
            false => "no kept event matches; keep.for is 0s, so events are deleted on their ack"
                .to_owned(),
        }
    }

    /// Connects to the stream, to publish kept events again until `stop`.
    pub(crate) async fn stream(&self, stop: CancellationToken) -> Result<Publisher<JetStream>> {
        let name = &self.config.stream.name;
        let nats = Nats::connect(&self.config.nats, name, &Lines::default()).await?;
        let publisher = of_command(&self.config, JetStream::new(nats, name), stop);

        // It answers, and it is the one that is meant.
        publisher.bus.compare(None).await.map_err(|rejection| {
            Error::new(ErrorKind::Nats, format!("{}; run `outboxd check`", rejection.error))
        })?;

        Ok(publisher)
    }
}
