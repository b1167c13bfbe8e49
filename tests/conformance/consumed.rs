//! Messages: what replicas, inboxes and listeners make of them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull;
use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;
use mongodb::{ClientSession, Collection};
use outboxd_client::{Apply, HandleError, Inbox, Listener, Message, Replica, Verdict};
use serde::Deserialize;

use super::{all_pass, cases, number};
use crate::support::{Scene, until};

async fn all(collection: &Collection<Document>) -> Vec<Document> {
    let found = collection.find(doc! {}).sort(doc! { "_id": 1 }).await.unwrap();
    found.try_collect().await.unwrap()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Versions {
    name: String,
    messages: Vec<Version>,
    copies: Vec<Document>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Version {
    record: Document,
    verdict: Word,
    #[serde(default)]
    removed: bool,
}

#[derive(Deserialize, Debug, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Word {
    Done,
    Later,
}

impl From<Verdict> for Word {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Done => Self::Done,
            Verdict::Later => Self::Later,
        }
    }
}

#[tokio::test]
async fn copies_follow_their_records_as_in_every_language() {
    let scene = Scene::new().await;
    let all: Vec<Versions> = cases("replicas");
    let mut differing = Vec::new();
    for (number, case) in all.iter().enumerate() {
        for in_transaction in [true, false] {
            let name = format!("copies-{number}-{in_transaction}");
            if let Err(difference) = replicate(&scene, case, &name, in_transaction).await {
                let how = if in_transaction { "in" } else { "without" };
                differing.push(format!("{} ({how} a transaction): {difference}", case.name));
            }
        }
    }
    all_pass(all.len(), &differing);
}

