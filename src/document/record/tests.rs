//! Documents that follow the contract, and those that break it.

use bson::{Bson, Document, RawDocumentBuf, doc, oid::ObjectId};

use super::*;

fn event() -> Document {
    doc! {
        "_id": ObjectId::new(), "ts": Timestamp { time: 5, increment: 1 }, "subject": "ticket:created", "key": "t1",
        "payload": { "id": "t1" }, "headers": { "traceparent": "00-1" }, "isLocked": true, "failures": [],
    }
}

fn parse(document: &Document) -> Result<OutboxRecord, Box<Malformed>> {
    OutboxRecord::parse(
        &RawDocumentBuf::try_from(document).expect("a document is BSON"),
        &Layout::default(),
    )
}

#[test]
fn an_event_is_read_as_it_will_be_sent() {
    let record = parse(&event()).expect("a record");
    assert_eq!(record.subject.as_str(), "ticket:created");
    assert_eq!(record.key.expect("a key").as_str(), "t1");
    assert_eq!(record.payload, br#"{"id":"t1"}"#);
    assert_eq!(record.headers.iter().collect::<Vec<_>>(), [("traceparent", "00-1")]);
    assert_eq!(record.state, State::Locked);
}

#[test]
fn each_breach_of_the_contract_is_named() {
    for (name, value, reason) in [
        ("subject", Bson::Null, "`subject` is of type null; it must be a string"),
        (
            "subject",
            "a b".into(),
            "invalid subject: only printable ASCII without spaces is allowed",
        ),
        ("key", 5.into(), "`key` is of type int; it must be a string, or left out"),
        (
            "key",
            "".into(),
            "invalid key: it is empty; leave the key out for an event without order",
        ),
        (
            "payload",
            5.into(),
            "invalid payload: it is of type int; a payload is a document, an array, a string or binary",
        ),
        (
            "payload",
            doc! { "x": Bson::MinKey }.into(),
            "invalid payload: payload.x is of type minKey; it has no plain form in JSON",
        ),
        (
            "headers",
            doc! { "Nats-Msg-Id": "1" }.into(),
            "invalid header \"Nats-Msg-Id\": names that begin with `Nats-` belong to the server",
        ),
        ("headers", doc! { "a": 1 }.into(), "invalid header \"a\": its value is not a string"),
        ("isLocked", "yes".into(), "`isLocked` is of type string; it must be a bool"),
        (
            "nextAttemptAt",
            Bson::Array(vec![]),
            "`nextAttemptAt` is of type array; it must be a date, or left out",
        ),
        ("deadAt", 1.into(), "`deadAt` is of type int; it must be a date, or left out"),
        ("ts", 5.into(), "`ts` is of type int; it must be a timestamp"),
        ("_id", 5.into(), "`_id` is of type int; it must be an ObjectId, a UUID or a string"),
    ] {
        let mut document = event();
        document.insert(name, value);
        assert_eq!(parse(&document).unwrap_err().reason, reason);
    }
    for name in ["_id", "subject", "payload", "isLocked"] {
        let mut document = event();
        document.remove(name);
        assert_eq!(parse(&document).unwrap_err().reason, format!("`{name}` is missing"));
    }
}

#[test]
fn a_field_that_stands_twice_is_refused() {
    let mut document = RawDocumentBuf::try_from(&event()).expect("a document is BSON");
    document.append(bson::cstr!("subject"), "other");
    let reason = OutboxRecord::parse(&document, &Layout::default()).unwrap_err().reason;
    assert_eq!(reason, "`subject` stands twice in the document");
}

#[test]
fn a_missing_ts_falls_back_to_the_id() {
    let mut document = event();
    document.remove("ts");
    document.insert("_id", ObjectId::parse_str("6745f0a1b2c3d4e5f6a7b8c9").expect("an ObjectId"));
    assert_eq!(
        parse(&document).expect("a record").ts,
        Timestamp { time: 0x6745_f0a1, increment: 0 }
    );
}

#[test]
fn a_time_that_the_server_never_filled_is_none() {
    let (zero, id) = (Timestamp { time: 0, increment: 0 }, 0x6745_f0a1);
    let mut document = event();
    document.insert("ts", zero);
    document.insert("_id", ObjectId::parse_str("6745f0a1b2c3d4e5f6a7b8c9").expect("an ObjectId"));
    assert_eq!(parse(&document).expect("a record").ts, Timestamp { time: id, increment: 0 });
    let at = |document: &Document| {
        crate::document::written::written_at(|name| document.get(name).cloned())
    };
    assert_eq!(at(&document), Some(id));

    document.insert("_id", "text");
    assert_eq!(parse(&document).expect("a record").ts, zero);
    assert_eq!(at(&document), None);
    document.remove("ts");
    assert_eq!(at(&document), None);

    document.insert("ts", Timestamp { time: u32::MAX, increment: 1 });
    assert_eq!(at(&document), Some(u32::MAX));
}

#[test]
fn the_state_follows_from_the_bookkeeping() {
    let mut document = event();
    document.insert("isLocked", false);

    let record = parse(&document).expect("a record");
    assert_eq!((record.state, record.due_at_ms), (State::Parked, 0));
    assert!(record.is_due(0));

    document.insert("nextAttemptAt", bson::DateTime::from_millis(7));
    document.insert("attempts", 3);
    document.insert("failures", [doc! { "code": "timeout" }]);

    let record = parse(&document).expect("a record");
    assert_eq!((record.state, record.attempts), (State::Failed, 3));
    assert!(!record.is_due(6) && record.is_due(7));

    document.insert("discardRequestedAt", bson::DateTime::from_millis(8));
    let record = parse(&document).expect("a record");
    assert_eq!((record.state, record.discard_requested_at_ms), (State::Failed, Some(8)));
    assert!(!record.is_due(7) && !record.is_due(30_007), "it is to be removed");
    assert!(record.is_due(30_008), "the command that asked is gone");

    for other in [Bson::from("now"), Bson::Null, Bson::Boolean(true), i64::MAX.into()] {
        document.insert("discardRequestedAt", other);
        assert!(parse(&document).expect("a record").is_due(7), "no request");
    }

    document.insert("discardRequestedAt", bson::DateTime::from_millis(i64::MAX));
    assert!(parse(&document).expect("a record").is_due(7), "a request far ahead is none");

    document.insert("deadAt", bson::DateTime::from_millis(9));
    let record = parse(&document).expect("a record");
    assert_eq!((record.state, record.discard_requested_at_ms), (State::Dead, None));
}

#[test]
fn a_record_and_a_document_have_one_state() {
    let date = || Some(Bson::from(bson::DateTime::from_millis(9)));
    let entry = || Some(Bson::from(vec![Bson::from(1)]));

    for locked in [true, false] {
        for dead in [None, Some(Bson::Null), date()] {
            for failures in [None, Some(Bson::from("none")), Some(Bson::from(vec![0; 0])), entry()]
            {
                let mut document = event();
                document.remove("failures");
                document.insert("isLocked", locked);
                document.extend(dead.clone().map(|dead| ("deadAt".to_owned(), dead)));
                document.extend(failures.map(|failures| ("failures".to_owned(), failures)));

                let record = parse(&document).expect("a record");
                assert_eq!(record.state, State::of(&document), "{document}");
            }
        }
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>, cut in 0_usize..120, at in 0_usize..120, with: u8) {
        if let Ok(raw) = RawDocument::from_bytes(&bytes) {
            let _ = OutboxRecord::parse(raw, &Layout::default());
        }

        // Near-valid documents reach deeper than noise does.
        let mut near = RawDocumentBuf::try_from(&event()).expect("a document is BSON").into_bytes();
        let at = at % near.len();
        near[at] = with;

        if let Ok(raw) = RawDocument::from_bytes(&near) {
            let _ = OutboxRecord::parse(raw, &Layout::default());
        }

        near.truncate(near.len().saturating_sub(cut));
        if let Ok(raw) = RawDocument::from_bytes(&near) {
            let _ = OutboxRecord::parse(raw, &Layout::default());
        }
    }
}
