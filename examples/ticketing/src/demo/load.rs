//! The load: stories of tickets, many at once. Create a ticket at 5, set it to 10, set it to 15; on
//! some, place an order, see an edit of the reserved ticket refused, and cancel half of the orders.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::StatusCode;
use ticketing::failure::Failure;
use ticketing::messages::{OrderMessage, TicketMessage};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::api::{Answer, Api};
use crate::progress::Progress;

/// Tickets that are worked on at once. More than a sidecar's usual load, few enough for the
/// machine's two cores.
const AT_ONCE: usize = 50;
/// Orders that wait for a service to hear from the other, at once; while a daemon is down they add
/// up, and those over this are not placed.
const ORDERS_AT_ONCE: usize = 200;
/// How long one service may take to hear from the other. Covers a killed daemon's lease, and a
/// record that a killed service left locked.
const HEAR_TIME: Duration = Duration::from_secs(120);
/// First and longest wait before looking again whether a service has heard.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// Edits one at a time: enough for a 99th percentile, done in about a second.
const UNHURRIED: usize = 140;
/// Requests of the 3 steps every ticket goes through.
const STEPS: u64 = 3;

/// Of ten tickets, three are ordered; of ten ordered ones, five are cancelled.
fn is_ordered(number: u64) -> bool {
    number % 10 < 3
}

fn is_cancelled(number: u64) -> bool {
    is_ordered(number) && (number / 10).is_multiple_of(2)
}

/// How much load.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Amount {
    Tickets(u64),
    Time(Duration),
}

impl Amount {
    fn requests(self) -> Option<u64> {
        let Self::Tickets(tickets) = self else { return None };
        let count = |of: fn(u64) -> bool| (0..tickets).filter(|number| of(*number)).count() as u64;
        Some(STEPS * tickets + 2 * count(is_ordered) + count(is_cancelled))
    }
}

/// What the load left behind.
#[derive(Debug)]
pub(crate) struct Done {
    /// Edits of reserved tickets; all were refused.
    pub(crate) refused: u64,
    /// Some tickets that were never ordered.
    pub(crate) free: Vec<TicketMessage>,
}

/// Tells the stories and returns when all are over.
pub(crate) async fn run(api: &Arc<Api>, amount: Amount) -> Result<Done, Failure> {
    let load = Arc::new(Load {
        api: Arc::clone(api),
        refused: AtomicU64::new(0),
        free: Mutex::default(),
        progress: Progress::new(amount.requests()),
        orders: Arc::new(Semaphore::new(ORDERS_AT_ONCE)),
    });

    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    let began = Instant::now();
    let (mut stories, mut number, mut outcome) = (JoinSet::new(), 0, Ok(()));

    loop {
        let more = match amount {
            Amount::Tickets(tickets) => number < tickets,
            Amount::Time(time) => began.elapsed() < time,
        };
        if !more || outcome.is_err() {
            break;
        }

        let permit = Arc::clone(&at_once).acquire_owned().await?;
        while let Some(ended) = stories.try_join_next() {
            outcome = outcome.and(ended?);
        }

        let load = Arc::clone(&load);
        stories.spawn(async move {
            let ticket = load.ticket(number).await?;
            // The next ticket needn't wait until the services have heard of this one.
            drop(permit);

            if !is_ordered(number) {
                load.keep(ticket);
            } else if let Ok(_permit) = Arc::clone(&load.orders).try_acquire_owned() {
                load.order(number, &ticket).await?;
            }

            Ok::<(), Failure>(())
        });
        number += 1;
    }

    // One that failed doesn't cut the others short: a ticket would stay at 10.
    while let Some(ended) = stories.join_next().await {
        outcome = outcome.and(ended?);
    }

    outcome?;
    let free = std::mem::take(&mut *load.free.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Done { refused: load.refused.load(Ordering::Relaxed), free })
}

/// Sets free tickets to 15 once more, one at a time: shows how long an event takes when nothing is
/// waiting.
pub(crate) async fn unhurried(api: &Api, free: &[TicketMessage]) -> Result<(), Failure> {
    for ticket in free.iter().take(UNHURRIED) {
        set(api, ticket, 15.0).await?;
    }
    Ok(())
}

