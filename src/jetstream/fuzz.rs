//! Arbitrary bytes in the place of what NATS answers, and of what a neighbour on it may send.

use async_nats::jetstream::stream::Info;
use async_nats::{Message, StatusCode};

use super::facts::Facts;
use super::reply::{Expected, Read};
use super::requirements::review;
use super::stored::transforms;
use crate::config::{Config, Sources, VerifyAcks};

/// The stream whose acks count here.
const STREAM: &str = "SHOP";

/// A reply to a publish. The first byte chooses its status and whether there is a domain.
pub(crate) fn ack(bytes: &[u8]) {
    let Some((choice, payload)) = bytes.split_first() else { return };
    let reply = Message {
        subject: "_INBOX.outboxd.SHOP.1".into(),
        reply: None,
        payload: payload.to_vec().into(),
        headers: None,
        status: (choice & 1 != 0).then_some(StatusCode::NO_RESPONDERS),
        description: None,
        length: payload.len(),
    };

    let expected = Expected::new(STREAM, VerifyAcks::Suspicious);
    expected.in_domain((choice & 2 != 0).then_some("hub"));
    match expected.read(&reply) {
        Read::Ack(ack) => {
            assert!(ack.sequence > 0, "an ack without a message");
            let text = String::from_utf8_lossy(payload);
            assert!(text.contains("stream"), "{text} names no stream");
        }
        Read::Foreign(foreign) => _ = (foreign.to_string(), expected.ack_in(&foreign)),
        Read::Refused(error) => _ = error.to_string(),
        Read::NoResponders => assert!(choice & 1 != 0, "no responders without that status"),
    }
}

/// A reply to the question for a stream's configuration and state.
pub(crate) fn stream_info(bytes: &[u8]) {
    let Ok(info) = serde_json::from_slice::<Info>(bytes) else { return };
    let env = [("MONGODB_URI", "mongodb://127.0.0.1/shop"), ("NATS_CLUSTER_ID", STREAM)];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let Ok(config) = Config::load(&Sources { env, ..Sources::default() }) else {
        panic!("the settings are complete");
    };

    let findings = review(&Facts::new(&info, &config, 1 << 20));
    assert!(!findings.is_empty(), "a stream about which nothing is said");
    transforms(&info.config, "shop.order.placed", &info.config.name);
}
