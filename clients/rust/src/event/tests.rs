//! What may be a part of an event, and what may not.

use super::*;

#[test]
fn subjects_that_could_reach_the_servers_own_spaces_are_refused() {
    let long = "x".repeat(256);
    for subject in [
        "",
        ".",
        ".a",
        "a.",
        "a..b",
        "a b",
        "a\tb",
        "a\r\nPUB x 0",
        "*",
        ">",
        "a.*",
        "a.>.b",
        "a*",
        "$JS.API.STREAM.DELETE.X",
        "$SYS.REQ",
        "_INBOX.x",
        "_INBOX",
        "é",
        &long,
    ] {
        assert!(Subject::new(subject).is_err(), "{subject:?}");
    }

    for subject in
        ["ticket:created", "a", "a.b.c", "a$b", "_INBOXES", "orders.v1-2_x/y=z", &"x".repeat(255)]
    {
        assert!(Subject::new(subject).is_ok(), "{subject:?}");
    }
}

#[test]
fn headers_of_the_server_and_line_breaks_are_refused() {
    let event = Event::new("a", &serde_json::json!({})).expect("an event");
    for (name, value) in [
        ("Nats-Msg-Id", "x"),
        ("nats-rollup", "all"),
        ("NATS-TTL", "1s"),
        ("a b", "x"),
        ("", "x"),
        ("a:", "x"),
        ("a", "x\r\nb: c"),
        ("a", "x\0"),
        ("é", "x"),
    ] {
        assert!(event.clone().header(name, value).is_err(), "{name:?}: {value:?}");
    }

    let event = event.header("traceparent", "00-1").expect("a header");
    assert!(event.header("TraceParent", "00-2").is_err(), "one header twice");
}

#[test]
fn keys_are_bounded() {
    assert!(Key::new("").is_err());
    assert!(Key::new("k".repeat(256)).is_err());
    assert!(Key::new("k".repeat(255)).is_ok());
}

#[test]
fn a_payload_that_is_no_message_is_refused() {
    for payload in [serde_json::json!(5), serde_json::json!(null), serde_json::json!(true)] {
        assert!(matches!(Event::new("a", &payload), Err(EventError::Payload(_))), "{payload}");
    }
    assert!(Event::new("a", "text").is_ok());
    assert!(Event::new("a", &["x"]).is_ok());
}

#[test]
fn what_a_relay_adds_has_room_of_its_own() {
    let mut headers = Headers::default();
    for i in 0..MAX_HEADERS {
        headers.insert(&format!("h{i:03}"), &"x".repeat(508)).expect("a header");
    }
    assert!(headers.insert("one-more", "").is_err());
    headers.insert_made("ce-id", "1").expect("a header");
    assert!(headers.insert_made("ce-ID", "1").is_err(), "there twice");
    assert!(headers.insert_made("ce-type", &"x".repeat(MAX_MADE_HEADER_BYTES)).is_err());
}

#[test]
fn a_time_of_delivery_has_bounds() {
    let year_10_000 = 253_402_300_800_000;
    for good in [0, 1, 1_764_000_000_000, year_10_000 - 1] {
        let at = DeliverAt::new(DateTime::from_millis(good)).expect("a time");
        assert_eq!(at.date().timestamp_millis(), good);
    }

    // Among them microseconds, and what a sum of milliseconds wrapped to.
    for bad in [-1, i64::MIN, i64::MAX, year_10_000, 1_764_000_000_000_000] {
        let refused = DeliverAt::new(DateTime::from_millis(bad));
        assert!(matches!(refused, Err(EventError::DeliverAt(_))), "{bad}");
    }
}
