//! When the retrier looks: the cron schedule, in the time zone of the settings.
//!
//! The schedule is a calendar's, so it needs the wall clock, and tokio-cron-scheduler keeps the next
//! time of a look by that clock. A clock that is set back an hour would put the next look an hour
//! off; one that leaps forward and back would, too. So a watch compares the wall clock with the
//! monotonic one, and lays the schedule out again when the two disagree, and when the time zone
//! changes to or from daylight-saving time. The relay then looks at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use chrono::{DateTime, Offset as _, TimeZone as _};
use chrono_tz::Tz;
use tokio::time::Instant;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use super::clock;
use super::wake::{Reason, Wake, WeakWake};
use crate::config::RetryConfig;
use crate::error::{Error, ErrorKind, Result};

/// How often the clocks are compared: a jump costs the schedule no more than this.
const COMPARE: Duration = Duration::from_secs(1);
/// How far the clocks may drift apart in between. Corrections by NTP are far smaller; a jump that
/// is smaller than this hardly matters.
const TOLERANCE_MS: i64 = 2000;

/// The schedules of a process. Relays with the same expression and time zone share one: a scheduler
/// looks at its jobs twice a second, and takes half a megabyte.
#[derive(Debug, Clone, Default)]
pub(crate) struct Schedules(Arc<tokio::sync::Mutex<Vec<Weak<Schedule>>>>);

/// A schedule, which runs until nobody has it any more.
#[derive(Debug)]
pub(crate) struct Schedule {
    cron: String,
    time_zone: Tz,
    wakes: Wakes,
    _stop: DropGuard,
}

/// The relays that a schedule wakes.
#[derive(Debug, Clone, Default)]
struct Wakes(Arc<Mutex<Vec<WeakWake>>>);

impl Wakes {
    fn lock(&self) -> MutexGuard<'_, Vec<WeakWake>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, wake: &Wake) {
        self.lock().push(wake.downgrade());
    }

    /// Wakes those that are left.
    fn because(&self, reason: Reason) {
        self.lock().retain(|wake| wake.because(reason));
    }
}

impl Schedules {
    /// A relay's schedule, which wakes through the returned handle as long as the relay has both.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the expression is refused.
    pub(crate) async fn start(&self, retry: &RetryConfig) -> Result<(Arc<Schedule>, Wake)> {
        let (wake, mut known) = (Wake::default(), self.0.lock().await);
        known.retain(|schedule| schedule.strong_count() > 0);

        let mut alive = known.iter().filter_map(Weak::upgrade);
        let schedule = match alive.find(|schedule| schedule.is_of(retry)) {
            Some(schedule) => schedule,
            None => Arc::new(Schedule::start(retry).await?),
        };

        schedule.wakes.add(&wake);
        known.push(Arc::downgrade(&schedule));
        Ok((schedule, wake))
    }
}

impl Schedule {
    async fn start(retry: &RetryConfig) -> Result<Self> {
        let (wakes, stop) = (Wakes::default(), CancellationToken::new());
        let laid_out = lay_out(retry, &wakes).await.map_err(|error| {
            Error::with_source(ErrorKind::Config, format!("retry.cron {:?}", retry.cron), error)
        })?;

        tokio::spawn(keep(retry.clone(), wakes.clone(), laid_out, stop.clone()));

        let RetryConfig { cron, time_zone, .. } = retry.clone();
        Ok(Self { cron, time_zone, wakes, _stop: stop.drop_guard() })
    }

    fn is_of(&self, retry: &RetryConfig) -> bool {
        self.cron == retry.cron && self.time_zone == retry.time_zone
    }
}

/// Starts a scheduler whose only job is to wake relays.
async fn lay_out(retry: &RetryConfig, wakes: &Wakes) -> Result<JobScheduler, JobSchedulerError> {
    let wakes = wakes.clone();
    let job = Job::new_tz(retry.cron.as_str(), retry.time_zone, move |_, _| {
        wakes.because(Reason::Schedule);
    })?;

    let scheduler = JobScheduler::new().await?;
    scheduler.add(job).await?;
    scheduler.start().await?;
    Ok(scheduler)
}

