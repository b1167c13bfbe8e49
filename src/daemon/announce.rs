//! Publishes alerts to `alerts.subject`: plain messages, without an ack.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::warn;

use crate::jetstream::connection::Nats;
use crate::telemetry::seldom::Seldom;

/// How long a client that isn't connected may keep an alert waiting.
const PATIENCE: Duration = Duration::from_secs(5);

/// Publishes each post, until no more can come.
pub(super) async fn publish(nats: Nats, subject: String, mut posts: mpsc::Receiver<String>) {
    let mut failed = Seldom::default();
    while let Some(post) = posts.recv().await {
        // The relay replaces its client from time to time.
        let client = nats.context().client();
        let published = async {
            client
                .publish(subject.clone(), post.into())
                .await
                .map_err(|error| error.to_string())?;
            client.flush().await.map_err(|error| error.to_string())
        };
        let published = timeout(PATIENCE, published).await;
        let error = match published {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error,
            Err(_) => "NATS does not take it".to_owned(),
        };
        if let Some(posts) = failed.count(1) {
            warn!(error, subject, posts, "could not publish alerts to alerts.subject");
        }
    }

    if let Some(posts) = failed.rest() {
        warn!(subject, posts, "could not publish alerts to alerts.subject");
    }
}
