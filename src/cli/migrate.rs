//! `outboxd migrate`: creates what is missing and prints what it did.

use clap::Args as ClapArgs;
use mongodb::Database;
use tracing::debug;

use super::config::load_all;
use super::output::print;
use crate::config::{Config, Sources};
use crate::error::{Error, ErrorKind, MongodbContext, Result};
use crate::finding::shell;
use crate::jetstream::connection::Nats;
use crate::jetstream::creation::wanted;
use crate::jetstream::lines::Lines;
use crate::jetstream::stream;
use crate::mongodb::migrations::{MIGRATIONS, Migrations, Status};
use crate::mongodb::subjects::Subjects;
use crate::telemetry::metrics::Metrics;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// Print the commands without connecting
    #[arg(long, conflicts_with = "status")]
    print: bool,
    /// Show which migrations were applied; change nothing
    #[arg(long)]
    status: bool,
    /// If stream.subjects is not set, create the stream with the subjects of the outbox's events
    #[arg(long, conflicts_with_all = ["print", "status"])]
    subjects_of_events: bool,
}

/// Events that are looked at for their subjects.
const EVENTS: i64 = 1_000_000;

pub(super) async fn run(sources: &Sources, args: &Args) -> Result<()> {
    let fleet = load_all(sources)?;
    for config in fleet.outboxes() {
        match args.print {
            true => print(&plan(config)?)?,
            false => migrate(config, args).await?,
        }
    }

    Ok(())
}

/// Creates what one outbox lacks.
async fn migrate(config: &Config, args: &Args) -> Result<()> {
    let mongodb = &config.mongodb;
    let client = mongodb.client("migrate").await?;
    let migrations = Migrations::new(
        client.database(&mongodb.database),
        &mongodb.collection,
        config.event.layout.clone(),
    );

    print(&format!("MongoDB outbox {}\n", config.outbox()))?;
    if !args.status {
        let notes = migrations.foundation().require_sound().await?;
        notes.iter().try_for_each(|note| print(&format!("  note: {note}\n")))?;
    }

    let statuses =
        if args.status { migrations.status().await? } else { migrations.apply().await? };
    for (migration, status) in statuses {
        let out = match status {
            Status::Pending if args.status => "pending".to_owned(),
            Status::Pending => "applied".to_owned(),
            Status::Applied(at) => {
                format!("applied {}", at.try_to_rfc3339_string().unwrap_or_else(|_| at.to_string()))
            }
        };
        print(&format!("  {:<32} {out}\n", migration.name))?;
    }

    let nats = Nats::connect(&config.nats, &config.stream.name, &Lines::default()).await?;
    print(&format!("JetStream stream {}\n", config.stream.name))?;

    let (state, differences) = if args.status {
        ("exists".to_owned(), stream::verify(&nats, config, &Metrics::none()).await?)
    } else {
        let database = client.database(&mongodb.database);
        let ensured = stream::ensure(&nats, config, async || {
            subjects(config, &database, args.subjects_of_events).await
        })
        .await?;
        let done = if ensured.created { "created" } else { "exists, unchanged" };
        let place = nats.domain().map(|domain| format!(" in JetStream domain {domain}"));
        let subjects = &ensured.config.subjects;
        let state = format!("{done}{}; subjects {subjects:?}", place.unwrap_or_default());
        (state, ensured.differences)
    };
    print(&format!("  {state}\n"))?;
    differences.iter().try_for_each(|difference| print(&format!("  note: {difference}\n")))
}

/// The subjects for the stream, where the settings name none: those of the outbox's events, if that
/// is wanted.
///
/// # Errors
/// [`ErrorKind::Config`] with the lines that name subjects.
async fn subjects(config: &Config, database: &Database, is_wanted: bool) -> Result<Vec<String>> {
    let outbox = &config.mongodb.collection;
    let found = Subjects::look(database, outbox, &config.event.layout, EVENTS).await;
    let found = match found.during("reading the subjects of the outbox's events") {
        Ok(found) => found.all,
        Err(error) if is_wanted => return Err(error),
        Err(error) => {
            debug!(error = %error.report(), "the subjects of the events are not known");
            Vec::new()
        }
    };

    if is_wanted && !found.is_empty() {
        return Ok(found);
    }

    let (which, named, same) = match found.is_empty() {
        true => ("", "'<subject>,<subject>'".to_owned(), ""),
        false => (
            ". These are the subjects of the outbox's events:",
            shell(&found.join(",")),
            "\n  $ outboxd migrate --subjects-of-events   # the same",
        ),
    };
    let message = format!(
        "the stream {} doesn't exist, and stream.subjects, the subjects to create it with, is empty\
         {which}\n  $ OUTBOXD_STREAM__SUBJECTS={named} outboxd migrate{same}",
        config.stream.name
    );
    Err(Error::new(ErrorKind::Config, message))
}

fn plan(config: &Config) -> Result<String> {
    let mut plan = String::new();
    for migration in MIGRATIONS {
        let header = format!(
            "// {} in database {}, sha256 {}\n",
            migration.name,
            config.mongodb.database,
            migration.checksum()
        );
        plan.push_str(&header);

        for command in migration.commands(&config.mongodb.collection, &config.event.layout)? {
            plan.push_str(&json(&command)?);
        }
    }

    plan.push_str("// JetStream stream, created only if it is missing\n");
    match config.stream.subjects.is_empty() {
        true => plan.push_str("// set stream.subjects: the subjects that it takes\n"),
        false => plan.push_str(&json(&wanted(&config.stream))?),
    }

    Ok(plan)
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value).map_err(|error| {
        Error::with_source(ErrorKind::Migration, "could not be written as JSON", error)
    })?;
    Ok(text + "\n")
}
