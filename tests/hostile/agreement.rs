//! The validator that the migrations leave, and the parser: what the one takes, the other reads.
//!
//! Documents are made of parts that are right, nearly right and hostile, and inserted through the
//! validator into a real collection. `OUTBOXD_FUZZ_INPUTS=100000` tries more; `OUTBOXD_FUZZ_SEED`
//! tries others. A failure names the seed of its document.

use std::collections::{HashMap, HashSet};

use bson::{RawBsonRef, RawDocument, RawDocumentBuf};
use futures_util::StreamExt;
use mongodb::error::ErrorKind;
use outboxd::document::layout::Layout;
use outboxd::document::record::OutboxRecord;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::raw::{
    ARRAY, BINARY, BOOL, DATE, DECIMAL, DOCUMENT, DOUBLE, INT, NULL, STRING, TIMESTAMP, binary,
    document, element, kinds, nested, text,
};
use crate::support::Scene;

const INPUTS: u64 = 6_000;
/// Inserts at a time.
const AT_ONCE: usize = 8;
/// The server's codes for a document that its validator refused, and for an `_id` that is there
/// already. The validator comes before the index.
const REFUSED: i32 = 121;
const TWICE: i32 = 11000;

/// What the documentation says of one of them alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Alone {
    /// Inside a payload or another field, where no validator looks: the parser refuses it.
    Deep,
    /// A field that the relay reads leniently, in documents that came past the validator.
    Lenient,
}

struct Made {
    seed: u64,
    document: Vec<u8>,
    deep: bool,
}

/// A part of a document under way.
type Value = (u8, Vec<u8>);

fn pick<'a, T>(rng: &mut StdRng, of: &'a [T]) -> &'a T {
    &of[rng.random_range(0..of.len())]
}

/// A value of any type.
fn any(rng: &mut StdRng) -> Value {
    let (_, kind, value, _) = pick(rng, &kinds()).clone();
    (kind, value)
}

/// Text of a length near a bound, with a character somewhere that may not be there.
fn odd_text(rng: &mut StdRng, bound: usize) -> Vec<u8> {
    let length = match rng.random_range(0..3) {
        0 => bound + 1 - rng.random_range(0..3),
        1 => rng.random_range(0..4),
        _ => rng.random_range(1..30),
    };

    let mut bytes = vec![b'a'; length];
    const ODD: [&[u8]; 26] = [
        b"\n",
        b"\r\n",
        b"\0",
        b" ",
        b"\t",
        b"\x7f",
        b"\x1f",
        b".",
        b"..",
        b"*",
        b">",
        b",",
        b"$",
        b"!",
        b"~",
        b"-",
        b"/",
        b"\"",
        b"\\",
        b"'",
        "é".as_bytes(),
        "\u{85}".as_bytes(),
        "\u{a0}".as_bytes(),
        "票".as_bytes(),
        "😀".as_bytes(),
        b"\xff",
    ];

    for _ in 0..rng.random_range(0..3) {
        let odd = *pick(rng, &ODD);
        let at = match rng.random_range(0..3) {
            0 => 0,
            1 => bytes.len(),
            _ => rng.random_range(0..=bytes.len()),
        };
        bytes.splice(at..at, odd.iter().copied());
    }
    if rng.random_range(0..6) == 0 {
        // Of as many characters as bytes are allowed, or half of that.
        bytes = "é".repeat(*pick(rng, &[bound / 2, bound / 2 + 1, bound])).into_bytes();
    }
    bytes
}

fn id(rng: &mut StdRng) -> Value {
    match rng.random_range(0..5) {
        0 => (STRING, text(odd_text(rng, 255))),
        1 => {
            let subtype = *pick(rng, &[0_u8, 1, 3, 4, 4, 4, 5, 6, 7, 8, 9, 0x80, 0xff]);
            let length = *pick(rng, &[16_usize, 16, 16, 15, 17, 0]);
            (BINARY, binary(subtype, &(0..length).map(|_| rng.random()).collect::<Vec<u8>>()))
        }
        2 => any(rng),
        3 => (DOUBLE, 5.0_f64.to_le_bytes().into()),
        _ => (0x07, rng.random::<[u8; 12]>().into()),
    }
}

fn subject(rng: &mut StdRng) -> Value {
    const WHOLE: [&str; 20] = [
        "_INBOX",
        "_INBOX.x",
        "_INBOXES",
        "_INBOX\n",
        "$JS.API",
        "$",
        "a.$b",
        "a.b\n",
        "a",
        "a,b",
        "a.>",
        ">",
        "*",
        "a..b",
        ".a",
        "a.",
        "ticket:created",
        "!",
        "a.~",
        "",
    ];
    match rng.random_range(0..4) {
        0 => any(rng),
        1 => (STRING, text(pick(rng, &WHOLE))),
        _ => (STRING, text(odd_text(rng, 255))),
    }
}

