//! A hostile document is dead with its reason or published as it is; it harms neither the
//! connection nor any other event.

mod agreement;
mod before;
mod memory;
mod parser;
mod raw;
mod refused;
mod rows;
mod shapes;
mod unmarked;
mod untimed;

use std::collections::HashMap;
use std::time::Duration;

use bson::{RawArray, RawDocument, RawDocumentBuf, doc};
use outboxd_client::Event;

use self::raw::{ARRAY, BOOL, DOCUMENT, STRING, document, element, text};
use self::rows::{Fate, Row, groups};
use crate::support::{NatsServer, Relay, Scene, until};

/// With a line for each connection that ends, and why.
const CONFIG: &str = "debug: true";
/// Long enough for a group on a busy machine. Those that then have not met their fate are named.
const FATE: Duration = Duration::from_secs(30);

/// Hostile documents in an outbox, with a nats-server that no other test uses.
struct Trial {
    nats: NatsServer,
    scene: Scene,
    stored: Vec<Row>,
    /// Payloads of the well-behaved events.
    well: Vec<Vec<u8>>,
    wrong: Vec<String>,
}

impl Trial {
    async fn new() -> Self {
        let nats = NatsServer::taking("made.>").await;
        nats.reload(CONFIG);
        let scene = Scene::alone(&nats).await;
        Self { nats, scene, stored: Vec::new(), well: Vec::new(), wrong: Vec::new() }
    }

    /// Writes these documents, and a well-behaved event behind them.
    async fn write(&mut self, rows: Vec<Row>) {
        for row in rows {
            match (&row.fate, self.insert(&row.document).await) {
                (Fate::NotStored(said, _), Some(error)) if error.contains(said) => {}
                (Fate::NotStored(..), other) => {
                    self.wrong.push(format!("{}: stored, or else {other:?}", row.name))
                }
                (_, Some(error)) => self.wrong.push(format!("{}: not stored: {error}", row.name)),
                (_, None) => self.stored.push(row),
            }
        }
        let payload = format!("well-behaved after {}", self.stored.len());
        let event = Event::new("made.well", &payload).unwrap().key("well").unwrap();
        self.well.push(payload.into());
        self.scene.commit([event]).await;
    }

