//! Each kind of alert in its documented form.

use super::*;

fn refused(subject: Option<&str>, attempts: u32) -> RefusedEvent {
    RefusedEvent {
        id: "e1".to_owned(),
        subject: subject.map(str::to_owned),
        key: None,
        attempts,
        class: "config",
        code: "no-responders".to_owned(),
        error: "no \"subject\"\ncovers it".to_owned(),
        remedy: "add it",
    }
}

/// What consumers of the file and the webhook parse.
#[test]
fn each_kind_is_written_in_its_documented_form() {
    let origin = Origin { outbox: "shop.outbox".to_owned(), relay: "r1".to_owned() };
    let oldest = StuckEvent {
        id: "e2".to_owned(),
        subject: Some("shop.made".to_owned()),
        key: Some("k".to_owned()),
        attempts: 0,
        error: None,
    };

    for (alert, rest) in [
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
            Alert::Rewound { stream: "SHOP".to_owned(), from: 9, to: 1 },
            concat!(
                r#""kind":"rewound","text":"the stream SHOP has gone back from sequence 9 "#,
                r#"to 1: it was recreated or restored from an old copy, and has lost "#,
                r#"messages that it had acked; their events are no longer in the outbox"}"#
            ),
        ),
        (
            Alert::Unsound { fault: "a TTL index: drop it".to_owned() },
            r#""kind":"unsound","text":"the outbox loses events: a TTL index: drop it"}"#,
        ),
    ] {
        let line = origin.render(&alert).unwrap();
        let (at, rest_of_line) = line.split_at(line.find(",\"outbox\"").unwrap());
        assert!(at.starts_with("{\"at\":\"20") && at.ends_with("Z\""), "{line}");
        let origin = r#","outbox":"shop.outbox","relay":"r1","#;
        assert_eq!(rest_of_line, format!("{origin}{rest}"));
    }
}
