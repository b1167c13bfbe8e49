//! Handling each message once: its id is committed together with what it changes.
//!
//! A message may be delivered again: when a consumer dies between its commit and its ack, or when
//! the relay publishes an event again after the stream's duplicate window. Every delivery has the
//! same id. So the id is a document of a small collection, written in the transaction of the work:
//! either both are there, or neither. Ids expire by a TTL index.
//!
//! ```text
//!  <inbox>         { _id: { group, id }, at }
//!  <inbox>_failed  messages that could not be applied, each with its reason
//! ```

use std::time::{Duration, Instant};

use bson::{Binary, DateTime, Document, doc};
use mongodb::error::ErrorKind;
use mongodb::options::{IndexOptions, ReadConcern, WriteConcern};
use mongodb::{ClientSession, Collection, Database, IndexModel};

use crate::enqueue::{EnqueueError, require_transaction};
use crate::message::{Handle, Message};
use crate::verdict::{HandleError, Verdict};

/// How long ids are kept, unless the service says otherwise.
pub const DEFAULT_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// The shortest time that ids are kept. The stream's duplicate window is 30 min as `outboxd
/// migrate` makes it.
pub const MIN_TTL: Duration = Duration::from_secs(3600);
/// How long [`Inbox::run`] tries to get past other transactions, unless the service says otherwise.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(2);
/// The index by which messages that were put aside are listed.
const BY_TIME: &str = "outboxd_at";
/// The index that lets ids expire.
const EXPIRY: &str = "outboxd_expiry";
/// Longest reason that is stored, in characters.
const MAX_REASON: usize = 2_000;

/// MongoDB's code for a collection that is there already.
const NAMESPACE_EXISTS: i32 = 48;
/// MongoDB's code for an index that is there with another expiry.
const INDEX_OPTIONS_CONFLICT: i32 = 85;
/// MongoDB's code for a write that meets another transaction.
const WRITE_CONFLICT: i32 = 112;

/// Why an inbox could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InboxError {
    /// The session has no transaction under way. Without one, the id could be written and the work
    /// not.
    #[error(
        "once was called outside a transaction; start one on the session, or call `run`, which starts one itself"
    )]
    NotInTransaction,
    /// The message has no id.
    #[error(
        "the message has no Nats-Msg-Id; only a message with an id, such as outboxd gives to each, can be handled once"
    )]
    NoMessageId,
    /// Ids would be forgotten while messages may still come again.
    #[error(
        "message ids are kept for {}; set a time of at least {}", Seconds(*.0), Seconds(MIN_TTL)
    )]
    Ttl(Duration),
    /// MongoDB refused a command or could not be reached.
    #[error(transparent)]
    Mongodb(#[from] mongodb::error::Error),
}

impl From<InboxError> for HandleError {
    fn from(error: InboxError) -> Self {
        match error {
            InboxError::Mongodb(error) => Self::Mongodb(error),
            InboxError::NoMessageId => Self::unprocessable(error.to_string()),
            other => Self::failed(other),
        }
    }
}

struct Seconds(Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} s", self.0.as_secs())
    }
}

/// Applies messages, each in a transaction together with its id.
pub trait Apply: Send + Sync {
    /// Applies one message with writes in `session`: all of them are committed, or none. It may run
    /// more than once for a message; what an earlier run wrote is rolled back then. So it has no
    /// other effect: no mail, no call, no publish.
    fn apply(
        &self,
        session: &mut ClientSession,
        message: &Message,
    ) -> impl Future<Output = Result<Verdict, HandleError>> + Send;
}

/// The ids of the messages that a service has handled.
///
/// Cheap to clone. Services in several languages, and several queue groups, may share one.
#[derive(Debug, Clone)]
pub struct Inbox {
    database: Database,
    ids: Collection<Document>,
    failed: Collection<Document>,
    ttl: Duration,
    patience: Duration,
}

impl Inbox {
    /// The inbox in `database`, in the collection named `collection`: the database that the work
    /// writes to, or another one of the same cluster. [`Inbox::create`] makes it.
    pub fn new(database: &Database, collection: &str) -> Self {
        Self {
            database: database.clone(),
            ids: database.collection(collection),
            failed: database.collection(&format!("{collection}_failed")),
            ttl: DEFAULT_TTL,
            patience: DEFAULT_PATIENCE,
        }
    }

