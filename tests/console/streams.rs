//! An open page follows the outbox without asking it.

use std::time::Duration;

use bson::doc;
use tokio::time::Instant;

use super::{Console, OPERATOR, VIEWER, dead};
use crate::support::{ALONE, Scene, until};

/// How many commands MongoDB ran on the scene's database in this time.
async fn commands(scene: &Scene, time: Duration) -> u64 {
    let profile = scene.database.collection::<bson::Document>("system.profile");
    scene.database.run_command(doc! { "profile": 0 }).await.unwrap();
    profile.drop().await.unwrap();
    scene.database.run_command(doc! { "profile": 2 }).await.unwrap();
    tokio::time::sleep_until(Instant::now() + time).await;
    scene.database.run_command(doc! { "profile": 0 }).await.unwrap();
    let by_console = doc! { "appName": { "$regex": "^outboxd" } };
    profile.count_documents(by_console).await.unwrap()
}

#[tokio::test]
async fn an_open_page_hears_of_a_change() {
    let scene = Scene::new().await;
    let console = Console::start(&scene, &[]).await;
    let bob = console.person(VIEWER).await;
    let answer = bob.get(&format!("/live?groups={}.outbox", scene.name)).await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");

    scene.events.insert_one(dead(&scene, "e1", "k", "10054", "refused")).await.unwrap();
    let (mut heard, mut answer) = (String::new(), answer);
    while !heard.contains("Show 1 event<") {
        let part = tokio::time::timeout(Duration::from_secs(60), answer.chunk()).await;
        let part = part.expect("in time").expect("a part").expect("the stream goes on");
        heard += &String::from_utf8_lossy(&part);
    }

    assert!(heard.contains("event: part"), "{heard}");
}

/// How many pages are open: `make console` opens a thousand.
fn open_pages() -> usize {
    let given = std::env::var("OUTBOXD_TEST_PAGES").ok();
    given.and_then(|pages| pages.parse().ok()).unwrap_or(200)
}

#[tokio::test]
async fn hundreds_of_open_pages_cost_mongodb_what_one_does() {
    let count = open_pages();
    let _alone = ALONE.lock().await;
    let scene = Scene::new().await;
    scene.events.insert_one(dead(&scene, "e1", "k", "10054", "refused")).await.unwrap();
    let console = Console::start(&scene, &[]).await;
    let alice = console.person(OPERATOR).await;
    let open = async || {
        let mut parts = alice.get("/live").await;
        let (said, says) = tokio::sync::watch::channel(0);
        let task = tokio::spawn(async move {
            while let Ok(Some(_)) = parts.chunk().await {
                said.send_modify(|count| *count += 1);
            }
        });
        (task, says)
    };

    let one = open().await;
    let time = Duration::from_secs(12);
    let with_one = commands(&scene, time).await;

    let mut pages = vec![one];
    for _ in 1..count {
        pages.push(open().await);
    }

    until("every page hears", async || {
        pages.iter().all(|(_, says)| *says.borrow() > 2).then_some(())
    })
    .await;

    let with_many = commands(&scene, time).await;

    println!("commands in {time:?}: {with_one} with one page, {with_many} with {count}");
    assert!(with_one >= 10, "{with_one}");
    assert!(with_many as f64 <= with_one as f64 * 1.25 + 5.0, "{with_one} with one, {with_many}");
    pages.iter().for_each(|(task, _)| task.abort());
}
