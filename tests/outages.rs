//! The broker stops answering under load: nothing is lost, counted or reordered, and memory stays
//! flat.
//!
//! An outage lasts `OUTBOXD_TEST_OUTAGE` seconds, 5 unless set; `make proofs` lets each last a
//! minute.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::{Config, DiscardPolicy, Republish};
use bson::{Document, doc};
use futures_util::StreamExt;
use mongodb::Collection;
use outboxd_client::Event;
use tokio::task::JoinHandle;

use crate::support::checker::{self, Published, Report};
use crate::support::{ALONE, Ledger, NatsServer, Outcome, Relay, Scene, Writers, memory, until};

const KEYS: u32 = 50;
const PER_SECOND: u32 = 500;
/// Events before the outage: what the relay needs in memory under load, it has by then.
const WARM_UP: u64 = 2500;
/// What the relay may grow by, in kB.
const GROWTH: u64 = 10_000;

/// An outage under load.
struct Outage {
    scene: Scene,
    relay: Relay,
    writers: Writers,
    /// Memory of the relay before, in kB.
    before: u64,
    seen: Arc<Mutex<Seen>>,
    looking: JoinHandle<()>,
}

/// The most that was ever seen at once.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// Memory of the relay, in kB.
    rss: u64,
    waiting: u64,
    /// Counted attempts.
    burned: u64,
    /// Marked events by the code of their last failure.
    codes: BTreeMap<String, u64>,
}

/// An outage that is over: nothing is left in the outbox.
struct Over {
    scene: Scene,
    relay: Relay,
    ledger: Ledger,
    before: u64,
    seen: Seen,
    recovery: Duration,
}

fn length() -> Duration {
    let seconds = std::env::var("OUTBOXD_TEST_OUTAGE")
        .map(|seconds| seconds.parse().expect("seconds"))
        .unwrap_or(5);
    Duration::from_secs(seconds)
}

async fn config(scene: &Scene) -> Config {
    scene.context.get_stream(&scene.stream).await.expect("the stream").cached_info().config.clone()
}

async fn stored(scene: &Scene) -> u64 {
    scene
        .context
        .get_stream(&scene.stream)
        .await
        .map_or(0, |stream| stream.cached_info().state.messages)
}

async fn stores(scene: &Scene, count: u64) {
    until(&format!("the stream has {count}"), async || {
        (stored(scene).await >= count).then_some(())
    })
    .await;
}

impl Seen {
    async fn look(&mut self, pid: u32, events: &Collection<Document>) {
        self.rss = self.rss.max(memory(pid, "VmRSS:"));
        self.waiting = self.waiting.max(events.estimated_document_count().await.expect("a count"));
        let marked = events.find(doc! { "isLocked": false, "failures.0": { "$exists": true } });
        let mut marked = marked
            .projection(doc! { "attempts": 1, "failures": { "$slice": -1 } })
            .await
            .expect("the outbox is read");
        let (mut burned, mut codes) = (0, BTreeMap::<String, u64>::new());
        while marked.advance().await.expect("the outbox is read") {
            let event = marked.deserialize_current().expect("a document");
            burned += event.get_i64("attempts").expect("a count").unsigned_abs();
            let failure =
                event.get_array("failures").expect("failures")[0].as_document().expect("a failure");
            *codes.entry(failure.get_str("code").expect("its code").to_owned()).or_default() += 1;
        }
        self.burned = self.burned.max(burned);
        for (code, events) in codes {
            let most = self.codes.entry(code).or_default();
            *most = events.max(*most);
        }
    }
}

impl Outage {
    /// Puts a relay under load; what follows is the outage.
    async fn begin(scene: Scene) -> Self {
        let relay = Relay::leading(&scene, &[]).await;
        let writers = Writers::start(&scene, KEYS, PER_SECOND).await;
        stores(&scene, WARM_UP).await;
        let pid = relay.pid();
        let before = memory(pid, "VmRSS:");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let looking = tokio::spawn({
            let (seen, events) = (seen.clone(), scene.events.clone());
            async move {
                let mut look = tokio::time::interval(Duration::from_millis(200));
                loop {
                    look.tick().await;
                    let mut now = seen.lock().expect("no one panicked").clone();
                    now.look(pid, &events).await;
                    *seen.lock().expect("no one panicked") = now;
                }
            }
        });
        Self { scene, relay, writers, before, seen, looking }
    }

