//! One sampler for an outbox: it asks MongoDB and the relay, and everybody who watches sees what it
//! found. A thousand open pages cost the servers what one does.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bson::DateTime;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::outbox::{Connection, Outbox};
use super::sample::Live;
use crate::operator::endpoint::Admin;
use crate::operator::flow::{Flow, Sample};
use crate::operator::look::look;

/// Between two samples while somebody watches.
const WATCHED: Duration = Duration::from_secs(2);
/// Between two samples otherwise, for the charts.
const UNWATCHED: Duration = Duration::from_secs(60);
/// How old the findings of a check may be while somebody watches.
const CHECKED: Duration = Duration::from_secs(300);
/// How long after the last look a page counts as watched. A stream of a page looks all the time.
const LINGERS: Duration = Duration::from_secs(10);
/// Shortest rest, in multiples of the time the last sample took. So watching costs MongoDB less than
/// a twentieth of its time, however much is stuck.
const REST: u32 = 20;
/// Samples in the charts: ten minutes while somebody watches.
const HISTORY: usize = 300;

/// Samples for as long as the outbox is there.
pub(super) fn start(outbox: &Arc<Outbox>) {
    let outbox = Arc::downgrade(outbox);
    tokio::spawn(async move {
        let (mut before, mut check) = (None, tokio::spawn(async {}));
        loop {
            let Some(outbox) = outbox.upgrade() else { return };
            // It asks more than a sample does, so it is made apart, and seldom.
            if check.is_finished() && outbox.unwatched() <= LINGERS {
                let outbox = outbox.clone();
                check = tokio::spawn(async move { drop(outbox.check(CHECKED).await) });
            }

            let began = Instant::now();
            let live = sample(&outbox, &mut before).await;
            outbox.live.send_replace(Arc::new(live));

            let rest = |least: Duration| least.max(began.elapsed() * REST);
            sleep(rest(WATCHED)).await;
            if outbox.unwatched() > LINGERS {
                let _ = timeout(UNWATCHED, outbox.wanted.notified()).await;
            }
        }
    });
}

async fn sample(outbox: &Outbox, before: &mut Option<Sample>) -> Live {
    let last = outbox.live.borrow().clone();
    let connection = outbox.connection();
    let before_that = last.look.as_ref();
    let (looked, (flow, ready)) = tokio::join!(
        look(&connection.inspect, before_that),
        relay(&connection, &outbox.name, before)
    );

    let mut live = Live {
        number: last.number + 1,
        taken: Some(Instant::now()),
        at: last.at.clone(),
        look: last.look.clone(),
        problem: None,
        flow: Some(flow),
        ready,
        findings: outbox.checked().map(|checked| checked.findings),
        history: last.history.clone(),
        card: OnceLock::new(),
        groups: Default::default(),
    };

    match looked {
        Ok(look) => {
            let now = DateTime::now().try_to_rfc3339_string().unwrap_or_default();
            live.at = now.get(11..19).unwrap_or_default().to_owned();
            live.look = Some(look);
        }
        Err(problem) => live.problem = Some(problem),
    }

    let point = live.point();
    live.history.push_back(Arc::new(point));
    if live.history.len() > HISTORY {
        live.history.pop_front();
    }

    live
}

/// What the relay reports about itself.
async fn relay(
    Connection { config, .. }: &Connection,
    outbox: &str,
    before: &mut Option<Sample>,
) -> (Result<Flow, String>, Option<Value>) {
    let admin = match Admin::new(&config.admin, None) {
        Ok(admin) => admin,
        Err(error) => return (Err(error.report().to_string()), None),
    };

    let sampled = Sample::take(&admin, outbox).await;
    let sample = match sampled {
        Ok(sample) => sample,
        Err(why) => return (Err(format!("{} {why}", admin.url())), None),
    };

    let flow = sample.since(before.as_ref());
    *before = Some(sample);
    let ready = admin.state("/readyz").await.ok();
    (Ok(flow), ready.and_then(|ready| serde_json::from_str(&ready).ok()).map(|all| of(all, outbox)))
}

/// What the answer to `/readyz` has about this outbox: a fleet's has an entry for each.
fn of(mut all: Value, outbox: &str) -> Value {
    all.get_mut("outboxes").and_then(|of| of.get_mut(outbox)).map(Value::take).unwrap_or(all)
}
