//! One event: its state, what holds it or waits behind it, and what to do.

use bson::{Bson, Document};
use outboxd_client::field;

use crate::document::layout::Layout;
use crate::document::record::{OutboxRecord, shown_id};
use crate::document::state::State;
use crate::error::{MongodbContext, Result};
use crate::failure::Rejection;
use crate::finding::operand;
use crate::mongodb::inspect::{Entry, Inspect, state_of_scheduled};

/// What people act on events with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Means {
    Commands,
    /// Those of the console.
    Buttons,
}

/// What is known of an event.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) event: Document,
    pub(crate) state: State,
    pub(crate) is_scheduled: bool,
    /// Seconds since it was written.
    pub(crate) waited: Option<u64>,
    /// Seconds until it is due, of a scheduled event; below zero once it is due.
    pub(crate) due_in: Option<i64>,
    /// What it waits behind.
    pub(crate) head: Option<Entry>,
    /// How many stuck events of its key came later.
    pub(crate) behind: u64,
    pub(crate) what_to_do: String,
}

impl Known {
    /// The event of this id, in the outbox or among the scheduled ones; `only_scheduled` leaves the
    /// outbox out. `None` if there is none.
    ///
    /// # Errors
    /// MongoDB's.
    pub(crate) async fn read(
        inspect: &Inspect,
        layout: &Layout,
        id: &str,
        only_scheduled: bool,
        means: Means,
    ) -> Result<Option<Self>> {
        let found = inspect.whole(id, only_scheduled).await.during("reading the outbox")?;
        let Some((event, is_scheduled)) = found else { return Ok(None) };

        // Nothing waits for a scheduled event, and it waits for nothing but its time.
        let (head, behind) = match is_scheduled {
            true => (None, 0),
            false => (
                inspect.head(&event).await.during("reading the outbox")?,
                inspect.behind(&event).await.during("reading the outbox")?,
            ),
        };

        let (waited, due_in) = inspect.times(&event).await.during("asking for the time")?;
        let due_in = due_in.filter(|_| is_scheduled);
        let state = if is_scheduled { state_of_scheduled(&event) } else { State::of(&event) };
        let what_to_do = match (state, means) {
            (State::Scheduled, Means::Commands) => advice_scheduled(&event, due_in),
            (_, Means::Commands) => advice(&event, layout, head.as_ref()),
            (_, Means::Buttons) => {
                advice_with_buttons(&event, layout, head.as_ref(), due_in, state)
            }
        };

        Ok(Some(Self { event, state, is_scheduled, waited, due_in, head, behind, what_to_do }))
    }
}

/// About how many bytes a payload has, in the place of one that nobody asked for.
pub(crate) fn size(payload: &Bson) -> usize {
    bson::serialize_to_vec(&bson::doc! { "payload": payload }).map_or(0, |bytes| bytes.len())
}

fn advice(event: &Document, layout: &Layout, head: Option<&Entry>) -> String {
    let id = operand(&event.get(field::ID).map(shown_id).unwrap_or_default());
    if let Some(head) = head {
        return format!(
            "it waits behind {} ({}): `outboxd show {}`",
            head.id,
            head.state.word(),
            operand(&head.id)
        );
    }

    let code = newest(event).and_then(|failure| failure.get_str("code").ok()).unwrap_or_default();
    let remedy = Rejection::new(code, "").remedy();

    match State::of(event) {
        State::Scheduled => advice_scheduled(event, None),
        State::Locked => match malformed(event, layout) {
            Some(reason) => format!("it breaks the contract ({reason}); the relay will mark it"),
            None => {
                "nothing: the relay owns it; if it stays, see `outboxd stats` and the relay's log"
                    .to_owned()
            }
        },
        State::Parked => {
            "nothing holds it: the relay publishes it at its next retry, or `outboxd retry-now` does"
                .to_owned()
        }

        State::Failed => format!(
            "{remedy}; the relay retries it on its own, or at once after `outboxd retry-now {id}`"
        ),
        State::Dead => {
            format!(
                "{remedy}; then `outboxd edit {id}` to correct the event, `outboxd retry-now {id}` \
                 to publish it as it is, or `outboxd discard {id}`"
            )
        }
    }
}

/// The same for whoever has the buttons of the console.
fn advice_with_buttons(
    event: &Document,
    layout: &Layout,
    head: Option<&Entry>,
    due_in: Option<i64>,
    state: State,
) -> String {
    if let Some(head) = head {
        return format!("it waits behind {} ({}): see that event", head.id, head.state.word());
    }

    let code = newest(event).and_then(|failure| failure.get_str("code").ok()).unwrap_or_default();
    let remedy = Rejection::new(code, "").remedy();
    match state {
        State::Scheduled if due_in.is_some_and(|due| due < 0) => {
            "it is due, and the relay has not moved it into the outbox yet: Overview shows whether a \
             relay leads, and Check whether it may move events; Cancel removes it"
                .to_owned()
        }
        State::Scheduled => "nothing: the relay moves it into the outbox once it is due; Deliver now \
                             does not wait, and Cancel removes it"
            .to_owned(),
        State::Locked => match malformed(event, layout) {
            Some(reason) => format!("it breaks the contract ({reason}); the relay will mark it"),
            None => {
                "nothing: the relay owns it; if it stays, see Overview and the relay's log".to_owned()
            }
        },
        State::Parked => {
            "nothing holds it: the relay publishes it at its next retry, or at once after Retry now"
                .to_owned()
        }
        State::Failed => {
            format!("{remedy}; the relay retries it on its own, or at once after Retry now")
        }
        State::Dead => format!(
            "{remedy}; then Retry now publishes it as it is, and Discard removes it; to correct it \
             before, an operator has the command `outboxd edit {}`",
            operand(&event.get(field::ID).map(shown_id).unwrap_or_default())
        ),
    }
}

/// For an event that waits for its time.
fn advice_scheduled(event: &Document, due_in: Option<i64>) -> String {
    let id = operand(&event.get(field::ID).map(shown_id).unwrap_or_default());
    match due_in {
        Some(..=-1) => format!(
            "it is due, and the relay has not moved it into the outbox yet: `outboxd stats` shows \
             whether a relay leads, and `outboxd check` whether it may move events; \
             `outboxd discard {id}` cancels it"
        ),
        _ => format!(
            "nothing: the relay moves it into the outbox once it is due; `outboxd retry-now {id}` \
             delivers it now, `outboxd discard {id}` cancels it"
        ),
    }
}

fn malformed(event: &Document, layout: &Layout) -> Option<String> {
    let raw = bson::RawDocumentBuf::try_from(event).ok()?;
    OutboxRecord::parse(&raw, layout).err().map(|malformed| malformed.reason)
}

fn newest(event: &Document) -> Option<&Document> {
    event.get_array(field::FAILURES).ok()?.last()?.as_document()
}
