//! Limits and policies by which a stream deletes or refuses messages: each does on a real server
//! what `check` reports, and no longer once its remedy was run.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::{DiscardPolicy, RetentionPolicy};

use super::judged::Judged;
use crate::support::{NatsServer, Relay, outboxd, outboxd_with, until};

const LIMITS: &str = "stream.limits";
const FULL: ErrorCode = ErrorCode(10077);

async fn server() -> NatsServer {
    NatsServer::with_config("").await
}

#[tokio::test]
async fn a_limit_per_subject_deletes_in_spite_of_discard_new() {
    let stream = Judged::alone(|config| {
        config.max_messages_per_subject = 2;
        config.discard = DiscardPolicy::New;
    })
    .await;
    stream.fill(10).await;
    assert_eq!(stream.stored().await, 2, "acked and deleted");
    let harm = "max_msgs_per_subject 2 without discard_new_per_subject: all but the newest 2";
    stream.check().has("warn", LIMITS, harm, "--max-msgs-per-subject=-1");

    stream.fix(LIMITS).await;
    stream.fill(10).await;
    assert_eq!(stream.stored().await, 12);
}

#[tokio::test]
async fn a_full_stream_deletes_or_refuses() {
    let stream = Judged::alone(|config| config.max_messages = 3).await;
    stream.fill(10).await;
    assert_eq!(stream.stored().await, 3, "acked and deleted");
    stream.check().has("warn", LIMITS, "max_msgs 3, discard old: the oldest", "--discard new");

    stream.apply(&stream.remedy(LIMITS)).await;
    assert_eq!(stream.refused(2).await, FULL);
    let full = "max_msgs 3, discard new: it is full and accepts no event";
    stream.check().has("fail", LIMITS, full, "--max-msgs=6");
    stream.fix(LIMITS).await;
    stream.fill(3).await;
    assert_eq!(stream.stored().await, 6);
}

#[tokio::test]
async fn a_stream_full_of_bytes_is_found_before_it_refuses() {
    let stream = Judged::alone(|config| {
        config.max_bytes = 2_000_000;
        config.discard = DiscardPolicy::New;
    })
    .await;
    stream.check().has("ok", LIMITS, "events wait in MongoDB when the stream is full", "");
    stream.publish("1", 900_000).await.unwrap();
    stream.publish("2", 900_000).await.unwrap();
    assert_eq!(stream.refused(900_000).await, FULL);
    stream.check().has("fail", LIMITS, "max_bytes 2000000, discard new: it is full", "4000000");
}

#[tokio::test]
async fn the_remedy_for_two_limits_leaves_neither_deleting() {
    let stream = Judged::alone(|config| {
        config.max_messages = 5;
        config.max_messages_per_subject = 2;
    })
    .await;
    stream.fill(4).await;
    assert_eq!(stream.stored().await, 2);
    stream.fix(LIMITS).await;
    stream.fill(3).await;
    assert_eq!((stream.stored().await, stream.refused(2).await), (5, FULL));
}

#[tokio::test]
async fn a_limit_per_subject_that_refuses_holds_one_subject() {
    let stream = Judged::alone(|config| {
        config.max_messages_per_subject = 2;
        config.discard = DiscardPolicy::New;
        config.discard_new_per_subject = true;
    })
    .await;
    stream.fill(2).await;
    assert_eq!((stream.refused(2).await, stream.stored().await), (FULL, 2));
    stream.publish_to("other", "o", 2).await.unwrap();
    let harm = "it refuses every event of that subject";
    stream.check().has("warn", LIMITS, harm, "--no-discard-per-subject");

    stream.fix(LIMITS).await;
    stream.fill(2).await;
    assert_eq!(stream.stored().await, 5);
}

#[tokio::test]
async fn a_bucket_deletes_events_and_stays_a_bucket() {
    let nats = server().await;
    let stream = Judged::new(&nats, |_| {}).await;
    stream.scene.context.delete_stream(&stream.scene.stream).await.unwrap();
    let mut stream = stream;
    stream.scene.stream = format!("KV_{}", stream.scene.name);
    let own = format!("$KV.{}.>", stream.scene.name);
    stream
        .create(|config| {
            config.subjects.push(own.clone());
            config.max_messages_per_subject = 1;
            config.discard = DiscardPolicy::New;
            config.allow_rollup = true;
            config.deny_delete = true;
        })
        .await;

    stream.fill(5).await;
    assert_eq!(stream.stored().await, 1, "acked and deleted");
    let bucket = stream.scene.stream.clone();
    let beside = format!("NATS_CLUSTER_ID={bucket}-EVENTS outboxd migrate");
    stream.check().has("warn", LIMITS, "all but the newest 1 messages", &beside);
    stream.check().has("warn", "stream.contents", "allow_rollup_hdrs", "outboxd privileges");

    stream.apply(&stream.remedy(LIMITS)).await;
    let kept = stream.scene.context.get_stream(&bucket).await.unwrap().cached_info().config.clone();
    assert_eq!((kept.subjects, kept.max_messages_per_subject), (vec![own], 1));
    stream.scene.stream.push_str("-EVENTS");
    let (code, output) = outboxd(&stream.scene, &["migrate"]);
    assert_eq!(code, Some(0), "{output}");
    stream.fill(5).await;
    assert_eq!(stream.stored().await, 5);
    stream.check().has("ok", LIMITS, "no limit", "");
}

