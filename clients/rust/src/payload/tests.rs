//! What each kind of value becomes, and which value is refused.

use bson::{Bson, cstr, doc, oid::ObjectId, spec::BinarySubtype};

use super::*;

fn published(payload: bson::Document) -> Result<String, PayloadError> {
    let raw = bson::serialize_to_raw_document_buf(&payload).expect("a document is BSON");
    to_bytes(RawBsonRef::Document(&raw), "payload")
        .map(|bytes| String::from_utf8(bytes).expect("JSON is UTF-8"))
}

#[test]
fn a_document_is_published_as_the_json_a_consumer_expects() {
    let id = ObjectId::parse_str("6745f0a1b2c3d4e5f6a7b8c9").expect("an ObjectId");
    let uuid = bson::Uuid::parse_str("67e55044-10b1-426f-9247-bb680e5fe0c8").expect("a UUID");
    let payload = doc! {
        "id": id,
        "uuid": uuid,
        "at": bson::DateTime::from_millis(1_700_000_000_123),
        "price": 5_i32,
        "big": i64::MAX,
        "rate": 0.1,
        "amount": Bson::Decimal128("12.30".parse().expect("a decimal")),
        "blob": Bson::Binary(bson::Binary { subtype: BinarySubtype::Generic, bytes: vec![0, 255] }),
        "nested": { "list": [1, "two", null, true] },
        "text": "quote \" slash \\ \u{1} é",
    };

    let text = published(payload).expect("JSON");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        json,
        serde_json::json!({
            "id": "6745f0a1b2c3d4e5f6a7b8c9",
            "uuid": "67e55044-10b1-426f-9247-bb680e5fe0c8",
            "at": "2023-11-14T22:13:20.123Z",
            "price": 5,
            "big": i64::MAX,
            "rate": 0.1,
            "amount": "12.30",
            "blob": "AP8=",
            "nested": { "list": [1, "two", null, true] },
            "text": "quote \" slash \\ \u{1} é",
        })
    );
}

fn refusal(payload: bson::Document) -> String {
    published(payload).expect_err("a value without a plain form").to_string()
}

#[test]
fn what_has_no_plain_form_is_refused_by_its_path() {
    let scope = bson::JavaScriptCodeWithScope { code: "x".into(), scope: doc! {} };
    let regex = bson::Regex { pattern: cstr!("^x").into(), options: cstr!("i").into() };
    for (value, what) in [
        (Bson::MinKey, "of type minKey"),
        (Bson::MaxKey, "of type maxKey"),
        (Bson::JavaScriptCode("x".into()), "of type javascript"),
        (Bson::JavaScriptCodeWithScope(scope), "of type javascriptWithScope"),
        (Bson::RegularExpression(regex), "of type regex"),
        (Bson::Timestamp(bson::Timestamp { time: 1, increment: 1 }), "of type timestamp"),
        (Bson::Double(f64::NAN), "NaN"),
        (Bson::Double(-f64::NAN), "NaN"),
        (Bson::Double(f64::INFINITY), "Infinity"),
        (Bson::Double(f64::NEG_INFINITY), "-Infinity"),
        (Bson::Decimal128("NaN".parse().expect("a decimal")), "a decimal NaN"),
        (Bson::Decimal128("Infinity".parse().expect("a decimal")), "a decimal Infinity"),
        (Bson::Decimal128("-Infinity".parse().expect("a decimal")), "a decimal -Infinity"),
        (Bson::DateTime(bson::DateTime::MAX), "a date outside the years 0 to 9999"),
    ] {
        let said = |path: &str| format!("{path} is {what}; it has no plain form in JSON");
        assert_eq!(refusal(doc! { "x": value.clone() }), said("payload.x"));

        let item = doc! { "price": value.clone() };
        let items = doc! { "items": [1, 2, 3, item] };
        assert_eq!(refusal(items), said("payload.items[3].price"));
        assert_eq!(refusal(doc! { "a": [[value.clone()]] }), said("payload.a[0][0]"));
    }
}

