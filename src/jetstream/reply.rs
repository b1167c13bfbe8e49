//! What a reply to a publish is: the expected stream's answer, or another's.
//!
//! An ack names its stream and its JetStream domain. An error names its stream only, so a refusal by
//! a stream of the expected name may be another domain's.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use async_nats::jetstream::Error as JetStreamError;
use async_nats::{Message, StatusCode};
use serde::Deserialize;

use super::forgeries::Forgeries;
use crate::config::VerifyAcks;
use crate::relay::ports::Ack;

/// The stream whose acks count.
#[derive(Debug)]
pub(crate) struct Expected {
    stream: Box<str>,
    /// The JetStream domain of the stream; `None` if it has none.
    domain: RwLock<Option<Box<str>>>,
    /// Whether a stream of the same name in another domain may reply, too. An error names no
    /// domain.
    is_one_of_many: AtomicBool,
    /// Signs that somebody answers in its name.
    pub(super) forgeries: Forgeries,
}

/// What another than the expected stream replied.
#[derive(Debug)]
pub(crate) struct ForeignReply {
    /// Empty if it is no stream.
    stream: String,
    domain: Option<Box<str>>,
    /// The sequence in that stream, or why it refused.
    outcome: Result<Ack, Box<str>>,
    /// JetStream's code of the refusal.
    pub(crate) code: Option<u64>,
}

/// What a reply is to its publish.
#[derive(Debug)]
pub(super) enum Read {
    Ack(Ack),
    /// No subscriber takes the subject.
    NoResponders,
    /// A stream of the expected name refused. It may be another domain's.
    Refused(JetStreamError),
    /// Another's.
    Foreign(ForeignReply),
}

/// JetStream's reply to a publish: an ack or an error.
#[derive(Debug, Deserialize)]
struct Reply<'a> {
    #[serde(borrow, default)]
    stream: Cow<'a, str>,
    #[serde(borrow, default)]
    domain: Option<Cow<'a, str>>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<JetStreamError>,
}

impl Expected {
    pub(crate) fn new(stream: &str, verify: VerifyAcks) -> Self {
        Self {
            stream: stream.into(),
            domain: RwLock::default(),
            is_one_of_many: AtomicBool::new(false),
            forgeries: Forgeries::new(verify),
        }
    }

    /// Sets the domain of the stream, as the stream itself reports it.
    pub(crate) fn in_domain(&self, domain: Option<&str>) {
        if domain.is_some() {
            self.has_others();
        }

        let mut known = self.domain.write().unwrap_or_else(PoisonError::into_inner);
        if known.as_deref() != domain {
            *known = domain.map(Box::from);
        }
    }

    /// Streams of other domains may reply.
    pub(crate) fn has_others(&self) {
        self.is_one_of_many.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_alone(&self) -> bool {
        !self.is_one_of_many.load(Ordering::Relaxed)
    }

    fn is(&self, stream: &str, domain: Option<&str>) -> bool {
        *self.stream == *stream
            && self.domain.read().unwrap_or_else(PoisonError::into_inner).as_deref() == domain
    }

    /// The ack in a reply that was another domain's before [`Expected::in_domain`].
    pub(crate) fn ack_in(&self, reply: &ForeignReply) -> Option<Ack> {
        let ack = reply.outcome.as_ref().ok()?;
        self.is(&reply.stream, reply.domain.as_deref()).then_some(*ack)
    }

    /// Who answers a publish with this reply, and what.
    pub(super) fn read(&self, reply: &Message) -> Read {
        if reply.status == Some(StatusCode::NO_RESPONDERS) {
            return Read::NoResponders;
        }

        let Ok(Reply { stream, domain, seq, duplicate, error }) =
            serde_json::from_slice(&reply.payload)
        else {
            return Read::Foreign(ForeignReply::of_no_stream());
        };
        let (code, outcome) = match error {
            Some(error) if *stream == *self.stream => return Read::Refused(error),
            Some(error) => (Some(error.error_code().0), Err(error.to_string().into())),
            // The reply is not JetStream's, or the message isn't stored yet.
            None if seq == 0 => return Read::Foreign(ForeignReply::of_no_stream()),
            None if self.is(&stream, domain.as_deref()) => {
                return Read::Ack(Ack::new(seq, duplicate));
            }
            None => (None, Ok(Ack::new(seq, duplicate))),
        };

        let domain = domain.map(|domain| domain.into_owned().into());
        Read::Foreign(ForeignReply { stream: stream.into_owned(), domain, outcome, code })
    }
}

impl ForeignReply {
    pub(super) fn of_no_stream() -> Self {
        let outcome = Err("its reply is no ack".into());
        Self { stream: String::new(), domain: None, outcome, code: None }
    }

