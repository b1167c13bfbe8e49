//! The load: stories of tickets, many at once. Create a ticket at 5, set it to 10, set it to 15; on
//! some, place an order, and see an edit of the reserved ticket refused. Then the order is paid,
//! cancelled, or left to expire.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bson::oid::ObjectId;
use futures_util::future::try_join_all;
use reqwest::StatusCode;
use ticketing::failure::Failure;
use ticketing::messages::{ChargeStatus, OrderMessage, TicketMessage};
use ticketing::status::OrderStatus;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::amount::{Amount, Fate};
use crate::api::{Answer, Api, User};
use crate::progress::Progress;

/// People who sell and buy.
pub(crate) const USERS: u64 = 100;
/// Tickets that are worked on at once. More than a sidecar's usual load, few enough for the
/// machine's two cores.
const AT_ONCE: usize = 50;
/// Orders that wait for a service to hear from the other, at once. An order has seconds until it
/// expires, so what the services have to hear before it comes to an end is kept short; while a
/// daemon is down, those over this are not placed.
const ORDERS_AT_ONCE: usize = 8;
/// The same for a load that lasts a time. It comes at a pace that the services keep up with, so that
/// what is killed meanwhile is what holds orders up.
const ORDERS_AT_A_TIME: usize = 40;
/// From one ticket to the next of such a load.
const PACE: Duration = Duration::from_millis(100);
/// How long one service may take to hear from the other. Covers a killed daemon's lease, and a
/// record that a killed service left locked.
const HEAR_TIME: Duration = Duration::from_secs(120);
/// First and longest wait before looking again whether a service has heard.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// Edits one at a time: enough for a 99th percentile, done in about a second.
const UNHURRIED: usize = 140;

/// What the load left behind.
pub(crate) struct Done {
    /// Edits of reserved tickets; all were refused.
    pub(crate) refused_edits: u64,
    /// Payments that were sent for orders that were being paid or were.
    pub(crate) double_payments: u64,
    /// Some tickets that were never ordered, each with its seller.
    pub(crate) free: Vec<(User, TicketMessage)>,
    /// Orders that were cancelled or have expired, each with its buyer.
    pub(crate) cancelled: Vec<(User, ObjectId)>,
}

/// Everyone signs up, at once.
pub(crate) async fn sign_up(api: &Api) -> Result<Vec<User>, Failure> {
    let run = format!("{:08x}", rand::random::<u32>());
    let emails = (0..USERS).map(|number| format!("user-{number}.{run}@example.com"));
    try_join_all(emails.map(async |email| api.sign_up(&email).await)).await
}

/// Tells the stories and returns when all are over.
pub(crate) async fn run(api: &Arc<Api>, users: Vec<User>, amount: Amount) -> Result<Done, Failure> {
    let load = Arc::new(Load {
        api: Arc::clone(api),
        users,
        refused_edits: AtomicU64::new(0),
        double_payments: AtomicU64::new(0),
        free: Mutex::default(),
        cancelled: Mutex::default(),
        progress: Progress::new(amount.requests()),
        amount,
        made: AtomicU64::new(0),
        orders: Arc::new(Semaphore::new(match amount {
            // Once all tickets are at 15.
            Amount::Tickets(_) => 0,
            Amount::Time(_) => ORDERS_AT_A_TIME,
        })),
        expiring: Arc::new(Semaphore::new(AT_ONCE)),
    });

    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    let began = Instant::now();
    let (mut stories, mut outcome) = (JoinSet::new(), Ok(()));

    for number in amount.numbers() {
        let is_over = matches!(amount, Amount::Time(time) if began.elapsed() >= time);
        if is_over || outcome.is_err() {
            break;
        }

        if let Amount::Time(_) = amount {
            sleep(PACE).await;
        }
        let permit = Arc::clone(&at_once).acquire_owned().await?;
        while let Some(ended) = stories.try_join_next() {
            outcome = outcome.and(ended?);
        }

        let load = Arc::clone(&load);
        stories.spawn(async move {
            // After a failure no order gets its turn.
            let ticket = load.ticket(number).await.inspect_err(|_| load.end_turns())?;
            // The next ticket needn't wait until the services have heard of this one.
            drop(permit);

            if Fate::of(number) == Fate::Free {
                load.keep(number, ticket);
            } else if let Some(turn) = load.turn(number).await? {
                load.order(number, &ticket, turn).await?;
            }

            Ok::<(), Failure>(())
        });
    }

    if outcome.is_err() {
        load.end_turns();
    }
    // One that failed doesn't cut the others short: a ticket would stay at 10.
    while let Some(ended) = stories.join_next().await {
        outcome = outcome.and(ended?);
    }

    outcome?;
    Ok(Done {
        refused_edits: load.refused_edits.load(Ordering::Relaxed),
        double_payments: load.double_payments.load(Ordering::Relaxed),
        free: std::mem::take(&mut *lock(&load.free)),
        cancelled: std::mem::take(&mut *lock(&load.cancelled)),
    })
}

