//! The durable consumer of a queue group: made if it is missing, and changed to the settings that
//! order needs if it has others.

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy, PullConsumer};
use async_nats::jetstream::context::{ConsumerInfoError, ConsumerInfoErrorKind};

use super::parts::{ListenError, Parts, Settings};

/// JetStream's code for a consumer that isn't there.
const NOT_FOUND: usize = 404;

/// Why the consumer could not be taken.
pub(super) enum TakeError {
    /// Somebody has to change something.
    Fatal(ListenError),
    /// It is tried again.
    Passing(async_nats::Error),
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for TakeError {
    fn from(error: E) -> Self {
        Self::Passing(error.into())
    }
}

/// The consumer, with the settings of this listener.
pub(super) async fn take(context: &Context, parts: &Parts) -> Result<PullConsumer, TakeError> {
    let Parts { stream, group, inbox, settings, .. } = parts;
    let stream = context.get_stream(stream).await?;

    let window = stream.cached_info().config.duplicate_window;
    if window >= inbox.kept_for() {
        let (stream, ttl) = (parts.stream.clone(), inbox.kept_for());
        return Err(TakeError::Fatal(ListenError::Ttl { stream, window, ttl }));
    }

    let there = match stream.consumer_info(group).await {
        Ok(info) => info.config,
        Err(error) if is_missing(&error) => {
            stream.create_consumer(new(group, settings)).await?;
            return stream.get_consumer(group).await.map_err(TakeError::Passing);
        }
        Err(error) => return Err(error.into()),
    };

    if let Some(what) = unusable(&there) {
        let (stream, group) = (parts.stream.clone(), group.clone());
        return Err(TakeError::Fatal(ListenError::Consumer { stream, group, what }));
    }

    let wanted = changed(&there, settings);
    if wanted != there {
        stream.update_consumer(wanted).await?;
    }
    stream.get_consumer(group).await.map_err(TakeError::Passing)
}

fn is_missing(error: &ConsumerInfoError) -> bool {
    match error.kind() {
        ConsumerInfoErrorKind::NotFound => true,
        ConsumerInfoErrorKind::JetStream(error) => error.code() == NOT_FOUND,
        _ => false,
    }
}

fn new(group: &str, settings: &Settings) -> Config {
    let config = Config {
        durable_name: Some(group.to_owned()),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ..Config::default()
    };
    changed(&config, settings)
}

/// What a person set for the consumer stays, apart from what order and the listener's own count of
/// deliveries need.
fn changed(there: &Config, settings: &Settings) -> Config {
    let mut config = Config {
        ack_wait: settings.ack_wait,
        max_ack_pending: settings.max_ack_pending,
        // The server would drop a message after so many deliveries, and nobody would know.
        max_deliver: -1,
        // It would stand in place of `ack_wait`.
        backoff: Vec::new(),
        ..there.clone()
    };

    let mut filters = there.filter_subjects.clone();
    if !there.filter_subject.is_empty() {
        filters.push(there.filter_subject.clone());
    }

    if filters != settings.subjects {
        config.filter_subject = String::new();
        config.filter_subjects.clone_from(&settings.subjects);
    }

    config
}

fn unusable(config: &Config) -> Option<&'static str> {
    if config.deliver_subject.is_some() {
        return Some("pushes its messages");
    }
    (config.ack_policy != AckPolicy::Explicit).then_some("doesn't wait for an ack of each message")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::step::Limits;
    use super::*;

    fn settings() -> Settings {
        Settings {
            subjects: vec!["ticket:created".to_owned()],
            max_ack_pending: 1,
            ack_wait: Duration::from_secs(30),
            limits: Limits { deliveries: 10, later: 100 },
            drain: Duration::from_secs(10),
        }
    }

    #[test]
    fn what_a_person_set_for_the_consumer_stays_and_what_breaks_the_order_does_not() {
        let there = Config {
            deliver_policy: DeliverPolicy::New,
            description: Some("mails".to_owned()),
            max_ack_pending: 1000,
            max_deliver: 3,
            backoff: vec![Duration::from_secs(1)],
            filter_subject: "ticket:created".to_owned(),
            ..new("mails", &settings())
        };
        let there = Config { filter_subjects: Vec::new(), ..there };

        let config = changed(&there, &settings());
        assert_eq!(config.deliver_policy, DeliverPolicy::New);
        assert_eq!(config.description.as_deref(), Some("mails"));
        assert_eq!((config.max_ack_pending, config.max_deliver), (1, -1));
        assert!(config.backoff.is_empty());
        assert_eq!(config.filter_subject, "ticket:created", "the same filter, written otherwise");
    }

    #[test]
    fn a_consumer_that_pushes_or_wants_no_acks_is_refused() {
        let pushes = Config { deliver_subject: Some("x".to_owned()), ..new("g", &settings()) };
        assert!(unusable(&pushes).is_some());
        let silent = Config { ack_policy: AckPolicy::None, ..new("g", &settings()) };
        assert!(unusable(&silent).is_some());
        assert!(unusable(&new("g", &settings())).is_none());
    }
}
