//! Writers under load, and the ledger of what each of their transactions came to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bson::{Document, doc, oid::ObjectId};
use mongodb::error::{Result, TRANSIENT_TRANSACTION_ERROR};
use mongodb::options::ReturnDocument;
use mongodb::{Client, ClientSession, Collection};
use outboxd_client::{Event, EventId, Outbox};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Scene;

/// Transactions under way at once: enough that slow commits don't lower the pace.
const TASKS: usize = 16;
/// Every so many transactions one is rolled back, so that there is something that must never be
/// published.
const ROLLED_BACK: u64 = 20;

/// What a transaction came to, as its writer knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Committed,
    Aborted,
    /// It was scheduled, and a committed transaction took it back: it must never be published.
    Cancelled,
    /// The commit was sent and no answer came: it may have happened.
    Unknown,
}

/// One transaction and its event.
#[derive(Debug, Clone)]
pub(crate) struct Transaction {
    /// The event's id.
    pub(crate) id: String,
    pub(crate) key: String,
    pub(crate) number: u32,
    pub(crate) outcome: Outcome,
    /// When it is due, if it was scheduled: in milliseconds since 1970. Its key has no others but
    /// scheduled ones, numbered in the order of this.
    pub(crate) due_ms: Option<i64>,
    /// When the writer knew, by the wall clock: the stream's times are compared with it.
    pub(crate) at: SystemTime,
}

/// Every transaction of a test.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    pub(crate) transactions: Vec<Transaction>,
    /// Counted attempts that the test saw on events that have left the outbox since.
    pub(crate) burned: u64,
}

impl Ledger {
    pub(crate) fn record(&mut self, id: impl ToString, key: &str, number: u32, outcome: Outcome) {
        let (id, key, at) = (id.to_string(), key.to_owned(), SystemTime::now());
        self.transactions.push(Transaction { id, key, number, outcome, due_ms: None, at });
    }

    /// The same for an event that was scheduled.
    pub(crate) fn scheduled(
        &mut self,
        id: impl ToString,
        key: &str,
        number: u32,
        outcome: Outcome,
        due_ms: i64,
    ) {
        self.record(id, key, number, outcome);
        self.transactions.iter_mut().last().expect("a transaction").due_ms = Some(due_ms);
    }

    /// Takes over what another one has.
    pub(crate) fn add(&mut self, other: Ledger) {
        self.transactions.extend(other.transactions);
        self.burned += other.burned;
    }

    pub(crate) fn committed(&self) -> impl Iterator<Item = &Transaction> {
        self.transactions.iter().filter(|transaction| transaction.outcome == Outcome::Committed)
    }
}

/// Services at work: each transaction changes an aggregate in `records` and enqueues the event that
/// tells of it.
pub(crate) struct Writers {
    work: Arc<Work>,
    tasks: Vec<JoinHandle<Ledger>>,
}

struct Work {
    client: Client,
    records: Collection<Document>,
    outbox: Outbox,
    /// Each key with the subject of its events.
    keys: Vec<(String, String)>,
    pause: Duration,
    began: Instant,
    next: AtomicU64,
    stopped: AtomicBool,
}

impl Writers {
    /// Keys `k0`, `k1`, … in turn, on the subject of `scene.event`.
    pub(crate) async fn start(scene: &Scene, keys: u32, per_second: u32) -> Self {
        let keys = (0..keys).map(|key| (format!("k{key}"), scene.subject("made"))).collect();
        Self::start_with(scene, per_second, keys).await
    }

    /// These keys in turn, each with its subject.
    pub(crate) async fn start_with(
        scene: &Scene,
        per_second: u32,
        keys: Vec<(String, String)>,
    ) -> Self {
        // Made beforehand, or the first transactions conflict over making it. The second writers of
        // a scene find it made.
        let _ = scene.database.create_collection("records").await;
        let work = Arc::new(Work {
            client: scene.client.clone(),
            records: scene.database.collection("records"),
            outbox: scene.outbox.clone(),
            keys,
            pause: Duration::from_secs(1) / per_second,
            began: Instant::now(),
            next: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        });
        let tasks = (0..TASKS).map(|_| tokio::spawn(work.clone().run())).collect();
        Self { work, tasks }
    }

    /// Lets the transactions under way end.
    pub(crate) async fn stop(self) -> Ledger {
        self.work.stopped.store(true, Ordering::Relaxed);
        let mut ledger = Ledger::default();
        for task in self.tasks {
            ledger.add(task.await.expect("the writer lives"));
        }
        ledger
    }
}

impl Work {
    /// Takes one turn after the other. A turn's time counts from the beginning: what a slow commit
    /// held up is made up for.
    async fn run(self: Arc<Self>) -> Ledger {
        let mut ledger = Ledger::default();
        while !self.stopped.load(Ordering::Relaxed) {
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep_until(self.began + self.pause.mul_f64(turn as f64)).await;
            self.transaction(turn, &mut ledger).await;
        }
        ledger
    }

    /// One that conflicts is given up: its event must never be published either.
    async fn transaction(&self, turn: u64, ledger: &mut Ledger) {
        let (key, subject) = &self.keys[turn as usize % self.keys.len()];
        let id = ObjectId::new();
        let mut session = self.client.start_session().await.expect("a session");
        let (number, outcome) = match self.write(&mut session, id, key, subject).await {
            Ok(number) if !turn.is_multiple_of(ROLLED_BACK) => {
                (number, end(session.commit_transaction().await))
            }
            // The server rolls back what doesn't hear of it.
            written => {
                let _ = session.abort_transaction().await;
                (written.unwrap_or_default(), Outcome::Aborted)
            }
        };
        ledger.record(id, key, number, outcome);
    }

    async fn write(
        &self,
        session: &mut ClientSession,
        id: ObjectId,
        key: &str,
        subject: &str,
    ) -> Result<u32> {
        session.start_transaction().await?;
        let record = self
            .records
            .find_one_and_update(doc! { "_id": key }, doc! { "$inc": { "version": 1 } })
            .upsert(true)
            .return_document(ReturnDocument::After)
            .session(&mut *session)
            .await?;
        let version =
            record.expect("an upsert leaves a record").get_i32("version").expect("its version");
        let number = u32::try_from(version).expect("a version counts up");
        let event = Event::new(subject, &doc! { "key": key, "number": number })
            .and_then(|event| event.key(key));
        let event =
            event.and_then(|event| event.with_id(EventId::ObjectId(id))).expect("a good event");
        self.outbox.enqueue(session, event).await?;
        Ok(number)
    }
}

fn end(commit: Result<()>) -> Outcome {
    match commit {
        Ok(()) => Outcome::Committed,
        Err(error) if error.contains_label(TRANSIENT_TRANSACTION_ERROR) => Outcome::Aborted,
        Err(_) => Outcome::Unknown,
    }
}