    /// Whether it is stored there.
    pub(crate) fn is_stored(&self) -> bool {
        self.outcome.is_ok()
    }
}

impl fmt::Display for ForeignReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stream.is_empty() {
            true => f.write_str("a subscriber that is no stream answered")?,
            false => write!(f, "stream {} answered", self.stream)?,
        }
        if let Some(domain) = &self.domain {
            write!(f, " from domain {domain}")?;
        }
        match &self.outcome {
            Ok(ack) => write!(f, " and stored the message at sequence {}", ack.sequence),
            Err(error) => write!(f, ": {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(payload: &str, status: Option<StatusCode>) -> Message {
        Message {
            subject: "_INBOX.1".into(),
            reply: None,
            payload: payload.to_owned().into(),
            headers: None,
            status,
            description: None,
            length: payload.len(),
        }
    }

    #[test]
    fn only_the_expected_stream_in_its_domain_answers() {
        let expected = Expected::new("SHOP", VerifyAcks::Suspicious);
        let read = |payload: &str| expected.read(&reply(payload, None));
        let own = r#"{"stream":"SHOP","seq":7,"duplicate":true}"#;
        let in_leaf = r#"{"stream":"SHOP","domain":"leaf","seq":7,"duplicate":true}"#;
        let ack = Ack::new(7, true);
        let is_ack = |found: &Read| matches!(found, Read::Ack(found) if *found == ack);

        assert!(is_ack(&read(own)));
        assert!(matches!(read(in_leaf), Read::Foreign(_)));
        expected.in_domain(Some("leaf"));
        assert!(is_ack(&read(in_leaf)));
        assert!(matches!(read(own), Read::Foreign(_)));

        let refused = r#"{"error":{"code":503,"err_code":10077,"description":"full"},"stream":"SHOP","seq":0}"#;
        assert!(matches!(read(refused), Read::Refused(_)));
        for foreign in [
            r#"{"error":{"code":400,"err_code":10060,"description":"no"},"stream":"EDGE","seq":0}"#,
            r#"{"error":{"code":400,"err_code":10060,"description":"no"}}"#,
            r#"{"stream":"EDGE","domain":"leaf","seq":7}"#,
            r#"{"stream":"SHOP","domain":"leaf"}"#,
            "+OK",
            "",
        ] {
            let found = read(foreign);
            assert!(matches!(found, Read::Foreign(_)), "{foreign}: {found:?}");
        }

        let answer = expected.read(&reply("", Some(StatusCode::NO_RESPONDERS)));
        assert!(matches!(answer, Read::NoResponders), "{answer:?}");
    }

    #[test]
    fn an_ack_counts_once_its_domain_is_known_to_be_the_streams() {
        let expected = Expected::new("SHOP", VerifyAcks::Suspicious);
        let Read::Foreign(found) =
            expected.read(&reply(r#"{"stream":"SHOP","domain":"new","seq":7}"#, None))
        else {
            panic!("it is another domain's so far");
        };
        let text = "stream SHOP answered from domain new and stored the message at sequence 7";
        assert_eq!(found.to_string(), text);
        assert_eq!(expected.ack_in(&found), None);
        expected.in_domain(Some("new"));
        assert_eq!(expected.ack_in(&found), Some(Ack::new(7, false)));
    }
}
