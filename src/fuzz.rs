//! Every parser that takes bytes from outside, as a function of bytes that must return.
//!
//! `make fuzz` looks for bytes at which one doesn't. `cargo test` passes the ones it has found
//! interesting, which `tests/fuzz/corpus` keeps, one file for each target.

use bson::{RawBsonRef, RawDocument};
use outboxd_client::field;
use serde::de::IgnoredAny;

use crate::document::layout::Layout;
use crate::document::record::OutboxRecord;

/// A function that panics if a parser is wrong about these bytes.
pub type Target = fn(&[u8]);

/// The targets by their names.
pub const TARGETS: [(&str, Target); 6] = [
    ("ack", crate::jetstream::fuzz::ack),
    ("admin", crate::admin::fuzz::request),
    ("changes", crate::relay::follow::fuzz::page),
    ("configuration", crate::config::fuzz::configuration),
    ("event", event),
    ("stream-info", crate::jetstream::fuzz::stream_info),
];

/// A document of the outbox, in outboxd's own layout and in a mapped one.
fn event(bytes: &[u8]) {
    let Ok(document) = RawDocument::from_bytes(bytes) else { return };
    let mapped = Layout::of_fields("aggregateid", "payload", "headers")
        .and_then(|layout| layout.with_subject("shop", "{aggregatetype}.{type}"))
        .unwrap_or_else(|error| panic!("{error}"));

    for layout in [Layout::default(), mapped] {
        match OutboxRecord::parse(document, &layout) {
            Ok(record) => {
                let is_json = matches!(
                    document.get(layout.payload()),
                    Ok(Some(RawBsonRef::Document(_) | RawBsonRef::Array(_)))
                );
                if is_json {
                    let parsed = serde_json::from_slice::<IgnoredAny>(&record.payload);
                    assert!(parsed.is_ok(), "the payload is no JSON: {:?}", record.payload);
                }
            }
            Err(malformed) => assert!(!malformed.reason.is_empty(), "refused without a reason"),
        }
    }

    let _ = document.get(field::ID);
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn what_fuzzing_has_found_interesting_is_still_taken() {
        for (name, target) in TARGETS {
            let path = format!("{}/tests/fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
            let corpus = std::fs::read_to_string(&path).expect("the corpus");
            let inputs: Vec<_> = corpus.lines().collect();
            assert!(inputs.len() > 10, "{path} has {} inputs", inputs.len());

            for input in inputs {
                target(&STANDARD.decode(input).expect("base64"));
            }
        }
    }
}
