//! Clients of several outboxes.

use mongodb::Client;

use crate::config::Config;
use crate::error::Result;

/// Clients as outboxes need them: those of one deployment share a client.
#[derive(Debug, Default)]
pub(crate) struct Clients<'a> {
    open: Vec<(&'a Config, Client)>,
}

impl<'a> Clients<'a> {
    /// The client of this outbox's deployment.
    ///
    /// # Errors
    /// As [`crate::config::MongodbConfig::client`].
    pub(crate) async fn of(&mut self, config: &'a Config) -> Result<Client> {
        let is_same = |other: &Config| other.mongodb.is_same_server(&config.mongodb);
        if let Some((_, client)) = self.open.iter().find(|(other, _)| is_same(other)) {
            return Ok(client.clone());
        }

        let client = config.mongodb.client("operator").await?;
        self.open.push((config, client.clone()));
        Ok(client)
    }
}
