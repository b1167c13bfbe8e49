//! Events: `enqueue` and `schedule`, what they write, and what the relay publishes of it.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bson::spec::BinarySubtype;
use bson::{Bson, DateTime, Document, RawDocumentBuf, doc};
use outboxd_client::{EnqueueError, Event, EventError, EventId, Outbox};

use super::{all_pass, documents};
use crate::support::{NatsServer, Relay, Scene};

struct Case {
    name: String,
    event: Given,
    refused: Option<String>,
    document: Option<Document>,
    message: Vec<u8>,
    message_id: Option<String>,
    /// The event may be one that a language with types can't write.
    is_dynamic: bool,
}

struct Given {
    subject: String,
    key: Option<Bson>,
    id: Option<Bson>,
    payload: Bson,
    headers: Document,
}

/// Takes a case apart. Not by serde, on whose way a date after the year 9999 becomes another one.
struct Fields(Document);

impl Fields {
    fn text(&mut self, name: &str) -> Option<String> {
        self.0.remove(name).map(|text| text.as_str().expect(name).to_owned())
    }

    fn document(&mut self, name: &str) -> Option<Document> {
        self.0.remove(name).map(|document| document.as_document().expect(name).clone())
    }

    fn end(self) {
        assert!(self.0.is_empty(), "the runner does not know {}", self.0);
    }
}

impl From<Document> for Case {
    fn from(case: Document) -> Self {
        let mut case = Fields(case);
        let mut event = Fields(case.document("event").unwrap());
        let given = Given {
            subject: event.text("subject").unwrap(),
            key: event.0.remove("key"),
            id: event.0.remove("id"),
            payload: event.0.remove("payload").unwrap(),
            headers: event.document("headers").unwrap_or_default(),
        };
        event.end();

        let (text, base64) = (case.text("message"), case.text("messageBase64"));
        let message = match base64 {
            Some(base64) => STANDARD.decode(base64).unwrap(),
            None => text.unwrap_or_default().into_bytes(),
        };
        let read = Self {
            name: case.text("name").unwrap(),
            event: given,
            refused: case.text("refused"),
            document: case.document("document"),
            message,
            message_id: case.text("messageId"),
            is_dynamic: case.0.remove("dynamic").is_some(),
        };
        case.end();
        read
    }
}

/// Why there is no event.
enum Refused {
    /// Rust's types have no such event.
    ByTypes,
    ByClient(EventError),
}

impl From<EventError> for Refused {
    fn from(error: EventError) -> Self {
        Self::ByClient(error)
    }
}

fn event(given: &Given) -> Result<Event, Refused> {
    let mut event = Event::new(given.subject.as_str(), &given.payload)?;
    if let Some(key) = &given.key {
        event = match key.clone() {
            Bson::String(key) => event.key(key)?,
            Bson::ObjectId(key) => event.key(key)?,
            Bson::Binary(key) if key.subtype == BinarySubtype::Uuid => {
                event.key(key.to_uuid().expect("16 bytes"))?
            }
            _ => return Err(Refused::ByTypes),
        };
    }
    if let Some(id) = &given.id {
        let id = match id.clone() {
            Bson::String(id) => EventId::string(id)?,
            Bson::ObjectId(id) => EventId::ObjectId(id),
            Bson::Binary(id) if id.subtype == BinarySubtype::Uuid => {
                EventId::Uuid(id.to_uuid().expect("16 bytes"))
            }
            _ => return Err(Refused::ByTypes),
        };
        event = event.with_id(id)?;
    }
    for (name, value) in &given.headers {
        event = event.header(name, value.as_str().ok_or(Refused::ByTypes)?)?;
    }
    Ok(event)
}

/// What is stored, without `_id` and `ts`.
fn document(case: &Case) -> Document {
    if let Some(document) = &case.document {
        return document.clone();
    }

    let Given { subject, key, payload, headers, .. } = &case.event;
    let mut document = doc! { "subject": subject };
    document.extend(key.iter().map(|key| ("key".to_owned(), key.clone())));
    document.insert("payload", payload);
    if !headers.is_empty() {
        document.insert("headers", headers);
    }
    document.extend(doc! { "isLocked": true, "failures": [] });
    document
}

/// Writes the case's event. The end of its message's id, if it was to be written; else why the case
/// differs.
async fn enqueue(scene: &Scene, case: &Case) -> Result<Option<String>, String> {
    let event = match (event(&case.event), &case.refused) {
        (Err(Refused::ByTypes), _) if case.is_dynamic => return Ok(None),
        (Err(Refused::ByTypes), _) => return Err("Rust's types have no such event".to_owned()),
        (Err(Refused::ByClient(error)), Some(words)) => return has(&error.to_string(), words),
        (Err(Refused::ByClient(error)), None) => return Err(format!("refused: {error}")),
        (Ok(event), _) => event,
    };

    let mut session = scene.transaction().await;
    let id = match (scene.outbox.enqueue(&mut session, event).await, &case.refused) {
        (Err(EnqueueError::Event(error)), Some(words)) => return has(&error.to_string(), words),
        (Err(error), _) => return Err(format!("refused: {error}")),
        (Ok(_), Some(words)) => return Err(format!("not refused: {words}")),
        (Ok(id), None) => id,
    };

    // As bytes: `==` of documents passes over the order of their fields.
    let events = scene.events.clone_with_type::<RawDocumentBuf>();
    let filter = doc! { "_id": id.clone() };
    let stored = events.find_one(filter).session(&mut session).await.unwrap().unwrap();
    session.commit_transaction().await.unwrap();

    let mut expected = Document::new();
    for field in ["_id", "ts"] {
        let value = stored.get(field).unwrap().unwrap_or_else(|| panic!("no {field}: {stored:?}"));
        expected.insert(field, Bson::try_from(value).unwrap());
    }
    expected.extend(document(case));
    let expected = RawDocumentBuf::try_from(&expected).unwrap();
    if stored != expected || stored.get_timestamp("ts").is_err() {
        return Err(format!("stored {stored:?}, expected {expected:?}"));
    }
    Ok(Some(case.message_id.clone().unwrap_or_else(|| id.to_string())))
}

