//! The parser by itself: every hostile document, and mutations of them all.
//!
//! `OUTBOXD_FUZZ_INPUTS=10000000` tries more; `OUTBOXD_FUZZ_SEED` tries others.

use bson::{RawBsonRef, RawDocument};
use outboxd::document::layout::Layout;
use outboxd::document::record::{Malformed, OutboxRecord};
use outboxd_client::{Key, Subject};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::de::IgnoredAny;

use super::raw::{ARRAY, DOCUMENT, STRING, TIMESTAMP, document, element, kinds, length, text};
use super::rows::{Fate, groups};

/// Two seconds or so unoptimised.
const INPUTS: u64 = 50_000;
/// Longer ones only repeat what the short ones say.
const MAX_SEED_BYTES: usize = 2048;
/// What an operator reads, and what a mark must have room for.
const MAX_REASON_BYTES: usize = 2048;
/// At the edges of what a length can be.
const LENGTHS: [i32; 12] = [0, 1, 4, 5, 6, 127, 128, 255, -1, i32::MIN, i32::MAX, i32::MAX - 4];

#[test]
fn each_hostile_document_is_read_as_what_it_is() {
    for row in groups().into_iter().flatten() {
        let raw = RawDocument::from_bytes(&row.document).expect("a length and an end");
        let read = OutboxRecord::parse(raw, &Layout::default());
        let name = row.name;
        match (row.fate, read) {
            (Fate::Malformed(said) | Fate::NotStored(_, said), Err(found)) => {
                assert!(found.reason.contains(said), "{name}: {}", found.reason);
                assert!(found.reason.len() <= MAX_REASON_BYTES, "{name}: {}", found.reason.len());
            }
            (Fate::Published(payload), Ok(record)) => assert_eq!(record.payload, payload, "{name}"),
            (Fate::TooLong, Ok(_)) => {}
            (_, read) => {
                panic!("{name}: {:?}", read.map(|record| record.id).map_err(|found| found.reason))
            }
        }
    }
}

#[test]
fn no_mutation_of_them_makes_it_panic_or_pass_what_is_not_allowed() {
    let number = |name: &str, default| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let (inputs, seed) = (number("OUTBOXD_FUZZ_INPUTS", INPUTS), number("OUTBOXD_FUZZ_SEED", 1));
    let corpus = corpus();
    let (mut events, mut malformed) = (0_u64, 0_u64);
    for input in 0..inputs {
        let _case = Case { seed, input };
        let bytes = mutated(&corpus, &mut StdRng::seed_from_u64(seed.wrapping_add(input)));
        let Ok(raw) = RawDocument::from_bytes(&bytes) else { continue };
        match OutboxRecord::parse(raw, &Layout::default()) {
            Ok(record) => {
                events += 1;
                check(&record, raw);
            }
            Err(found) => {
                malformed += 1;
                check_malformed(&found);
            }
        }
    }
    println!("{inputs} inputs: {events} events, {malformed} malformed, the rest no documents");
    assert!(
        events > inputs / 20 && malformed > inputs / 20,
        "the mutations should reach both: {events}, {malformed}"
    );
}

/// Tells how to repeat what failed.
struct Case {
    seed: u64,
    input: u64,
}

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let alone = self.seed.wrapping_add(self.input);
            eprintln!(
                "input {} of seed {}: OUTBOXD_FUZZ_SEED={alone} OUTBOXD_FUZZ_INPUTS=1",
                self.input, self.seed
            );
        }
    }
}