    /// Sets how long ids are kept; the default is 30 days, and the least is 1 hour. Keep them for
    /// longer than a message may take to come again: longer than the stream's duplicate window,
    /// and longer than the service may be down.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets how long [`Inbox::run`] tries again while another transaction changes the same
    /// records; the default is 2 s. The messages behind this one wait meanwhile.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// How long ids are kept.
    pub fn kept_for(&self) -> Duration {
        self.ttl
    }

    /// Makes both collections and the index that lets ids expire, if they are missing. If ids
    /// expire after another time, that is changed.
    ///
    /// # Errors
    /// [`InboxError::Ttl`] or [`InboxError::Mongodb`].
    pub async fn create(&self) -> Result<(), InboxError> {
        if self.ttl < MIN_TTL {
            return Err(InboxError::Ttl(self.ttl));
        }

        for name in [self.ids.name(), self.failed.name()] {
            match self.database.create_collection(name).await {
                Err(error) if code(&error) != Some(NAMESPACE_EXISTS) => return Err(error.into()),
                _ => {}
            }
        }

        let options = IndexOptions::builder().name(BY_TIME.to_owned()).build();
        let by_time = IndexModel::builder().keys(doc! { "at": 1 }).options(options).build();
        self.failed.create_index(by_time).await?;

        let options =
            IndexOptions::builder().name(EXPIRY.to_owned()).expire_after(self.ttl).build();
        let expiry = IndexModel::builder().keys(doc! { "at": 1 }).options(options).build();

        match self.ids.create_index(expiry).await {
            Err(error) if code(&error) == Some(INDEX_OPTIONS_CONFLICT) => {
                self.change_expiry().await
            }
            Err(error) => Err(error.into()),
            Ok(_) => Ok(()),
        }
    }

    async fn change_expiry(&self) -> Result<(), InboxError> {
        let seconds = i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX);
        let index = doc! { "name": EXPIRY, "expireAfterSeconds": seconds };
        let change = doc! { "collMod": self.ids.name(), "index": index };
        self.database.run_command(change).await?;

        Ok(())
    }

    /// Has `work` apply a message unless it was handled before, in the transaction under way on
    /// `session`: the message's id and the work commit together. A message that was handled before
    /// is [`Verdict::Done`].
    ///
    /// After an error or [`Verdict::Later`], abort the transaction: then the id is not kept.
    /// [`Inbox::run`] does all of that.
    ///
    /// # Errors
    /// What `work` returned; [`HandleError::Unprocessable`] for a message without an id; an
    /// [`InboxError`] outside a transaction; or [`HandleError::Mongodb`].
    pub async fn once(
        &self,
        session: &mut ClientSession,
        message: &Message,
        work: &impl Apply,
    ) -> Result<Verdict, HandleError> {
        match self.is_first(session, message).await? {
            true => work.apply(session, message).await,
            false => Ok(Verdict::Done),
        }
    }

    /// Whether the message is new. Its id is written then.
    async fn is_first(
        &self,
        session: &mut ClientSession,
        message: &Message,
    ) -> Result<bool, InboxError> {
        require_transaction(session).await.map_err(|error| match error {
            EnqueueError::Mongodb(error) => InboxError::Mongodb(error),
            _ => InboxError::NotInTransaction,
        })?;

        // Not an insert: a duplicate key would end the transaction.
        let id = id_of(message).ok_or(InboxError::NoMessageId)?;
        let id = doc! { "_id": { "group": &message.group, "id": id } };
        let write = doc! { "$setOnInsert": { "at": DateTime::now() } };

        let done = self.ids.update_one(id, write).upsert(true).session(session).await?;

        Ok(done.upserted_id.is_some())
    }

    /// Has `work` apply a message in a transaction of its own: starts one, and commits the
    /// message's id together with the work.
    ///
    /// - `work` answers [`Verdict::Later`]: nothing is kept, and the message may come again.
    /// - The message was handled before: [`Verdict::Done`], without `work`.
    /// - Another transaction changes the same records: `work` runs again. What an earlier run
    ///   wrote is rolled back; what isn't a write in the session is not. After the
    ///   [patience](Inbox::patience) is over, the answer is [`Verdict::Later`].
    ///
    /// # Errors
    /// As [`Inbox::once`]. Nothing was written.
    pub async fn run(&self, message: &Message, work: &impl Apply) -> Result<Verdict, HandleError> {
        let mut session = self.database.client().start_session().await?;
        let transaction = session
            .start_transaction()
            .read_concern(ReadConcern::snapshot())
            .write_concern(WriteConcern::majority());

        let mut answer = None;
        let tries =
            Tries { inbox: self, message, work, began: Instant::now(), answer: &mut answer };

        let done = transaction.and_run((tries, None), |session, (tries, in_the_way)| {
            Box::pin(tries.again(session, in_the_way))
        });

        let done = done.await;
        answer.unwrap_or_else(|| Ok(done?))
    }

    /// A handler that has `work` apply each message with [`Inbox::run`].
    pub fn each<W: Apply>(&self, work: W) -> Each<W> {
        Each { inbox: self.clone(), work }
    }

    /// Writes a message that could not be applied to `<inbox>_failed`, with the reason. The same
    /// message is there once.
    ///
    /// # Errors
    /// The driver's. Then the message must not be acked.
    pub async fn put_aside(&self, message: &Message, reason: &str) -> mongodb::error::Result<()> {
        let without = || format!("{}:{}", message.stream, message.sequence);
        let id = id_of(message).map_or_else(without, str::to_owned);
        let id = doc! { "_id": { "group": &message.group, "id": id } };
        let headers: Document =
            message.headers.iter().map(|(name, value)| (name.clone(), value.into())).collect();
        let payload =
            Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: message.payload.clone() };

        let document = doc! {
            "at": DateTime::now(),
            "subject": &message.subject,
            "payload": payload,
            "headers": headers,
            "stream": &message.stream,
            "sequence": i64::try_from(message.sequence).unwrap_or(i64::MAX),
            "deliveries": i32::try_from(message.deliveries).unwrap_or(i32::MAX),
            "reason": reason.chars().take(MAX_REASON).collect::<String>(),
        };
        self.failed
            .update_one(id, doc! { "$set": document })
            .upsert(true)
            .write_concern(WriteConcern::majority())
            .await?;

        Ok(())
    }
}

