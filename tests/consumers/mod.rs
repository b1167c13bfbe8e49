//! The consuming half of the library: each message is handled once, in order, or put aside with its
//! reason; kill -9 of whoever takes part leaves the copies equal.

mod inboxes; // the id of a message commits together with the work
mod kills; // consumer, relay and writer are killed in mid-load, and the copies are equal
mod kit; // the servers for a service's own tests
mod listeners; // order, delays, dead letters, heartbeats, the stop
mod losses; // NATS, its server in lame duck mode and MongoDB go away and come back

use std::future::pending;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull;
use bson::{Document, doc};
use mongodb::{ClientSession, Collection};
use outboxd_client::{Apply, Handle, HandleError, Inbox, ListenError, Listener, Message, Verdict};
use tokio::task::JoinHandle;

use crate::support::{Scene, until};

/// The queue group of the tests.
const GROUP: &str = "shop-service";
/// Longer than any test: a message that is not given back does not come again within it.
const NEVER: Duration = Duration::from_secs(600);

/// What a test's handler does, in a type that a listener takes.
struct Handler<F>(F);

impl<F, A> Handle for Handler<F>
where
    F: Fn(Message) -> A + Send + Sync,
    A: Future<Output = Result<Verdict, HandleError>> + Send,
{
    async fn handle(&self, message: &Message) -> Result<Verdict, HandleError> {
        (self.0)(message.clone()).await
    }
}

/// A running listener, and the means to stop it.
struct Listening {
    task: JoinHandle<Result<(), ListenError>>,
    stop: tokio::sync::oneshot::Sender<()>,
}

impl Listening {
    /// As on SIGTERM.
    async fn stop(self) -> Result<(), ListenError> {
        let _ = self.stop.send(());
        self.task.await.expect("the listener didn't panic")
    }

    /// As when the process is killed.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

impl Scene {
    /// An inbox, made.
    async fn inbox(&self) -> Inbox {
        let inbox = Inbox::new(&self.database, "inbox");
        inbox.create().await.expect("the inbox is made");
        inbox
    }

    /// A listener to the scene's stream.
    async fn listener(&self) -> Listener {
        Listener::new(&self.nats_url, &self.stream, GROUP, self.inbox().await).ack_wait(NEVER)
    }

    /// Publishes messages with these ids, as a relay does.
    async fn published(&self, ids: impl IntoIterator<Item = impl std::fmt::Display>) {
        for id in ids {
            let id = id.to_string();
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", id.as_str());
            let payload = format!("{{\"id\":\"{id}\"}}");
            let subject = self.subject("made");
            let ack = self.context.publish_with_headers(subject, headers, payload.into()).await;
            ack.expect("a publish").await.expect("an ack");
        }
    }

    fn collection(&self, name: &str) -> Collection<Document> {
        self.database.collection(name)
    }

    /// What handlers did, in order.
    async fn effects(&self) -> Vec<String> {
        let mut effects = Vec::new();
        let mut cursor = self
            .collection("effects")
            .find(doc! {})
            .sort(doc! { "at": 1, "_id": 1 })
            .await
            .expect("a read");
        while cursor.advance().await.expect("a read") {
            let effect = cursor.deserialize_current().expect("a document");
            effects.push(effect.get_str("id").expect("its id").to_owned());
        }
        effects
    }

    /// Waits until the group has acked everything, for as long as acks come: how long all of them
    /// take depends on the machine.
    async fn heard_all(&self) {
        let mut left = u64::MAX;
        while left > 0 {
            let left_before = left;
            left = until("the group acks more", async || {
                let stream = self.context.get_stream(&self.stream).await.ok()?;
                let consumer = stream.get_consumer::<pull::Config>(GROUP).await.ok()?;
                let info = consumer.cached_info();
                let now = info.num_pending + info.num_ack_pending as u64;
                (now < left_before).then_some(now)
            })
            .await;
        }
    }
}

/// Runs a listener with a handler.
fn listen<F, A>(listener: Listener, handler: F) -> Listening
where
    F: Fn(Message) -> A + Send + Sync + 'static,
    A: Future<Output = Result<Verdict, HandleError>> + Send + 'static,
{
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        let stopped = async {
            if stopped.await.is_err() {
                pending::<()>().await;
            }
        };
        listener.run(Handler(handler), stopped).await
    });
    Listening { task, stop }
}

/// Applies a message by one document in `effects`.
struct Effect(Collection<Document>);

impl Apply for Effect {
    async fn apply(
        &self,
        session: &mut ClientSession,
        message: &Message,
    ) -> Result<Verdict, HandleError> {
        let effect = doc! { "id": &message.id, "at": bson::DateTime::now() };
        self.0.insert_one(effect).session(session).await?;
        Ok(Verdict::Done)
    }
}

/// Handles a message once, by one document in `effects`.
async fn once(
    inbox: &Inbox,
    effects: &Collection<Document>,
    message: &Message,
) -> Result<Verdict, HandleError> {
    inbox.run(message, &Effect(effects.clone())).await
}

/// Work in a type that an inbox takes: it has the effect, and answers this, if anything.
struct Answers(Effect, fn() -> Result<Verdict, HandleError>);

impl Apply for Answers {
    async fn apply(
        &self,
        session: &mut ClientSession,
        message: &Message,
    ) -> Result<Verdict, HandleError> {
        self.0.apply(session, message).await?;
        (self.1)()
    }
}
