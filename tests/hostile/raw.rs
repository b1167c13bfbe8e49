//! BSON byte by byte, so that a test can write what a driver refuses to build.

pub(super) const DOUBLE: u8 = 0x01;
pub(super) const STRING: u8 = 0x02;
pub(super) const DOCUMENT: u8 = 0x03;
pub(super) const ARRAY: u8 = 0x04;
pub(super) const BINARY: u8 = 0x05;
pub(super) const BOOL: u8 = 0x08;
pub(super) const DATE: u8 = 0x09;
pub(super) const NULL: u8 = 0x0a;
pub(super) const INT: u8 = 0x10;
pub(super) const TIMESTAMP: u8 = 0x11;
pub(super) const DECIMAL: u8 = 0x13;

/// A field as it stands in a document: kind, name, value.
pub(super) fn element(kind: u8, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    [&[kind], name.as_ref(), &[0], value.as_ref()].concat()
}

/// A document of these fields; an array is one whose fields are named 0, 1, 2, …
pub(super) fn document(elements: &[Vec<u8>]) -> Vec<u8> {
    let body = elements.concat();
    [&length(body.len() + 5)[..], &body, &[0]].concat()
}

pub(super) fn array(kind: u8, values: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let elements =
        values.into_iter().enumerate().map(|(i, value)| element(kind, i.to_string(), value));
    document(&elements.collect::<Vec<_>>())
}

/// A string's value, whose bytes need not be UTF-8.
pub(super) fn text(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [&length(bytes.len() + 1)[..], bytes, &[0]].concat()
}

pub(super) fn binary(subtype: u8, bytes: &[u8]) -> Vec<u8> {
    [&length(bytes.len())[..], &[subtype], bytes].concat()
}

/// `{d: {d: … {}}}`, so many documents.
pub(super) fn nested(levels: usize) -> Vec<u8> {
    (1..levels).fold(document(&[]), |inner, _| document(&[element(DOCUMENT, "d", inner)]))
}

pub(super) fn length(length: usize) -> [u8; 4] {
    i32::try_from(length).expect("a BSON length").to_le_bytes()
}

/// One value of every kind of BSON: MongoDB's name of it, the kind, the bytes, and its plain JSON
/// if it has any.
pub(super) fn kinds() -> Vec<(&'static str, u8, Vec<u8>, Option<&'static str>)> {
    let pointer = [text("db.c"), vec![7; 12]].concat();
    let scoped = [text("x"), nested(1)].concat();
    let scoped = [&length(scoped.len() + 4)[..], &scoped].concat();
    vec![
        ("double", DOUBLE, 1.5_f64.to_le_bytes().into(), Some("1.5")),
        ("string", STRING, text("text"), Some("\"text\"")),
        ("document", DOCUMENT, nested(1), Some("{}")),
        ("array", ARRAY, nested(1), Some("[]")),
        ("binary", BINARY, binary(0, &[0, 255]), Some("\"AP8=\"")),
        ("undefined", 0x06, vec![], Some("null")),
        ("objectId", 0x07, vec![7; 12], Some("\"070707070707070707070707\"")),
        ("bool", BOOL, vec![1], Some("true")),
        ("date", DATE, 0_i64.to_le_bytes().into(), Some("\"1970-01-01T00:00:00Z\"")),
        ("null", NULL, vec![], Some("null")),
        ("regex", 0x0b, b"^x\0i\0".into(), None),
        ("dbPointer", 0x0c, pointer, None),
        ("javascript", 0x0d, text("x"), None),
        ("symbol", 0x0e, text("symbol"), Some("\"symbol\"")),
        ("javascriptWithScope", 0x0f, scoped, None),
        ("int", INT, 5_i32.to_le_bytes().into(), Some("5")),
        ("timestamp", TIMESTAMP, 5_u64.to_le_bytes().into(), None),
        ("long", 0x12, i64::MIN.to_le_bytes().into(), Some("-9223372036854775808")),
        ("decimal", DECIMAL, decimal(123, -1), Some("\"12.3\"")),
        ("minKey", 0xff, vec![], None),
        ("maxKey", 0x7f, vec![], None),
    ]
}

/// A small decimal128: `coefficient` × 10^`exponent`.
fn decimal(coefficient: u64, exponent: i64) -> Vec<u8> {
    let biased = u64::try_from(exponent + 6176).expect("a small exponent");
    [coefficient.to_le_bytes(), (biased << 49).to_le_bytes()].concat()
}
