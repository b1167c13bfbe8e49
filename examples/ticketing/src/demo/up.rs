//! `demo up`, `load`, `kill`, `start`, `down`: the same, left running, for trying things by hand.
//!
//! All state is in `target/demo-up`: what runs, its logs, and the servers with their data. `down`
//! removes it.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use ticketing::failure::Failure;

use crate::amount::Amount;
use crate::process::Lifetime;
use crate::progress::say;
use crate::report::Report;
use crate::run::{measure, private_dir};
use crate::servers::Own;
use crate::stage::Stage;
use crate::{report, run, tour};

/// Where the state is. The demo is run in the project's root.
const STATE: &str = "target/demo-up";
/// How long an order reserves its ticket, in seconds: time to paste what comes before the payment.
const EXPIRES_AFTER: u64 = 30;
/// How long everything may take to settle after the load, a daemon's restart included.
const SETTLE_TIME: Duration = Duration::from_secs(120);

pub(crate) async fn up(interrupted: impl Future<Output = Failure>) -> Result<(), Failure> {
    let _alone = alone()?;
    if let Some(stage) = read()? {
        say(format!("already running\n\n{}", describe(&stage)?));
        return Ok(());
    }

    // Without a list of what runs, it was interrupted half-way.
    clear().await?;
    private_dir(Path::new(STATE))?;
    private_dir(&Path::new(STATE).join("logs"))?;

    let started = tokio::select! {
        started = start_all() => started,
        failure = interrupted => Err(failure),
    };

    match started {
        Ok(stage) => {
            say(describe(&stage)?);
            Ok(())
        }
        Err(failure) => {
            clear().await?;
            Err(failure)
        }
    }
}

pub(crate) async fn down() -> Result<(), Failure> {
    let _alone = alone()?;
    let was_there = Path::new(STATE).exists();
    let stopped = match read()? {
        Some(mut stage) => stage.stop().await,
        None => Ok(()),
    };

    clear().await?;
    say(if was_there { "ended\n" } else { "nothing is running\n" });
    stopped
}

pub(crate) async fn load(
    time: Duration,
    interrupted: impl Future<Output = Failure>,
) -> Result<(), Failure> {
    let stage = there()?;
    let measured = tokio::select! {
        measured = measure(&stage.servers, &stage.urls, Amount::Time(time), SETTLE_TIME) => measured?,
        failure = interrupted => {
            return Err(format!("{failure}; some tickets stay at 10, and the next load will find them: `demo down` first").into());
        }
    };

    let result = Report::new(measured);
    say(&result);
    run::write(&result, Path::new(report::PATH))?;

    result.verdict()
}

pub(crate) async fn kill(name: &str) -> Result<(), Failure> {
    let _alone = alone()?;
    let mut stage = there()?;
    let process = stage.process(name)?;

    if !process.is_alive() {
        return Err(format!("{name} is not running").into());
    }

    process.kill().await?;
    say(format!("killed {name}\n"));
    Ok(())
}

pub(crate) async fn start(name: &str) -> Result<(), Failure> {
    let _alone = alone()?;
    let mut stage = there()?;
    stage.restart(name, Lifetime::Detached).await?;
    write(&stage)?;
    // outboxd stands by for as long as the killed one's lease lasts.
    say(format!("started {name}\n"));

    Ok(())
}

async fn start_all() -> Result<Stage, Failure> {
    let servers = Own::at(&Path::new(STATE).join("servers")).start("").await?;
    let mut stage = Stage::new(servers, std::path::absolute(STATE)?.join("logs"), EXPIRES_AFTER);
    let started = stage.start(Lifetime::Detached).await;

    match started.and_then(|()| write(&stage)) {
        Ok(()) => Ok(stage),
        Err(failure) => {
            stage.stop().await?;
            Err(failure)
        }
    }
}

/// What runs, and what to try on it.
fn describe(stage: &Stage) -> Result<String, Failure> {
    let own = std::env::current_exe()?;
    let own = own.strip_prefix(std::env::current_dir()?).unwrap_or(&own);
    let mut text = tour::places(stage) + &tour::commands(stage, own);

    for process in stage.processes.iter().filter(|process| !process.is_alive()) {
        let (own, name) = (own.display(), &process.plan.name);
        text += &format!("\n{name} is not running; {own} start {name}\n");
    }

    Ok(text)
}

/// Ends the servers, if there are any, and removes the state.
async fn clear() -> Result<(), Failure> {
    let state = Path::new(STATE);
    Own::at(&state.join("servers")).end().await?;

    match std::fs::remove_dir_all(state) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// One of these verbs at a time: the lock goes with the process.
fn alone() -> Result<File, Failure> {
    let target = Path::new(STATE).parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(target)?;
    let lock = File::open(target)?;
    lock.lock()?;
    Ok(lock)
}

fn there() -> Result<Stage, Failure> {
    read()?.ok_or_else(|| "nothing is running; start it by `make demo-up`".into())
}

fn read() -> Result<Option<Stage>, Failure> {
    match std::fs::read(Path::new(STATE).join("state.json")) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn write(stage: &Stage) -> Result<(), Failure> {
    let path = Path::new(STATE).join("state.json");
    let (new, text) = (path.with_extension("new"), serde_json::to_vec_pretty(stage)?);
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?
        .write_all(&text)?;
    std::fs::rename(new, path)?;

    Ok(())
}