    fn seen(&self) -> Seen {
        self.seen.lock().expect("no one panicked").clone()
    }

    /// Its length is what is tested.
    async fn last(&self) {
        tokio::time::sleep(length()).await;
    }

    /// The cause is mended: the writers go on until the relay has caught up with them.
    async fn end(self) -> Over {
        let mended = Instant::now();
        until("the relay has caught up", async || {
            let waiting = self.scene.events.estimated_document_count().await.expect("a count");
            (waiting < u64::from(PER_SECOND)).then_some(())
        })
        .await;
        let recovery = mended.elapsed();
        let mut ledger = self.writers.stop().await;
        self.scene.drained().await;
        self.looking.abort();
        let seen = self.seen.lock().expect("no one panicked").clone();
        ledger.burned = seen.burned;
        Over { scene: self.scene, relay: self.relay, ledger, before: self.before, seen, recovery }
    }
}

impl Over {
    /// What a fifth of the writers' pace would have piled up, at the least: the outage was one.
    fn piled_up(&self) -> u64 {
        match self.seen.waiting > u64::from(PER_SECOND) * length().as_secs() / 5 {
            true => self.seen.waiting,
            false => 0,
        }
    }

    fn marked(&self, code: &str) -> u64 {
        self.seen.codes.get(code).copied().unwrap_or_default()
    }

    fn logged(&self, what: &str) -> u64 {
        self.relay.log().matches(what).count() as u64
    }

