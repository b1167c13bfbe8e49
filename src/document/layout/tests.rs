//! Documents of other layouts, and layouts that make no sense.

use bson::RawDocumentBuf;

use super::*;
use crate::document::record::OutboxRecord;
use crate::document::state::State;

fn read(document: Document, layout: &Layout) -> Result<OutboxRecord, String> {
    let raw = RawDocumentBuf::try_from(&document).expect("a document is BSON");
    OutboxRecord::parse(&raw, layout).map_err(|malformed| malformed.reason)
}

fn orders() -> Layout {
    Layout::of_fields("aggregateid", "payload", "headers")
        .and_then(|layout| layout.with_subject("eu.", "shop.{aggregatetype}.{type}"))
        .and_then(|layout| layout.with_header("eventType", "{type}/{version}"))
        .expect("a good layout")
}

fn order() -> Document {
    doc! { "_id": ObjectId::new(), "aggregatetype": "order", "aggregateid": 7_i64, "type": "placed", "payload": {} }
}

fn order_with(fields: Document) -> Document {
    let mut order = order();
    order.extend(fields);
    order
}

#[test]
fn a_document_that_was_not_written_for_outboxd_is_read_as_it_is() {
    let record = read(order(), &orders()).expect("a record");
    assert_eq!(record.subject.as_str(), "eu.shop.order.placed");
    assert_eq!(record.key.expect("a key").as_str(), "7");
    assert_eq!(record.state, State::Locked);
    assert!(record.headers.is_empty(), "no version, no header");

    let record =
        read(order_with(doc! { "version": 2, "ts": "2026" }), &orders()).expect("a record");
    assert_eq!(record.headers.get("eventType"), Some("placed/2"));

    let theirs = order_with(doc! { "version": 2, "headers": { "EventType": "theirs" } });
    assert_eq!(read(theirs, &orders()).expect("a record").headers.get("eventType"), Some("theirs"));
}

#[test]
fn what_a_layout_lacks_is_named() {
    for (field, value, reason) in [
        ("type", Bson::Null, "`type` is missing"),
        (
            "type",
            true.into(),
            "`type` is of type bool; it must be a string, an ObjectId, a UUID or a whole number",
        ),
        ("type", "a b".into(), "invalid subject: only printable ASCII without spaces is allowed"),
        (
            "aggregateid",
            1.5.into(),
            "`aggregateid` is of type double; it must be a string, an ObjectId, a UUID or a whole number, or left out",
        ),
    ] {
        assert_eq!(read(order_with(doc! { field: value }), &orders()).unwrap_err(), reason);
    }

    let mut document = order();
    document.remove("aggregatetype");
    assert_eq!(read(document, &orders()).unwrap_err(), "`aggregatetype` is missing");
}

#[test]
fn a_template_that_makes_no_sense_is_refused() {
    for template in
        ["a.{b", "a}.b", "{}", "{a.b}", "{$a}", "{isLocked}", "{a}{b}{c}{d}{e}{f}{g}{h}{i}"]
    {
        assert!(Layout::default().with_subject("", template).is_err(), "{template}");
    }

    assert!(Layout::default().with_subject("{a}", "{subject}").is_err());
    assert!(Layout::of_fields("ts", "payload", "headers").is_err());
    assert_eq!(
        Layout::default().with_subject("", "{subject}").expect("a layout"),
        Layout::default()
    );
}

#[test]
fn cloudevents_attributes_are_headers() {
    let layout =
        orders().with_cloudevents("/shop/orders", Some("com.example.{type}")).expect("a layout");
    let ts = Timestamp { time: 1_700_000_000, increment: 1 };
    let record = read(order_with(doc! { "ts": ts, "aggregateid": "50 % größer" }), &layout)
        .expect("a record");
    let id = record.id.to_string();
    let expected = [
        ("ce-specversion", "1.0"),
        ("ce-id", &id),
        ("ce-source", "/shop/orders"),
        ("ce-type", "com.example.placed"),
        ("ce-subject", "50%20%25%20gr%C3%B6%C3%9Fer"),
        ("ce-time", "2023-11-14T22:13:20Z"),
        ("ce-datacontenttype", "application/json"),
    ];

    assert_eq!(record.headers.iter().collect::<Vec<_>>(), expected);
    // One that a writer made stays as it is.
    let own = order_with(doc! { "headers": { "content-type": "application/cloudevents+json" } });
    assert_eq!(read(own, &layout).expect("a record").headers.iter().count(), 1);

    let text = order_with(doc! { "payload": "text", "headers": { "Content-Type": "text/plain" } });
    assert_eq!(
        read(text, &layout).expect("a record").headers.get("ce-datacontenttype"),
        Some("text/plain")
    );
}

#[test]
fn an_event_with_as_many_headers_as_it_may_have_can_be_a_cloudevent() {
    let layout = Layout::default().with_cloudevents("/shop/orders", None).expect("a layout");
    let headers: Document = (0..64).map(|i| (format!("h{i:03}"), "x".repeat(508).into())).collect();
    let event = doc! {
        "_id": "e1", "ts": Timestamp { time: 5, increment: 1 }, "subject": "made", "key": "é".repeat(127),
        "payload": {}, "headers": headers, "isLocked": true, "failures": [],
    };
    let record = read(event, &layout).expect("a record");
    assert_eq!(record.headers.get("ce-id"), Some("e1"));
    assert_eq!(record.headers.iter().count(), 64 + 7);
}

#[test]
fn a_whole_double_is_the_key_that_json_stringify_makes_of_it() {
    let key = |value: Bson| {
        let record = read(order_with(doc! { "aggregateid": value }), &orders());
        record.map(|record| record.key.map(|key| key.as_str().to_owned()))
    };
    for (number, text) in [
        (5e9, "5000000000"),
        (-0.0, "0"),
        (-7.0, "-7"),
        (9_007_199_254_740_992.0, "9007199254740992"),
        (1e21, "1e+21"),
        (1.234_567_890_123_456_8e18, "1234567890123456800"),
    ] {
        assert_eq!(key(number.into()), Ok(Some(text.to_owned())));
        // What a query for the key looks for has the number among it, by its value.
        let forms = orders().of_key(text);
        let forms = forms.as_document().expect("a document").get_array("$in").expect("an array");
        let has = |form: &Bson| match form {
            Bson::Int64(form) => *form as f64 == number && form.to_string() == text,
            Bson::Double(form) => *form == number,
            _ => false,
        };
        assert!(forms.iter().any(has), "{text}: {forms:?}");
    }

    // What another key has is not among them.
    for text in
        ["007", "+7", "-0", "550E8400-E29B-41D4-A716-446655440000", "507F1F77BCF86CD799439011"]
    {
        assert_eq!(orders().of_key(text), text.into());
    }

    assert_eq!(key(Bson::Null), Ok(None));
    for refused in [1.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert!(key(refused.into()).is_err(), "{refused}");
    }
}
