//! Whether replies reach a client. A publish whose ack can't arrive must not be sent: the stream
//! would store it once more after each dedupe window.
//!
//! The server may end a subscription, or refuse one, and keep the connection: after a reload of its
//! permissions, or at its limit of subscriptions. It reports that once, and the client drops reports
//! when many come at once. So there are two signs: the report, and a publish or a request that timed
//! out. After such a time-out the relay tries both subscriptions of its client, with a request that
//! it may make anyway. A deaf client is replaced by one that has proved to hear.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::Client;
use async_nats::client::RequestErrorKind;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::acks::Acks;
use super::denied::Denied;
use crate::config::NatsConfig;
use crate::driver_words::{ends_subscription, is_violation};
use crate::duration::for_people;

/// What is known of one client's hearing.
#[derive(Debug)]
pub(crate) struct Hearing {
    /// The request that tries it. The relay may make it, and the servers answer it with the stream
    /// or with the reason why there is none.
    question: String,
    within: Duration,
    /// The subjects of replies, and who subscribes to them.
    replies: String,
    user: String,
    /// Whether it has heard since it connected.
    is_proven: AtomicBool,
    /// Whether it has ever heard.
    has_heard: AtomicBool,
    /// Whether its own subscription was ended, which the client's others don't miss.
    is_own_fault: AtomicBool,
    /// Why the client is deaf, once it is. It stays deaf then.
    why: OnceLock<String>,
    deaf: CancellationToken,
    doubted: Notify,
}

impl Hearing {
    /// Of a client whose requests wait `within` for their replies.
    pub(crate) fn new(nats: &NatsConfig, stream: &str, within: Duration) -> Self {
        Self {
            question: format!("{}.STREAM.INFO.{stream}", nats.api_prefix()),
            within,
            replies: format!("{}.>", nats.inbox_prefix),
            user: nats.user().map_or("its user".to_owned(), |user| format!("user {user}")),
            is_proven: AtomicBool::new(false),
            has_heard: AtomicBool::new(false),
            is_own_fault: AtomicBool::new(false),
            why: OnceLock::new(),
            deaf: CancellationToken::new(),
            doubted: Notify::new(),
        }
    }

    /// Takes an error of the server. One about a subscription is about one that this needs.
    pub(crate) fn learn(&self, error: &str) {
        if !ends_subscription(error) {
            return;
        }

        let Self { replies, user, .. } = self;
        self.end(match is_violation(error) {
            true => format!(
                "{user} may not subscribe to {replies}, so no ack can arrive ({error}); allow it in \
                 the user's subscribe permissions, as `outboxd privileges --role relay` prints them"
            ),
            false => format!(
                "the server refuses a subscription to {replies}, so no ack can arrive ({error}); \
                 raise that limit: the relay has two subscriptions"
            ),
        });
    }

    /// A publish or a request timed out.
    pub(super) fn doubt(&self) {
        self.doubted.notify_one();
    }

    /// Whether it hears, as far as is known.
    pub(super) fn is_hearing(&self) -> bool {
        self.is_proven() && self.why().is_none()
    }

    /// The subscription that ends is its own.
    pub(super) fn set_own_fault(&self) {
        self.is_own_fault.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_own_fault(&self) -> bool {
        self.is_own_fault.load(Ordering::Relaxed)
    }

    /// The connection ended: the next one takes the subscriptions again, or refuses them.
    pub(super) fn disconnected(&self) {
        self.is_proven.store(false, Ordering::Relaxed);
    }

    fn heard(&self) {
        self.is_proven.store(true, Ordering::Relaxed);
        self.has_heard.store(true, Ordering::Relaxed);
    }

    /// Whether it has heard since it began, over this connection or an earlier one.
    pub(super) fn has_heard(&self) -> bool {
        self.has_heard.load(Ordering::Relaxed)
    }

    pub(super) fn is_proven(&self) -> bool {
        self.is_proven.load(Ordering::Relaxed)
    }

    pub(super) async fn doubted(&self) {
        self.doubted.notified().await;
    }

    /// Nothing that happens to this client counts any more.
    pub(super) fn end(&self, why: String) {
        let _ = self.why.set(why);
        self.deaf.cancel();
    }

    /// Waits until the client is known to be deaf.
    pub(super) async fn ended(&self) {
        self.deaf.cancelled().await;
    }

    /// Why the client is deaf, if it is.
    pub(crate) fn why(&self) -> Option<&str> {
        self.why.get().map(String::as_str)
    }

    /// Tries both subscriptions of a client: that of the acks, and that of the client's requests.
    ///
    /// # Errors
    /// With the reason, when one of them hears nothing. The client is deaf from then on.
    pub(crate) async fn prove(
        &self,
        client: &Client,
        acks: &Acks,
        denied: &Denied,
    ) -> Result<(), String> {
        let (question, asked) = (&self.question, Instant::now());
        let both = async {
            let answer = client.request(question.clone(), "".into());
            let (echo, answer) = tokio::join!(acks.echo(client, question), answer);
            // Any answer will do.
            let is_heard = |kind| kind == RequestErrorKind::NoResponders;
            echo && answer.map_or_else(|error| is_heard(error.kind()), |_| true)
        };

        tokio::select! {
            biased;
            () = self.ended() => {}
            // The server takes the lines of a client in their order. So it has taken the
            // subscriptions when it denies the request.
            () = denied.after(question, asked) => {
                self.heard();
                return Ok(());
            }
            heard = timeout(self.within, both) => match heard {
                Ok(true) => {
                    self.heard();
                    return Ok(());
                }
                Ok(false) | Err(_) => self.end(format!(
                    "no reply to {question} arrives within {}; check whether {} may subscribe to \
                     {}, and whether JetStream answers: `outboxd check`",
                    for_people(self.within),
                    self.user,
                    self.replies,
                )),
            },
        }

        Err(self.why().unwrap_or_default().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hearing() -> Hearing {
        Hearing {
            question: String::new(),
            within: Duration::from_secs(1),
            replies: "_INBOX.outboxd.SHOP.>".to_owned(),
            user: "user relay".to_owned(),
            is_proven: AtomicBool::new(false),
            has_heard: AtomicBool::new(false),
            is_own_fault: AtomicBool::new(false),
            why: OnceLock::new(),
            deaf: CancellationToken::new(),
            doubted: Notify::new(),
        }
    }

    #[test]
    fn an_error_about_a_subscription_names_the_right_or_the_limit_that_is_missing() {
        for (error, words) in [
            (
                "Permissions Violation for Subscription to \"_INBOX.outboxd.SHOP.x.*\"",
                "user relay may not subscribe to _INBOX.outboxd.SHOP.>",
            ),
            ("maximum subscriptions exceeded", "raise that limit"),
            ("Subscription has exceeded number of tokens limit", "raise that limit"),
        ] {
            let hearing = hearing();
            hearing.learn(error);
            let why = hearing.why().unwrap_or_default();
            assert!(why.contains(words) && why.contains(error), "{why}");
        }
    }

    #[test]
    fn other_errors_say_nothing_about_it_and_the_first_reason_stays() {
        let hearing = hearing();
        hearing.learn("Permissions Violation for Publish to \"Shop.made\"");
        hearing.learn("Permissions Violation for Publish to \"Shop.subscription\"");
        assert_eq!(hearing.why(), None);

        hearing.end("first".to_owned());
        hearing.learn("maximum subscriptions exceeded");
        assert_eq!(hearing.why(), Some("first"));
    }
}
