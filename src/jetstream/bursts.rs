//! How the stream keeps the order of a burst, as its server describes it.
//!
//! **A chain.** Each message names the one before it in `Nats-Expected-Last-Msg-Id`, and the server
//! refuses it unless that is the last message of the stream. nats-server before 2.12 counts a message
//! as the last one although it has refused it, if the account was full or a `Nats-TTL` is malformed;
//! and mirrors of 2.10 refuse messages with this header. A stream with several copies never gets such
//! a message: from 2.14 on, every copy takes the refusal for an error of its disk, and the stream stops
//! for good. Nor does one that could be given copies at any moment, because its server is one of a
//! cluster.
//!
//! **A batch.** The stream has `allow_atomic`, and stores all messages of a batch or none. It refuses
//! a batch with a duplicate since 2.12.1. On a single server it writes each batch to a file of its own
//! first, so there a chain is faster.

use async_nats::HeaderMap;
use async_nats::header::{
    NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE,
};
use async_nats::jetstream::stream::Info;

use crate::relay::ports::Burst;

/// Metadata in which the leader of a stream describes its server, since 2.11.
const VERSION: &str = "_nats.ver";

/// How the stream, as its server has just described it, keeps the order of bursts.
///
/// # Errors
/// Why it doesn't, and what would change that.
pub(crate) fn kept_by(info: &Info) -> Result<Burst, &'static str> {
    let version = info.config.metadata.get(VERSION).and_then(|version| parse(version));
    // A server alone describes itself as a cluster without a name.
    let is_alone = info.cluster.as_ref().is_none_or(|cluster| cluster.name.is_none());

    match version {
        None => Err("the server is older than 2.12"),
        Some(version) if version < (2, 12, 0) => Err("the server is older than 2.12"),
        Some(_) if is_alone && info.config.num_replicas == 1 => Ok(Burst::Chain),
        Some(version) if version < (2, 12, 1) => Err("the servers are older than 2.12.1"),
        Some(_) if info.config.allow_atomic_publish => Ok(Burst::Batch),
        Some(_) => Err("the stream lacks allow_atomic"),
    }
}

/// Whether servers of this version store batches.
pub(super) fn has_batches(version: &str) -> bool {
    parse(version).is_some_and(|version| version >= (2, 12, 1))
}

fn parse(version: &str) -> Option<(u64, u64, u64)> {
    let (version, _) = version.split_once('-').unwrap_or((version, ""));
    let mut parts = version.split('.').map(str::parse::<u64>);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) => Some((major, minor, patch)),
        _ => None,
    }
}

/// Makes a message the one with this place, from 1 on, in a batch of so many.
pub(super) fn put_into_batch(headers: &mut HeaderMap, id: &str, place: usize, of: usize) {
    headers.insert(NATS_BATCH_ID, id);
    headers.insert(NATS_BATCH_SEQUENCE, place.to_string());
    if place == of {
        headers.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(version: &str, replicas: usize, cluster: &str, is_atomic: bool) -> Info {
        let metadata = match version {
            "" => "{}".to_owned(),
            version => format!(r#"{{"{VERSION}":"{version}"}}"#),
        };
        let text = format!(
            r#"{{"config":{{"name":"S","subjects":["s"],"retention":"limits","max_consumers":-1,
            "max_msgs":-1,"max_bytes":-1,"max_age":0,"max_msgs_per_subject":-1,"discard":"old",
            "storage":"file","num_replicas":{replicas},"metadata":{metadata},
            "allow_atomic":{is_atomic}}},
            "created":"2026-01-01T00:00:00Z","state":{{"messages":0,"bytes":0,"first_seq":0,
            "first_ts":"0001-01-01T00:00:00Z","last_seq":0,"last_ts":"0001-01-01T00:00:00Z",
            "consumer_count":0}},"cluster":{cluster}}}"#
        );
        serde_json::from_str(&text).expect("a description of a stream")
    }

    #[test]
    fn one_server_gets_chains_and_a_cluster_gets_batches_if_the_stream_takes_them() {
        let alone = r#"{"leader":"N"}"#;
        let cluster = r#"{"name":"c","leader":"a"}"#;
        for (version, replicas, servers, is_atomic, kept) in [
            ("2.15.2-RC.1", 1, alone, false, Some(Burst::Chain)),
            ("2.12.0", 1, "null", true, Some(Burst::Chain)),
            ("3.0.0", 1, alone, false, Some(Burst::Chain)),
            ("2.11.15", 1, alone, true, None),
            ("2", 1, alone, true, None),
            ("", 1, alone, true, None),
            ("2.15.2", 3, cluster, false, None),
            ("2.15.2", 1, cluster, false, None),
            ("2.15.2", 3, cluster, true, Some(Burst::Batch)),
            ("2.12.1", 1, cluster, true, Some(Burst::Batch)),
            ("2.12.0", 3, cluster, true, None),
        ] {
            let found = kept_by(&info(version, replicas, servers, is_atomic)).ok();
            assert_eq!(found, kept, "{version}, {replicas} copies, {servers}, {is_atomic}");
        }
    }

    #[test]
    fn the_last_message_of_a_batch_commits_it() {
        let mut headers = [HeaderMap::new(), HeaderMap::new()];
        headers.iter_mut().zip(1..).for_each(|(one, place)| put_into_batch(one, "b", place, 2));
        let commits = headers.each_ref().map(|one| one.get(NATS_BATCH_COMMIT).is_some());
        assert_eq!(commits, [false, true]);
    }
}