#[test]
fn a_path_is_unambiguous_and_bounded() {
    for (name, path) in [
        ("a b", r#"payload["a b"]"#),
        ("a.b", r#"payload["a.b"]"#),
        ("0", r#"payload["0"]"#),
        ("", r#"payload[""]"#),
        ("$set", "payload.$set"),
        ("größe", r#"payload["größe"]"#),
        ("a\"]\n\u{202e}", r#"payload["a\"]\n\u{202e}"]"#),
    ] {
        let said = refusal(doc! { name: f64::NAN });
        assert_eq!(said, format!("{path} is NaN; it has no plain form in JSON"));
    }

    let long = refusal(doc! { "x".repeat(1000): f64::NAN });
    assert!(long.contains(&"x".repeat(MAX_NAME_CHARS)) && long.len() < 200, "{long}");

    let deep = |name: &str| {
        let inner = doc! { "price": f64::NAN };
        refusal((1..MAX_DEPTH).fold(inner, |inner, _| doc! { name: inner }))
    };
    let shown = deep("level");
    assert!(shown.starts_with("payload…") && shown.contains(".level.price is NaN"), "{shown}");
    assert!(shown.len() < 400, "{shown}");
    assert!(deep(&"\u{202e}".repeat(100)).len() < 1500);
}

#[test]
fn the_path_begins_with_the_field_that_holds_the_payload() {
    let raw = bson::rawdoc! { "price": f64::NAN };
    let said = |field| to_bytes(RawBsonRef::Document(&raw), field).unwrap_err().to_string();
    assert!(said("body").starts_with("body.price is NaN"), "{}", said("body"));
    assert!(said("the body").starts_with(r#""the body".price is NaN"#), "{}", said("the body"));
}

#[test]
fn only_binary_of_subtype_4_is_a_uuid() {
    let bytes: Vec<u8> = (0..16).collect();
    let base64 = "AAECAwQFBgcICQoLDA0ODw==";
    for (subtype, text) in [
        (BinarySubtype::Uuid, "00010203-0405-0607-0809-0a0b0c0d0e0f"),
        (BinarySubtype::UuidOld, base64),
        (BinarySubtype::Generic, base64),
        (BinarySubtype::Md5, base64),
        (BinarySubtype::UserDefined(0x80), base64),
    ] {
        let binary = bson::Binary { subtype, bytes: bytes.clone() };
        assert_eq!(published(doc! { "v": binary }).expect("JSON"), format!(r#"{{"v":"{text}"}}"#));
    }
}

#[test]
fn nesting_is_bounded() {
    let mut payload = doc! {};
    for _ in 1..MAX_DEPTH {
        payload = doc! { "d": payload };
    }
    assert!(published(payload.clone()).is_ok());
    assert!(matches!(published(doc! { "d": payload }), Err(PayloadError::TooDeep)));
}

#[test]
fn text_and_binary_go_out_byte_for_byte() {
    assert_eq!(
        to_bytes(RawBsonRef::String("{not json"), "payload").expect("a payload"),
        b"{not json"
    );
    assert_eq!(published_len(&Bson::String("abc".into())).expect("JSON"), 3);
    assert_eq!(published_len(&Bson::Array(vec![1.into(), 2.into()])).expect("JSON"), "[1,2]".len());
}

#[test]
fn json_ends_at_the_limit_whatever_makes_it_long() {
    let many = |value: Bson| Bson::Array(vec![value; 1000]);
    let decimal = Bson::Decimal128("1E-6143".parse().expect("a decimal"));
    for payload in [
        doc! { "a": "\u{1}".repeat(10_000) },
        doc! { "\u{1}".repeat(10_000): 1 },
        doc! { "a": many(f64::MIN_POSITIVE.into()) },
        doc! { "a": many(decimal) },
        doc! { "a": many(Bson::Document(doc! {})) },
        doc! { "a": many(Bson::Null) },
        doc! { "a": Bson::Binary(bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![0; 9000] }) },
    ] {
        let raw = bson::RawDocumentBuf::try_from(&payload).expect("a document");
        let raw = RawBsonRef::Document(&raw);
        let whole = to_bytes(raw, "payload").expect("a payload");

        assert_eq!(to_bytes_within(raw, "payload", whole.len()).expect("a payload"), whole);
        let cut = to_bytes_within(raw, "payload", whole.len() - 1);
        assert!(matches!(cut, Err(PayloadError::TooLong(most)) if most + 1 == whole.len()));

        let mut json = Json::new(usize::MAX, 1000);
        let RawBsonRef::Document(document) = raw else { unreachable!("a document") };
        write_document(&mut json, document, 1).unwrap_err();
        assert!(json.bytes.capacity() <= 2000, "{}", json.bytes.capacity());
    }
}
