//! More hostile documents: odd shapes, bookkeeping fields, text that is none, and sizes.

use super::raw::{
    ARRAY, BINARY, BOOL, DATE, DOCUMENT, INT, NULL, STRING, TIMESTAMP, array, binary, document,
    element, kinds, nested, text,
};
use super::rows::Fate::{Malformed, NotStored, Published, TooLong};
use super::rows::{Fields, Row, SUBJECT, json, row};

/// The default of nats-server; the headers count too.
const MAX_PAYLOAD: usize = 1024 * 1024;

/// Makes it an event that must be marked.
fn poison(event: &mut Fields) {
    event.set("subject", STRING, text("a b"));
}

fn one() -> [u8; 4] {
    1_i32.to_le_bytes()
}

/// Keys, ids, nesting, arrays, and names that stand twice or mean something to MongoDB.
pub(super) fn fields() -> Vec<Row> {
    let sent = || json(r#"{"n":5}"#);
    let mut rows = Vec::new();
    for (name, key, fate) in [
        ("an empty key", String::new(), Malformed("invalid key: it is empty")),
        ("a key of 255 bytes", "k".repeat(255), sent()),
        (
            "a key of 256 bytes",
            "k".repeat(256),
            Malformed("invalid key: it is longer than 255 bytes"),
        ),
        (
            "a key of 5 KB",
            "k".repeat(5 * 1024),
            Malformed("invalid key: it is longer than 255 bytes"),
        ),
        ("a key with NUL and line breaks", "a\0\r\nb".into(), sent()),
        ("a key with an operator's name", "$gt".into(), sent()),
    ] {
        rows.push(row(name, fate, |event| event.set("key", STRING, text(key))));
    }
    let operator = document(&[element(STRING, "$gt", text(""))]);
    for (name, kind, id, fate) in [
        ("an empty id", STRING, text(""), Malformed("a string id has 1 to 255 bytes")),
        (
            "an id of 5 KB",
            STRING,
            text("i".repeat(5 * 1024)),
            Malformed("a string id has 1 to 255 bytes"),
        ),
        (
            "an id with a line break",
            STRING,
            text("a\r\nb"),
            Malformed("printable ASCII without spaces"),
        ),
        ("an id with NUL", STRING, text("a\0b"), Malformed("printable ASCII without spaces")),
        ("an id that is a UUID", BINARY, binary(4, &[9; 16]), sent()),
        (
            "an id that is a short UUID",
            BINARY,
            binary(4, &[9; 3]),
            Malformed("a UUID of the wrong length"),
        ),
        (
            "an id that is an old UUID",
            BINARY,
            binary(3, &[9; 16]),
            Malformed("`_id` is a UUID of binary subtype 3"),
        ),
        (
            "an id that is an operator",
            DOCUMENT,
            operator.clone(),
            NotStored("_id", "must be an ObjectId"),
        ),
    ] {
        rows.push(row(name, fate, |event| event.set("_id", kind, id)));
    }
    let deep =
        |levels: usize| format!("{}{{}}{}", "{\"d\":".repeat(levels - 1), "}".repeat(levels - 1));
    for (name, field, levels, fate) in [
        ("100 levels", "payload", 100, json(&deep(100))),
        ("101 levels", "payload", 101, Malformed("nested deeper than 100 levels")),
        ("180 levels", "payload", 180, Malformed("nested deeper than 100 levels")),
        ("180 levels elsewhere", "extra", 180, sent()),
        (
            "181 levels",
            "payload",
            181,
            NotStored("exceeds 180 levels of nesting", "nested deeper than 100 levels"),
        ),
    ] {
        rows.push(row(name, fate, |event| event.set(field, DOCUMENT, nested(levels))));
    }
    let numbers = |count: i32| array(INT, (0..count).map(|i| i.to_le_bytes().to_vec()));
    let plain = (0..100_000).map(|i: i32| i.to_string()).collect::<Vec<_>>().join(",");
    let empties = vec!["{}"; 100_000].join(",");
    rows.push(row("an array of 100,000", json(&format!("[{plain}]")), |event| {
        event.set("payload", ARRAY, numbers(100_000));
    }));
    rows.push(row("an array of 100,000 documents", json(&format!("[{empties}]")), |event| {
        event.set("payload", ARRAY, array(DOCUMENT, vec![nested(1); 100_000]));
    }));
    rows.push(row("an array numbered wrongly", json("[1,1]"), |event| {
        event.set(
            "payload",
            ARRAY,
            document(&[element(INT, "7", one()), element(INT, "x", one())]),
        );
    }));
    rows.push(row("100,000 fields", sent(), |event| {
        (0..100_000).for_each(|i| event.add(format!("f{i}"), NULL, []));
    }));
    for (name, field, kind, second, fate) in [
        ("a subject twice", "subject", STRING, text(SUBJECT), Malformed("`subject` stands twice")),
        ("a payload twice", "payload", STRING, text("second"), Malformed("`payload` stands twice")),
        ("a lock twice", "isLocked", BOOL, vec![0], Malformed("`isLocked` stands twice")),
        ("an id twice", "_id", INT, one().into(), NotStored("_id", "`_id` stands twice")),
    ] {
        rows.push(row(name, fate, |event| event.add(field, kind, second)));
    }
    rows.push(row("a key twice", Malformed("`key` stands twice"), |event| {
        event.add("key", STRING, text("first"));
        event.add("key", STRING, text("second"));
    }));
    for (name, field) in [
        ("a field with a dollar", "$set"),
        ("a field with a dot", "failures.0"),
        ("a field without a name", ""),
    ] {
        rows.push(row(name, sent(), |event| event.add(field, INT, one())));
        rows.push(row(format!("poison and {name}"), Malformed("invalid subject"), |event| {
            event.add(field, INT, one());
            poison(event);
        }));
    }
    rows
}

/// Those that are hard to mark: the mark brings the event into the index of unlocked events.
pub(super) fn unwieldy() -> Vec<Row> {
    let mut rows = Vec::new();
    rows.push(row("a name of 7 MB", Malformed("not valid BSON"), |event| {
        event.set("n".repeat(7_000_000), STRING, text(b"\xff"));
    }));
    rows.push(row("a name of 7 MB in the payload", Malformed("not valid BSON"), |event| {
        event.payload(&[element(STRING, "n".repeat(7_000_000), text(b"\xff"))]);
    }));
    rows.push(row("a key of 15 MB", Malformed("longer than 255 bytes"), |event| {
        event.set("key", STRING, text("k".repeat(15_000_000)));
    }));
    let numbers = |count: i32| array(INT, (0..count).map(|i| i.to_le_bytes().to_vec()));
    rows.push(row("an array as key", Malformed("`key` is of type array"), |event| {
        event.set("key", ARRAY, numbers(1000));
    }));
    rows
}

/// The fields that the relay itself writes, filled by somebody else.
pub(super) fn bookkeeping() -> Vec<Row> {
    let sent = || json(r#"{"n":5}"#);
    let mut rows = Vec::new();
    for (kind, number, value, _) in kinds() {
        for field in ["failures", "attempts", "nextAttemptAt", "deadAt"] {
            if (field, kind) == ("deadAt", "date") {
                continue; // Dead already: only a person moves it.
            }
            let fate = || match (field, kind) {
                (_, "null" | "date") | ("failures" | "attempts", _) => sent(),
                _ => Malformed("it must be a date, or left out"),
            };
            rows.push(row(format!("{field} of type {kind}"), fate(), |event| {
                event.set(field, number, &value)
            }));
            rows.push(row(format!("unlocked and {field} of type {kind}"), fate(), |event| {
                event.set(field, number, &value);
                event.set("isLocked", BOOL, [0]);
            }));
            rows.push(row(
                format!("poison and {field} of type {kind}"),
                Malformed("invalid subject"),
                |event| {
                    event.set(field, number, &value);
                    poison(event);
                },
            ));
        }
    }
    for (name, field, kind, value) in [
        ("attempts at the most", "attempts", 0x12, i64::MAX.to_le_bytes().to_vec()),
        ("attempts below none", "attempts", INT, (-1_i32).to_le_bytes().into()),
        ("a time at the least", "ts", TIMESTAMP, vec![1, 0, 0, 0, 0, 0, 0, 0]),
        ("a time at the most", "ts", TIMESTAMP, vec![0xff; 8]),
        ("due since ever", "nextAttemptAt", DATE, i64::MIN.to_le_bytes().into()),
        ("100,000 failures", "failures", ARRAY, array(NULL, vec![vec![]; 100_000])),
    ] {
        rows.push(row(name, sent(), |event| event.set(field, kind, &value)));
        rows.push(row(format!("{name} and unlocked"), sent(), |event| {
            event.set(field, kind, &value);
            event.set("isLocked", BOOL, [0]);
        }));
        rows.push(row(format!("{name} and poison"), Malformed("invalid subject"), |event| {
            event.set(field, kind, &value);
            poison(event);
        }));
    }
    rows
}

/// Bytes that are no UTF-8 where text should be.
pub(super) fn invalid_text() -> Vec<Row> {
    let mut rows = Vec::new();
    for (bytes, how) in [
        (&b"\xff\xfe"[..], "stray bytes"),
        (b"\xc0\x80", "overlong"),
        (b"\xed\xa0\x80", "a surrogate"),
    ] {
        for field in ["subject", "key", "payload", "extra"] {
            rows.push(row(format!("{field} of {how}"), Malformed("not valid BSON"), |event| {
                event.set(field, STRING, text(bytes));
            }));
        }
        for field in ["payload", "headers"] {
            for (place, inner) in [
                ("a value", element(STRING, "a", text(bytes))),
                ("a name", element(STRING, bytes, text("x"))),
            ] {
                rows.push(row(
                    format!("{field} with {place} of {how}"),
                    Malformed("not valid BSON"),
                    |event| {
                        event.set(field, DOCUMENT, document(&[inner]));
                    },
                ));
            }
        }
        rows.push(row(format!("a name of {how}"), Malformed("not valid BSON"), |event| {
            event.add(bytes, INT, one())
        }));
    }
    rows
}

/// From nothing to as much as MongoDB stores.
pub(super) fn sizes() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, kind, value, bytes) in [
        ("an empty string", STRING, text(""), &b""[..]),
        ("empty binary", BINARY, binary(0, b""), b""),
        ("an empty document", DOCUMENT, nested(1), b"{}"),
        ("an empty array", ARRAY, nested(1), b"[]"),
        (
            "binary of protocol",
            BINARY,
            binary(0, b"\r\nPUB x 0\r\n\r\n\xff\0"),
            b"\r\nPUB x 0\r\n\r\n\xff\0",
        ),
        ("text of protocol", STRING, text("\r\n-ERR\r\n\0"), b"\r\n-ERR\r\n\0"),
        ("old binary", BINARY, binary(2, &[3, 0, 0, 0, 1, 2, 3]), &[1, 2, 3]),
    ] {
        rows.push(row(name, Published(bytes.into()), |event| event.set("payload", kind, value)));
    }
    for (name, over) in [("as long as it may be", 0_usize), ("one byte too long", 1)] {
        let payload = "x".repeat(MAX_PAYLOAD - headers_of(name) + over);
        let fate = if over == 0 { Published(payload.clone().into()) } else { TooLong };
        rows.push(row(name, fate, |event| event.set("payload", STRING, text(payload))));
    }
    const MOST: usize = 15_900_000;
    for (name, kind, value) in [
        ("15.9 MB of text", STRING, text("x".repeat(MOST))),
        ("15.9 MB of binary", BINARY, binary(0, &vec![0; MOST])),
        (
            "15.9 MB that JSON escapes",
            DOCUMENT,
            document(&[element(STRING, "v", text(vec![1; MOST]))]),
        ),
    ] {
        rows.push(row(name, TooLong, |event| event.set("payload", kind, value)));
    }
    rows.push(row("15.9 MB of poison", Malformed("invalid subject"), |event| {
        event.set("payload", STRING, text("x".repeat(MOST)));
        poison(event);
    }));
    rows.push(row("15.9 MB elsewhere", json(r#"{"n":5}"#), |event| {
        event.set("extra", STRING, text("x".repeat(MOST)))
    }));
    rows
}

/// Bytes of the header block of an event without headers of its own. Names of databases and streams
/// are those of a scene.
fn headers_of(name: &str) -> usize {
    let scene = format!("t{}", bson::oid::ObjectId::from_bytes([0; 12]));
    format!(
        "NATS/1.0\r\nNats-Msg-Id: {scene}.outbox.{name}\r\nNats-Expected-Stream: {scene}\r\n\r\n"
    )
    .len()
}