/// Pays for orders that were cancelled or have expired; returns how many of these payments were
/// refused.
pub(crate) async fn pay_too_late(api: &Api, done: &Done) -> Result<u64, Failure> {
    let mut refused = 0;
    for (buyer, order) in &done.cancelled {
        match api.pay(buyer, *order, "tok_visa").await? {
            Answer::Refused(StatusCode::CONFLICT, _) => refused += 1,
            answer => return Err(format!("a payment for a cancelled order got {answer:?}").into()),
        }
    }
    Ok(refused)
}

/// Sets free tickets to 15 once more, one at a time: shows how long an event takes when nothing is
/// waiting.
pub(crate) async fn unhurried(api: &Api, free: &[(User, TicketMessage)]) -> Result<(), Failure> {
    for (seller, ticket) in free.iter().cycle().take(UNHURRIED.min(free.len())) {
        set(api, seller, ticket, 15.0).await?;
    }
    Ok(())
}

/// Sets a free ticket's price. A request without an answer may have been carried out: then the next
/// one is refused for its version, and the ticket itself tells.
async fn set(
    api: &Api,
    seller: &User,
    ticket: &TicketMessage,
    price: f64,
) -> Result<TicketMessage, Failure> {
    let mut ticket = ticket.clone();
    loop {
        let interrupted = api.interrupted();
        match api.edit(seller, &ticket, price).await? {
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
    users: Vec<User>,
    refused_edits: AtomicU64,
    double_payments: AtomicU64,
    free: Mutex<Vec<(User, TicketMessage)>>,
    cancelled: Mutex<Vec<(User, ObjectId)>>,
    progress: Progress,
    amount: Amount,
    /// Tickets that are at 15.
    made: AtomicU64,
    /// Turns of orders.
    orders: Arc<Semaphore>,
    /// Turns of orders that are left to expire, if it is known how many there are. They don't wait until
    /// all tickets are at 15, because they take longest, and nothing has to be heard before they end.
    expiring: Arc<Semaphore>,
}

impl Load {
    fn seller(&self, number: u64) -> &User {
        &self.users[(number % USERS) as usize]
    }

    fn buyer(&self, number: u64) -> &User {
        self.seller(number + 1)
    }

    async fn ticket(&self, number: u64) -> Result<TicketMessage, Failure> {
        let seller = self.seller(number);
        let mut ticket = self.api.create(seller, &format!("Ticket {number}"), 5.0).await?;
        self.progress.step();

        for price in [10.0, 15.0] {
            ticket = set(&self.api, seller, &ticket, price).await?;
            self.progress.step();
        }

        let made = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        if matches!(self.amount, Amount::Tickets(tickets) if tickets == made) {
            self.orders.add_permits(ORDERS_AT_ONCE);
        }

        Ok(ticket)
    }

    fn keep(&self, number: u64, ticket: TicketMessage) {
        let mut free = lock(&self.free);
        if free.len() < UNHURRIED {
            free.push((self.seller(number).clone(), ticket));
        }
    }

    /// The turn of an order, if it has one.
    async fn turn(&self, number: u64) -> Result<Option<OwnedSemaphorePermit>, Failure> {
        let turns = match (self.amount, Fate::of(number)) {
            (Amount::Tickets(_), Fate::Expires) => &self.expiring,
            _ => &self.orders,
        };
        let turns = Arc::clone(turns);
        match self.amount {
            Amount::Tickets(_) => Ok(Some(turns.acquire_owned().await?)),
            Amount::Time(_) => Ok(turns.try_acquire_owned().ok()),
        }
    }

    fn end_turns(&self) {
        self.orders.close();
        self.expiring.close();
    }

    async fn order(
        &self,
        number: u64,
        ticket: &TicketMessage,
        turn: OwnedSemaphorePermit,
    ) -> Result<(), Failure> {
        let Some(order) = self.placed(number, ticket).await? else { return Ok(()) };
        self.progress.step();
        self.refused_edit(number, ticket, &order).await?;
        self.progress.step();

        let buyer = self.buyer(number);
        match Fate::of(number) {
            Fate::Paid => self.pay(number, &order).await?,
            Fate::Cancelled => {
                // It may have expired while a service was away; then it is cancelled, too.
                self.api.cancel(buyer, order.id).await?.done()?;
            }
            // Another one needn't wait for that.
            Fate::Free | Fate::Expires => drop(turn),
        }

        // What it becomes, whoever brings it there.
        let ended = self.ended(buyer, &order).await?;
        if ended == OrderStatus::Cancelled {
            lock(&self.cancelled).push((buyer.clone(), order.id));
        }
        self.progress.step();
        Ok(())
    }

    /// Places an order once the orders service knows the ticket. `None` if a request was
    /// interrupted and the ticket is taken: then it is by that very request.
    async fn placed(
        &self,
        number: u64,
        ticket: &TicketMessage,
    ) -> Result<Option<OrderMessage>, Failure> {
        let mut wait = Wait::new("the orders service did not hear of a ticket");
        loop {
            let interrupted = self.api.interrupted();
            match self.api.order(self.buyer(number), ticket.id).await? {
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

    /// Once the ticket is reserved, its seller can't change it. While a service is away the order
    /// may expire before that.
    async fn refused_edit(
        &self,
        number: u64,
        ticket: &TicketMessage,
        order: &OrderMessage,
    ) -> Result<(), Failure> {
        let mut wait = Wait::new("the tickets service did not hear of an order");
        let reserved = loop {
            let now = self.api.ticket(ticket.id).await?;
            if now.order_id == Some(order.id) {
                break now;
            }
            if order.expires_at < bson::DateTime::now() {
                return Ok(());
            }
            wait.again().await?;
        };

        match self.api.edit(self.seller(number), &reserved, 15.0).await? {
            Answer::Refused(StatusCode::CONFLICT, _) => {
                self.refused_edits.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Answer::Refused(status, message) => {
                Err(format!("an edit got {status} {message}").into())
            }
            // Its order expired in between.
            Answer::Done(_) if order.expires_at < bson::DateTime::now() => Ok(()),
            Answer::Done(_) => Err("an edit of a reserved ticket was accepted".into()),
        }
    }

    /// Pays twice at once, once the payments service knows the order. Of three buyers, one has a
    /// card that is declined first, and one a provider that doesn't answer the first time.
    async fn pay(&self, number: u64, order: &OrderMessage) -> Result<(), Failure> {
        let mut token = match number % 3 {
            0 => "tok_declined",
            1 => "tok_timeout",
            _ => "tok_visa",
        };
        let mut wait = Wait::new("the payments service did not take a payment");
        let (buyer, mut charges) = (self.buyer(number), HashSet::new());

        loop {
            let twice = [(); 2].map(async |()| self.api.pay(buyer, order.id, token).await);
            let mut taken = 0;
            for answer in try_join_all(twice).await? {
                match answer {
                    Answer::Done(charge) if charge.status == ChargeStatus::Taken => {
                        taken += 1;
                        charges.insert(charge.id);
                    }
                    Answer::Done(_) | Answer::Refused(StatusCode::NOT_FOUND, _) => {}
                    Answer::Refused(StatusCode::PAYMENT_REQUIRED, _) => token = "tok_visa",
                    // While a service was away, its time ran out.
                    Answer::Refused(StatusCode::CONFLICT, _)
                        if order.expires_at < bson::DateTime::now() =>
                    {
                        return Ok(());
                    }
                    answer => return Err(format!("a payment got {answer:?}").into()),
                }
            }

            if charges.len() > 1 {
                return Err(format!("order {} has two charges", order.id).into());
            }
            if taken == 2 {
                self.double_payments.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            wait.again().await?;
        }
    }

    /// Waits until an order is complete or cancelled.
    async fn ended(&self, buyer: &User, order: &OrderMessage) -> Result<OrderStatus, Failure> {
        let mut wait = Wait::new("an order was neither complete nor cancelled");
        loop {
            let status = self.api.order_now(buyer, order.id).await?.status;
            if !status.is_payable() {
                return Ok(status);
            }
            wait.again().await?;
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
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