/// Lays the schedule out again when it has to be, until `stop`.
async fn keep(
    retry: RetryConfig,
    wakes: Wakes,
    mut laid_out: JobScheduler,
    stop: CancellationToken,
) {
    let mut clocks = Clocks::read();
    let mut offset = clocks.offset(retry.time_zone);

    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(COMPARE) => {}
        }

        let now = Clocks::read();
        let (jump_ms, now_offset) = (now.jump_since(&clocks), now.offset(retry.time_zone));
        clocks = now;

        let has_jumped = jump_ms.abs() > TOLERANCE_MS;
        if !has_jumped && now_offset == offset {
            continue;
        }

        match has_jumped {
            true => {
                warn!(seconds = jump_ms / 1000, "the wall clock jumped: looking for due events")
            }
            false => info!(zone = %retry.time_zone, "clocks changed: looking for due events"),
        }

        match lay_out(&retry, &wakes).await {
            Ok(anew) => {
                end(std::mem::replace(&mut laid_out, anew)).await;
                offset = now_offset;
            }
            // An impossible offset, so that the next comparison tries again.
            Err(error) => {
                warn!(%error, "the retrier's schedule could not be computed again");
                offset = i32::MAX;
            }
        }

        wakes.because(Reason::ClocksChanged);
    }

    end(laid_out).await;
}

async fn end(mut scheduler: JobScheduler) {
    if let Err(error) = scheduler.shutdown().await {
        warn!(%error, "the retrier's schedule did not stop");
    }
}

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy)]
struct Clocks {
    wall_ms: i64,
    monotonic: Instant,
}

impl Clocks {
    fn read() -> Self {
        Self { wall_ms: clock::now().timestamp_millis(), monotonic: Instant::now() }
    }

    /// By how much the wall clock was set forward, or back, since then.
    fn jump_since(&self, then: &Self) -> i64 {
        let passed = self.monotonic.duration_since(then.monotonic).as_millis();
        let by_wall = self.wall_ms.saturating_sub(then.wall_ms);
        by_wall.saturating_sub(i64::try_from(passed).unwrap_or(i64::MAX))
    }

    /// Seconds from UTC to this time zone.
    fn offset(&self, zone: Tz) -> i32 {
        let utc = DateTime::from_timestamp_millis(self.wall_ms).unwrap_or_default().naive_utc();
        zone.offset_from_utc_datetime(&utc).fix().local_minus_utc()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall: &str, monotonic: Instant) -> Clocks {
        let wall_ms = wall.parse::<DateTime<chrono::Utc>>().expect("a time").timestamp_millis();
        Clocks { wall_ms, monotonic }
    }

    #[test]
    fn a_jump_is_what_the_wall_clock_gained_on_the_monotonic_one() {
        let began = Instant::now();
        let then = at("2026-03-29T00:00:00Z", began);
        let after = began + Duration::from_secs(10);
        assert_eq!(at("2026-03-29T00:00:10Z", after).jump_since(&then), 0);
        assert_eq!(at("2026-03-28T23:00:10Z", after).jump_since(&then), -3_600_000);
        assert_eq!(at("2026-03-29T01:00:10Z", after).jump_since(&then), 3_600_000);
    }

    #[test]
    fn a_time_zone_changes_its_offset_with_daylight_saving() {
        let offset = |wall| at(wall, Instant::now()).offset(chrono_tz::Europe::Berlin);
        assert_eq!(offset("2026-03-29T00:59:59Z"), 3600);
        assert_eq!(offset("2026-03-29T01:00:00Z"), 7200);
        assert_eq!(at("2026-07-01T00:00:00Z", Instant::now()).offset(Tz::UTC), 0);
    }
}
