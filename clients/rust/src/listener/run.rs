//! A listener at work: pulls messages, keeps those that wait alive, and lets go of the consumer on
//! the stop, in lame duck mode and when the consumer is lost.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::message::Message as Delivered;
use async_nats::jetstream::{AckKind, Context};
use futures_util::future::{BoxFuture, Shared};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::Notify;
use tracing::{info, warn};

use super::parts::{ListenError, Parts};
use super::{consumer, delivery};
use crate::message::Handle;

/// Heartbeats within the ack wait.
const HEARTBEATS: u32 = 3;
/// Most messages that an instance has waiting. A handler takes some milliseconds, so this keeps it
/// busy over a round trip.
const MAX_WAITING: i64 = 32;
/// How long a request for messages stands. The server then wants a new one.
const PULL: Duration = Duration::from_secs(30);
/// How often the server says that there are no messages. Without two of these words, the request
/// may be lost, as when the server was restarted.
const IDLE: Duration = Duration::from_secs(3);
/// When a lost consumer is looked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// Tells that the listener is to end. Every clone does.
pub(super) type Stop<'a> = Shared<BoxFuture<'a, ()>>;

/// Why a listener let go of its consumer.
enum End {
    Stopped,
    /// The server asked its clients to go to another one.
    LameDuck,
    /// The messages ended.
    Lost,
}

/// A listener at work.
pub(super) struct Run<'a, H> {
    pub(super) listener: &'a Parts,
    pub(super) handler: &'a H,
    pub(super) stop: Stop<'a>,
    pub(super) lame_duck: &'a Notify,
}

impl<H: Handle> Run<'_, H> {
    /// Begins again whenever the consumer is lost.
    pub(super) async fn listen(
        &self,
        context: &Context,
        servers: usize,
    ) -> Result<(), ListenError> {
        let Parts { stream, group, .. } = self.listener;
        loop {
            let consumer = tokio::select! {
                biased;
                () = self.stop.clone() => return Ok(()),
                consumer = consumer::take(context, self.listener) => consumer,
            };

            let ended = match consumer {
                Ok(consumer) => {
                    info!(stream, group, "listening");
                    self.consume(&consumer).await
                }
                Err(consumer::TakeError::Fatal(error)) => return Err(error),
                Err(consumer::TakeError::Passing(error)) => Err(error),
            };

            match ended {
                Ok(End::Stopped) => return Ok(()),
                Ok(End::LameDuck) => self.leave(context, servers).await,
                Ok(End::Lost) => warn!(stream, group, "the messages ended; beginning again"),
                Err(error) => warn!(%error, stream, group, "not listening; trying again"),
            }

            tokio::select! {
                () = self.stop.clone() => return Ok(()),
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    /// Goes to another server, if there is one. With a single server the connection is good until
    /// it closes, and the client then waits for the server.
    async fn leave(&self, context: &Context, servers: usize) {
        let client = context.client();
        let others = client.server_info().connect_urls.len();
        if servers.max(others) > 1 {
            info!("the NATS server is about to stop; connecting to another one");
            if let Err(error) = client.force_reconnect().await {
                warn!(%error, "the connection to NATS could not be renewed");
            }
        }
    }

    async fn consume(&self, consumer: &PullConsumer) -> Result<End, async_nats::Error> {
        let settings = &self.listener.settings;
        let batch = settings.max_ack_pending.min(MAX_WAITING);
        let batch = usize::try_from(batch).unwrap_or(1);
        let messages = consumer.stream().max_messages_per_batch(batch);
        let mut messages = messages.expires(PULL).heartbeat(IDLE).messages().await?;

        let mut waiting = VecDeque::new();
        let end = loop {
            let next = match waiting.pop_front() {
                Some(next) => next,
                None => tokio::select! {
                    biased;
                    () = self.stop.clone() => break Ok(End::Stopped),
                    () = self.lame_duck.notified() => break Ok(End::LameDuck),
                    next = messages.next() => match next {
                        Some(Ok(next)) => next,
                        Some(Err(error)) => break Err(error.into()),
                        None => break Ok(End::Lost),
                    },
                },
            };

            match self.attend(&next, &mut messages, &mut waiting).await {
                Ok(None) => {}
                Ok(Some(end)) => break Ok(end),
                Err(error) => break Err(error),
            }
        };

        // What waits here is for another instance, at once. No more may be asked for, or this one
        // would get it again.
        while let Some(Some(Ok(message))) = messages.next().now_or_never() {
            waiting.push_back(message);
        }
        drop(messages);
        for message in waiting {
            message.ack_with(AckKind::Nak(None)).await?;
        }

        end
    }

    /// Hands over one message, and keeps it and those that wait alive until there is an answer.
    /// Some if the listener is to let go of the consumer.
    async fn attend(
        &self,
        message: &Delivered,
        messages: &mut pull::Stream,
        waiting: &mut VecDeque<Delivered>,
    ) -> Result<Option<End>, async_nats::Error> {
        let settings = &self.listener.settings;
        let work = delivery::deliver(message, self.listener, self.handler);
        tokio::pin!(work);

        let period = settings.ack_wait / HEARTBEATS;
        let mut heartbeat = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
        let drain = async {
            self.stop.clone().await;
            tokio::time::sleep(settings.drain).await;
        };
        tokio::pin!(drain);

        let mut ended = None;
        loop {
            tokio::select! {
                biased;
                kind = &mut work => {
                    message.ack_with(kind).await?;
                    return ended.unwrap_or(Ok(None));
                }
                () = &mut drain => {
                    warn!(subject = %message.subject, "the time to stop is over; another instance gets the message");
                    message.ack_with(AckKind::Nak(None)).await?;
                    return Ok(Some(End::Stopped));
                }
                _ = heartbeat.tick() => {
                    for message in std::iter::once(message).chain(&*waiting) {
                        message.ack_with(AckKind::Progress).await?;
                    }
                }
                next = messages.next(), if ended.is_none() => match next {
                    Some(Ok(next)) => waiting.push_back(next),
                    Some(Err(error)) => ended = Some(Err(error.into())),
                    None => ended = Some(Ok(Some(End::Lost))),
                },
            }
        }
    }
}
