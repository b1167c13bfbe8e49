//! `outboxd migrate`: creates what is missing and prints what it did.

use clap::Args as ClapArgs;

use super::config::load;
use super::output::print;
use crate::config::{Config, Sources};
use crate::error::{Error, ErrorKind, Result};
use crate::jetstream::connection::Nats;
use crate::jetstream::stream;
use crate::mongodb::migrations::{MIGRATIONS, Migrations, Status};
use crate::telemetry::metrics::Metrics;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// Print the commands without connecting
    #[arg(long, conflicts_with = "status")]
    print: bool,
    /// Show which migrations were applied; change nothing
    #[arg(long)]
    status: bool,
}

pub(super) async fn run(sources: &Sources, args: &Args) -> Result<()> {
    let config = load(sources)?;
    if args.print {
        return print(&plan(&config)?);
    }

    let mongodb = &config.mongodb;
    let client = mongodb.client("migrate").await?;
    let migrations = Migrations::new(
        client.database(&mongodb.database),
        &mongodb.collection,
        config.event.layout.clone(),
    );

    print(&format!("MongoDB outbox {}.{}\n", mongodb.database, mongodb.collection))?;
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

    let nats = Nats::connect(&config.nats, &config.stream.name).await?;
    print(&format!("JetStream stream {}\n", config.stream.name))?;

    let (state, differences) = if args.status {
        ("exists".to_owned(), stream::verify(&nats, &config, &Metrics::none()).await?)
    } else {
        let ensured = stream::ensure(&nats, &config).await?;
        let done = if ensured.created { "created" } else { "exists, unchanged" };
        let place = nats.domain().map(|domain| format!(" in JetStream domain {domain}"));
        let subjects = &ensured.config.subjects;
        let state = format!("{done}{}; subjects {subjects:?}", place.unwrap_or_default());
        (state, ensured.differences)
    };
    print(&format!("  {state}\n"))?;
    differences.iter().try_for_each(|difference| print(&format!("  note: {difference}\n")))
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
    plan.push_str(&json(&stream::wanted(&config.stream))?);
    Ok(plan)
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value).map_err(|error| {
        Error::with_source(ErrorKind::Migration, "could not be written as JSON", error)
    })?;
    Ok(text + "\n")
}