fn has(error: &str, words: &str) -> Result<Option<String>, String> {
    match error.contains(words) {
        true => Ok(None),
        false => Err(format!("refused with {error:?}, expected {words:?}")),
    }
}

#[tokio::test]
async fn events_are_stored_and_published_or_refused_as_in_every_language() {
    let nats = NatsServer::taking("case,case.>").await;
    let scene = Scene::alone(&nats).await;
    let files = ["subjects", "keys", "headers", "payloads"];
    let all: Vec<_> = files.iter().flat_map(|file| documents(file)).map(Case::from).collect();
    let (mut written, mut differing) = (Vec::new(), Vec::new());

    for case in &all {
        match enqueue(&scene, case).await {
            Ok(Some(id)) => written.push((case, format!("{}.outbox.{id}", scene.name))),
            Ok(None) => {}
            Err(difference) => differing.push(format!("{}: {difference:.2000}", case.name)),
        }
    }
    let _relay = Relay::leading(&scene, &[]).await;
    scene.drained().await;
    let messages = messages(&scene).await;
    for (case, id) in &written {
        let published = messages.get(id).map(|message| differs(case, message));
        let difference = published.unwrap_or_else(|| Some(format!("no message {id}")));
        differing.extend(difference.map(|difference| format!("{}: {difference:.2000}", case.name)));
    }
    all_pass(all.len(), &differing);
    assert_eq!(messages.len(), written.len(), "a refusal writes nothing");
    assert!(written.len() > 80, "{} events were published", written.len());
}

type Published = async_nats::jetstream::message::StreamMessage;

/// Everything in the stream, by `Nats-Msg-Id`.
async fn messages(scene: &Scene) -> HashMap<String, Published> {
    let stream = scene.context.get_stream(&scene.stream).await.unwrap();
    let state = stream.cached_info().state.clone();
    let mut messages = HashMap::new();
    for sequence in state.first_sequence..=state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let id = message.headers.get("Nats-Msg-Id").unwrap().as_str().to_owned();
        messages.insert(id, message);
    }
    messages
}

fn differs(case: &Case, message: &Published) -> Option<String> {
    if message.payload != case.message {
        let (payload, expected) = (message.payload.escape_ascii(), case.message.escape_ascii());
        return Some(format!("published {payload}, expected {expected}"));
    }
    if message.subject.as_str() != case.event.subject {
        return Some(format!("published to {}", message.subject));
    }

    let lacks = |(name, value): (&String, &Bson)| {
        let sent = message.headers.get(name.as_str()).map(|value| value.as_str());
        (*value != Bson::Null && sent != value.as_str()).then(|| format!("{name} is {sent:?}"))
    };
    case.event.headers.iter().find_map(lacks)
}

#[tokio::test]
async fn times_of_delivery_are_accepted_or_refused_as_in_every_language() {
    let scene = Scene::new().await;
    let (mut count, mut differing) = (0, Vec::new());
    for case in documents("scheduled") {
        let mut case = Fields(case);
        let (name, refused) = (case.text("name").unwrap(), case.text("refused"));
        let at = case.0.remove("deliverAt").and_then(|at| at.as_datetime().copied());
        case.end();
        count += 1;
        if let Err(difference) = schedule(&scene, at.expect("a date"), refused.as_ref()).await {
            differing.push(format!("{name}: {difference}"));
        }
    }
    all_pass(count, &differing);
}

async fn schedule(scene: &Scene, at: DateTime, refused: Option<&String>) -> Result<(), String> {
    let outbox = Outbox::new(&scene.database, "outbox");
    let event = Event::new("case.a", &doc! {}).unwrap();
    let mut session = scene.transaction().await;

    let id = match (outbox.schedule(&mut session, event, at).await, refused) {
        (Err(error), Some(words)) => return has(&error.to_string(), words).map(drop),
        (Err(error), None) => return Err(format!("refused: {error}")),
        (Ok(_), Some(words)) => return Err(format!("not refused: {words}")),
        (Ok(id), None) => id,
    };
    session.commit_transaction().await.unwrap();

    let scheduled = scene.database.collection::<Document>("outbox_scheduled");
    let mut stored = scheduled.find_one(doc! { "_id": id }).await.unwrap().unwrap();
    let names = stored.keys().map(String::as_str).collect::<Vec<_>>().join(" ");
    let usual = "_id ts subject payload isLocked failures deliverAt";
    match stored.remove("deliverAt") {
        Some(Bson::DateTime(stored)) if stored == at && names == usual => Ok(()),
        _ => Err(format!("stored {stored} with the fields {names}")),
    }
}
