//! `outboxd edit`: with `--set` and in an editor, and what is not edited.

use std::process::{Command, Stdio};

use bson::{DateTime, Timestamp, doc};
use serde_json::Value;

use super::{are_dead, dead, event, failed, insert, json, parked, relayed, says};
use crate::support::{OUTBOXD, Scene, outboxd_with};

#[tokio::test]
async fn a_dead_event_is_corrected_and_published() {
    let (scene, _relay) = relayed().await;
    let wrong = event(&scene, "uncovered", "k1", 1);
    let id = wrong.id().to_string();
    scene.commit([wrong, event(&scene, "covered", "k1", 2)]).await;
    are_dead(&scene, 1).await;

    let covered = format!("subject={}", scene.subject("covered"));
    let wanted = ["subject\n  - ", "nothing changes"];
    says(&scene, &["edit", &id, "--set", &covered, "--dry-run"], 0, &wanted[..1]);
    says(&scene, &["edit", &id, "--set", "payload.number=1"], 0, &wanted[1..]);
    for (set, why) in [
        ("subject=a b", "would break the contract: invalid subject"),
        ("subject=$JS.API.x", "belong to the server"),
        ("headers.Nats-Rollup=all", "begin with `Nats-`"),
        ("payload={\"x\":{\"$numberDouble\":\"NaN\"}}", "payload"),
        ("payload=x", "in quotes"),
    ] {
        says(&scene, &["edit", &id, "--set", set], 64, &[why]);
    }
    assert!(json(&scene, &["audit"]).as_array().unwrap().is_empty(), "nothing was done");

    // The key, too: what waited behind it is no longer held.
    let args = [
        "edit",
        &id,
        "--set",
        &covered,
        "--set",
        "key=k2",
        "--set",
        "payload.key=k2",
        "--set",
        "headers.X-Fixed=yes",
        "--wait",
        "--reason",
        "a slip",
    ];
    says(&scene, &args, 0, &["1 event edited and due now", "1 event delivered"]);
    scene.drained().await;
    let numbers = scene.numbers().await;
    assert_eq!((&numbers["k1"], &numbers["k2"]), (&vec![2], &vec![1]));
    let messages = scene.messages().await;
    let fixed = messages.iter().find(|message| message.payload.contains("k2")).unwrap();
    assert_eq!(
        (fixed.subject.as_str(), fixed.headers["X-Fixed"].as_str()),
        (scene.subject("covered").as_str(), "yes")
    );

    let audit = json(&scene, &["audit"]);
    let entry = &audit[0];
    assert_eq!(
        (&entry["action"], &entry["events"], &entry["reason"]),
        (&"edit".into(), &1.into(), &"a slip".into())
    );
    assert_eq!(entry["before"]["subject"], scene.subject("uncovered"), "{entry}");
    assert_eq!(
        entry["before"]["payload"],
        serde_json::json!({ "key": "k1", "number": 1 }),
        "{entry}"
    );
    assert_eq!(
        (&entry["before"]["key"], &entry["before"]["headers"]),
        (&"k1".into(), &Value::Null)
    );
    says(&scene, &["edit", &id, "--set", "key=x"], 1, &["no event"]);
}

#[tokio::test]
async fn an_editor_corrects_what_broke_the_contract() {
    let (scene, _relay) = relayed().await;
    let bad = doc! {
        "_id": "bad", "ts": Timestamp { time: 0, increment: 0 }, "subject": "a b", "isLocked": true,
        "payload": { "z": 1_i64, "a": DateTime::from_millis(0), "m": [1.5] },
    };
    insert(&scene, [bad]).await;
    are_dead(&scene, 1).await;

    let edit =
        |editor: &str| outboxd_with(&scene, &["edit", "bad", "--wait"], &[("EDITOR", editor)]);
    let (code, said) = outboxd_with(&scene, &["edit", "bad"], &[]);
    assert!(code == Some(64) && said.contains("set EDITOR"), "{said}");
    for (editor, exit, why) in [
        ("true", 64, "invalid subject"),
        ("false", 1, "`false` failed; nothing is done"),
        ("echo x >", 64, "it is not valid JSON"),
        ("sed -i s/subject/isLocked/", 64, "`isLocked` can't be edited"),
    ] {
        let (code, said) = edit(editor);
        assert!(code == Some(exit) && said.contains(why), "{editor}: {said}");
    }
    let script = format!("sed -i 's/a b/{}/'", scene.subject("covered"));
    let (code, said) = edit(&script);
    assert!(code == Some(0) && said.contains("1 event delivered"), "{said}");
    let messages = scene.messages().await;
    assert_eq!(messages[0].payload, r#"{"z":1,"a":"1970-01-01T00:00:00Z","m":[1.5]}"#);
}

#[tokio::test]
async fn only_a_dead_event_is_edited_and_only_as_it_was_read() {
    let scene = Scene::new().await;
    insert(
        &scene,
        [
            failed(&scene, "f", "timeout", "e"),
            parked(&scene, "p", "k"),
            dead(failed(&scene, "d", "header", "e")),
        ],
    )
    .await;
    says(&scene, &["edit", "f", "--set", "subject=a"], 1, &["f is failed", "only a dead event"]);
    says(&scene, &["edit", "p", "--set", "subject=a"], 1, &["p is parked"]);

    // While the editor is open, somebody retries it.
    let retry = format!("{OUTBOXD} retry-now d && sed -i 's/{}/other/'", scene.name);
    let mut env = scene.env_of("edit");
    env.push(("EDITOR".to_owned(), format!("{retry} ")));
    let output = Command::new(OUTBOXD)
        .env_clear()
        .envs(env)
        .args(["edit", "d"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("0 events edited"), "{said}");
    let event = scene.one(doc! { "_id": "d" }).await.unwrap();
    assert_eq!(event.get_str("subject").unwrap(), scene.subject("made"), "{said}");
}