/// The runs of one transaction.
struct Tries<'a, W> {
    inbox: &'a Inbox,
    message: &'a Message,
    work: &'a W,
    began: Instant,
    /// What leaves the transaction without a commit, and is no reason to run it again.
    answer: &'a mut Option<Result<Verdict, HandleError>>,
}

impl<W: Apply> Tries<'_, W> {
    /// `in_the_way` is why the run before this one was rolled back.
    async fn again(
        &mut self,
        session: &mut ClientSession,
        in_the_way: &mut Option<mongodb::error::Error>,
    ) -> mongodb::error::Result<Verdict> {
        let is_over = self.began.elapsed() > self.inbox.patience;

        if let Some(error) = in_the_way.take_if(|_| is_over) {
            return self.leave(given_up(error));
        }

        match self.inbox.once(session, self.message, self.work).await {
            Ok(Verdict::Done) => Ok(Verdict::Done),
            Err(HandleError::Mongodb(error)) => {
                *in_the_way = Some(error.clone());
                Err(error)
            }
            answer => self.leave(answer),
        }
    }

    fn leave(&mut self, answer: Result<Verdict, HandleError>) -> mongodb::error::Result<Verdict> {
        *self.answer = Some(answer);
        Err(mongodb::error::Error::custom("the answer is known"))
    }
}

/// A handler whose messages are applied once each, by an [`Inbox`].
#[derive(Debug, Clone)]
pub struct Each<W> {
    inbox: Inbox,
    work: W,
}

impl<W: Apply> Handle for Each<W> {
    async fn handle(&self, message: &Message) -> Result<Verdict, HandleError> {
        self.inbox.run(message, &self.work).await
    }
}

fn id_of(message: &Message) -> Option<&str> {
    message.id.as_deref().filter(|id| !id.is_empty())
}

/// After the last try of a transaction: another one was in the way, or MongoDB was.
fn given_up(error: mongodb::error::Error) -> Result<Verdict, HandleError> {
    match code(&error) {
        Some(WRITE_CONFLICT) => Ok(Verdict::Later),
        _ => Err(error.into()),
    }
}

fn code(error: &mongodb::error::Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(command) => Some(command.code),
        _ => None,
    }
}
