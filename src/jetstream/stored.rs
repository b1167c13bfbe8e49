//! Compares a stored message with one that was sent, to check the ack of a duplicate.
//!
//! The message is read through the stream's leader, which wrote the ack. A direct read may be
//! answered by a copy that lags behind, or by a mirror that keeps what the stream has lost.

use std::borrow::Cow;

use async_nats::client::{Request, RequestErrorKind};
use async_nats::jetstream::stream::Config;
use async_nats::jetstream::{Error as JetStreamError, ErrorCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::time::Instant;

use super::connection::Nats;
use crate::failure::{CONNECTION_LOST, DUPLICATE_UNCHECKED, NO_RESPONDERS, Rejection, TIMEOUT};
use crate::relay::ports::Message;
use crate::relay::publish::outcome::Held;
use crate::relay::watermark::Found;

/// The header with the message id, as the server looks for it.
const MESSAGE_ID: &str = "Nats-Msg-Id:";

/// The API request that reads a message, without its prefix.
pub(crate) fn request(stream: &str) -> String {
    format!("STREAM.MSG.GET.{stream}")
}

/// The reply to the request.
#[derive(Debug, Deserialize)]
struct Reply<'a> {
    error: Option<JetStreamError>,
    #[serde(borrow)]
    message: Option<Stored<'a>>,
}

/// A message as the stream has it.
#[derive(Debug, Deserialize)]
struct Stored<'a> {
    subject: Cow<'a, str>,
    /// Base64, as is `data`.
    #[serde(borrow, default)]
    hdrs: Cow<'a, str>,
    #[serde(borrow, default)]
    data: Cow<'a, str>,
    /// When it was stored, as RFC 3339.
    #[serde(borrow, default)]
    time: Cow<'a, str>,
}

/// Reads the message at this sequence of the stream, and compares it.
///
/// # Errors
/// When the user may not read it, or no answer came in time.
pub(super) async fn held(
    nats: &Nats,
    stream: &str,
    sequence: u64,
    message: &Message<'_>,
) -> Result<Held, Rejection> {
    let body = read(nats, stream, sequence).await?;
    match parse(&body, sequence)? {
        Some(stored) => stored.compare(message).map_err(|error| unreadable(sequence, error)),
        None => Ok(Held::Nothing),
    }
}

/// The message at this sequence of the stream, by its id.
///
/// # Errors
/// As [`held`].
pub(super) async fn found(nats: &Nats, stream: &str, sequence: u64) -> Result<Found, Rejection> {
    let body = read(nats, stream, sequence).await?;
    match parse(&body, sequence)? {
        Some(stored) => {
            stored.id().map(Found::Message).map_err(|error| unreadable(sequence, error))
        }
        None => Ok(Found::Nothing),
    }
}

/// When the message at this sequence was stored, in ms since 1970 by the clock of the stream.
///
/// # Errors
/// As [`held`], and when there is none.
pub(super) async fn time_ms(nats: &Nats, stream: &str, sequence: u64) -> Result<i64, Rejection> {
    let body = read(nats, stream, sequence).await?;
    let stored = parse(&body, sequence)?.ok_or_else(|| unreadable(sequence, "there is none"))?;
    let time = bson::DateTime::parse_rfc3339_str(&stored.time);
    time.map(bson::DateTime::timestamp_millis).map_err(|error| unreadable(sequence, error))
}

fn unreadable(sequence: u64, error: impl std::fmt::Display) -> Rejection {
    Rejection::new("other", format!("the message at sequence {sequence}: {error}"))
}

/// The message in a reply, if the stream has one there.
fn parse(body: &[u8], sequence: u64) -> Result<Option<Stored<'_>>, Rejection> {
    match serde_json::from_slice(body).map_err(|error| unreadable(sequence, error))? {
        Reply { error: None, message: Some(stored) } => Ok(Some(stored)),
        Reply { error: Some(error), .. } if is_empty(error.error_code()) => Ok(None),
        Reply { error: Some(error), .. } => {
            Err(Rejection::of_jetstream(error.error_code().0, error.to_string()))
        }
        Reply { error: None, message: None } => Err(unreadable(sequence, "the reply is empty")),
    }
}

