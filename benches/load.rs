//! A service under load: each of its transactions writes a record and an event.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{Document, doc};
use mongodb::options::ClientOptions;
use mongodb::{Client, Collection};
use tokio::task::JoinSet;

use super::stage::{BYTES, KEYS, Stage, event, key_of};

/// Connections of the service, which limit its concurrent transactions.
const CONNECTIONS: u32 = 64;

/// A service that writes on one stage.
pub(crate) struct Service {
    client: Client,
    records: Collection<Document>,
    outbox: Collection<Document>,
    stage: String,
    padding: String,
}

/// A committed transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Committed {
    /// The number of its event.
    pub(crate) number: u32,
    /// When the service sent the commit.
    pub(crate) began: Instant,
    /// When the service received the answer to the commit.
    pub(crate) returned: Instant,
}

impl Service {
    /// Connects with a client of its own.
    pub(crate) async fn start(stage: &Stage) -> Arc<Self> {
        let mut options = ClientOptions::parse(&stage.mongodb_uri).await.expect("a valid URI");
        options.max_pool_size = Some(CONNECTIONS);
        let client = Client::with_options(options).expect("a client");

        // Two concurrent transactions can't both create the collection.
        let database = client.database(&stage.name);
        database.create_collection("records").await.expect("the collection is created");

        Arc::new(Self {
            records: database.collection("records"),
            outbox: database.collection("outbox"),
            client,
            stage: stage.name.clone(),
            padding: "x".repeat(BYTES),
        })
    }

    /// Starts `rate` transactions per second for the given time, whether or not earlier ones have
    /// ended. Returns when all have committed.
    pub(crate) async fn at_rate(self: &Arc<Self>, rate: u32, during: Duration) -> Vec<Committed> {
        let mut pace = tokio::time::interval(Duration::from_secs(1) / rate);
        let mut transactions = JoinSet::new();

        let count = (during.as_secs_f64() * f64::from(rate)) as u32;
        for number in 0..count {
            pace.tick().await;
            let service = Arc::clone(self);
            transactions.spawn(async move { service.write(number).await });
        }

        transactions.join_all().await
    }

    /// Runs `writers` concurrent writers for the given time, each as fast as it can. Returns
    /// transactions per second.
    pub(crate) async fn flat_out(self: &Arc<Self>, writers: u32, during: Duration) -> f64 {
        let began = Instant::now();

        let mut tasks = JoinSet::new();
        for writer in 0..writers {
            let service = Arc::clone(self);
            tasks.spawn(async move {
                let mut count = 0;
                while began.elapsed() < during {
                    service.write(writer + count * writers).await;
                    count += 1;
                }
                count
            });
        }

        let count: u32 = tasks.join_all().await.into_iter().sum();
        f64::from(count) / began.elapsed().as_secs_f64()
    }

    /// Runs one transaction, and repeats it while the server reports a transient error.
    async fn write(&self, number: u32) -> Committed {
        let mut session = self.client.start_session().await.expect("a session");

        loop {
            session.start_transaction().await.expect("a transaction");

            let record = doc! { "number": i64::from(number), "state": "made" };
            let written = async {
                self.records.insert_one(record).session(&mut session).await?;
                self.outbox
                    .insert_one(event(&self.stage, number, key_of(number, KEYS), &self.padding))
                    .session(&mut session)
                    .await
            };
            if let Err(error) = written.await {
                assert!(error.contains_label("TransientTransactionError"), "{error}");
                session.abort_transaction().await.expect("the transaction is aborted");
                continue;
            }

            let began = Instant::now();
            match session.commit_transaction().await {
                Ok(()) => return Committed { number, began, returned: Instant::now() },
                Err(error) => assert!(error.contains_label("TransientTransactionError"), "{error}"),
            }
        }
    }
}
