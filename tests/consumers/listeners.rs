//! The listener: order, delays, messages put aside, heartbeats and the stop.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull, push};
use bson::doc;
use mongodb::ClientSession;
use outboxd_client::{Apply, HandleError, ListenError, Listener, Message, Verdict};
use tokio::sync::Notify;

use super::{Effect, GROUP, Handler, listen, once};
use crate::support::{Scene, until};

/// Counts by message id.
type Counts = Arc<Mutex<HashMap<String, u32>>>;

/// One more for this id.
fn count(counts: &Counts, id: Option<String>) -> u32 {
    let mut counts = counts.lock().unwrap();
    let count = counts.entry(id.unwrap()).or_default();
    *count += 1;
    *count
}

#[tokio::test]
async fn a_message_that_fails_holds_back_those_behind_it_so_the_order_stays() {
    let scene = Scene::new().await;
    scene.published(0..8).await;
    let (inbox, effects, counts) =
        (scene.inbox().await, scene.collection("effects"), Counts::default());
    let listening = listen(scene.listener().await, move |message| {
        let (inbox, effects, counts) = (inbox.clone(), effects.clone(), counts.clone());
        async move {
            match (message.id.as_deref(), count(&counts, message.id.clone())) {
                (Some("2"), 1) => Err(HandleError::failed("no luck")),
                (Some("4"), 1 | 2) => Ok(Verdict::Later),
                _ => once(&inbox, &effects, &message).await,
            }
        }
    });
    scene.heard_all().await;
    listening.stop().await.unwrap();
    assert_eq!(scene.effects().await, ["0", "1", "2", "3", "4", "5", "6", "7"]);
}

#[tokio::test]
async fn a_message_that_comes_again_after_the_commit_is_handled_once() {
    let scene = Scene::new().await;
    scene.published(["1"]).await;
    let listener = scene.listener().await.ack_wait(Duration::from_secs(1));
    let (inbox, effects) = (scene.inbox().await, scene.collection("effects"));
    let (first, committed) = ((inbox.clone(), effects.clone()), Arc::new(Notify::new()));
    let commits = committed.clone();
    let listening = listen(listener, move |message| {
        let ((inbox, effects), commits) = (first.clone(), commits.clone());
        async move {
            once(&inbox, &effects, &message).await?;
            commits.notify_one();
            std::future::pending().await // it dies before the ack
        }
    });
    committed.notified().await;
    listening.kill().await;
    assert_eq!(scene.effects().await, ["1"]);

    let deliveries = Arc::new(AtomicU32::new(0));
    let seen = deliveries.clone();
    let listener = scene.listener().await.ack_wait(Duration::from_secs(1));
    let listening = listen(listener, move |message| {
        let (inbox, effects, seen) = (inbox.clone(), effects.clone(), seen.clone());
        async move {
            seen.store(message.deliveries, Ordering::SeqCst);
            once(&inbox, &effects, &message).await
        }
    });
    scene.heard_all().await;
    listening.stop().await.unwrap();
    assert!(deliveries.load(Ordering::SeqCst) > 1, "it came again");
    assert_eq!(scene.effects().await, ["1"]);
}

#[tokio::test]
async fn what_cannot_be_applied_is_put_aside_with_its_reason_and_holds_nothing_up() {
    let scene = Scene::new().await;
    scene.published(["good", "bad", "unreadable", "early", "last"]).await;
    let (inbox, effects) = (scene.inbox().await, scene.collection("effects"));
    let listener = scene.listener().await.max_deliveries(2).max_later(2);
    let listening = listen(listener, move |message| {
        let (inbox, effects) = (inbox.clone(), effects.clone());
        async move {
            match message.id.as_deref() {
                Some("bad") => Err(HandleError::failed("the bank has closed")),
                Some("unreadable") => message.json::<Vec<u32>>().map(|_| Verdict::Done),
                Some("early") => Ok(Verdict::Later),
                _ => once(&inbox, &effects, &message).await,
            }
        }
    });
    scene.heard_all().await;
    listening.stop().await.unwrap();
    assert_eq!(scene.effects().await, ["good", "last"]);

    let failed = scene.collection("inbox_failed");
    assert_eq!(failed.count_documents(doc! {}).await.unwrap(), 3);
    let aside = async |id| failed.find_one(doc! { "_id.id": id }).await.unwrap().unwrap();
    let bad = aside("bad").await;
    assert_eq!(bad.get_str("reason").unwrap(), "the bank has closed");
    assert_eq!(bad.get_i32("deliveries").unwrap(), 2);
    assert_eq!(bad.get_str("subject").unwrap(), scene.subject("made"));
    assert_eq!(bad.get_i64("sequence").unwrap(), 2);
    assert_eq!(bad.get_binary_generic("payload").unwrap(), b"{\"id\":\"bad\"}");
    assert_eq!(bad.get_document("headers").unwrap().get_str("Nats-Msg-Id").unwrap(), "bad");
    let unreadable = aside("unreadable").await;
    assert!(unreadable.get_str("reason").unwrap().starts_with("the payload can't be read: "));
    assert_eq!(unreadable.get_i32("deliveries").unwrap(), 1);
    assert_eq!(aside("early").await.get_str("reason").unwrap(), "an earlier message is missing");
}