fn is_empty(code: ErrorCode) -> bool {
    [ErrorCode::NO_MESSAGE_FOUND, ErrorCode::SEQUENCE_NOT_FOUND].contains(&code)
}

/// Whether the user may read the messages of the stream; `None` if that could not be found out.
pub(crate) async fn may_read(nats: &Nats, stream: &str) -> Option<bool> {
    // No stream has a message there, so the reply is small.
    match read(nats, stream, u64::MAX).await {
        Ok(_) => Some(true),
        Err(rejection) if rejection.code == DUPLICATE_UNCHECKED => Some(false),
        Err(_) => None,
    }
}

/// The body of the reply.
async fn read(nats: &Nats, stream: &str, sequence: u64) -> Result<bytes::Bytes, Rejection> {
    let subject = format!("{}.{}", nats.api_prefix, request(stream));
    let request = Request::new()
        .payload(format!("{{\"seq\":{sequence}}}").into())
        .timeout(Some(nats.ack_timeout));
    let (client, asked) = (nats.context().client(), Instant::now());

    let answer = tokio::select! {
        answer = client.send_request(subject.clone(), request) => answer,
        () = nats.denied.after(&subject, asked) => {
            let error = format!("the server denied a request to {subject}");
            return Err(Rejection::new(DUPLICATE_UNCHECKED, error));
        }
    };

    let error = match answer {
        Ok(answer) => return Ok(answer.payload),
        Err(error) => error,
    };
    let code = match error.kind() {
        RequestErrorKind::TimedOut => {
            nats.doubt();
            TIMEOUT
        }
        RequestErrorKind::NoResponders => NO_RESPONDERS,
        _ => CONNECTION_LOST,
    };
    let error = format!("the stream did not show its message at sequence {sequence}: {error}");
    Err(Rejection::new(code, error))
}

impl Stored<'_> {
    /// The message id, if there is one.
    fn id(&self) -> Result<Option<String>, base64::DecodeError> {
        let headers = STANDARD.decode(&*self.hdrs)?;
        Ok(String::from_utf8_lossy(&headers)
            .lines()
            .find_map(|line| line.strip_prefix(MESSAGE_ID).map(|id| id.trim().to_owned())))
    }

    fn compare(&self, message: &Message<'_>) -> Result<Held, base64::DecodeError> {
        let id = self.id()?;

        Ok(if id.as_deref() != Some(message.id) {
            Held::OtherId
        } else if STANDARD.decode(&*self.data)? != message.payload {
            Held::OtherPayload
        } else if self.subject != message.subject.as_str() {
            Held::OtherSubject(self.subject.clone().into_owned())
        } else {
            Held::This
        })
    }
}

/// Whether the stream stores a message of `subject` under `stored`, by its subject transform. What
/// the functions of a transform return is not computed: each may stand for any tokens.
pub(super) fn transforms(config: &Config, subject: &str, stored: &str) -> bool {
    let Some(transform) = &config.subject_transform else { return false };
    let source = if transform.source.is_empty() { ">" } else { &transform.source };

    let tokens: Vec<_> = subject.split('.').collect();
    let Some(wild) = wildcards(source, &tokens) else { return false };

    let wanted: Vec<_> = transform.destination.split('.').collect();
    let stored: Vec<_> = stored.split('.').collect();
    is_made(&wanted, &stored, &wild)
}

/// What the wildcards of a pattern stand for.
struct Wildcards<'a> {
    single: Vec<&'a str>,
    rest: &'a [&'a str],
}

