//! What is seen of the outboxes, as a stream of server-sent events. The browser does not poll, and a
//! viewer costs no query.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{BoxStream, SelectAll, StreamExt as _, unfold};
use serde::Deserialize;

use super::access::Person;
use super::jobs::Job;
use super::outbox::Outbox;
use super::pages::{groups, job, overview};
use super::sample::Live;
use super::site::Site;

/// How often a stream without news shows that it lives; the page reports a silent one.
const ALIVE: Duration = Duration::from_secs(5);

/// What a page wants to follow.
#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    /// The groups of this outbox; without it, all outboxes in numbers.
    groups: Option<String>,
    /// The action of this id.
    job: Option<String>,
}

type Stream = BoxStream<'static, Result<Event, Infallible>>;

/// The stream of a page.
pub(super) async fn stream(
    State(site): State<Arc<Site>>,
    Extension(person): Extension<Person>,
    Query(wanted): Query<Wanted>,
) -> Result<Sse<impl futures_util::Stream<Item = Result<Event, Infallible>>>, StatusCode> {
    let may_act = person.may_act();
    let mut streams = SelectAll::<Stream>::new();
    // What isn't there has no news, ever.
    let job = wanted.job.map(|id| site.jobs.job(&id).ok_or(StatusCode::NOT_FOUND)).transpose()?;
    let outbox = wanted.groups.map(|name| site.outbox(&name).cloned().ok_or(StatusCode::NOT_FOUND));
    match (job, outbox.transpose()?) {
        (Some(job), _) => streams.push(of_job(job)),
        (None, Some(outbox)) => {
            streams.push(of(outbox, move |outbox, live| groups::part(outbox, live, may_act)))
        }
        (None, None) => site.outboxes.iter().for_each(|outbox| {
            streams.push(of(outbox.clone(), overview::part));
        }),
    }

    // Somebody whose session has ended sees nothing more.
    let streams = streams.take_while(move |_| {
        let is_valid = site.access.is_valid(&person);
        async move { is_valid }
    });

    let alive = KeepAlive::new().interval(ALIVE).event(Event::default().event("alive").data("-"));
    Ok(Sse::new(streams).keep_alive(alive))
}

/// One outbox: its part of the page after every sample.
fn of(
    outbox: Arc<Outbox>,
    part: impl Fn(&Outbox, &Live) -> Arc<str> + Copy + Send + 'static,
) -> Stream {
    let news = outbox.live.subscribe();
    let stream = unfold((outbox, news, true), move |(outbox, mut news, is_first)| async move {
        outbox.look();
        if !is_first {
            news.changed().await.ok()?;
        }

        let live = news.borrow_and_update().clone();
        let event = Event::default().event("part").data(&*part(&outbox, &live));
        Some((Ok(event), (outbox, news, false)))
    });

    stream.boxed()
}

/// An action: its part of the page whenever it gets on, until it has ended.
fn of_job(job: Arc<Job>) -> Stream {
    let news = job.progress.subscribe();
    let stream = unfold((job, news, true), |(job, mut news, is_first)| async move {
        if !is_first {
            news.changed().await.ok()?;
        }

        let progress = news.borrow_and_update().clone();
        let event = Event::default().event("part").data(&*job::part(&job, &progress));
        Some((Ok(event), (job, news, false)))
    });

    stream.boxed()
}
