//! The limit on attempts to guess a password: so many for each address within a time, whether or
//! not someone has the address. Kept in MongoDB, so all instances count together.

use std::time::Duration;

use bson::{DateTime, doc};
use mongodb::options::{IndexOptions, ReturnDocument};
use mongodb::{Collection, Database, IndexModel};
use serde::{Deserialize, Serialize};

use crate::refusal::ApiError;

/// The collection of counters.
pub(crate) const ATTEMPTS: &str = "attempts";
/// Attempts for one address. A person needs fewer.
const MOST: i64 = 10;
/// From the first attempt to a fresh count. Ten guesses in this time are a thousand a day.
const WITHIN: Duration = Duration::from_secs(15 * 60);

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Counter {
    #[serde(rename = "_id")]
    email: String,
    count: i64,
    until: DateTime,
}

#[derive(Debug, Clone)]
pub(crate) struct Attempts(Collection<Counter>);

impl Attempts {
    /// Makes the index too, by which old counters go.
    pub(crate) async fn open(database: &Database) -> mongodb::error::Result<Self> {
        let counters = database.collection(ATTEMPTS);
        let goes = IndexOptions::builder().expire_after(Duration::ZERO).build();
        let by_time = IndexModel::builder().keys(doc! { "until": 1 }).options(goes).build();
        counters.create_index(by_time).await?;

        Ok(Self(counters))
    }

    /// Counts an attempt on `email`, before the password is looked at: guesses that come at once
    /// are counted as well.
    pub(crate) async fn count(&self, email: &str) -> Result<(), ApiError> {
        let millis = i64::try_from(WITHIN.as_millis()).unwrap_or(i64::MAX);
        let is_running = doc! { "$gt": ["$until", "$$NOW"] };
        let count = doc! { "$cond": [&is_running, { "$add": ["$count", 1_i64] }, 1_i64] };
        let until = doc! { "$cond": [&is_running, "$until", { "$add": ["$$NOW", millis] }] };

        let counter = self
            .0
            .find_one_and_update(
                doc! { "_id": email },
                vec![doc! { "$set": { "count": count, "until": until } }],
            )
            .upsert(true)
            .return_document(ReturnDocument::After)
            .await?;

        match counter {
            Some(counter) if counter.count > MOST => {
                let left = counter.until.timestamp_millis() - DateTime::now().timestamp_millis();
                let left = Duration::from_millis(u64::try_from(left).unwrap_or_default());
                let message = "too many attempts for this address; try again later";
                Err(ApiError::too_many(message, left))
            }
            _ => Ok(()),
        }
    }

    /// The password was right.
    pub(crate) async fn forget(&self, email: &str) -> Result<(), ApiError> {
        self.0.delete_one(doc! { "_id": email }).await?;
        Ok(())
    }
}