#[tokio::test]
async fn messages_expire_unless_they_are_to_be_kept() {
    let window = Duration::from_millis(200);
    let stream = Judged::alone(|config| {
        config.max_age = window;
        config.duplicate_window = window;
    })
    .await;
    stream.fill(1).await;
    until("the message has expired", async || (stream.stored().await == 0).then_some(())).await;
    stream.check().has("warn", LIMITS, "max_age 200ms: older messages are deleted", "--max-age=0s");
    stream.fix(LIMITS).await;

    // A window that is too short is fixed together with the age that limits it.
    let stream = Judged::alone(|config| {
        config.max_age = window;
        config.duplicate_window = window;
    })
    .await
    .with("OUTBOXD_STREAM__MAX_AGE", "1h");
    stream.check().has("fail", "stream.dedupe", "200ms", "--dupe-window 30m --max-age 30m");
    stream.fix("stream.dedupe").await;
    stream.check().has("warn", LIMITS, "stream.max_age is 1h", "--max-age=1h");
    stream.fix(LIMITS).await;
    stream.check().has("ok", LIMITS, "messages expire after 1h, as configured", "");
}

#[tokio::test]
async fn a_large_event_is_refused_or_lost_where_it_does_not_fit() {
    let nats = server().await;
    let stream = Judged::new(&nats, |config| config.max_message_size = 1000).await;
    assert_eq!(stream.refused(2000).await, ErrorCode(10054));
    let harm = "max_msg_size 1000 is below the server's max_payload";
    stream.check().has("warn", LIMITS, harm, "--max-msg-size=-1");
    stream.fix(LIMITS).await;
    stream.publish("large", 2000).await.unwrap();

    let stream = Judged::new(&nats, |config| config.max_bytes = 1000).await;
    let acked = stream.publish("large", 2000).await.is_ok();
    assert_eq!(stream.stored().await, 0, "acked: {acked}");
    let harms = stream.check().all(LIMITS);
    assert!(harms.iter().any(|found| found.contains("max_bytes 1000 is below")), "{harms:?}");
}

#[tokio::test]
async fn without_a_consumer_interest_drops_what_it_acks() {
    let stream = Judged::alone(|config| {
        config.retention = RetentionPolicy::Interest;
    })
    .await;
    stream.fill(5).await;
    assert_eq!(stream.stored().await, 0, "acked and dropped");
    stream.check().has("fail", "stream.retention", "dropped unseen", "--retention limits");
    stream.fix("stream.retention").await;
    stream.fill(5).await;
    assert_eq!(stream.stored().await, 5);
}

#[tokio::test]
async fn a_work_queue_gives_an_event_to_one_consumer() {
    use futures_util::StreamExt;
    let stream = Judged::alone(|config| {
        config.retention = RetentionPolicy::WorkQueue;
    })
    .await;
    stream.fill(1).await;
    assert_eq!(stream.stored().await, 1);
    let found = stream.scene.context.get_stream(&stream.scene.stream).await.unwrap();
    let durable = Some("one".to_owned());
    let config = async_nats::jetstream::consumer::pull::Config {
        durable_name: durable,
        ..Default::default()
    };
    let consumer = found.create_consumer(config).await.unwrap();
    let message = consumer.messages().await.unwrap().next().await.unwrap().unwrap();
    message.double_ack().await.unwrap();
    until("nobody else can read it", async || (stream.stored().await == 0).then_some(())).await;
    stream.check().has("warn", "stream.retention", "one consumer", "stop the relays first");
}

#[tokio::test]
async fn run_and_migrate_warn_of_what_check_finds() {
    let stream = Judged::alone(|config| {
        config.max_messages_per_subject = 2;
        config.discard = DiscardPolicy::New;
        config.allow_rollup = true;
        config.max_message_size = 1000;
        config.duplicate_window = Duration::from_secs(1800);
    })
    .await;
    let findings: Vec<String> =
        [LIMITS, "stream.contents"].iter().flat_map(|name| stream.check().all(name)).collect();
    assert_eq!(findings.len(), 3, "{findings:?}");
    let relay = Relay::leading(&stream.scene, &[]).await;
    let (code, migrated) = outboxd(&stream.scene, &["migrate"]);
    assert_eq!(code, Some(0), "{migrated}");
    for finding in findings {
        assert!(relay.log().contains(&finding), "{finding} in {}", relay.log());
        assert!(migrated.contains(&finding), "{finding} in {migrated}");
    }
}

#[tokio::test]
async fn what_migrate_makes_loses_nothing_even_when_it_gets_a_limit() {
    let stream = Judged::alone(|_| {}).await;
    stream.scene.context.delete_stream(&stream.scene.stream).await.unwrap();
    let (code, output) = outboxd_with(&stream.scene, &["migrate"], &[]);
    assert_eq!((code, output.contains("note:")), (Some(0), false), "{output}");
    for name in ["accepts", "dedupe", "retention", "limits", "storage", "contents", "as_configured"]
    {
        stream.check().has("ok", &format!("stream.{name}"), "", "");
    }

    let made = stream.scene.context.get_stream(&stream.scene.stream).await.unwrap();
    let config = made.cached_info().config.clone();
    let limited = async_nats::jetstream::stream::Config { max_messages: 2, ..config };
    stream.scene.context.update_stream(&limited).await.unwrap();
    stream.fill(2).await;
    assert_eq!((stream.refused(2).await, stream.stored().await), (FULL, 2));
}
