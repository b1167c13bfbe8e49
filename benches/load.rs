//! What a service does: a record and its event in one transaction.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{Document, doc};
use mongodb::options::ClientOptions;
use mongodb::{Client, Collection};
use tokio::task::JoinSet;

use super::stage::{BYTES, KEYS, Stage, event};

/// Transactions at once, at most.
const CONNECTIONS: u32 = 64;

/// Writes for one stage.
pub(crate) struct Service {
    client: Client,
    records: Collection<Document>,
    outbox: Collection<Document>,
    stage: String,
    padding: String,
}

/// A transaction that committed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Committed {
    /// Of the event.
    pub(crate) number: u32,
    /// When the commit was sent.
    pub(crate) began: Instant,
    /// When its answer came.
    pub(crate) returned: Instant,
}

impl Service {
    /// With connections of its own.
    pub(crate) async fn start(stage: &Stage) -> Arc<Self> {
        let mut options = ClientOptions::parse(&stage.mongodb_uri).await.expect("a URI");
        options.max_pool_size = Some(CONNECTIONS);
        let client = Client::with_options(options).expect("a client");
        let database = client.database(&stage.name);
        // A collection can't be made within the first transaction of two at once.
        database.create_collection("records").await.expect("a collection");
        Arc::new(Self {
            records: database.collection("records"),
            outbox: database.collection("outbox"),
            client,
            stage: stage.name.clone(),
            padding: "x".repeat(BYTES),
        })
    }

    /// One transaction, repeated as a driver's guide says when the server asks for it.
    async fn write(&self, number: u32) -> Committed {
        let mut session = self.client.start_session().await.expect("a session");
        loop {
            session.start_transaction().await.expect("a transaction");
            let record = doc! { "number": i64::from(number), "state": "made" };
            let written = async {
                self.records.insert_one(record).session(&mut session).await?;
                self.outbox
                    .insert_one(event(&self.stage, number, KEYS, &self.padding))
                    .session(&mut session)
                    .await
            };
            if let Err(error) = written.await {
                assert!(error.contains_label("TransientTransactionError"), "{error}");
                session.abort_transaction().await.expect("it is aborted");
                continue;
            }
            let began = Instant::now();
            match session.commit_transaction().await {
                Ok(()) => return Committed { number, began, returned: Instant::now() },
                Err(error) => assert!(error.contains_label("TransientTransactionError"), "{error}"),
            }
        }
    }

    /// Begins so many transactions a second, whether or not those before have ended, for so long.
    pub(crate) async fn at_a_pace(self: &Arc<Self>, rate: u32, during: Duration) -> Vec<Committed> {
        let mut pace = tokio::time::interval(Duration::from_secs(1) / rate);
        let mut under_way = JoinSet::new();
        let count = (during.as_secs_f64() * f64::from(rate)) as u32;
        for number in 0..count {
            pace.tick().await;
            let service = Arc::clone(self);
            under_way.spawn(async move { service.write(number).await });
        }
        under_way.join_all().await
    }

    /// So many writers, each as fast as it can, for so long. Returns transactions a second.
    pub(crate) async fn flat_out(self: &Arc<Self>, writers: u32, during: Duration) -> f64 {
        let began = Instant::now();
        let mut under_way = JoinSet::new();
        for writer in 0..writers {
            let service = Arc::clone(self);
            under_way.spawn(async move {
                let mut count = 0;
                while began.elapsed() < during {
                    service.write(writer + count * writers).await;
                    count += 1;
                }
                count
            });
        }
        let count: u32 = under_way.join_all().await.into_iter().sum();
        f64::from(count) / began.elapsed().as_secs_f64()
    }
}
