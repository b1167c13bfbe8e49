//! Whether the events of a key leave in bursts, and why not.

use async_nats::jetstream::stream::Info;

use crate::config::{Config, SendBursts};
use crate::finding::Finding;
use crate::jetstream::bursts::kept_by;
use crate::relay::ports::Burst;

/// How a key with a backlog leaves.
pub(super) fn look(config: &Config, at: &str, info: &Info) -> Finding {
    let found = match (config.nats.bursts, kept_by(info)) {
        (SendBursts::Off, _) => {
            "nats.bursts is off: the relay publishes one event of a key per round trip".to_owned()
        }
        (SendBursts::Auto, Ok(Burst::Chain)) => {
            "a key with a backlog leaves in bursts, each message tied to the one before it"
                .to_owned()
        }
        (SendBursts::Auto, Ok(Burst::Batch)) => {
            "a key with a backlog leaves in bursts, as atomic batches".to_owned()
        }
        (SendBursts::Auto, Err(why)) => {
            format!("the relay publishes one event of a key per round trip: {why}")
        }
    };
    Finding::ok("stream.bursts", at, found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;
    use crate::finding::Level;

    #[test]
    fn the_finding_says_why_a_key_leaves_one_by_one() {
        let info: Info = serde_json::from_str(
            r#"{"config":{"name":"S","subjects":["s"],"retention":"limits","max_consumers":-1,
            "max_msgs":-1,"max_bytes":-1,"max_age":0,"max_msgs_per_subject":-1,"discard":"old",
            "storage":"file","num_replicas":3,"metadata":{"_nats.ver":"2.15.2"}},
            "created":"2026-01-01T00:00:00Z","state":{"messages":0,"bytes":0,"first_seq":0,
            "first_ts":"0001-01-01T00:00:00Z","last_seq":0,"last_ts":"0001-01-01T00:00:00Z",
            "consumer_count":0},"cluster":{"name":"c","leader":"a"}}"#,
        )
        .expect("a description of a stream");
        for (bursts, says) in [("off", "nats.bursts is off"), ("auto", "lacks allow_atomic")] {
            let env = [
                ("MONGODB_URI", "mongodb://127.0.0.1/shop"),
                ("NATS_CLUSTER_ID", "S"),
                ("OUTBOXD_NATS__BURSTS", bursts),
            ];
            let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
            let config = Config::load(&Sources { env, ..Sources::default() }).expect("complete");
            let finding = look(&config, "stream S", &info);
            assert_eq!(finding.level, Level::Ok);
            assert!(finding.found.contains(says), "{}", finding.found);
        }
    }
}
