//! What a running relay does on each signal, and where its alerts go when its file has gone.

use bson::doc;
use outboxd_client::Event;

use crate::support::pki::replace;
use crate::support::{NatsCluster, Relay, Scene, mongodb_uri, until};

async fn commit(scene: &Scene, from: u32) {
    scene.commit((from..from + 10).map(|number| scene.event("a", number))).await;
}

async fn all(scene: &Scene, to: u32) {
    scene.drained().await;
    assert_eq!(scene.numbers().await["a"], (0..to).collect::<Vec<_>>());
}

/// Waits until the log has said this so often.
async fn says(relay: &Relay, what: &str, times: usize) {
    until(&format!("the relay says {what:?} {times} times"), async || {
        (relay.log().matches(what).count() >= times).then_some(())
    })
    .await;
}

#[tokio::test]
async fn signals_reload_or_drain_or_mean_nothing_and_none_ends_a_relay_undrained() {
    let scene = Scene::new().await;
    let mut relay = Relay::leading(&scene, &[]).await;
    for (passed, name) in ["-HUP", "-USR1"].into_iter().enumerate() {
        // As after a rotation of the log.
        std::fs::remove_file(scene.alerts_file()).unwrap();
        relay.signal(name);
        says(&relay, "reopened the alert log", passed + 1).await;
        says(&relay, "nothing to reload", passed + 1).await;
        assert!(scene.alerts_file().exists());
    }
    for name in ["-USR2", "-ALRM", "-XFSZ", "-PIPE"] {
        relay.signal(name);
    }
    relay.says("signal=\"SIGXFSZ\"").await;
    commit(&scene, 0).await;
    all(&scene, 10).await;
    assert!(relay.is_running());
    assert!(!relay.log().contains("reconnecting"), "{}", relay.log());
    assert_eq!(relay.log().matches("holding the lease").count(), 1, "{}", relay.log());
    assert_eq!(relay.stop_by("-QUIT"), Some(0));

    let relay = Relay::leading(&scene, &[]).await;
    assert_eq!(relay.stop_by("-INT"), Some(0));
}

#[tokio::test]
async fn a_relay_that_waits_for_its_servers_outlives_a_reload() {
    let scene = Scene::new().await;
    let mut relay = Relay::start(&scene, &[("NATS_URL", "nats://nowhere.invalid:4222")]);
    relay.says("trying again").await;
    relay.signal("-HUP");
    relay.says("nothing to reload").await;
    assert!(relay.is_running());
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn a_reload_takes_settings_that_work_and_leaves_others_alone() {
    let scene = Scene::new().await;
    let file = scene.folder.path().join("outboxd.toml");
    let write = |text: &str| replace(&file, text);
    write("[retry]\nmax_attempts = 5\n");
    let relay = Relay::leading(&scene, &[("OUTBOXD_CONFIG", file.to_str().unwrap())]).await;

    write("[retry]\nmax_attempts = 0\n");
    relay.signal("-HUP");
    relay.says("settings changed, but cannot be used: keeping the old ones").await;
    write("[mongodb]\ncollection = \"other\"\n");
    relay.signal("-HUP");
    relay.says("restart outboxd to leave").await;
    commit(&scene, 0).await;
    all(&scene, 10).await;

    write("[retry]\nmax_attempts = 7\n");
    relay.signal("-HUP");
    relay.says("settings changed: reconnecting").await;
    commit(&scene, 10).await;
    all(&scene, 20).await;
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn alerts_go_to_a_new_file_when_theirs_was_renamed_or_removed() {
    let scene = Scene::new().await;
    let settings =
        [("OUTBOXD_ALERTS__AFTER_FAILURES", "1"), ("OUTBOXD_RETRY__MAX_ATTEMPTS", "100")];
    let relay = Relay::leading(&scene, &settings).await;
    scene.cover(&["made"]).await;
    let (file, renamed) = (scene.alerts_file(), scene.folder.path().join("alerts.jsonl-20260101"));
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();

    for id in ["first", "second", "third"] {
        let event =
            Event::new(scene.subject("uncovered"), &doc! {}).and_then(|event| event.key(id));
        scene.commit([event.unwrap()]).await;
        until(&format!("an alert about {id}"), async || read(&file).contains(id).then_some(()))
            .await;
        match id {
            "first" => std::fs::rename(&file, &renamed).unwrap(),
            "second" => std::fs::remove_file(&file).unwrap(),
            _ => {}
        }
    }
    assert!(read(&renamed).contains("first") && !read(&renamed).contains("second"));
    assert!(!read(&file).contains("second"));
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn advertised_addresses_that_cannot_be_reached_do_not_keep_a_relay_from_its_own_server() {
    // They accept connections and never answer.
    let black_holes = [(); 3].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = black_holes.each_ref().map(|hole| hole.local_addr().unwrap().to_string());
    let mut cluster = NatsCluster::advertising(addresses.clone()).await;
    let (own, users) = (cluster.url_of(0), cluster.users.clone());
    let scene = Scene::among(mongodb_uri(), own.clone(), Some(users), "1").await;
    let own = own.trim_start_matches("nats://").to_owned();

    let verbose = ("OUTBOXD_LOG__LEVEL", "info,async_nats=debug");
    for ignores in [false, true] {
        let ignore = if ignores { "ignore" } else { "use" };
        let settings = [verbose, ("OUTBOXD_NATS__DISCOVERED_SERVERS", ignore)];
        let relay = Relay::leading(&scene, &settings).await;
        let tried = || {
            let log = relay.log();
            let since = log.split("event=disconnected").nth(1).unwrap_or_default().to_owned();
            let lines = since.lines().filter(|line| line.contains("establishing connection"));
            lines.map(|line| line.contains(&own)).collect::<Vec<_>>()
        };

        cluster.kill(0);
        until("some attempts were made", async || (tried().len() >= 6).then_some(())).await;
        cluster.start_again(0);
        relay.says("event=disconnected").await;
        until("it is connected again", async || {
            let log = relay.log();
            log.split("event=disconnected").nth(1)?.contains("event=connected").then_some(())
        })
        .await;

        let tried = tried();
        assert!(tried.windows(2).all(|two| two[0] || two[1]), "{tried:?}");
        assert_eq!(tried.iter().all(|is_own| *is_own), ignores, "{tried:?}");
        assert_eq!(relay.stop(), Some(0));
    }
}
