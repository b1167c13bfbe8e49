//! The hostile documents: a row is a name, a document, and what must become of it.

use super::raw::{
    ARRAY, BINARY, BOOL, DATE, DECIMAL, DOCUMENT, DOUBLE, INT, STRING, TIMESTAMP, binary, document,
    element, kinds, nested, text,
};
use super::shapes;

/// The subject of every event whose own is not the point.
pub(super) const SUBJECT: &str = "made.hostile";

pub(super) struct Row {
    pub(super) name: String,
    pub(super) document: Vec<u8>,
    pub(super) fate: Fate,
}

pub(super) enum Fate {
    /// Dead with a reason that has this in it; never sent.
    Malformed(&'static str),
    /// Follows the contract, and is over the server's limit.
    TooLong,
    /// In the stream with these bytes.
    Published(Vec<u8>),
    /// Never sent, and left as it is, because MongoDB or the relay can't mark it; the relay's log
    /// says this.
    Unmarked(&'static str),
    /// MongoDB doesn't store it, with an error that has the first in it; a parser that saw it
    /// anyway would say the second.
    NotStored(&'static str, &'static str),
}

use Fate::{Malformed, NotStored, Published};

pub(super) fn json(text: &str) -> Fate {
    Published(text.into())
}

/// An event that is well but for what the row changes.
pub(super) struct Fields(Vec<(Vec<u8>, Vec<u8>)>);

impl Fields {
    fn new(name: &str) -> Self {
        let mut fields = Self(Vec::new());
        fields.set("_id", STRING, text(name.replace(|c: char| !c.is_ascii_graphic(), "-")));
        fields.set("ts", TIMESTAMP, [0; 8]);
        fields.set("subject", STRING, text(SUBJECT));
        fields.set("payload", DOCUMENT, document(&[element(INT, "n", 5_i32.to_le_bytes())]));
        fields.set("isLocked", BOOL, [1]);
        fields.set("failures", ARRAY, nested(1));
        // What the tests find it by, whatever its _id.
        fields.set("row", STRING, text(name));
        fields
    }

    pub(super) fn set(&mut self, name: impl AsRef<[u8]>, kind: u8, value: impl AsRef<[u8]>) {
        let name = name.as_ref();
        let field = element(kind, name, value);
        match self.0.iter_mut().find(|(taken, _)| taken == name) {
            Some((_, old)) => *old = field,
            None => self.0.push((name.into(), field)),
        }
    }

    /// Also when it is there already.
    pub(super) fn add(&mut self, name: impl AsRef<[u8]>, kind: u8, value: impl AsRef<[u8]>) {
        self.0.push((name.as_ref().into(), element(kind, name, value)));
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.retain(|(taken, _)| taken != name.as_bytes());
    }

    pub(super) fn payload(&mut self, fields: &[Vec<u8>]) {
        self.set("payload", DOCUMENT, document(fields));
    }

    pub(super) fn header(&mut self, name: impl AsRef<[u8]>, kind: u8, value: impl AsRef<[u8]>) {
        self.set("headers", DOCUMENT, document(&[element(kind, name, value)]));
    }
}

pub(super) fn row(name: impl Into<String>, fate: Fate, change: impl FnOnce(&mut Fields)) -> Row {
    let name = name.into();
    let mut fields = Fields::new(&name);
    change(&mut fields);
    let elements: Vec<_> = fields.0.into_iter().map(|(_, field)| field).collect();
    Row { name, document: document(&elements), fate }
}

/// Every row, in groups.
pub(super) fn groups() -> Vec<Vec<Row>> {
    vec![
        types(),
        values(),
        subjects(),
        headers(),
        shapes::fields(),
        shapes::bookkeeping(),
        shapes::invalid_text(),
        shapes::sizes(),
        shapes::unwieldy(),
    ]
}

/// Each field missing, and of each wrong type.
fn types() -> Vec<Row> {
    let mut rows = Vec::new();
    for (field, fate) in [
        ("subject", Malformed("`subject` is missing")),
        ("payload", Malformed("`payload` is missing")),
        ("isLocked", Malformed("`isLocked` is missing")),
        ("ts", json(r#"{"n":5}"#)),
        ("failures", json(r#"{"n":5}"#)),
    ] {
        rows.push(row(format!("no {field}"), fate, |event| event.remove(field)));
    }
    for (field, right, said) in [
        ("_id", ["string", "objectId"].as_slice(), "it must be an ObjectId, a UUID or a string"),
        ("ts", &["timestamp"], "it must be a timestamp"),
        ("subject", &["string"], "it must be a string"),
        ("key", &["string"], "it must be a string, or left out"),
        ("headers", &["document"], "it must be a document of strings"),
        ("isLocked", &["bool"], "it must be a bool"),
        (
            "payload",
            &["document", "array", "string", "binary"],
            "a payload is a document, an array, a string or binary",
        ),
    ] {
        for (kind, number, value, _) in kinds() {
            if right.contains(&kind) {
                continue;
            }
            let fate = match (field, kind) {
                ("key" | "headers", "null") => json(r#"{"n":5}"#),
                ("_id", "array" | "undefined" | "regex") => NotStored("_id", said),
                _ => Malformed(said),
            };
            rows.push(row(format!("{field} of type {kind}"), fate, |event| {
                event.set(field, number, &value)
            }));
        }
    }
    rows
}

/// Each kind of value in a payload, and those with extremes.
fn values() -> Vec<Row> {
    let mut rows = Vec::new();
    for (kind, number, value, plain) in kinds() {
        let fate = match plain {
            Some(plain) => json(&format!(r#"{{"v":{plain}}}"#)),
            None => Malformed("has no plain form in JSON"),
        };
        rows.push(row(format!("payload with {kind}"), fate, |event| {
            event.payload(&[element(number, "v", &value)])
        }));
    }
    let refused = || Malformed("it has no plain form in JSON");
    let bad_date = || Malformed("date outside the years 0 to 9999");
    for (name, kind, value, fate) in [
        ("NaN", DOUBLE, f64::NAN.to_le_bytes().to_vec(), refused()),
        ("infinity", DOUBLE, f64::INFINITY.to_le_bytes().into(), refused()),
        ("minus infinity", DOUBLE, f64::NEG_INFINITY.to_le_bytes().into(), refused()),
        ("the smallest double", DOUBLE, 5e-324_f64.to_le_bytes().into(), json(r#"{"v":5e-324}"#)),
        ("minus zero", DOUBLE, (-0.0_f64).to_le_bytes().into(), json(r#"{"v":0}"#)),
        ("a whole double", DOUBLE, 1.7e12_f64.to_le_bytes().into(), json(r#"{"v":1700000000000}"#)),
        ("decimal NaN", DECIMAL, [vec![0; 15], vec![0x7c]].concat(), refused()),
        ("decimal infinity", DECIMAL, [vec![0; 15], vec![0x78]].concat(), refused()),
        ("the first date", DATE, i64::MIN.to_le_bytes().into(), bad_date()),
        ("the last date", DATE, i64::MAX.to_le_bytes().into(), bad_date()),
        ("year -1", DATE, (-62_167_219_200_001_i64).to_le_bytes().into(), bad_date()),
        ("year 10000", DATE, 253_402_300_800_000_i64.to_le_bytes().into(), bad_date()),
        (
            "year 9999",
            DATE,
            253_402_300_799_999_i64.to_le_bytes().into(),
            json(r#"{"v":"9999-12-31T23:59:59.999Z"}"#),
        ),
        ("NUL in text", STRING, text("a\0b"), json(r#"{"v":"a\u0000b"}"#)),
        ("a UUID too short", BINARY, binary(4, &[1, 2, 3]), json(r#"{"v":"AQID"}"#)),
    ] {
        rows.push(row(format!("payload with {name}"), fate, |event| {
            event.payload(&[element(kind, "v", &value)])
        }));
    }
    let one = || 1_i32.to_le_bytes();
    for (name, names, fate) in [
        ("a field twice", ["a", "a"], json(r#"{"a":1,"a":1}"#)),
        ("dollar fields", ["$set", "$where"], json(r#"{"$set":1,"$where":1}"#)),
        ("half a DBRef", ["$ref", "$id"], json(r#"{"$ref":1,"$id":1}"#)),
        ("dotted fields", ["a.b", ".."], json(r#"{"a.b":1,"..":1}"#)),
        ("nameless fields", ["", " "], json(r#"{"":1," ":1}"#)),
    ] {
        let fields = names.map(|name| element(INT, name, one()));
        rows.push(row(format!("payload with {name}"), fate, |event| event.payload(&fields)));
        // The same where the event must be marked: an update may refuse what an insert took.
        rows.push(row(format!("poison with {name}"), Malformed("invalid subject"), |event| {
            event.payload(&fields);
            event.set("subject", STRING, text("a b"));
        }));
    }
    rows
}

fn subjects() -> Vec<Row> {
    let long = format!("made.{}", "x".repeat(5 * 1024));
    let fits = format!("made.{}", "x".repeat(250));
    let mut rows: Vec<_> = [
        ("", "it is empty"),
        ("a b", "only printable ASCII"),
        (" made.x", "only printable ASCII"),
        ("x\r\nPUB y 1\r\nz", "only printable ASCII"),
        ("made.x 5\r\n", "only printable ASCII"),
        ("made\t.x", "only printable ASCII"),
        ("made.\0", "only printable ASCII"),
        ("made.é", "only printable ASCII"),
        ("made.\u{202e}x", "only printable ASCII"),
        ("made.\u{7f}", "only printable ASCII"),
        ("*", "wildcards are for subscribers"),
        (">", "wildcards are for subscribers"),
        ("made.*", "wildcards are for subscribers"),
        ("made.>", "wildcards are for subscribers"),
        ("made.x*", "wildcards are for subscribers"),
        ("made..x", "it has an empty token"),
        (".made", "it has an empty token"),
        ("made.", "it has an empty token"),
        (".", "it has an empty token"),
        ("$JS.API.STREAM.DELETE.X", "subjects that begin with `$` belong to the server"),
        ("$SYS.REQ.SERVER.PING", "subjects that begin with `$` belong to the server"),
        ("$", "subjects that begin with `$` belong to the server"),
        ("_INBOX.x", "`_INBOX` belongs to replies"),
        ("_INBOX", "`_INBOX` belongs to replies"),
        (&long, "it is longer than 255 bytes"),
    ]
    .into_iter()
    .enumerate()
    .map(|(i, (subject, said))| {
        row(format!("subject {i}"), Malformed(said), |event| {
            event.set("subject", STRING, text(subject))
        })
    })
    .collect();
    for (i, subject) in [fits.as_str(), "made.$JS", "made._INBOX", "made.{}[]|\\\"'`~", "made.-ERR"]
        .iter()
        .enumerate()
    {
        rows.push(row(format!("subject that is well {i}"), json(r#"{"n":5}"#), |event| {
            event.set("subject", STRING, text(subject));
        }));
    }
    rows
}

fn headers() -> Vec<Row> {
    let mut rows = Vec::new();
    for name in [
        "Nats-Rollup",
        "nats-rollup",
        "NATS-MSG-ID",
        "Nats-Msg-Id",
        "Nats-TTL",
        "Nats-Trace-Dest",
        "Nats-Schedule",
        "Nats-Expected-Stream",
        "Nats-Expected-Last-Sequence",
        "Nats-",
    ] {
        rows.push(row(format!("header {name}"), Malformed("belong to the server"), |event| {
            event.header(name, STRING, text("sub"));
        }));
    }
    for name in ["a:b", "a b", "a\r\nb", "", " a", "a\t", "é", "a\u{7f}"] {
        rows.push(row(
            format!("header {name:?}"),
            Malformed("a name is letters, digits"),
            |event| {
                event.header(name, STRING, text("x"));
            },
        ));
    }
    for value in ["x\r\nNats-Rollup: all", "x\n", "\r", "a\0b", "a\tb", "a\u{85}b", "\u{7f}"] {
        rows.push(row(
            format!("header of {value:?}"),
            Malformed("no control characters"),
            |event| {
                event.header("a", STRING, text(value));
            },
        ));
    }
    for (kind, number, value, _) in kinds() {
        if kind != "string" {
            let fate = match kind {
                "null" => json(r#"{"n":5}"#),
                _ => Malformed("its value is not a string"),
            };
            rows.push(row(format!("header of type {kind}"), fate, |event| {
                event.header("a", number, &value);
            }));
        }
    }
    let many = |count: usize, size: usize| {
        let value = text("x".repeat(size));
        document(
            &(0..count).map(|i| element(STRING, format!("h{i:03}"), &value)).collect::<Vec<_>>(),
        )
    };
    let sent = || json(r#"{"n":5}"#);
    for (name, headers, fate) in [
        ("64 headers", many(64, 1), sent()),
        ("65 headers", many(65, 1), Malformed("at most 64 headers")),
        ("10000 headers", many(10_000, 1), Malformed("at most 64 headers")),
        ("32 KiB of headers", many(64, 508), sent()),
        ("over 32 KiB of headers", many(64, 509), Malformed("over 32 KiB")),
        ("a header over 64 KiB", many(1, 65 * 1024), Malformed("over 32 KiB")),
        ("no headers", nested(1), sent()),
        ("a header without a value", many(1, 0), sent()),
    ] {
        rows.push(row(name, fate, |event| event.set("headers", DOCUMENT, &headers)));
    }
    let twice = [element(STRING, "a", text("1")), element(STRING, "A", text("2"))];
    rows.push(row("a header twice", Malformed("it is there twice"), |event| {
        event.set("headers", DOCUMENT, document(&twice));
    }));
    rows.push(row("a header in UTF-8", sent(), |event| event.header("a", STRING, text("é 票"))));
    rows
}
