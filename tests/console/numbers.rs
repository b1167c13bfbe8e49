//! The console shows what the command line shows.

use bson::doc;

use super::{Console, OPERATOR, dead};
use crate::support::{Scene, json, until};

/// The number under this name.
fn number(page: &str, name: &str) -> Option<u64> {
    let rest = page.split(&format!(">{name}</dt><dd>")).nth(1)?;
    let rest = if rest.starts_with("<a") { rest.split_once('>')?.1 } else { rest };
    rest.split('<').next()?.replace(',', "").parse().ok()
}

#[tokio::test]
async fn the_console_and_the_command_line_show_the_same_numbers() {
    let scene = Scene::new().await;
    let mut events = Vec::new();
    for number in 0..70 {
        let error = format!("refused {number}");
        events.push(dead(&scene, &format!("d{number}"), &format!("k{number}"), "10054", &error));
    }

    events.push(dead(&scene, "other", "k0", "not-covered", "no subject covers it"));
    let mut failed = dead(&scene, "f1", "k1", "timeout", "no ack");
    failed.remove("deadAt");
    events.push(failed);
    let mut parked = dead(&scene, "p1", "k1", "", "");
    let _ = ["deadAt", "attempts"].map(|field| parked.remove(field));
    parked.insert("failures", bson::Bson::Array(Vec::new()));
    parked.insert("ts", bson::Timestamp { time: 1_700_000_009, increment: 1 });
    events.push(parked);
    scene.events.insert_many(&events).await.unwrap();

    let console = Console::start(&scene, &[]).await;
    let alice = console.person(OPERATOR).await;
    let outbox = format!("/o/{}.outbox", scene.name);

    let overview = alice.page("/").await;
    let stats = json(&scene, &["stats"]);
    for name in ["backlog", "dead", "failed", "parked", "locked"] {
        assert_eq!(number(&overview, name), stats[name].as_u64(), "{name}: {overview}");
    }

    assert_eq!(stats["dead"], 71);

    let groups = alice.page(&format!("{outbox}/groups")).await;
    let wanted = json(&scene, &["groups"]);
    let parts: Vec<_> = groups.split("<article").skip(1).collect();
    assert_eq!(parts.len(), wanted.as_array().unwrap().len(), "{groups}");
    for (part, group) in parts.iter().zip(wanted.as_array().unwrap()) {
        assert!(part.contains(group["id"].as_str().unwrap()), "{part}");
        // The console names its page in the place of the command.
        let remedy = group["remedy"].as_str().unwrap();
        let remedy = remedy.replace("run `outboxd check`", "open the page Check");
        let remedy = remedy.replace("`outboxd check`", "the page Check");
        let remedy = remedy.replace('\'', "&#39;");
        let remedy = remedy.replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
        let part = part.replace("<code>", "`").replace("</code>", "`");
        assert!(part.contains(&remedy), "{remedy} in {part}");
        for (name, field) in [("failed", "failed"), ("dead", "dead"), ("wait behind", "held")] {
            assert_eq!(number(&part, name), group[field].as_u64(), "{name}: {part}");
        }
    }

    let ids = |page: &str| -> Vec<String> {
        let cells = page.split("data-name=\"Event\"><span><a href=\"").skip(1);
        let ids = cells.map(|cell| cell.split_once('>').unwrap().1.split('<').next().unwrap());
        ids.map(str::to_owned).collect()
    };

    for (query, args) in [
        ("page=1", &["list", "--limit", "50"][..]),
        ("page=2", &["list", "--limit", "50", "--page", "2"]),
        ("state=parked", &["list", "--parked"]),
        ("code=not-covered&state=dead", &["list", "--code", "not-covered", "--dead"]),
        ("key=k1", &["list", "--key", "k1"]),
        (
            "older_than=1h&class=poison&state=failed",
            &["list", "--older-than", "1h", "--class", "poison", "--failed"],
        ),
    ] {
        let page = alice.page(&format!("{outbox}/events?{query}")).await;
        let list = json(&scene, args);
        let wanted: Vec<_> = list["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["id"].as_str().unwrap())
            .collect();
        assert_eq!(ids(&page), wanted, "{query}");
        assert!(page.contains(&format!(" of {}<", list["total"])), "{query}: {page}");
    }

    let group = wanted[0]["id"].as_str().unwrap();
    let page = alice.page(&format!("{outbox}/events?group={group}")).await;
    assert!(page.contains(" of 70<"), "{page}");

    // Who halts the key, and what a discard lets pass.
    let key = alice.page(&format!("{outbox}/key?key=k1")).await;
    assert!(key.contains("Behind it"), "{key}");
    let shown = json(&scene, &["show", "d1"]);
    let event = alice.page(&format!("{outbox}/event?id=d1")).await;
    assert!(
        event.contains(&format!("{} events of its key that came later", shown["behind_it"])),
        "{event}"
    );
}

#[tokio::test]
async fn groups_follow_what_fails_while_the_numbers_stay_the_same() {
    let scene = Scene::new().await;
    scene.events.insert_one(dead(&scene, "before", "k", "10054", "too large")).await.unwrap();
    let console = Console::start(&scene, &[]).await;
    let alice = console.person(OPERATOR).await;
    let groups = format!("/o/{}.outbox/groups", scene.name);
    let page = alice.page(&groups).await;
    assert!(page.contains("too large"), "{page}");

    // In one step, so that no look comes between.
    let mut session = scene.transaction().await;
    scene.events.delete_one(doc! { "_id": "before" }).session(&mut session).await.unwrap();
    let after = dead(&scene, "after", "k", "not-covered", "no subject covers it");
    scene.events.insert_one(after).session(&mut session).await.unwrap();
    session.commit_transaction().await.unwrap();

    until("the other group is shown", async || {
        let page = alice.page(&groups).await;
        (page.contains("no subject covers it") && !page.contains("too large")).then_some(())
    })
    .await;
}
