//! Without a mouse, and without script.

use super::browser::Browser;
use super::{Console, OPERATOR, VIEWER, dead};
use crate::support::{Relay, Scene};

#[tokio::test]
async fn somebody_with_a_keyboard_alone_discards_an_event() {
    let scene = Scene::new().await;
    let _relay = Relay::leading(&scene, &[]).await;
    scene.events.insert_one(dead(&scene, "e1", "k", "10054", "too large")).await.unwrap();
    let console = Console::start(&scene, &[]).await;
    let browser = Browser::start(&console).await;
    browser.sign_in(OPERATOR).await;

    // The first stop leads past the navigation.
    browser.goto(&format!("/o/{}.outbox/groups", scene.name)).await;
    browser.press("Tab").await;
    assert_eq!(browser.run("return document.activeElement.className").await, "skip");
    browser.press("Enter").await;
    browser.tab_to("Discard them").await;
    browser.press("Enter").await;
    browser.sees("Type 1 to confirm").await;
    browser.tab_to("typed").await;
    browser.press("1").await;
    browser.tab_to("Discard them").await;
    browser.press("Enter").await;
    browser.sees("Finished.").await;
    scene.drained().await;
}

#[tokio::test]
async fn a_page_without_script_is_read_whole() {
    let scene = Scene::new().await;
    scene.events.insert_one(dead(&scene, "e1", "k", "10054", "too large")).await.unwrap();
    let console = Console::start(&scene, &[]).await;
    let browser = Browser::start(&console).await;
    browser.scripts(false).await;
    browser.sign_in(VIEWER).await;

    let outbox = format!("/o/{}.outbox", scene.name);
    for (page, shown) in [
        ("/", "NO RELAY has ever run on this outbox"),
        (&format!("{outbox}/groups"), "too large"),
        (&format!("{outbox}/events?state=dead"), "1 to 1 of 1"),
        (&format!("{outbox}/event?id=e1"), "What to do:"),
        (&format!("{outbox}/key?key=k"), "Nothing waits behind it."),
    ] {
        browser.goto(page).await;
        browser.sees(shown).await;
    }

    // So are forms: whoever filters gets an address.
    browser.goto(&format!("{outbox}/events")).await;
    browser.fill("code", "timeout").await;
    browser.click("Filter").await;
    browser.sees("No event matches.").await;
    let address = browser.client.current_url().await.expect("an address");
    assert!(address.as_str().contains("code=timeout"), "{address}");
}
