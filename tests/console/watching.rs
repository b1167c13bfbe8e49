//! A page that somebody reads, clicks on or is signed out of, in a real browser.

use super::browser::Browser;
use super::{Console, OPERATOR, VIEWER, dead};
use crate::support::{Scene, until};

#[tokio::test]
async fn what_somebody_selects_or_clicks_stays_under_the_pointer() {
    let scene = Scene::new().await;
    scene.events.insert_one(dead(&scene, "e1", "k", "10054", "too large")).await.unwrap();
    let console = Console::start(&scene, &[]).await;
    let browser = Browser::start(&console).await;
    browser.sign_in(OPERATOR).await;
    let groups = format!("/o/{}.outbox/groups", scene.name);
    browser.goto(&groups).await;
    browser.sees("Show 1 event").await;

    let select = "getSelection().selectAllChildren(document.querySelector('.reason'))";
    browser.run(select).await;
    scene.events.insert_one(dead(&scene, "e2", "l", "10054", "too large")).await.unwrap();
    browser.sees("The numbers wait while text is selected.").await;
    assert_eq!(browser.run("return getSelection().toString()").await, "too large");
    browser.run("getSelection().removeAllRanges()").await;
    browser.sees("Show 2 events").await;

    // A click that takes long leads where it began.
    browser.mouse("mousePressed", "Show 2 events").await;
    scene.events.insert_one(dead(&scene, "e3", "m", "10054", "too large")).await.unwrap();
    until("a newer part waits", async || {
        (browser.run("return later.size").await == 1).then_some(())
    })
    .await;
    browser.mouse("mouseReleased", "Show 2 events").await;
    browser.sees("1 to 3 of 3").await;
}

#[tokio::test]
async fn whoever_is_signed_out_is_told_so() {
    let scene = Scene::new().await;
    let console = Console::start(&scene, &[]).await;
    let browser = Browser::start(&console).await;
    browser.sign_in(VIEWER).await;
    browser.goto(&format!("/o/{}.outbox/groups", scene.name)).await;
    browser.sees("No event has failed.").await;

    browser
        .run(
            "const csrf = document.querySelector('[name=csrf]').value; \
             return fetch('/sign-out', { method: 'POST', body: new URLSearchParams({ csrf }) }).then(() => 0)",
        )
        .await;
    let page = browser.sees("You are signed out.").await;
    assert!(!page.contains("Reconnecting"), "{page}");
    let link = "return document.querySelector('#connection a').getAttribute('href')";
    let link = browser.run(link).await;
    assert_eq!(link, format!("/sign-in?next=%2Fo%2F{}.outbox%2Fgroups", scene.name));
}
