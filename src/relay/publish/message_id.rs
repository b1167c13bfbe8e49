//! The message ids of an event: the first, and those under which it is published when the stream
//! has another message under the first.
//!
//! Every relay derives the same ids in every try, so the stream drops a repeated publish under each
//! of them.

use std::fmt::Write as _;

use outboxd_client::EventId;
use sha2::{Digest as _, Sha256};

/// Bytes of the digest in a message id. Half of SHA-256 still makes collisions impossible in
/// practice.
const DIGEST_BYTES: usize = 16;

/// `<prefix><_id>`, where the prefix is `<event.id_prefix><db>.<collection>.`: different for every
/// event of every outbox. A string id is quoted if it could be read as a longer collection's name
/// and a shorter id, as a quoted id, or as the text of an ObjectId or UUID.
pub(super) fn first(prefix: &str, id: &EventId) -> String {
    match id {
        EventId::String(text) if text.contains(['.', '"']) || [24, 36].contains(&text.len()) => {
            let escaped = text.replace('\\', r"\\").replace('"', r#"\""#);
            format!("{prefix}\"{escaped}\"")
        }
        _ => format!("{prefix}{id}"),
    }
}

/// `<first>#<n>`: the id under which a replay publishes an event on purpose. Each replay has another
/// number, so the stream takes no event of one for a duplicate.
pub(super) fn of_replay(first: &str, number: u64) -> String {
    format!("{first}#{number}")
}

/// `<first>"<digest of subject and payload>-<sequence>`: the id for an event that the stream took
/// for a duplicate of the message `sequence`, and isn't.
///
/// The digest keeps apart the events that share a first id. The sequence keeps apart the repeats of
/// one event whose messages are gone: each was stored under the id that names the one before it. No
/// first id ends like this: the part behind its last dot holds no quote or ends with one.
pub(super) fn another(first: &str, subject: &str, payload: &[u8], sequence: u64) -> String {
    let digest = Sha256::new()
        .chain_update(subject)
        // No subject contains it, so it parts the two.
        .chain_update([0])
        .chain_update(payload)
        .finalize();

    let mut id = format!("{first}\"");
    for byte in digest.iter().take(DIGEST_BYTES) {
        let _ = write!(id, "{byte:02x}");
    }
    let _ = write!(id, "-{sequence}");

    id
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use bson::oid::ObjectId;

    use super::*;

    #[test]
    fn no_two_events_of_a_database_share_a_message_id() {
        let hex = "6745f0a1b2c3d4e5f6a7b8c9";
        let uuid = bson::Uuid::from_bytes([7; 16]);
        let digest = another("", "s", b"p", 1);
        let as_id = format!("b{digest}");
        let uuid_text = uuid.to_string();
        let texts = [
            "order-1",
            "b",
            "a.b",
            "a",
            "\"a\"",
            "a\"",
            "\\",
            "a\\\".\"b",
            "b\"",
            hex,
            &uuid_text,
            "\".\"a",
            &digest,
            &as_id,
        ];

        let mut ids: Vec<_> =
            texts.iter().map(|text| EventId::string(*text).expect("an id")).collect();
        ids.push(EventId::ObjectId(ObjectId::parse_str(hex).expect("an ObjectId")));
        ids.push(EventId::Uuid(uuid));

        let mut made = HashSet::new();
        for prefix in ["d.outbox.", "d.outbox.a.", "d.outbox.\"a.", "d.outbox.\"a\"."] {
            for id in &ids {
                let first = first(prefix, id);
                assert!(made.insert(another(&first, "s", b"p", 1)), "{first}: {made:?}");
                assert!(made.insert(first), "{prefix} {id}: {made:?}");
            }
        }

        assert!(made.contains("d.outbox.order-1") && made.contains(&format!("d.outbox.{hex}")));
        assert!(made.contains("d.outbox.\"a.b\"") && made.contains(&format!("d.outbox.\"{hex}\"")));
    }

    #[test]
    fn another_id_is_the_same_for_the_same_event_and_message_only() {
        let id = another("d.outbox.a", "made", b"{}", 7);
        assert_eq!(id, another("d.outbox.a", "made", b"{}", 7));
        assert!(id.starts_with("d.outbox.a\"") && id.ends_with("-7"), "{id}");

        for other in [
            another("d.outbox.a", "made", b"{}", 8),
            another("d.outbox.a", "made", b"{ }", 7),
            another("d.outbox.a", "mad", b"e{}", 7),
            another("d.outbox.b", "made", b"{}", 7),
        ] {
            assert_ne!(id, other);
        }
    }
}