fn key(rng: &mut StdRng) -> Value {
    match rng.random_range(0..4) {
        0 => any(rng),
        1 => (NULL, vec![]),
        _ => (STRING, text(odd_text(rng, 255))),
    }
}

fn headers(rng: &mut StdRng) -> Value {
    const NAMES: [&str; 14] = [
        "a",
        "A",
        "b",
        "traceparent",
        "TraceParent",
        "Nats-x",
        "nAtS-",
        "nats",
        "x-Nats-y",
        "",
        "a:b",
        "a\n",
        "`|~^",
        "é",
    ];

    let mut fields = Vec::new();
    match rng.random_range(0..5) {
        0 => return any(rng),
        1 => return (NULL, vec![]),
        // Near the bounds of count and bytes.
        2 => {
            let count = rng.random_range(62..=66);
            fields.extend((0..count).map(|i| element(STRING, format!("h{i:03}"), text("x"))));
        }
        3 => {
            let (room, over) = (32 * 1024 - 8, rng.random_range(0..=4));
            let value = if rng.random() { "x".repeat(room / 2) } else { "é".repeat(room / 4) };
            fields.push(element(STRING, "h001", text(&value)));
            fields.push(element(STRING, "h00", text("x".repeat(room / 2 + over))));
        }
        _ => {}
    }

    for _ in 0..rng.random_range(0..3) {
        let name = match rng.random_range(0..3) {
            0 => vec![rng.random_range(1..=0xff_u8)],
            _ => pick(rng, &NAMES).as_bytes().to_vec(),
        };
        let (kind, value) = match rng.random_range(0..6) {
            0 => any(rng),
            1 => (NULL, vec![]),
            _ => (STRING, text(odd_text(rng, 40))),
        };
        fields.push(element(kind, name, value));
    }
    (DOCUMENT, document(&fields))
}

/// A payload, and whether its fault is inside it.
fn payload(rng: &mut StdRng) -> (Value, bool) {
    let inside = |kind, value: Vec<u8>| {
        let item = document(&[element(kind, "price", value)]);
        (DOCUMENT, document(&[element(ARRAY, "items", document(&[element(DOCUMENT, "0", item)]))]))
    };
    let decimal = |highest: u8| [vec![0; 15], vec![highest]].concat();

    match rng.random_range(0..12) {
        0 | 1 => (any(rng), false),
        2 => ((STRING, text("é\0\r\n")), false),
        3 => ((DOCUMENT, nested(*pick(rng, &[99, 100]))), false),
        4 => ((DOCUMENT, nested(*pick(rng, &[101, 150]))), true),
        5 => {
            let (_, kind, value, plain) = pick(rng, &kinds()).clone();
            (inside(kind, value), plain.is_none())
        }
        6 => {
            let double = *pick(rng, &[f64::NAN, f64::INFINITY, f64::NEG_INFINITY]);
            (inside(DOUBLE, double.to_le_bytes().into()), true)
        }
        7 => (inside(DOUBLE, rng.random::<f64>().to_le_bytes().into()), false),
        8 => (inside(DECIMAL, decimal(*pick(rng, &[0x7c, 0x78, 0xf8]))), true),
        9 => (inside(DATE, i64::MAX.to_le_bytes().into()), true),
        10 => (inside(STRING, text(b"\xff")), true),
        _ => (inside(BINARY, binary(rng.random(), &[9; 16])), false),
    }
}

/// A document of this seed: right, but for up to three of its fields.
fn made(seed: u64) -> Made {
    let mut rng = StdRng::seed_from_u64(seed);
    let rng = &mut rng;

    let mut fields: Vec<(&str, Value)> = vec![
        ("_id", (0x07, rng.random::<[u8; 12]>().into())),
        ("ts", (TIMESTAMP, vec![0; 8])),
        ("subject", (STRING, text("ticket:created"))),
        ("payload", (DOCUMENT, document(&[element(INT, "n", [5, 0, 0, 0])]))),
        ("isLocked", (BOOL, vec![1])),
        ("failures", (ARRAY, nested(1))),
    ];
    let mut twice = Vec::new();
    let mut deep = false;

    for _ in 0..rng.random_range(0..=3) {
        let name = *pick(
            rng,
            &[
                "_id",
                "_id",
                "subject",
                "subject",
                "key",
                "key",
                "headers",
                "headers",
                "headers",
                "ts",
                "payload",
                "payload",
                "isLocked",
                "failures",
                "attempts",
                "nextAttemptAt",
                "deadAt",
                "discardRequestedAt",
                "extra",
            ],
        );

        let value = match name {
            "_id" => id(rng),
            "subject" => subject(rng),
            "key" => key(rng),
            "headers" => headers(rng),
            "ts" if rng.random() => (TIMESTAMP, pick(rng, &[[0; 8], [1; 8], [0xff; 8]]).to_vec()),
            "payload" => {
                let (value, is_deep) = payload(rng);
                deep |= is_deep;
                value
            }
            _ => any(rng),
        };

        match rng.random_range(0..12) {
            0 if name != "_id" => fields.retain(|(taken, _)| *taken != name),
            1 if name != "_id" => twice.push((name, value)),
            _ => match fields.iter_mut().find(|(taken, _)| *taken == name) {
                Some((_, old)) => *old = value,
                None => fields.push((name, value)),
            },
        }
    }

    fields.extend(twice);
    let elements = fields.iter().map(|(name, (kind, value))| element(*kind, name, value));
    Made { seed, document: document(&elements.collect::<Vec<_>>()), deep }
}

