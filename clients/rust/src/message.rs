//! A message of the stream, and what handles it.

use std::fmt;

use bson::DateTime;
use serde::de::DeserializeOwned;

use crate::verdict::{HandleError, Verdict};

/// One delivery of one message. The same message may be delivered more than once.
///
/// A [`Listener`](crate::Listener) makes them. A test makes one with [`Message::new`], and so does
/// a service with a consumer of its own that uses an [`Inbox`](crate::Inbox).
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Message {
    /// The header `Nats-Msg-Id`: the same in every delivery of this message, and no other message
    /// has it.
    pub id: Option<String>,
    /// The consumer that got the message: the queue group of the service.
    pub group: String,
    /// The stream it comes from.
    pub stream: String,
    /// Its place in the stream.
    pub sequence: u64,
    /// Its subject.
    pub subject: String,
    /// Its headers, in order. A name may stand there twice.
    pub headers: Vec<(String, String)>,
    /// What was published.
    pub payload: Vec<u8>,
    /// How many times the group has got it: 1 the first time.
    pub deliveries: u32,
    /// When the stream stored it.
    pub published_at: DateTime,
}

impl Message {
    /// The message with this id, as a group gets it the first time.
    pub fn new(
        group: impl Into<String>,
        id: impl Into<String>,
        subject: impl Into<String>,
        payload: impl Into<Vec<u8>>,
    ) -> Self {
        Self {
            id: Some(id.into()),
            group: group.into(),
            stream: String::new(),
            sequence: 0,
            subject: subject.into(),
            headers: Vec::new(),
            payload: payload.into(),
            deliveries: 1,
            published_at: DateTime::now(),
        }
    }

    /// What the payload's JSON says.
    ///
    /// # Errors
    /// [`HandleError::Unprocessable`] if it isn't the JSON of a `T`: another delivery would not change
    /// that.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, HandleError> {
        serde_json::from_slice(&self.payload).map_err(|error| {
            HandleError::unprocessable(format!("the payload can't be read: {error}"))
        })
    }

    /// The value of a header, whose name may be written in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(taken, _)| taken.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// Without the payload and the headers, which may be secret.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id)
            .field("group", &self.group)
            .field("stream", &self.stream)
            .field("sequence", &self.sequence)
            .field("subject", &self.subject)
            .field("deliveries", &self.deliveries)
            .finish_non_exhaustive()
    }
}

/// Applies messages.
pub trait Handle: Send + Sync {
    /// Applies one message, all of it or nothing. The same message may come again, so what is
    /// applied is committed together with the message's id (see [`Inbox::each`](crate::Inbox::each))
    /// or is the same when it is applied twice (see [`Replica`](crate::Replica)).
    fn handle(
        &self,
        message: &Message,
    ) -> impl Future<Output = Result<Verdict, HandleError>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_that_is_not_the_json_of_its_type_can_never_be_applied() {
        let message = Message::new("orders", "shop.outbox.1", "ticket.created", "{\"price\":");
        let error = message.json::<bson::Document>().unwrap_err();
        assert!(matches!(error, HandleError::Unprocessable(_)), "{error:?}");
        assert!(error.to_string().contains("the payload can't be read"), "{error}");
    }

    #[test]
    fn a_message_in_a_log_shows_neither_payload_nor_headers() {
        let mut message = Message::new("orders", "shop.outbox.1", "ticket.created", "secret");
        message.headers.push(("Authorization".to_owned(), "hidden".to_owned()));
        let shown = format!("{message:?}");
        assert!(!shown.contains("secret") && !shown.contains("hidden"), "{shown}");
        assert_eq!(message.header("authorization"), Some("hidden"));
    }
}
