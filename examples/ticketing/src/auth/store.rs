//! The users. Owns the collection `users`.

use bson::oid::ObjectId;
use bson::{DateTime, doc};
use futures_util::FutureExt;
use mongodb::error::Result;
use mongodb::options::IndexOptions;
use mongodb::{Client, Collection, Database, IndexModel};
use outboxd_client::Outbox;
use serde::{Deserialize, Serialize};

use crate::http::PATIENCE;
use crate::messages::UserMessage;
use crate::service::{DUPLICATE_KEY, OUTBOX, is_code};
use crate::subjects::USER_CREATED;
use crate::transaction;

/// The collection of users.
pub(crate) const USERS: &str = "users";

/// A user as stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct User {
    #[serde(rename = "_id")]
    pub(crate) id: ObjectId,
    /// In lower case.
    pub(crate) email: String,
    pub(crate) password_hash: String,
    created_at: DateTime,
    version: i64,
}

/// The service's part of the database.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    client: Client,
    users: Collection<User>,
    outbox: Outbox,
}

impl Store {
    /// Makes the index too.
    pub(crate) async fn open(database: &Database) -> Result<Self> {
        let users = database.collection(USERS);
        let unique = IndexOptions::builder().unique(true).build();
        let by_email = IndexModel::builder().keys(doc! { "email": 1 }).options(unique).build();
        users.create_index(by_email).await?;

        let outbox = Outbox::new(database, OUTBOX);
        Ok(Self { client: database.client().clone(), users, outbox })
    }

    pub(crate) async fn find(&self, id: ObjectId) -> Result<Option<User>> {
        self.users.find_one(doc! { "_id": id }).await
    }

    pub(crate) async fn by_email(&self, email: &str) -> Result<Option<User>> {
        self.users.find_one(doc! { "email": email }).await
    }

    /// `None` if someone has the address already.
    pub(crate) async fn create(
        &self,
        email: String,
        password_hash: String,
    ) -> Result<Option<User>> {
        let (id, created_at) = (ObjectId::new(), DateTime::now());
        let user = User { id, email, password_hash, created_at, version: 0 };

        let context = (self, user.clone());
        let created =
            transaction::run(&self.client, PATIENCE, context, |session, (store, user)| {
                async move {
                    store.users.insert_one(&*user).session(&mut *session).await?;
                    let message = UserMessage { id: user.id, version: user.version };
                    let event = transaction::event(USER_CREATED, &user.id.to_hex(), &message)?;
                    store.outbox.enqueue(session, event).await?;
                    Ok(())
                }
                .boxed()
            });

        match created.await {
            Ok(()) => Ok(Some(user)),
            Err(error) if is_code(&error, DUPLICATE_KEY) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
