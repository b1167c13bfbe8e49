//! The server's clock. Ages and due times are measured with it alone: the clocks of the machines that
//! ask may differ.

use std::time::Duration;

use bson::{DateTime, Timestamp, doc};
use mongodb::error::{Error, Result};
use mongodb::{ClientSession, Database};

/// The time on the server.
pub(super) async fn now(database: &Database) -> Result<DateTime> {
    let hello = database.run_command(doc! { "hello": 1 }).await?;
    hello.get_datetime("localTime").copied().map_err(Error::custom)
}

/// The time of the newest write. What the session reads next shows that.
pub(super) async fn cluster_time(
    database: &Database,
    session: &mut ClientSession,
) -> Result<Timestamp> {
    database.run_command(doc! { "ping": 1 }).session(&mut *session).await?;
    seen(session)
}

/// The newest cluster time that the session has seen.
pub(super) fn seen(session: &ClientSession) -> Result<Timestamp> {
    session.operation_time().ok_or_else(|| Error::custom("the server answered without its time"))
}

/// The first cluster time of the second that was `age` before `now`.
pub(super) fn before(now: DateTime, age: Duration) -> Timestamp {
    let age = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
    let then = seconds(now).saturating_sub(age);

    Timestamp { time: u32::try_from(then).unwrap_or(0), increment: 0 }
}

/// The end of a cluster time's second, in ms since 1970: a cluster time counts whole seconds.
pub(super) fn end_of_second(at: Timestamp) -> i64 {
    i64::from(at.time) * 1000 + 999
}

/// Seconds from `then`, in seconds since 1970, to `now`; 0 if `then` is in the future, as it is when
/// a writer made it up. `None` when `then` is not known.
pub(super) fn age(then: Option<i64>, now: DateTime) -> Option<u64> {
    let age = seconds(now).saturating_sub(then?);
    Some(u64::try_from(age).unwrap_or(0))
}

fn seconds(time: DateTime) -> i64 {
    time.timestamp_millis() / 1000
}