/// What the wildcards stand for in these tokens; `None` if the pattern does not match.
fn wildcards<'a>(pattern: &str, tokens: &'a [&'a str]) -> Option<Wildcards<'a>> {
    let (mut single, mut at) = (Vec::new(), 0);
    for wanted in pattern.split('.') {
        let token = tokens.get(at)?;
        match wanted {
            ">" => return Some(Wildcards { single, rest: &tokens[at..] }),
            "*" => single.push(*token),
            wanted if wanted == *token => {}
            _ => return None,
        }
        at += 1;
    }

    (at == tokens.len()).then_some(Wildcards { single, rest: &[] })
}

/// Whether a destination of these tokens can make the stored ones.
fn is_made(wanted: &[&str], stored: &[&str], wild: &Wildcards<'_>) -> bool {
    let Some((first, wanted)) = wanted.split_first() else { return stored.is_empty() };
    if *first == ">" {
        return wanted.is_empty() && stored == wild.rest;
    }

    let Some((token, rest)) = stored.split_first() else { return false };
    match reference(first) {
        Some(number) => {
            let is_same = number.checked_sub(1).and_then(|at| wild.single.get(at)) == Some(token);
            is_same && is_made(wanted, rest, wild)
        }
        // A function makes one token or more.
        None if first.contains("{{") => {
            (1..=stored.len()).any(|made| is_made(wanted, &stored[made..], wild))
        }
        None => first == token && is_made(wanted, rest, wild),
    }
}

/// The number of the wildcard that a token such as `$1` or `{{wildcard(1)}}` stands for.
fn reference(token: &str) -> Option<usize> {
    let inner = token.strip_prefix("{{").and_then(|token| token.strip_suffix("}}"));
    let number = match inner.map(|inner| inner.trim().to_ascii_lowercase()) {
        Some(inner) => inner.strip_prefix("wildcard(")?.strip_suffix(')')?.trim().to_owned(),
        None => token.strip_prefix('$')?.to_owned(),
    };
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use async_nats::jetstream::stream::SubjectTransform;
    use outboxd_client::{Headers, Subject};

    use super::*;

    #[test]
    fn a_stored_message_is_compared_in_id_payload_and_subject() {
        let (subject, headers) = (Subject::new("made").expect("a subject"), Headers::default());
        let payload = bytes::Bytes::from_static(b"{}");
        let sent = Message {
            subject: &subject,
            headers: &headers,
            id: "d.o.a",
            stream: "S",
            behind: None,
            payload,
        };

        let hdrs =
            |id: &str| STANDARD.encode(format!("NATS/1.0\r\nNats-Msg-Id: {id}\r\nX: y\r\n\r\n"));
        for (subject, hdrs, data, held) in [
            ("made", hdrs("d.o.a"), "{}", Held::This),
            ("mapped", hdrs("d.o.a"), "{}", Held::OtherSubject("mapped".to_owned())),
            ("made", hdrs("d.o.a"), "{ }", Held::OtherPayload),
            ("made", hdrs("d.o.ab"), "{}", Held::OtherId),
            ("made", String::new(), "{}", Held::OtherId),
        ] {
            let data = STANDARD.encode(data).into();
            let (subject, hdrs, time) = (subject.into(), hdrs.into(), Cow::default());
            let stored = Stored { subject, hdrs, data, time };
            assert_eq!(stored.compare(&sent).expect("base64"), held);
        }
    }

    #[test]
    fn a_transform_explains_the_subjects_that_it_makes() {
        let is_made = |source: &str, destination: &str, subject: &str, stored: &str| {
            let (source, destination) = (source.to_owned(), destination.to_owned());
            let subject_transform = Some(SubjectTransform { source, destination });
            transforms(&Config { subject_transform, ..Config::default() }, subject, stored)
        };

        for (source, destination, stored) in [
            ("a.>", "x.>", "x.b.c"),
            ("a.*.*", "x.$2.$1", "x.c.b"),
            ("a.*.*", "x.{{ Wildcard(2) }}", "x.c"),
            ("a.*.c", "{{partition(3,1)}}.$1", "2.b"),
            ("", "all.>", "all.a.b.c"),
            ("a.*.c", "x.{{split(1,-)}}.y", "x.b.d.y"),
        ] {
            assert!(is_made(source, destination, "a.b.c", stored), "{source} {destination}");
        }

        for (source, destination, stored) in [
            ("a.>", "x.>", "x.b.d"),
            ("b.>", "x.>", "x.b.c"),
            ("a.*.*", "x.$2.$1", "x.b.c"),
            ("a.*.*", "x.$3", "x.c"),
            ("a.*.c", "{{partition(3,1)}}.$1", "b"),
            ("a.b", "x", "x"),
        ] {
            assert!(!is_made(source, destination, "a.b.c", stored), "{source} {destination}");
        }

        assert!(!transforms(&Config::default(), "a", "b"));
    }
}
