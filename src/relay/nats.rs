//! The connection to NATS: whether it stands, and what the server refused without an answer.
//!
//! A publish that the account has no permission for gets no reply; the server only sends an error for the connection. So
//! what it denied is kept here for the publish that waits in vain.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::jetstream::Context;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::{Event, ServerError};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::info;

use crate::config::NatsConfig;
use crate::error::{Error, ErrorKind, Result};

/// Publishes that may queue in the client. A queued publish can leave long after its caller gave up on it, so the queue
/// is short.
const CLIENT_CAPACITY: usize = 256;
/// Denied subjects remembered: a service publishes to a handful. When there are more, all are forgotten and learned anew.
const MAX_DENIED: usize = 1024;
/// What the server says before the subject it denied.
const DENIED: &str = "permissions violation for publish to \"";

/// A NATS connection.
#[derive(Debug, Clone)]
pub struct Nats {
    /// The JetStream API on it.
    pub context: Context,
    /// Whether it stands.
    pub(crate) connected: watch::Receiver<bool>,
    pub(crate) denied: Arc<Denied>,
}

/// The subjects that the server denied, and when it last said so.
#[derive(Debug, Default)]
pub(crate) struct Denied(Mutex<HashMap<Box<str>, Instant>>);

impl Denied {
    /// Whether the server denied this subject after `since`.
    pub(crate) fn since(&self, subject: &str, since: Instant) -> bool {
        let denied = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        denied.get(subject).is_some_and(|at| *at >= since)
    }

    fn learn(&self, error: &str) {
        let Some(subject) = denied_subject(error) else { return };
        let mut denied = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if denied.len() >= MAX_DENIED {
            denied.clear();
        }
        denied.insert(subject.into(), Instant::now());
    }
}

/// The subject in `Permissions Violation for Publish to "subject"`.
fn denied_subject(error: &str) -> Option<&str> {
    let start = error.to_ascii_lowercase().find(DENIED)? + DENIED.len();
    error.get(start..)?.split('"').next()
}

impl Nats {
    /// Connects.
    ///
    /// # Errors
    /// [`ErrorKind::Nats`]; the servers' addresses are in the message, credentials never.
    pub async fn connect(nats: &NatsConfig) -> Result<Self> {
        let (stands, connected) = watch::channel(true);
        let denied = Arc::new(Denied::default());
        let learned = denied.clone();
        let servers = nats.servers().unwrap_or_default();
        let named =
            servers.iter().map(|server| format!("{}:{}", server.host(), server.port())).collect::<Vec<_>>().join(", ");
        let options = nats.options().await?.client_capacity(CLIENT_CAPACITY).event_callback(move |event| {
            match &event {
                Event::Connected => drop(stands.send_replace(true)),
                Event::Disconnected | Event::Closed => drop(stands.send_replace(false)),
                Event::ServerError(ServerError::Other(error)) => learned.learn(error),
                _ => {}
            }
            info!(%event, "nats connection");
            std::future::ready(())
        });
        let client = options
            .connect(servers)
            .await
            .map_err(|error| Error::with_source(ErrorKind::Nats, format!("NATS at {named} can't be reached"), error))?;
        let context = ContextBuilder::new().timeout(nats.ack_timeout).build(client);
        Ok(Self { context, connected, denied })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denied_subject_is_known_until_it_is_tried_again() {
        let denied = Denied::default();
        let before = Instant::now();
        denied.learn("Permissions Violation for Publish to \"Shop.made\"");
        denied.learn("Permissions Violation for Subscription to \"other\"");
        assert!(denied.since("Shop.made", before));
        assert!(!denied.since("other", before));
        assert!(!denied.since("Shop.made", Instant::now() + std::time::Duration::from_secs(1)));
    }
}
