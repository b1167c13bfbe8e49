//! What is shown: ids that can be pasted, and output that fits the terminal.

use bson::{Bson, DateTime, Timestamp, doc};

use super::{count, dead, failed, insert, json, on_terminal, says, with, without_colours};
use crate::support::{Scene, outboxd_with};

#[tokio::test]
async fn an_id_of_any_length_and_type_can_be_pasted() {
    let scene = Scene::new().await;
    let hex = "6745f0a1b2c3d4e5f6a7b8c9";
    let ids: Vec<Bson> = vec![
        hex.into(),
        bson::oid::ObjectId::parse_str(hex).unwrap().into(),
        "x".repeat(255).into(),
        "y".repeat(300).into(),
        format!("{}z", "y".repeat(299)).into(),
        "w".repeat(100_000).into(),
        doc! { "region": "eu", "number": 7_i64, "at": DateTime::from_millis(1) }.into(),
        doc! { "b": "q".repeat(400) }.into(),
        doc! { "z": 1, "a": 2 }.into(),
        doc! { "a": 2, "z": 1 }.into(),
        Bson::Binary(bson::Binary {
            subtype: bson::spec::BinarySubtype::UuidOld,
            bytes: vec![3; 16],
        }),
        Bson::Binary(bson::Binary {
            subtype: bson::spec::BinarySubtype::Generic,
            bytes: vec![3; 700],
        }),
        bson::Uuid::from_bytes([7; 16]).into(),
        42.into(),
        "42".into(),
        "null".into(),
        Bson::Null,
        true.into(),
        "größe 'und' \"mehr\"".into(),
        "".into(),
        f64::INFINITY.into(),
        Timestamp { time: 5, increment: 6 }.into(),
        DateTime::from_millis(-1).into(),
    ];
    insert(&scene, ids.iter().map(|id| dead(failed(&scene, id.clone(), "malformed", "e")))).await;

    let list = json(&scene, &["list", "--limit", "100"]);
    let shown: Vec<String> = list["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(shown.len(), ids.len());
    assert_eq!(
        shown.iter().collect::<std::collections::HashSet<_>>().len(),
        ids.len(),
        "{shown:#?}"
    );
    for (at, id) in shown.iter().enumerate() {
        assert!(id.chars().count() <= 255, "{id}");
        says(&scene, &["show", "--", id], 0, &["malformed"]);
        says(&scene, &["discard", "--", id], 0, &["1 event discarded"]);
        assert_eq!(count(&scene).await as usize, ids.len() - at - 1, "{id}");
    }
}

#[tokio::test]
async fn output_fits_the_terminal_and_breaks_no_word() {
    let scene = Scene::new().await;
    let subject = format!("{}.a-long-subject.of-some-service.with-many-tokens", scene.name);
    let event = |n: usize| {
        let error = format!(
            "no subject of stream SHOP covers {subject}; the words of this reason go on {n}"
        );
        let fields = doc! { "subject": &subject, "key": format!("customer-with-a-long-key-{n}") };
        dead(with(failed(&scene, bson::oid::ObjectId::new(), "not-covered", &error), fields))
    };
    insert(&scene, (0..3).map(event)).await;
    let group = json(&scene, &["groups"])[0]["id"].as_str().unwrap().to_owned();
    let id = json(&scene, &["list"])["events"][0]["id"].as_str().unwrap().to_owned();
    says(
        &scene,
        &[
            "discard",
            &id,
            "--reason",
            "a reason of several words that is longer than a line has columns",
        ],
        0,
        &[],
    );

    for columns in [80, 160] {
        for args in [
            &["list"][..],
            &["groups"],
            &["groups", &group],
            &["check"],
            &["check", "--verbose"],
            &["audit"],
            &["stats"],
            &["retry-now", "--all", "--dry-run"],
        ] {
            let (_, said) = on_terminal(&scene, args, columns, "");
            let plain = without_colours(&said);
            for line in plain.lines() {
                // Only what is meant to be pasted may be longer.
                let is_command = line.contains(" outboxd ")
                    || line.contains("$ ")
                    || line.contains("> ")
                    || line.contains(": {");
                assert!(
                    is_command || line.chars().count() <= columns.into(),
                    "{args:?}: {line:?} in\n{plain}"
                );
            }
            if args[0] == "list" || args[0] == "retry-now" {
                assert!(plain.matches(&subject).count() >= 2, "{plain}");
                assert!(said.contains("\x1b[31mdead\x1b[0m"), "{said:?}");
                assert!(plain.contains("customer-with-a-long-key-2"), "{plain}");
            }
        }
    }
    let (_, narrow) = on_terminal(&scene, &["list"], 80, "");
    let (_, wide) = on_terminal(&scene, &["list"], 200, "");
    assert!(wide.lines().count() < narrow.lines().count(), "{wide}{narrow}");
    let (_, said) = outboxd_with(&scene, &["groups"], &[("COLUMNS", "60")]);
    assert!(said.lines().all(|line| line.starts_with('`') || line.chars().count() <= 60), "{said}");
}
