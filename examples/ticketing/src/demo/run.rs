//! `demo run`: the story from nothing to a report. Leaves no process and no file but the report;
//! the logs too if it fails.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bson::DateTime;
use ticketing::failure::Failure;
use tokio::time::Instant;

use crate::api::Api;
use crate::events::{self, Watch};
use crate::load::{self, Amount};
use crate::process::Lifetime;
use crate::progress::{note, say};
use crate::report::{self, Measured, Report};
use crate::stage::{Servers, Stage};
use crate::{check, commits};

/// How many tickets.
const TICKETS: u64 = 200;
/// How long everything may take to settle after the load.
const SETTLE_TIME: Duration = Duration::from_secs(60);

pub(crate) async fn run(interrupted: impl Future<Output = Failure>) -> Result<(), Failure> {
    let servers = servers()?;
    let logs = std::env::temp_dir().join(format!("outboxd-demo.{:08x}", rand::random::<u32>()));
    private_dir(&logs)?;

    let mut stage = Stage::new(servers, logs.clone());
    let report = Path::new(report::PATH);
    let _ = std::fs::remove_file(report);
    let done = tokio::select! {
        done = story(&mut stage) => done.map(Some),
        failure = interrupted => { note(format!("demo: {failure}; ending all processes")); Ok(None) }
    };
    let stopped = stage.stop().await;
    let cleared = stage.servers.clear().await;
    let outcome = match done {
        Ok(Some(measured)) => {
            stopped.and(cleared)?;
            let result = Report::new(measured);
            say(&result);
            write(&result, report)?;
            say(format!("  {}\n", report.display()));
            result.verdict()
        }
        Ok(None) => {
            std::fs::remove_dir_all(&logs)?;
            std::process::exit(130);
        }
        Err(failure) => Err(failure),
    };

    match &outcome {
        Ok(()) => std::fs::remove_dir_all(&logs)?,
        // Nothing was started.
        Err(_) if std::fs::remove_dir(&logs).is_ok() => {}
        Err(_) => note(format!("demo: the logs of all processes are in {}", logs.display())),
    }

    outcome
}

async fn story(stage: &mut Stage) -> Result<Measured, Failure> {
    note("starting tickets and orders, each with its outboxd");
    stage.start(Lifetime::Ours).await?;

    let stage = &*stage;
    tokio::select! {
        measured = measure(stage, Amount::Tickets(TICKETS), SETTLE_TIME) => measured,
        died = stage.died() => Err(died),
    }
}

/// Puts the load on, waits until everything has settled, and looks at what is left.
pub(crate) async fn measure(
    stage: &Stage,
    amount: Amount,
    settle_time: Duration,
) -> Result<Measured, Failure> {
    let (mongodb, nats) = stage.servers.connect().await?;
    let watch = Watch::start(&nats, &stage.servers.stream).await?;
    let api = Arc::new(Api::new(stage)?);

    match amount {
        Amount::Tickets(tickets) => {
            note(format!("{tickets} tickets at once: create at 5, set to 10, set to 15; orders"))
        }
        Amount::Time(time) => {
            note(format!("for {time:?}: tickets at 5, set to 10, set to 15; orders"))
        }
    }

    let (began, since) = (Instant::now(), DateTime::now());
    let done = load::run(&api, amount).await?;
    let took = began.elapsed();

    note("waiting until both outboxes are empty and the databases agree");
    let mut found = check::settle(&mongodb, &stage.servers, settle_time).await?;
    let calm_from = DateTime::now();

    if found.is_settled() {
        load::unhurried(&api, &done.free).await?;
        found = check::settle(&mongodb, &stage.servers, settle_time).await?;
    }

    let commits = commits::read(&mongodb, &stage.servers, since).await?;
    let held = events::read(&nats, &stage.servers.stream).await?;
    Ok(Measured {
        amount,
        took,
        refused: done.refused,
        interrupted: api.interrupted(),
        found,
        held,
        loaded: watch.latency(commits.iter().filter(|commit| commit.at < calm_from))?,
        unhurried: watch.latency(commits.iter().filter(|commit| commit.at >= calm_from))?,
    })
}

/// Makes a directory that only this user can read: logs and state hold the token's key and
/// connection strings.
pub(crate) fn private_dir(path: &Path) -> Result<(), Failure> {
    let made = DirBuilder::new().mode(0o700).create(path);
    made.map_err(|error| format!("{} can't be made: {error}", path.display()).into())
}

/// Writes the report where it is looked for.
pub(crate) fn write(report: &Report, path: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    report.write(path)
}

fn servers() -> Result<Servers, Failure> {
    let given = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    let (Some(mongodb_uri), Some(nats_url)) =
        (given("OUTBOXD_TEST_MONGODB_URI"), given("OUTBOXD_TEST_NATS_URL"))
    else {
        return Err(
            "OUTBOXD_TEST_MONGODB_URI and OUTBOXD_TEST_NATS_URL are not set; run it by `make demo`"
                .into(),
        );
    };

    // The servers may be someone's own, with other databases on them.
    let run = format!("{:08x}", rand::random::<u32>());
    Ok(Servers {
        mongodb_uri,
        nats_url,
        tickets_database: format!("tickets_{run}"),
        orders_database: format!("orders_{run}"),
        stream: format!("TICKETING_{run}"),
    })
}