    /// As any client can: past the validator, and past what a driver checks. The error, if MongoDB
    /// doesn't store it.
    async fn insert(&self, event: &[u8]) -> Option<String> {
        let command = document(&[
            element(STRING, "insert", text("outbox")),
            element(ARRAY, "documents", document(&[element(DOCUMENT, "0", event)])),
            element(BOOL, "bypassDocumentValidation", [1]),
        ]);
        let command = RawDocumentBuf::from_bytes(command).expect("a length and an end");
        match self.scene.database.run_raw_command(command).await {
            Ok(reply) => reply.get("writeErrors").map(|errors| errors.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Waits until each row has met its fate and the well-behaved events are out.
    async fn settled(&mut self, relay: &Relay) {
        let met = until("each row has met its fate", async || {
            let left = left(&self.scene).await;
            let undecided = |row: &Row| match row.fate {
                Fate::Unmarked(said) => !relay.log().contains(said),
                Fate::Published(_) => left.contains_key(&row.name),
                _ => left.get(&row.name).is_none_or(|found| death(found).is_none()),
            };
            let met = !left.contains_key("") && !self.stored.iter().any(undecided);
            if !met {
                // Reading them all over and over would keep the relay from its work.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            met.then_some(())
        });
        if tokio::time::timeout(FATE, met).await.is_err() {
            let well = if left(&self.scene).await.contains_key("") {
                "; a well-behaved event is not out"
            } else {
                ""
            };
            self.wrong.push(format!("not all have met their fate{well}"));
        }
    }

    /// Names every row that fared otherwise than it should, and every harm to a connection.
    async fn judge(mut self, relay: &Relay) {
        let left = left(&self.scene).await;
        let mut sent = self.well;
        for Row { name, fate, .. } in self.stored {
            let death = left.get(&name).map(|found| death(found));
            match (fate, death) {
                (Fate::Malformed(said), Some(Some((code, error))))
                    if code == "malformed" && error.contains(said) => {}
                (Fate::TooLong, Some(Some((code, error))))
                    if code == "max-payload" && error.contains("1048576") => {}
                (Fate::Published(payload), None) => sent.push(payload),
                (Fate::Unmarked(said), Some(None)) if relay.log().contains(said) => {}
                (_, None) => self.wrong.push(format!("{name}: gone")),
                (_, Some(death)) => self.wrong.push(format!("{name}: {death:?}")),
            }
        }
        let (nats, relay) = (self.nats.log(), relay.log());
        let harm = nats.lines().filter(|line| is_harm(line));
        let harm = harm.chain(
            relay.lines().filter(|line| line.contains("disconnected") || line.contains("panicked")),
        );
        self.wrong.extend(harm.map(str::to_owned));
        let mut messages = messages(&self.scene).await;
        messages.sort();
        sent.sort();
        if messages != sent {
            self.wrong.push(format!(
                "{} messages of {} events, or not as they were",
                messages.len(),
                sent.len()
            ));
        }
        assert!(self.wrong.is_empty(), "{} wrong:\n{}", self.wrong.len(), self.wrong.join("\n"));
    }
}

/// What is left in the outbox, by row: its mark, if it is dead. The well-behaved have no row.
async fn left(scene: &Scene) -> HashMap<String, RawDocumentBuf> {
    let seen = doc! { "_id": 0, "row": 1, "deadAt": 1, "failures": { "$cond": ["$deadAt", "$failures", []] } };
    let events = scene.events.clone_with_type::<RawDocumentBuf>();
    let mut cursor = events.find(doc! {}).projection(seen).await.expect("the outbox is read");
    let mut left = HashMap::new();
    while cursor.advance().await.expect("the outbox is read") {
        let found = cursor.current();
        left.insert(found.get_str("row").unwrap_or_default().to_owned(), found.to_owned());
    }
    left
}

/// Code and error of the newest failure, once it is dead of poison.
fn death(found: &RawDocument) -> Option<(String, String)> {
    found.get_datetime("deadAt").ok()?;
    let failures: &RawArray = found.get_array("failures").ok()?;
    let failure = failures.into_iter().last()?.ok()?.as_document()?;
    failure.get_str("class").ok().filter(|class| *class == "poison")?;
    Some((failure.get_str("code").ok()?.to_owned(), failure.get_str("error").ok()?.to_owned()))
}

/// Whether a line of nats-server's log tells of a breach of the protocol, or of a connection that
/// it ended.
fn is_harm(line: &str) -> bool {
    line.contains("[ERR]")
        || (line.contains("Client connection closed") && !line.contains("closed: Client Closed"))
}

/// Payloads in the stream, byte for byte.
async fn messages(scene: &Scene) -> Vec<Vec<u8>> {
    let stream = scene.context.get_stream(&scene.stream).await.expect("the scene's stream");
    let mut messages = Vec::new();
    for sequence in 1..=stream.cached_info().state.last_sequence {
        messages.push(
            stream
                .get_raw_message(sequence)
                .await
                .expect("a message of the stream")
                .payload
                .to_vec(),
        );
    }
    messages
}

#[tokio::test]
async fn what_commits_while_a_relay_runs_is_dead_with_its_reason_or_published_as_it_is() {
    let mut trial = Trial::new().await;
    let relay = Relay::leading(&trial.scene, &[]).await;
    for rows in groups() {
        trial.write(rows).await;
        trial.settled(&relay).await;
    }
    trial.judge(&relay).await;
}

#[tokio::test]
async fn what_a_relay_finds_when_it_starts_is_dead_with_its_reason_or_published_as_it_is() {
    let mut trial = Trial::new().await;
    for rows in groups() {
        trial.write(rows).await;
    }
    let relay = Relay::start(&trial.scene, &[]);
    trial.settled(&relay).await;
    trial.judge(&relay).await;
}

#[tokio::test]
async fn the_headers_of_an_event_arrive_as_they_are() {
    let trial = Trial::new().await;
    let event = (0..64).fold(Event::new("made.x", "x").unwrap(), |event, i| {
        event.header(&format!("h{i}"), &format!("é: 票 {}", "x".repeat(480))).unwrap()
    });
    let _relay = Relay::start(&trial.scene, &[]);
    trial.scene.commit([event]).await;
    trial.scene.drained().await;
    let messages = trial.scene.messages().await;
    assert_eq!(
        messages[0].headers.len(),
        64 + "Nats-Msg-Id Nats-Expected-Stream".split(' ').count()
    );
    for i in 0..64 {
        assert_eq!(messages[0].headers[&format!("h{i}")], format!("é: 票 {}", "x".repeat(480)));
    }
}

/// Thirty events of a size that fits 4 KB, and one in the midst that doesn't any more.
async fn commit_one_that_is_too_long(scene: &Scene) {
    let long = |number| if number == 10 { 100_000 } else { 10 };
    let event = |number: usize| {
        Event::new("made.x", &"x".repeat(long(number))).unwrap().key(number.to_string()).unwrap()
    };
    scene.commit((0..30).map(event)).await;
}

async fn only_the_long_one_is_left_and_dead(scene: &Scene) {
    until("only the dead is left", async || {
        let others =
            doc! { "$or": [{ "deadAt": { "$exists": false } }, { "key": { "$ne": "10" } }] };
        (scene.events.count_documents(others).await.unwrap() == 0).then_some(())
    })
    .await;
    let dead = scene
        .events
        .clone_with_type::<RawDocumentBuf>()
        .find_one(doc! {})
        .await
        .unwrap()
        .expect("the long one");
    let (code, error) = death(&dead).expect("poison");
    assert_eq!(code, "max-payload");
    assert!(error.contains("limit of 4096"), "{error}");
    assert_eq!(messages(scene).await, vec![b"xxxxxxxxxx".to_vec(); 29]);
}

#[tokio::test]
async fn what_fitted_before_a_restart_with_a_lower_limit_is_dead_and_never_sent() {
    let mut trial = Trial::new().await;
    let relay = Relay::leading(&trial.scene, &[]).await;
    trial.nats.kill();
    relay.says("disconnected").await;
    commit_one_that_is_too_long(&trial.scene).await;
    trial.nats.configure("debug: true\nmax_payload: 4096");
    trial.nats.start_again();
    only_the_long_one_is_left_and_dead(&trial.scene).await;
    assert_eq!(trial.nats.log().lines().find(|line| is_harm(line)), None);
}

/// nats-server doesn't tell its clients of the new limit: they learn it with the next connection.
#[tokio::test]
async fn what_is_over_a_limit_lowered_under_the_connection_costs_it_once_and_is_dead() {
    let trial = Trial::new().await;
    let relay = Relay::leading(&trial.scene, &[]).await;
    trial.nats.reload("debug: true\nmax_payload: 4096");
    until("the limit is lower", async || {
        trial.nats.log().contains("Reloaded: max_payload").then_some(())
    })
    .await;
    commit_one_that_is_too_long(&trial.scene).await;
    only_the_long_one_is_left_and_dead(&trial.scene).await;
    let nats = trial.nats.log();
    let harm: Vec<_> = nats.lines().filter(|line| is_harm(line)).collect();
    assert_eq!(harm.len(), 2, "what it closed the connection for, and that it did: {harm:?}");
    assert!(harm[0].contains("maximum payload exceeded: 100"), "{harm:?}");
    assert_eq!(relay.log().matches("event=disconnected").count(), 1);
    relay.says("event is dead").await;
    assert_eq!(relay.log().matches("event is dead").count(), 1);
}
