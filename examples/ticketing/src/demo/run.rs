//! `demo run` and `demo kills`: the story from nothing to a report. Leaves no process and no file but the report;
//! the logs too if it fails.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bson::DateTime;
use ticketing::failure::Failure;
use tokio::time::{Instant, sleep};

use crate::amount::Amount;
use crate::api::Api;
use crate::events::{self, Watch};
use crate::load::{self, USERS};
use crate::process::Lifetime;
use crate::progress::{note, say};
use crate::report::{self, Measured, Report};
use crate::servers::{MONGOD, Own, SERVERS};
use crate::stage::{Servers, Stage, Urls};
use crate::{check, commits, members};

/// How long an order reserves its ticket: seconds, not the minutes of production. Those that are to be
/// paid or cancelled need one or two.
const EXPIRES_AFTER: u64 = 12;
/// The same under kills: whoever brings an order to its end may be away.
const KILLS_EXPIRES_AFTER: u64 = 15;
/// How many tickets.
const TICKETS: u64 = 200;
/// How long everything may take to settle after the load.
const SETTLE_TIME: Duration = Duration::from_secs(60);
/// The same after kills: a record that a killed service left locked is free after 60 to 90 s.
const KILLS_SETTLE_TIME: Duration = Duration::from_secs(180);
/// One process or server is killed in each such time. A relay's lease lasts 5 s.
const KILL_EACH: Duration = Duration::from_secs(8);
/// How long it is away.
const AWAY: Duration = Duration::from_secs(1);

pub(crate) async fn run(interrupted: impl Future<Output = Failure>) -> Result<(), Failure> {
    let logs = logs()?;
    let mut stage = Stage::new(servers()?, logs.clone(), EXPIRES_AFTER);
    let done = tokio::select! {
        done = story(&mut stage) => done.map(Some),
        failure = interrupted => { note(format!("demo: {failure}; ending all processes")); Ok(None) }
    };
    let stopped = stage.stop().await;
    let cleared = stage.servers.clear().await;

    conclude(done, stopped.and(cleared), &logs)
}

/// The same on servers of its own. Each process, MongoDB's primary and nats-server are killed (-9) in
/// turn and started again under the load.
pub(crate) async fn kills(interrupted: impl Future<Output = Failure>) -> Result<(), Failure> {
    let logs = logs()?;
    let own = Own::at(&logs.join("servers"));
    let mut stage = None;
    let done = tokio::select! {
        done = story_of_kills(&own, &logs, &mut stage) => done.map(Some),
        failure = interrupted => { note(format!("demo: {failure}; ending all processes")); Ok(None) }
    };
    let stopped = match &mut stage {
        Some(stage) => stage.stop().await,
        None => Ok(()),
    };
    // What the log of a server says is worth more than its data, but `down` removes both.
    let ended = own.end().await;

    conclude(done, stopped.and(ended), &logs)
}

/// Shows and writes the report of what was measured; says where the logs are if it isn't as
/// promised.
fn conclude(
    done: Result<Option<Measured>, Failure>,
    ended: Result<(), Failure>,
    logs: &Path,
) -> Result<(), Failure> {
    let report = Path::new(report::PATH);
    let outcome = match done {
        Ok(Some(measured)) => {
            ended?;
            let result = Report::new(measured);
            say(&result);
            write(&result, report)?;
            say(format!("  {}\n", report.display()));
            result.verdict()
        }
        Ok(None) => {
            std::fs::remove_dir_all(logs)?;
            std::process::exit(130);
        }
        Err(failure) => Err(failure),
    };

    match &outcome {
        Ok(()) => std::fs::remove_dir_all(logs)?,
        // Nothing was started.
        Err(_) if std::fs::remove_dir(logs).is_ok() => {}
        Err(_) => note(format!("demo: the logs of all processes are in {}", logs.display())),
    }

    outcome
}

async fn story(stage: &mut Stage) -> Result<Measured, Failure> {
    note(format!("starting {}", stage.relays.words()));
    stage.start(Lifetime::Ours).await?;

    let (servers, urls) = (&stage.servers, &stage.urls);
    tokio::select! {
        measured = measure(servers, urls, Amount::Tickets(TICKETS), SETTLE_TIME) => measured,
        died = stage.died() => Err(died),
    }
}

