//! A payment provider for tests. It keeps its book in the collection `test_provider`, outside of
//! every transaction of this service, as a provider elsewhere would: so the book tells what was
//! really taken, whatever happened to this service.
//!
//! | token | what happens |
//! | --- | --- |
//! | `tok_visa` | taken |
//! | `tok_declined` | declined |
//! | `tok_timeout` | taken, but the first request gets no answer |
//! | `tok_outage` | the first request is lost: neither taken nor answered |
//! | anything else | declined |

use bson::doc;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mongodb::options::ReturnDocument;
use mongodb::{Collection, Database};
use serde::{Deserialize, Serialize};

use super::provider::{Provider, ProviderError, Request};

/// The provider's book.
pub(crate) const BOOK: &str = "test_provider";

/// One charge, by its idempotency key.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    #[serde(rename = "_id")]
    key: String,
    token: String,
    state: State,
    /// Requests to charge it.
    requests: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Lost,
    Taken,
    Declined,
    Refunded,
}

pub(crate) struct TestProvider(Collection<Entry>);

impl TestProvider {
    pub(crate) fn new(database: &Database) -> Self {
        Self(database.collection(BOOK))
    }

    async fn take(&self, request: Request) -> Result<String, ProviderError> {
        let Request { key, amount, token } = request;
        let first = match token.as_str() {
            "tok_visa" | "tok_timeout" => "taken",
            "tok_outage" => "lost",
            _ => "declined",
        };
        let found = doc! { "amount": amount, "token": token, "state": first };
        let entry = self
            .0
            .find_one_and_update(
                doc! { "_id": &key },
                doc! { "$setOnInsert": found, "$inc": { "requests": 1_i64 } },
            )
            .upsert(true)
            .return_document(ReturnDocument::After);
        let entry = entry.await.map_err(unknown)?;
        let entry = entry.ok_or_else(|| ProviderError::Unknown("no entry".to_owned()))?;

        let is_silent = entry.requests == 1;
        match entry.state {
            State::Taken if is_silent && entry.token == "tok_timeout" => {
                std::future::pending().await
            }
            State::Lost if is_silent => std::future::pending().await,
            State::Lost => {
                let taken = doc! { "$set": { "state": "taken" } };
                let lost = doc! { "_id": &key, "state": "lost" };
                self.0.update_one(lost, taken).await.map_err(unknown)?;
                Ok(format!("receipt-{key}"))
            }
            State::Taken => Ok(format!("receipt-{key}")),
            State::Declined => Err(ProviderError::Declined("the card was declined".to_owned())),
            State::Refunded => Err(ProviderError::Declined("the charge was given back".to_owned())),
        }
    }

    async fn give_back(&self, key: String) -> Result<(), ProviderError> {
        let back = doc! {
            "$set": { "state": "refunded" },
            "$setOnInsert": { "token": "", "requests": 0_i64 },
        };
        let found = self.0.find_one(doc! { "_id": &key }).await.map_err(unknown)?;
        if found.is_none_or(|entry| entry.state != State::Declined) {
            self.0.update_one(doc! { "_id": key }, back).upsert(true).await.map_err(unknown)?;
        }
        Ok(())
    }
}

impl Provider for TestProvider {
    fn charge(&self, request: Request) -> BoxFuture<'_, Result<String, ProviderError>> {
        self.take(request).boxed()
    }

    fn refund(&self, key: String) -> BoxFuture<'_, Result<(), ProviderError>> {
        self.give_back(key).boxed()
    }
}

fn unknown(error: mongodb::error::Error) -> ProviderError {
    ProviderError::Unknown(error.to_string())
}