/// Whether it differs from the contract in fields alone that the relay reads leniently.
fn is_lenient(document: &RawDocument) -> bool {
    let mut all = HashMap::<&str, Vec<RawBsonRef<'_>>>::new();
    for element in document.iter() {
        let Ok((name, value)) = element else { return false };
        all.entry(name.as_str()).or_default().push(value);
    }

    let every = |name: &str, fits: fn(&RawBsonRef<'_>) -> bool| {
        all.get(name).is_none_or(|values| values.iter().all(fits))
    };
    let is_count = |value: &RawBsonRef<'_>| {
        matches!(value, RawBsonRef::Int32(_) | RawBsonRef::Int64(_) | RawBsonRef::Double(_))
    };

    !all.contains_key("ts")
        || !all.contains_key("failures")
        || !every("failures", |value| matches!(value, RawBsonRef::Array(_)))
        || !every("attempts", is_count)
}

/// The server's code, if it didn't take the document.
async fn insert(scene: &Scene, event: &[u8]) -> Option<i32> {
    let command = document(&[
        element(STRING, "insert", text("outbox")),
        element(ARRAY, "documents", document(&[element(DOCUMENT, "0", event)])),
    ]);

    let command = RawDocumentBuf::from_bytes(command).expect("a length and an end");
    let reply = match scene.database.run_raw_command(command).await {
        Ok(reply) => reply,
        // The server repeats what it refused, and the driver reads no text that isn't UTF-8.
        Err(error) if matches!(*error.kind, ErrorKind::Bson(_)) => return Some(REFUSED),
        Err(error) => panic!("{error}"),
    };

    let errors = reply.get_array("writeErrors").cloned().unwrap_or_default();
    let error = errors.first()?.as_document().expect("an error");
    Some(error.get_i32("code").expect("a code"))
}

#[tokio::test]
async fn the_parser_reads_what_the_validator_takes_and_nothing_else() {
    let number = |name: &str, default| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let (inputs, first) = (number("OUTBOXD_FUZZ_INPUTS", INPUTS), number("OUTBOXD_FUZZ_SEED", 1));
    let scene = Scene::new().await;

    let (mut taken, mut refused, mut wrong) = (0_u64, 0_u64, Vec::new());
    let mut alone = HashMap::<Alone, u64>::new();
    let mut reasons = HashSet::new();
    let all = futures_util::stream::iter((first..first + inputs).map(made));
    let mut all = all
        .map(async |made| (insert(&scene, &made.document).await, made))
        .buffer_unordered(AT_ONCE);

    while let Some((code, made)) = all.next().await {
        let raw = RawDocument::from_bytes(&made.document).expect("a length and an end");
        let read = OutboxRecord::parse(raw, &Layout::default());
        let is_taken = match code {
            None | Some(TWICE) => true,
            Some(REFUSED) => false,
            // MongoDB itself takes no such document, whatever the validator says.
            Some(_) => continue,
        };

        *(if is_taken { &mut taken } else { &mut refused }) += 1;
        match (is_taken, read) {
            (true, Ok(_)) => {}
            (true, Err(_)) if made.deep => *alone.entry(Alone::Deep).or_default() += 1,
            (false, Ok(_)) if is_lenient(raw) => *alone.entry(Alone::Lenient).or_default() += 1,
            (false, Err(found)) => {
                reasons.insert(found.reason.chars().take(30).collect::<String>());
            }
            (true, Err(found)) => {
                wrong.push(format!("{}: taken, but {}", made.seed, found.reason));
            }
            (false, Ok(_)) => wrong.push(format!("{}: refused, but an event: {raw:?}", made.seed)),
        }
    }

    println!(
        "seeds {first} to {}: {taken} taken, {refused} refused, {alone:?}",
        first + inputs - 1
    );
    let shown: Vec<_> = wrong.iter().take(20).map(String::as_str).collect();
    assert!(wrong.is_empty(), "{} seeds disagree:\n{}", wrong.len(), shown.join("\n"));
    assert!(
        inputs < INPUTS
            || (taken > inputs / 5
                && refused > inputs / 5
                && alone.len() == 2
                && reasons.len() > 25),
        "the documents should reach all of it: {taken}, {refused}, {alone:?}, {}",
        reasons.len()
    );
}