    fn assert(&self, what: &str, report: &Report) {
        let Seen { rss, waiting, burned, codes } = &self.seen;
        let grown = rss.saturating_sub(self.before);
        println!("\n{what}, for {:?}\n{report}", length());
        println!("  {:<32}{waiting:>8}", "waiting, the most");
        println!("  {:<32}{:>8.1?}", "caught up after", self.recovery);
        println!(
            "  {:<32}{:>8}\n  {:<32}{rss:>8}",
            "memory before, kB", self.before, "  the most since, kB"
        );
        println!("  marked at once, by code: {codes:?}");
        report.assert_all_delivered();
        assert_eq!((*burned, report.burned), (0, 0), "an outage isn't the event's fault");
        assert!(!self.relay.log().contains("event is dead"), "{}", self.relay.log());
        assert!(grown < GROWTH, "the relay grew by {grown} kB, from {} kB", self.before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_nats_is_down_events_wait_in_mongodb_and_then_follow_in_order() {
    let _alone = ALONE.lock().await;
    let mut nats = NatsServer::start().await;
    let outage = Outage::begin(Scene::alone(&nats).await).await;
    nats.kill();
    outage.relay.says("disconnected").await;
    outage.last().await;
    nats.start_again();
    let over = outage.end().await;
    let faults =
        [("disconnected", over.logged("disconnected")), ("events piled up", over.piled_up())];
    over.assert("nats-server killed", &checker::check(&over.scene, &over.ledger, &faults).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_nats_hangs_events_wait_in_mongodb_and_then_follow_in_order() {
    let _alone = ALONE.lock().await;
    let nats = NatsServer::start().await;
    let outage = Outage::begin(Scene::alone(&nats).await).await;
    nats.pause();
    outage.last().await;
    nats.resume();
    let over = outage.end().await;
    let faults =
        [("marked: timeout", over.marked("timeout")), ("events piled up", over.piled_up())];
    over.assert(
        "nats-server stopped by a signal",
        &checker::check(&over.scene, &over.ledger, &faults).await,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_full_stream_refuses_follows_in_order_once_there_is_room() {
    let _alone = ALONE.lock().await;
    let nats = NatsServer::start().await;
    let scene = Scene::alone(&nats).await;
    let recorded = recorder(&scene).await;
    let outage = Outage::begin(scene).await;
    let stream = outage.scene.context.get_stream(&outage.scene.stream).await.unwrap();
    let info = stream.cached_info();
    // Room for a few seconds more: below what it holds by then, the server would throw out the
    // oldest.
    let max_bytes = i64::try_from(2 * info.state.bytes).unwrap();
    let full = Config { max_bytes, discard: DiscardPolicy::New, ..info.config.clone() };
    let limited = outage.scene.context.update_stream(&full).await.unwrap();
    assert_eq!(limited.state.first_sequence, 1, "the limit threw out messages");
    until("the stream is full", async || outage.seen().codes.contains_key("10077").then_some(()))
        .await;
    outage.last().await;
    outage.scene.context.update_stream(Config { max_bytes: -1, ..full }).await.unwrap();
    let over = outage.end().await;
    // An older server counts a message's overhead only after it has taken it: the one that fills
    // the stream to the brim can throw out the oldest, whatever the stream says of new ones. It was
    // stored, and no publisher can help that.
    let stored = over
        .scene
        .context
        .get_stream(&over.scene.stream)
        .await
        .unwrap()
        .cached_info()
        .state
        .clone();
    let all = until("all is recorded", async || {
        let recorded = recorded.lock().unwrap();
        (recorded.len() as u64 == stored.last_sequence).then(|| recorded.clone())
    })
    .await;
    println!("\n  thrown out by the server {}", stored.first_sequence - 1);
    let faults = [("marked: 10077", over.marked("10077")), ("events piled up", over.piled_up())];
    let left = checker::left(&over.scene).await;
    over.assert("stream full", &checker::judge(&over.ledger, &all, &left, &faults));
}

/// Every message that the scene's stream stores, in the order of storing.
///
/// The server sends a stored message on before it acks it, both through one queue of the stream, so
/// whatever a publisher got an ack for is in here, even when the stream is gone a moment later. A
/// copy made by another stream would lag behind. A subscriber to the events' own subjects would
/// also see what was not stored, and be an answer where nobody should answer.
async fn recorder(scene: &Scene) -> Arc<Mutex<Vec<Published>>> {
    let republish = Republish {
        source: ">".to_owned(),
        destination: "stored.>".to_owned(),
        headers_only: false,
    };
    let config = Config { republish: Some(republish), ..config(scene).await };
    // Made anew, because an older server doesn't add this to a stream.
    scene.context.delete_stream(&scene.stream).await.unwrap();
    scene.context.create_stream(config).await.unwrap();
    let mut messages = scene.context.client().subscribe("stored.>").await.unwrap();
    scene.context.client().flush().await.unwrap();
    let stored = Arc::new(Mutex::new(Vec::new()));
    let (recorded, name) = (stored.clone(), scene.name.clone());
    tokio::spawn(async move {
        while let Some(message) = messages.next().await {
            let sequence = message
                .headers
                .as_ref()
                .unwrap()
                .get("Nats-Sequence")
                .unwrap()
                .as_str()
                .parse()
                .unwrap();
            let published = checker::read(&name, &message, sequence, 0);
            recorded.lock().unwrap().push(published);
        }
    });
    stored
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_deleted_and_made_again_gets_all_that_the_first_had_not() {
    let _alone = ALONE.lock().await;
    let nats = NatsServer::start().await;
    let scene = Scene::alone(&nats).await;
    let recorded = recorder(&scene).await;
    let outage = Outage::begin(scene).await;
    let config = config(&outage.scene).await;
    let undeleted = checker::left(&outage.scene).await.len();
    outage.scene.context.delete_stream(&outage.scene.stream).await.unwrap();
    outage.last().await;
    outage.scene.context.create_stream(config).await.unwrap();
    let over = outage.end().await;

    let mut second = checker::stream(&over.scene).await;
    let ids = |messages: &[Published]| {
        messages.iter().map(|message| message.id.clone()).collect::<Vec<_>>()
    };
    let first = until("all is recorded", async || {
        let recorded = recorded.lock().unwrap();
        let again = recorded
            .iter()
            .rposition(|message| message.sequence == 1)
            .filter(|place| *place > 0)?;
        (ids(&recorded[again..]) == ids(&second)).then(|| recorded[..again].to_vec())
    })
    .await;
    // Stored in the first stream and still in the outbox when it went down: an ack that did not
    // arrive, of one event of each key at most, or one that the stream can't bear out any more. The
    // second stream can't know them.
    let mut unacked: HashSet<_> = first.iter().map(|message| message.id.clone()).collect();
    let before = second.len();
    second.retain(|message| !unacked.remove(&message.id));
    let again = before - second.len();
    let most = KEYS as usize + undeleted;
    assert!(
        again <= most,
        "{again} events are in both streams, and {undeleted} were in the outbox"
    );
    println!("\n  in the first stream {}, in the second {before}, in both {again}", first.len());
    let all = [first, second].concat();
    let faults = [
        ("marked: no-responders", over.marked("no-responders")),
        ("events piled up", over.piled_up()),
    ];
    let left = checker::left(&over.scene).await;
    over.assert(
        "stream deleted and made again",
        &checker::judge(&over.ledger, &all, &left, &faults),
    );
}

/// Commits one event of the key `held` on this subject.
async fn hold(scene: &Scene, ledger: &mut Ledger, subject: &str, number: u32) {
    let event =
        Event::new(scene.subject(subject), &doc! { "key": "held", "number": number }).unwrap();
    let event = event.key("held").unwrap();
    let id = event.id().clone();
    scene.commit([event]).await;
    ledger.record(id, "held", number, Outcome::Committed);
}

/// The middle and the longest but one percent.
fn quantiles(ledger: &Ledger, stream: &[Published]) -> (f64, f64) {
    let delays = checker::delays(ledger, stream);
    (delays[delays.len() / 2], delays[delays.len() * 99 / 100])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_refused_head_slows_no_other_key() {
    let _alone = ALONE.lock().await;
    let nats = NatsServer::start().await;
    let scene = Scene::alone(&nats).await;
    let config = config(&scene).await;
    let covered = Config { subjects: vec![scene.subject("made")], ..config.clone() };
    scene.context.update_stream(covered).await.unwrap();
    let _relay =
        Relay::leading(&scene, &[("OUTBOXD_STREAM__SUBJECTS", &scene.subject("made"))]).await;
    let load = async |events| {
        let wanted = stored(&scene).await + events;
        let writers = Writers::start(&scene, KEYS, 200).await;
        stores(&scene, wanted).await;
        writers.stop().await
    };
    let warm_up = load(200).await;
    let without = load(1000).await;

    let mut held = Ledger::default();
    hold(&scene, &mut held, "refused", 1).await;
    let marked = doc! { "key": "held", "isLocked": false };
    until("the head is marked", async || scene.one(marked.clone()).await).await;
    let writers = Writers::start(&scene, KEYS, 200).await;
    for number in 2..=20 {
        let progress = stored(&scene).await + 50;
        stores(&scene, progress).await;
        hold(&scene, &mut held, "made", number).await;
    }
    let with = writers.stop().await;
    let others = doc! { "key": { "$ne": "held" } };
    until("the others are out", async || {
        (scene.events.count_documents(others.clone()).await.unwrap() == 0).then_some(())
    })
    .await;

    let mut ledger = held.clone();
    [&warm_up, &without, &with].into_iter().for_each(|phase| ledger.add(phase.clone()));
    let stream = checker::stream(&scene).await;
    let report = checker::check(&scene, &ledger, &[]).await;
    report.assert_nothing_lost();
    assert_eq!(
        (report.locked.len() + report.unlocked.len(), report.dead.len()),
        (20, 0),
        "all of held waits\n{report}"
    );
    assert!(report.burned > 0, "the head was refused and that counts\n{report}");

    let (before, after) = (quantiles(&without, &stream), quantiles(&with, &stream));
    println!(
        "\ncommit to stored, ms         p50      p99\n  without a refused head{:>8.1}{:>9.1}",
        before.0, before.1
    );
    println!("  with one              {:>8.1}{:>9.1}", after.0, after.1);
    println!(
        "  ratio                 {:>8.2}{:>9.2}\n{report}",
        after.0 / before.0,
        after.1 / before.1
    );

    scene.context.update_stream(config).await.unwrap();
    scene.drained().await;
    checker::check(&scene, &ledger, &[]).await.assert_all_delivered();
    let stream = checker::stream(&scene).await;
    assert!(
        stream
            .iter()
            .filter(|message| message.key == "held")
            .map(|message| message.number)
            .eq(1..=20)
    );
}