#[tokio::test]
async fn work_that_takes_longer_than_the_ack_wait_is_not_given_to_another() {
    let scene = Scene::new().await;
    scene.published(["1"]).await;
    let starts = Arc::new(AtomicU32::new(0));
    let work = |starts: Arc<AtomicU32>| {
        move |_| {
            let starts = starts.clone();
            async move {
                starts.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(9)).await;
                Ok(Verdict::Done)
            }
        }
    };
    let wait = Duration::from_secs(4);
    let both = [
        listen(scene.listener().await.ack_wait(wait), work(starts.clone())),
        listen(scene.listener().await.ack_wait(wait), work(starts.clone())),
    ];
    scene.heard_all().await;
    for listening in both {
        listening.stop().await.unwrap();
    }
    assert_eq!(starts.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_stop_finishes_the_message_under_way_and_gives_the_waiting_ones_back() {
    let scene = Scene::new().await;
    scene.published(0..6).await;
    let (inbox, effects) = (scene.inbox().await, scene.collection("effects"));
    let (work, started, go) = ((inbox, effects), Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (starts, goes) = (started.clone(), go.clone());
    let slow = work.clone();
    let listening = listen(scene.listener().await.max_ack_pending(100), move |message| {
        let ((inbox, effects), starts, goes) = (slow.clone(), starts.clone(), goes.clone());
        async move {
            starts.notify_one();
            goes.notified().await;
            once(&inbox, &effects, &message).await
        }
    });
    started.notified().await;
    until("all are pulled", async || {
        let stream = scene.context.get_stream(&scene.stream).await.unwrap();
        let consumer = stream.get_consumer::<pull::Config>(GROUP).await.unwrap();
        (consumer.cached_info().num_ack_pending == 6).then_some(())
    })
    .await;
    let stopping = tokio::spawn(listening.stop());
    tokio::task::yield_now().await;
    go.notify_one();
    stopping.await.unwrap().unwrap();
    assert_eq!(scene.effects().await.len(), 1, "the one under way is finished, and no other begun");

    // The ack wait is ten minutes: they come now because they were given back.
    let listening = listen(scene.listener().await.max_ack_pending(100), move |message| {
        let (inbox, effects) = work.clone();
        async move { once(&inbox, &effects, &message).await }
    });
    scene.heard_all().await;
    listening.stop().await.unwrap();
    assert_eq!(scene.effects().await.len(), 6);
}

#[tokio::test]
async fn work_that_outlasts_the_drain_is_rolled_back_and_given_to_another() {
    let scene = Scene::new().await;
    scene.published(["1"]).await;
    let started = Arc::new(Notify::new());
    let (starts, inbox) = (started.clone(), scene.inbox().await);
    let effects = scene.collection("effects");
    let endless = (inbox.clone(), effects.clone());
    let listener = scene.listener().await.drain(Duration::from_millis(50));
    let listening = listen(listener, move |message| {
        let ((inbox, effects), starts) = (endless.clone(), starts.clone());
        async move { inbox.run(&message, &Endless(Effect(effects), starts)).await }
    });
    started.notified().await;
    listening.stop().await.unwrap();
    let listening = listen(scene.listener().await, move |message| {
        let (inbox, effects) = (inbox.clone(), effects.clone());
        async move { once(&inbox, &effects, &message).await }
    });
    scene.heard_all().await;
    listening.stop().await.unwrap();
    assert_eq!(scene.effects().await, ["1"]);
}

#[tokio::test]
async fn a_consumer_with_other_settings_is_changed_to_those_that_keep_the_order() {
    let scene = Scene::new().await;
    let stream = scene.context.get_stream(&scene.stream).await.unwrap();
    let careless = pull::Config {
        durable_name: Some(GROUP.to_owned()),
        description: Some("made by hand".to_owned()),
        max_deliver: 3,
        ..pull::Config::default()
    };
    stream.create_consumer(careless).await.unwrap();
    let listening = listen(scene.listener().await, |_| async { Ok(Verdict::Done) });
    scene.published(["1"]).await;
    scene.heard_all().await;
    listening.stop().await.unwrap();

    let consumer = stream.get_consumer::<pull::Config>(GROUP).await.unwrap();
    let config = &consumer.cached_info().config;
    assert_eq!((config.max_ack_pending, config.max_deliver), (1, -1));
    assert_eq!(config.description.as_deref(), Some("made by hand"));
}

#[tokio::test]
async fn what_no_listener_can_use_is_refused_and_not_tried_for_ever() {
    let scene = Scene::new().await;
    let stream = scene.context.get_stream(&scene.stream).await.unwrap();
    let pushes = push::Config {
        durable_name: Some(GROUP.to_owned()),
        deliver_subject: format!("pushed-{}", scene.name),
        ack_policy: AckPolicy::Explicit,
        ..push::Config::default()
    };
    stream.create_consumer(pushes).await.unwrap();
    let ended = scene
        .listener()
        .await
        .run(Handler(|_| async { Ok(Verdict::Done) }), std::future::pending());
    let error = ended.await.unwrap_err();
    assert!(matches!(error, ListenError::Consumer { .. }), "{error:?}");
    assert!(error.to_string().contains("pushes its messages; delete it"), "{error}");

    let inbox = scene.inbox().await.ttl(Duration::from_secs(60));
    let forgetful = Listener::new(&scene.nats_url, &scene.stream, "other", inbox);
    let ended = forgetful.run(Handler(|_| async { Ok(Verdict::Done) }), std::future::pending());
    let error = ended.await.unwrap_err();
    assert!(matches!(error, ListenError::Ttl { .. }), "{error:?}");
}

/// Work that never ends.
struct Endless(Effect, Arc<Notify>);

impl Apply for Endless {
    async fn apply(
        &self,
        session: &mut ClientSession,
        message: &Message,
    ) -> Result<Verdict, HandleError> {
        self.0.apply(session, message).await?;
        self.1.notify_one();
        std::future::pending().await
    }
}
