//! Whether the stream's server keeps the order of a burst.
//!
//! A message of a burst names the message before it in `Nats-Expected-Last-Msg-Id`, and the server
//! refuses it unless that is the last message of the stream. nats-server before 2.12 counts a message
//! as the last one although it has refused it, if the account was full or a `Nats-TTL` is malformed;
//! and mirrors of 2.10 refuse messages with this header.
//!
//! A stream with several copies never gets such a message: in 2.14 and 2.15, every copy takes the
//! refusal for an error of its disk, and the stream stops for good. Nor does one that could be given
//! copies at any moment, because its server is one of a cluster.

use async_nats::jetstream::stream::Info;

/// The first release line that keeps the order.
pub(crate) const SINCE: (u64, u64) = (2, 12);
/// Metadata in which the leader of a stream describes its server, since 2.11.
const VERSION: &str = "_nats.ver";

/// Whether the stream, as its server has just described it, keeps the order of bursts.
pub(super) fn are_kept_by(info: &Info) -> bool {
    // A server alone describes itself as a cluster without a name.
    let is_alone = info.cluster.as_ref().is_none_or(|cluster| cluster.name.is_none());
    let version = info.config.metadata.get(VERSION);
    is_alone && info.config.num_replicas == 1 && version.is_some_and(|version| keeps(version))
}

fn keeps(version: &str) -> bool {
    let mut parts = version.split('.').map(str::parse::<u64>);
    matches!((parts.next(), parts.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= SINCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(version: &str, replicas: usize, cluster: &str) -> Info {
        let metadata = match version {
            "" => "{}".to_owned(),
            version => format!(r#"{{"{VERSION}":"{version}"}}"#),
        };
        let text = format!(
            r#"{{"config":{{"name":"S","subjects":["s"],"retention":"limits","max_consumers":-1,
            "max_msgs":-1,"max_bytes":-1,"max_age":0,"max_msgs_per_subject":-1,"discard":"old",
            "storage":"file","num_replicas":{replicas},"metadata":{metadata}}},
            "created":"2026-01-01T00:00:00Z","state":{{"messages":0,"bytes":0,"first_seq":0,
            "first_ts":"0001-01-01T00:00:00Z","last_seq":0,"last_ts":"0001-01-01T00:00:00Z",
            "consumer_count":0}},"cluster":{cluster}}}"#
        );
        serde_json::from_str(&text).expect("a description of a stream")
    }

    #[test]
    fn bursts_are_for_one_server_from_2_12_on() {
        let alone = r#"{"leader":"N"}"#;
        for (version, replicas, cluster, kept) in [
            ("2.15.2-RC.1", 1, alone, true),
            ("2.12.0", 1, "null", true),
            ("3.0.0", 1, alone, true),
            ("2.11.15", 1, alone, false),
            ("2", 1, alone, false),
            ("", 1, alone, false),
            ("2.15.1", 3, r#"{"name":"c","leader":"a"}"#, false),
            ("2.15.1", 1, r#"{"name":"c","leader":"a"}"#, false),
        ] {
            let info = info(version, replicas, cluster);
            assert_eq!(are_kept_by(&info), kept, "{version}, {replicas} copies, {cluster}");
        }
    }
}
