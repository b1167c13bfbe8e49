//! What consumers of the file and the webhook parse.

use super::*;

/// Each alert is written in its documented form.
fn are_written(cases: impl IntoIterator<Item = (Alert, &'static str)>) {
    let origin = Origin { outbox: "shop.outbox".to_owned(), relay: "r1".to_owned() };
    for (alert, rest) in cases {
        let line = origin.render(&alert).expect("a line");
        let (at, rest_of_line) = line.split_at(line.find(",\"outbox\"").expect("the outbox"));
        assert!(at.starts_with("{\"at\":\"20") && at.ends_with("Z\""), "{line}");

        let origin = r#","outbox":"shop.outbox","relay":"r1","#;
        assert_eq!(rest_of_line, format!("{origin}{rest}"));
    }
}

#[test]
fn a_refused_event_is_written_in_its_documented_form() {
    let refused = |subject: Option<&str>, attempts| RefusedEvent {
        id: "e1".to_owned(),
        subject: subject.map(str::to_owned),
        key: None,
        attempts,
        class: "config",
        code: "no-responders".to_owned(),
        error: "no \"subject\"\ncovers it".to_owned(),
        remedy: "add it",
    };

    are_written([
        (
            Alert::Failing(refused(Some("shop.made"), 3)),
            concat!(
                r#""kind":"failing","text":"event e1 (shop.made) keeps failing after 3 "#,
                r#"refusals: no-responders: no \"subject\"\ncovers it; add it","#,
                r#""event":{"id":"e1","subject":"shop.made","attempts":3,"class":"config","#,
                r#""code":"no-responders","error":"no \"subject\"\ncovers it","#,
                r#""remedy":"add it"}}"#
            ),
        ),
        (
            Alert::Dead(refused(None, 1)),
            concat!(
                r#""kind":"dead","text":"event e1 is dead after 1 refusal: no-responders: "#,
                r#"no \"subject\"\ncovers it; add it","event":{"id":"e1","attempts":1,"#,
                r#""class":"config","code":"no-responders","#,
                r#""error":"no \"subject\"\ncovers it","remedy":"add it"}}"#
            ),
        ),
    ]);
}

#[test]
fn what_waits_for_too_long_is_written_in_its_documented_form() {
    let oldest = StuckEvent {
        id: "e2".to_owned(),
        subject: Some("shop.made".to_owned()),
        key: Some("k".to_owned()),
        attempts: 0,
        error: None,
    };

    are_written([
        (
            Alert::Stuck { oldest, oldest_seconds: 390, events: 2 },
            concat!(
                r#""kind":"stuck","text":"2 events have waited for longer than "#,
                r#"alerts.stuck_after; the oldest, e2, for 6m 30s","event":{"id":"e2","#,
                r#""subject":"shop.made","key":"k","attempts":0},"oldest_seconds":390}"#
            ),
        ),
        (
            Alert::Recovered,
            concat!(
                r#""kind":"recovered","#,
                r#""text":"no event is older than alerts.stuck_after any more"}"#
            ),
        ),
        (
            Alert::Overdue { id: "e3".to_owned(), overdue_seconds: 301, events: 2 },
            concat!(
                r#""kind":"overdue","text":"2 scheduled events are due and not in the outbox; "#,
                r#"the first, e3, for 5m 1s; run `outboxd check`","event":{"id":"e3"},"#,
                r#""overdue_seconds":301}"#
            ),
        ),
    ]);
}

#[test]
fn faults_are_written_in_their_documented_form() {
    are_written([
        (
            Alert::FalseDuplicate(MistakenEvent {
                events: 2,
                id: "e1".to_owned(),
                subject: "shop.made".to_owned(),
                message_id: "shop.outbox.e1".to_owned(),
                sequence: 7,
                found: "is empty".to_owned(),
            }),
            concat!(
                r#""kind":"false-duplicate","text":"the stream took 2 events for duplicates "#,
                r#"by mistake, and outboxd published them under other message ids; the "#,
                r#"first is e1: sequence 7 is empty","event":{"id":"e1","subject":"shop.made","#,
                r#""message_id":"shop.outbox.e1","sequence":7,"found":"is empty"}}"#
            ),
        ),
        (
            Alert::Unsound { fault: "a TTL index: drop it".to_owned() },
            r#""kind":"unsound","text":"the outbox loses events: a TTL index: drop it"}"#,
        ),
        (
            Alert::Unwritable {
                write: "mark",
                events: 3,
                id: Some("e1".to_owned()),
                error: "no room".to_owned(),
            },
            concat!(
                r#""kind":"unwritable","text":"MongoDB can't mark 3 events; they are left as "#,
                r#"they are, and their keys wait; the first is e1: no room; repair or remove "#,
                r#"them, then restart outboxd"}"#
            ),
        ),
        (
            Alert::ForgedAck { stream: "SHOP".to_owned(), sign: "two answers".to_owned() },
            concat!(
                r#""kind":"forged-ack","text":"somebody other than the stream SHOP answers "#,
                r#"publishes: two answers; the relay verifies every ack until there was no "#,
                r#"sign for an hour; `outboxd privileges` prints the NATS permissions that "#,
                r#"prevent this"}"#
            ),
        ),
        (
            Alert::Rewound(Loss {
                stream: "SHOP".to_owned(),
                from: 9,
                to: 1,
                how: "recreated",
                kept: None,
                unrecoverable: None,
                is_repaired: false,
            }),
            concat!(
                r#""kind":"rewound","text":"the stream SHOP has gone back from sequence 9 "#,
                r#"to 1: it was recreated or restored from an old copy, and has lost "#,
                r#"messages that it had acked; their events are no longer in the outbox","#,
                r#""stream":"SHOP","from":9,"to":1,"how":"recreated"}"#
            ),
        ),
    ]);
}