async fn replicate(
    scene: &Scene,
    case: &Versions,
    name: &str,
    in_transaction: bool,
) -> Result<(), String> {
    let copies = scene.database.collection::<Document>(name);
    let replica = Replica::new(copies.clone());
    for Version { record, verdict, removed } in &case.messages {
        let mut copy = record.clone();
        let id = copy.remove("id").expect("a record has an id");
        let version = i64::try_from(number(&record["version"])).unwrap();
        copy.insert("_id", id.clone());

        let mut session = scene.transaction().await;
        let answer = match (in_transaction, removed) {
            (true, true) => replica.remove_in(&mut session, id, version).await,
            (true, false) => replica.apply_in(&mut session, &copy).await,
            (false, true) => replica.remove(id, version).await,
            (false, false) => replica.apply(&copy).await,
        };
        session.commit_transaction().await.unwrap();
        match answer.map(Word::from) {
            Ok(answer) if answer == *verdict => {}
            answer => return Err(format!("{answer:?} to {record}, expected {verdict:?}")),
        }
    }

    // Whatever the type of a number.
    let shown = |mut copy: Document| {
        if copy.remove("removedAt").is_some() {
            copy.insert("removed", true);
        }
        Bson::Document(copy).into_relaxed_extjson()
    };
    let stored: Vec<_> = all(&copies).await.into_iter().map(shown).collect();
    let expected: Vec<_> = case.copies.iter().cloned().map(shown).collect();
    match stored == expected {
        true => Ok(()),
        false => Err(format!("copies are {stored:?}, expected {expected:?}")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Repeats {
    name: String,
    messages: Vec<Handed>,
    ids: Vec<(String, String)>,
    effects: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Handed {
    group: String,
    id: String,
    work: Answer,
    ran: bool,
}

#[derive(Deserialize, Debug, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Done,
    Later,
    Error,
    Unprocessable,
}

/// Writes a document, then answers as the case says.
#[derive(Clone)]
struct Work {
    effects: Collection<Document>,
    /// The answers to come.
    answers: Arc<Mutex<VecDeque<Answer>>>,
}

impl Work {
    fn new(effects: Collection<Document>, answers: impl IntoIterator<Item = Answer>) -> Self {
        Self { effects, answers: Arc::new(Mutex::new(answers.into_iter().collect())) }
    }

    fn has_answered_all(&self) -> bool {
        self.answers.lock().unwrap().is_empty()
    }
}

impl Apply for Work {
    async fn apply(
        &self,
        session: &mut ClientSession,
        message: &Message,
    ) -> Result<Verdict, HandleError> {
        message.json::<Document>()?;
        self.effects.insert_one(doc! {}).session(session).await?;
        let answer = self.answers.lock().unwrap().pop_front().expect("an answer is left");
        match answer {
            Answer::Done => Ok(Verdict::Done),
            Answer::Later => Ok(Verdict::Later),
            Answer::Error => Err(HandleError::failed("no luck")),
            Answer::Unprocessable => Err(HandleError::unprocessable("it is never applied")),
        }
    }
}

#[tokio::test]
async fn messages_are_handled_once_as_in_every_language() {
    let scene = Scene::new().await;
    let all: Vec<Repeats> = cases("inboxes");
    let mut differing = Vec::new();
    for (number, case) in all.iter().enumerate() {
        if let Err(difference) = hand(&scene, case, number).await {
            differing.push(format!("{}: {difference}", case.name));
        }
    }
    all_pass(all.len(), &differing);
}

async fn hand(scene: &Scene, case: &Repeats, number: usize) -> Result<(), String> {
    let name = format!("inbox-{number}");
    let inbox = Inbox::new(&scene.database, &name);
    inbox.create().await.unwrap();
    let effects = scene.database.collection::<Document>(&format!("effects-{number}"));
    for Handed { group, id, work: answer, ran } in &case.messages {
        let message = Message::new(group, id, "case.a", "{}");
        let work = Work::new(effects.clone(), [*answer]);
        let answered = inbox.run(&message, &work).await;

        let expected = match (ran, answer) {
            (true, Answer::Later) => matches!(answered, Ok(Verdict::Later)),
            (true, Answer::Error) => matches!(answered, Err(HandleError::Failed(_))),
            _ => matches!(answered, Ok(Verdict::Done)),
        };
        if work.has_answered_all() != *ran || !expected {
            return Err(format!("{answered:?} to {group} {id}"));
        }
    }

    let ids = all(&scene.database.collection(&name)).await;
    let pair = |stored: &Document| {
        let id = stored.get_document("_id").unwrap();
        (id.get_str("group").unwrap().to_owned(), id.get_str("id").unwrap().to_owned())
    };
    let ids: Vec<_> = ids.iter().map(pair).collect();
    let count = effects.count_documents(doc! {}).await.unwrap();
    match ids == case.ids && count == case.effects {
        true => Ok(()),
        false => Err(format!("ids {ids:?} and {count} effects are left")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Heard {
    name: String,
    payload: String,
    answers: Vec<Answer>,
    effects: u64,
    failed: Option<String>,
    #[serde(default)]
    again: bool,
}

#[tokio::test]
async fn listeners_ack_repeat_and_put_aside_as_in_every_language() {
    let scene = Arc::new(Scene::new().await);
    let all: Vec<Heard> = cases("listeners");
    let count = all.len();
    // Side by side: each waits for its own deliveries.
    let running: Vec<_> = all
        .into_iter()
        .enumerate()
        .map(|(number, case)| {
            let scene = scene.clone();
            tokio::spawn(async move {
                let heard = listen(&scene, &case, number).await;
                heard.map_err(|difference| format!("{}: {difference}", case.name))
            })
        })
        .collect();
    let mut differing = Vec::new();
    for one in running {
        differing.extend(one.await.unwrap().err());
    }
    all_pass(count, &differing);
}

async fn listen(scene: &Scene, case: &Heard, number: usize) -> Result<(), String> {
    let subject = scene.subject(&format!("heard-{number}"));
    let (group, name) = (format!("group-{number}"), format!("inbox-{number}"));
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", group.as_str());
    let payload = case.payload.clone().into();
    let sent = scene.context.publish_with_headers(subject.clone(), headers, payload).await;
    sent.unwrap().await.unwrap();

    let inbox = Inbox::new(&scene.database, &name);
    inbox.create().await.unwrap();
    let effects = scene.database.collection::<Document>(&format!("effects-{number}"));
    scene.database.create_collection(effects.name()).await.unwrap();
    let work = Work::new(effects.clone(), case.answers.iter().copied());
    let stream = scene.context.get_stream(&scene.stream).await.unwrap();
    for _ in 0..if case.again { 2 } else { 1 } {
        let listener = Listener::new(&scene.nats_url, &scene.stream, &group, inbox.clone())
            .subjects([subject.as_str()])
            .max_deliveries(3)
            .max_later(3);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let handler = inbox.each(work.clone());
        let listening = tokio::spawn(listener.run(handler, async { drop(stopped.await) }));

        until(&format!("{}: the message is acked", case.name), async || {
            let consumer = stream.get_consumer::<pull::Config>(&group).await.ok()?;
            let info = consumer.cached_info();
            let is_acked = info.num_pending == 0 && info.num_ack_pending == 0;
            (is_acked && info.delivered.consumer_sequence > 0).then_some(())
        })
        .await;
        drop(stop);
        listening.await.unwrap().unwrap();
        // A consumer that is made again gets every message again.
        stream.delete_consumer(&group).await.unwrap();
    }

    let count = effects.count_documents(doc! {}).await.unwrap();
    if !work.has_answered_all() || count != case.effects {
        return Err(format!("{count} effects are left, and {:?}", work.answers));
    }
    let aside = all(&scene.database.collection(&format!("{name}_failed"))).await;
    match (&aside[..], &case.failed) {
        ([], None) => Ok(()),
        ([aside], Some(reason)) if is_of(aside, &subject, case, reason) => Ok(()),
        _ => Err(format!("put aside: {aside:?}")),
    }
}

fn is_of(aside: &Document, subject: &str, case: &Heard, reason: &str) -> bool {
    let payload = aside.get_binary_generic("payload").unwrap();
    aside.get_str("reason").unwrap().contains(reason)
        && aside.get_str("subject").unwrap() == subject
        && payload == case.payload.as_bytes()
}