/// Sets a free ticket's price. A request without an answer may have been carried out: then the next
/// one is refused for its version, and the ticket itself tells.
async fn set(api: &Api, ticket: &TicketMessage, price: f64) -> Result<TicketMessage, Failure> {
    let mut ticket = ticket.clone();
    loop {
        let interrupted = api.interrupted();
        match api.edit(&ticket, price).await? {
            Answer::Refused(StatusCode::CONFLICT, _) if api.interrupted() > interrupted => {
                let now = api.ticket(ticket.id).await?;
                if now.version > ticket.version && now.price == price {
                    return Ok(now);
                }
                ticket = now;
            }
            answer => return answer.done(),
        }
    }
}

struct Load {
    api: Arc<Api>,
    refused: AtomicU64,
    free: Mutex<Vec<TicketMessage>>,
    progress: Progress,
    orders: Arc<Semaphore>,
}

impl Load {
    async fn ticket(&self, number: u64) -> Result<TicketMessage, Failure> {
        let mut ticket = self.api.create(&format!("Ticket {number}"), 5.0).await?;
        self.progress.step();

        for price in [10.0, 15.0] {
            ticket = set(&self.api, &ticket, price).await?;
            self.progress.step();
        }

        Ok(ticket)
    }

    fn keep(&self, ticket: TicketMessage) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < UNHURRIED {
            free.push(ticket);
        }
    }

    async fn order(&self, number: u64, ticket: &TicketMessage) -> Result<(), Failure> {
        let Some(order) = self.placed(ticket).await? else { return Ok(()) };
        self.progress.step();

        let mut wait = Wait::new("the tickets service did not hear of an order");
        let reserved = loop {
            let ticket = self.api.ticket(ticket.id).await?;
            if ticket.order_id == Some(order.id) {
                break ticket;
            }
            wait.again().await?;
        };

        match self.api.edit(&reserved, 10.0).await? {
            Answer::Refused(StatusCode::CONFLICT, _) => {
                self.refused.fetch_add(1, Ordering::Relaxed)
            }
            Answer::Refused(status, message) => {
                return Err(format!("an edit got {status} {message}").into());
            }
            Answer::Done(_) => return Err("an edit of a reserved ticket was accepted".into()),
        };

        self.progress.step();
        if is_cancelled(number) {
            self.api.cancel(order.id).await?;
            self.progress.step();
        }

        Ok(())
    }

    /// Places an order once the orders service knows the ticket. `None` if a request was
    /// interrupted and the ticket is taken: then it is by that very request.
    async fn placed(&self, ticket: &TicketMessage) -> Result<Option<OrderMessage>, Failure> {
        let mut wait = Wait::new("the orders service did not hear of a ticket");
        loop {
            let interrupted = self.api.interrupted();
            match self.api.order(ticket.id).await? {
                Answer::Done(order) => return Ok(Some(order)),
                Answer::Refused(StatusCode::NOT_FOUND, _) => wait.again().await?,
                Answer::Refused(StatusCode::CONFLICT, _)
                    if self.api.interrupted() > interrupted =>
                {
                    return Ok(None);
                }
                Answer::Refused(status, message) => {
                    return Err(format!("an order got {status} {message}").into());
                }
            }
        }
    }
}

/// Looks again and again, ever less often, until the time is over.
struct Wait {
    deadline: Instant,
    next: Duration,
    otherwise: &'static str,
}

impl Wait {
    fn new(otherwise: &'static str) -> Self {
        Self { deadline: Instant::now() + HEAR_TIME, next: LOOK.0, otherwise }
    }

    async fn again(&mut self) -> Result<(), Failure> {
        if Instant::now() > self.deadline {
            return Err(format!("{} in {HEAR_TIME:?}", self.otherwise).into());
        }
        sleep(self.next).await;
        self.next = self.next.mul_f64(1.5).min(LOOK.1);
        Ok(())
    }
}