/// What holds of every event, however it was written.
fn check(record: &OutboxRecord, raw: &RawDocument) {
    Subject::new(record.subject.as_str()).expect("a subject that may be published to");
    if let Some(key) = &record.key {
        Key::new(key.as_str()).expect("a key");
    }
    assert!(record.id.to_string().bytes().all(|byte| byte.is_ascii_graphic()), "{}", record.id);
    for (name, value) in record.headers.iter() {
        assert!(
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'),
            "{name:?}"
        );
        assert!(!name.to_ascii_lowercase().starts_with("nats-"), "{name:?}");
        assert!(!value.contains(['\r', '\n', '\0']), "{value:?}");
    }
    if let Ok(Some(RawBsonRef::Document(_) | RawBsonRef::Array(_))) = raw.get("payload") {
        serde_json::from_slice::<IgnoredAny>(&record.payload).expect("JSON");
    }
}

fn check_malformed(found: &Malformed) {
    assert!(
        !found.reason.is_empty() && found.reason.len() <= MAX_REASON_BYTES,
        "{:?}",
        found.reason
    );
}

/// The short hostile documents, and one with all there is in it.
fn corpus() -> Vec<Vec<u8>> {
    let all: Vec<_> = kinds()
        .iter()
        .filter(|(.., plain)| plain.is_some())
        .map(|(name, kind, value, _)| element(*kind, name, value))
        .collect();
    let payload = document(&[
        element(DOCUMENT, "document", document(&all)),
        element(ARRAY, "array", document(&all)),
    ]);
    let headers =
        document(&[element(STRING, "traceparent", text("00-1")), element(STRING, "b", text("é"))]);
    let event = document(&[
        element(0x07, "_id", [7; 12]),
        element(TIMESTAMP, "ts", [1; 8]),
        element(STRING, "subject", text("made.x")),
        element(STRING, "key", text("k")),
        element(DOCUMENT, "payload", payload),
        element(DOCUMENT, "headers", headers),
        element(0x08, "isLocked", [1]),
        element(0x10, "attempts", [1, 0, 0, 0]),
        element(0x09, "nextAttemptAt", [1; 8]),
    ]);
    let mut corpus: Vec<_> = groups().into_iter().flatten().map(|row| row.document).collect();
    corpus.retain(|document| document.len() <= MAX_SEED_BYTES);
    // As often as all the others: most of them are refused before much of them is read.
    corpus.extend(vec![event; corpus.len()]);
    corpus
}

fn mutated(corpus: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = corpus[rng.random_range(0..corpus.len())].clone();
    for _ in 0..rng.random_range(1..=3) {
        let at = rng.random_range(0..bytes.len());
        let to = rng.random_range(at..=bytes.len().min(at + 64));
        match rng.random_range(0..7) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 => bytes.truncate(at.max(1)),
            3 => drop(bytes.splice(
                at..to,
                std::iter::repeat_with(|| rng.random()).take(8).collect::<Vec<u8>>(),
            )),
            4 => {
                let other = &corpus[rng.random_range(0..corpus.len())];
                let from = rng.random_range(0..other.len());
                let until = rng.random_range(from..=other.len());
                bytes.splice(at..to, other[from..until].iter().copied());
            }
            5 => {
                let value = LENGTHS[rng.random_range(0..LENGTHS.len())];
                overwrite(&mut bytes, at, value.to_le_bytes());
            }
            // A length that is off by little: what comes behind is read as something else.
            _ => {
                if let Some(old) = bytes
                    .get(at..at + 4)
                    .and_then(|old| old.try_into().ok())
                    .map(i32::from_le_bytes)
                {
                    overwrite(
                        &mut bytes,
                        at,
                        old.wrapping_add(rng.random_range(-16..=16)).to_le_bytes(),
                    );
                }
            }
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
    // Mostly with the outermost length and end put right, or little of it would be read.
    if bytes.len() >= 5 && rng.random_range(0..8) > 0 {
        let size = length(bytes.len());
        overwrite(&mut bytes, 0, size);
        *bytes.last_mut().expect("five bytes") = 0;
    }
    bytes
}

fn overwrite(bytes: &mut [u8], at: usize, with: [u8; 4]) {
    bytes.iter_mut().skip(at).zip(with).for_each(|(byte, new)| *byte = new);
}