async fn story_of_kills(
    own: &Own,
    logs: &Path,
    stage: &mut Option<Stage>,
) -> Result<Measured, Failure> {
    note("starting servers: three mongods and a nats-server");
    let mut servers = own.start("").await?;
    own.add_members(&mut servers).await?;
    let stage = stage.insert(Stage::new(servers, logs.to_owned(), KILLS_EXPIRES_AFTER));
    note(format!("starting {}", stage.relays.words()));
    stage.start(Lifetime::Ours).await?;

    let (servers, urls) = (stage.servers.clone(), stage.urls.clone());
    let victims = stage.relays.names().len() + SERVERS.len();
    let time = KILL_EACH * u32::try_from(victims)?;
    let load = measure(&servers, &urls, Amount::Time(time), KILLS_SETTLE_TIME);
    let (measured, killed) = tokio::try_join!(load, kill_each(stage, own))?;

    Ok(Measured { killed, ..measured })
}

async fn kill_each(stage: &mut Stage, own: &Own) -> Result<Vec<String>, Failure> {
    let mut killed = Vec::new();
    for name in stage.relays.names().iter().chain(&SERVERS) {
        sleep(KILL_EACH - AWAY).await;
        let words = if *name == MONGOD { "MongoDB's primary" } else { name };
        note(format!("killing {words}"));

        if SERVERS.contains(name) {
            kill_server(own, name, &stage.servers).await?;
        } else {
            stage.process(name)?.kill().await?;
            sleep(AWAY).await;
            stage.restart(name, Lifetime::Ours).await?;
        }
        killed.push(words.to_owned());
    }

    Ok(killed)
}

/// Kills a server and starts it again: of several mongods the primary, which is away until another
/// one is.
async fn kill_server(own: &Own, name: &str, servers: &Servers) -> Result<(), Failure> {
    let primary = match name {
        MONGOD => Some(members::primary_port(servers).await?),
        _ => None,
    };

    let args = own.kill(name, primary.as_deref()).await?;
    match primary {
        Some(port) => members::elect_other(servers, &port).await?,
        None => sleep(AWAY).await,
    }
    own.start_again(name, args, &servers.nats_url)
}

/// Puts the load on, waits until everything has settled, and looks at what is left.
pub(crate) async fn measure(
    servers: &Servers,
    urls: &Urls,
    amount: Amount,
    settle_time: Duration,
) -> Result<Measured, Failure> {
    let (mongodb, nats) = servers.connect().await?;
    let watch = Watch::start(&nats, &servers.stream).await?;
    let api = Arc::new(Api::new(urls)?);

    note(format!("{USERS} users sign up"));
    let (began, since) = (Instant::now(), DateTime::now());
    let users = load::sign_up(&api).await?;

    let much = match amount {
        Amount::Tickets(tickets) => format!("{tickets} tickets at once"),
        Amount::Time(time) => format!("for {time:?}"),
    };
    note(format!(
        "{much}: create at 5, set to 10, set to 15; orders are paid, cancelled, or left to expire"
    ));
    let done = load::run(&api, users, amount).await?;
    let took = began.elapsed();

    note("waiting until the outboxes are empty and the databases agree");
    let mut found = check::settle(&mongodb, servers, settle_time).await?;
    let (mut refused_payments, calm_from) = (0, DateTime::now());

    if found.is_settled() {
        refused_payments = load::pay_too_late(&api, &done).await?;
        load::unhurried(&api, &done.free).await?;
        found = check::settle(&mongodb, servers, settle_time).await?;
    }

    let commits = commits::read(&mongodb, servers, since).await?;
    let held = events::read(&nats, &servers.stream).await?;
    Ok(Measured {
        amount,
        took,
        refused_edits: done.refused_edits,
        refused_payments,
        double_payments: done.double_payments,
        interrupted: api.interrupted(),
        killed: Vec::new(),
        found,
        held,
        loaded: watch.latency(commits.iter().filter(|commit| commit.at < calm_from))?,
        unhurried: watch.latency(commits.iter().filter(|commit| commit.at >= calm_from))?,
    })
}

/// A directory for the logs of this run.
fn logs() -> Result<PathBuf, Failure> {
    let logs = std::env::temp_dir().join(format!("outboxd-demo.{:08x}", rand::random::<u32>()));
    private_dir(&logs)?;
    // That of an earlier run.
    let _ = std::fs::remove_file(report::PATH);
    Ok(logs)
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
    let run = format!("_{:08x}", rand::random::<u32>());
    Ok(Servers { mongodb_uri, nats_url, stream: format!("TICKETING{run}"), suffix: run })
}
