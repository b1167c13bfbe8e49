//! `outboxd migrate` creates the stream, or prints lines by which it can: each line is run here, and
//! afterwards `check` passes.

use async_nats::jetstream::stream::Config;
use bson::doc;

use crate::support::{
    ALONE, NatsCluster, NatsServer, Relay, Scene, mongodb_uri, outboxd, outboxd_with, until,
};

type Settings<'a> = [(&'a str, &'a str)];

/// An account with these limits, which everybody is in.
async fn limited(limits: &str) -> NatsServer {
    let account = format!(
        "accounts {{ A: {{ jetstream: {{ {limits} }}, users: [{{ user: a, password: a }}] }} }}\n\
         no_auth_user: a\n"
    );
    NatsServer::with_config(&account).await
}

/// The assignments in front of `outboxd migrate` in the first line that has some.
fn pasted(said: &str) -> Vec<(String, String)> {
    let line =
        said.lines().find(|line| line.contains("$ OUTBOXD_") && line.contains("outboxd migrate"));
    let line = line.unwrap_or_else(|| panic!("no line to paste in {said}"));
    let command = line.split("$ ").nth(1).unwrap().split("outboxd migrate").next().unwrap();
    let assigned = command.split_whitespace().filter_map(|word| word.split_once('='));
    assigned.map(|(name, text)| (name.to_owned(), text.trim_matches('\'').to_owned())).collect()
}

/// `migrate` is refused with these words, and succeeds once its line was pasted.
async fn refused(scene: &Scene, settings: &Settings<'_>, words: &[&str]) {
    let (code, said) = outboxd_with(scene, &["migrate"], settings);
    assert_eq!(code, Some(1), "{said}");
    for word in words {
        assert!(said.contains(word), "{word} in {said}");
    }

    let pasted = pasted(&said);
    let mut with = settings.to_vec();
    with.extend(pasted.iter().map(|(name, text)| (name.as_str(), text.as_str())));
    let (code, said) = outboxd_with(scene, &["migrate"], &with);
    assert_eq!((code, said.contains("created")), (Some(0), true), "{with:?}: {said}");
    let (code, said) = outboxd_with(scene, &["check"], &with);
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test]
async fn an_account_that_requires_a_size_gets_a_line_with_one_and_check_and_run_say_so_first() {
    let nats = limited("max_bytes_required: true, max_file: 10G").await;
    let scene = Scene::on(&nats).await;
    let line = "$ OUTBOXD_STREAM__MAX_BYTES=1073741824 outboxd migrate";
    let (_, said) = outboxd(&scene, &["check"]);
    assert!(said.contains("can't be created") && said.contains(line), "{said}");
    refused(&scene, &[], &["10113", "requires a limit of bytes", line]).await;

    scene.context.delete_stream(&scene.stream).await.unwrap();
    let (code, said) = outboxd(&scene, &["run"]);
    assert_eq!((code, said.contains(line)), (Some(1), true), "{said}");

    let found = scene.context.get_stream(&scene.stream).await;
    assert!(found.is_err(), "run creates nothing");
    let stream = ["OUTBOXD_STREAM__MAX_BYTES", "OUTBOXD_STREAM__COMPRESSION"];
    let (code, said) =
        outboxd_with(&scene, &["migrate"], &[(stream[0], "1_000_000_000"), (stream[1], "s2")]);
    assert_eq!(code, Some(0), "{said}");
    let found = scene.context.get_stream(&scene.stream).await.unwrap();
    let config = &found.cached_info().config;
    assert_eq!(config.max_bytes, 1_000_000_000);
    assert_eq!(config.compression, Some(async_nats::jetstream::stream::Compression::S2));
    // Larger than the stream is.
    let (_, said) = outboxd_with(&scene, &["check"], &[(stream[0], "2000000000")]);
    assert!(said.contains("stream.as_configured") && said.contains("--max-bytes=2000000000"));
}

#[tokio::test]
async fn each_limit_of_an_account_or_a_server_has_its_line() {
    let large = [("OUTBOXD_STREAM__MAX_BYTES", "2147483648")];
    let three = [("OUTBOXD_STREAM__REPLICAS", "3")];
    let memory = [("OUTBOXD_STREAM__STORAGE", "memory")];
    for (limits, settings, words) in [
        ("max_file: 10G, store_max_stream_bytes: 256MiB", &large[..], ["10122", "one stream"]),
        ("max_file: 1G", &large, ["10047", "storage on disk"]),
        ("max_file: 0, max_mem: 1G", &[], ["10047", "no storage on disk"]),
        ("max_file: 1G, max_mem: 0", &memory, ["10028", "memory"]),
        ("max_file: 1G", &three, ["10074", "a single server keeps one copy"]),
    ] {
        let nats = limited(limits).await;
        refused(&Scene::on(&nats).await, settings, &words).await;
    }

    let nats = limited("max_streams: 1").await;
    let scene = Scene::on(&nats).await;
    let other = Config {
        name: "OTHER".to_owned(),
        subjects: vec!["other".to_owned()],
        ..Config::default()
    };
    scene.context.create_stream(other).await.unwrap();
    for verb in ["check", "migrate"] {
        let (code, said) = outboxd(&scene, &[verb]);
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            (code, said.contains("as many streams as it may have")),
            (Some(1), true),
            "{said}"
        );
        assert!(said.contains("max_streams: <more>"), "{said}");
    }
}

#[tokio::test]
async fn what_a_server_does_not_accept_of_a_stream_has_its_line() {
    let nats = NatsServer::with_config("jetstream { limits { duplicate_window: \"1m\" } }\n").await;
    let (code, said) = outboxd(&Scene::on(&nats).await, &["migrate"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("above the server's limit") && said.contains("limits { duplicate_window")
    );

    let nats = NatsServer::with_config("").await;
    for (subjects, words) in [
        (">", "could acknowledge nothing"),
        ("$JS.>", "could acknowledge nothing"),
        ("a.*,a.b", "two of stream.subjects overlap"),
        ("a,a", "two of stream.subjects overlap"),
    ] {
        let scene = Scene::on(&nats).await;
        let (code, said) =
            outboxd_with(&scene, &["migrate"], &[("OUTBOXD_STREAM__SUBJECTS", subjects)]);
        assert_eq!((code, said.contains(words)), (Some(1), true), "{subjects}: {said}");
        assert!(said.contains("(code 500, error code 10052)"), "{said}");
    }

    let scene = Scene::on(&nats).await;
    for bad in ["a b,c", "a..b", "a.>.b", "[]", "[\"a\""] {
        let (code, said) =
            outboxd_with(&scene, &["config", "print"], &[("OUTBOXD_STREAM__SUBJECTS", bad)]);
        assert_eq!((code, said.contains("stream.subjects")), (Some(78), true), "{bad}: {said}");
    }
    let listed = format!("[\"{}\", '{}']", scene.subject("a"), scene.subject("b"));
    let (code, said) = outboxd_with(&scene, &["migrate"], &[("OUTBOXD_STREAM__SUBJECTS", &listed)]);
    assert_eq!(code, Some(0), "{said}");
    let found = scene.context.get_stream(&scene.stream).await.unwrap();
    let subjects = &found.cached_info().config.subjects;
    assert_eq!(*subjects, [scene.subject("a"), scene.subject("b")]);
}

#[tokio::test]
async fn an_overlap_names_the_other_stream() {
    let nats = NatsServer::start().await;
    let scene = Scene::on(&nats).await;
    let subjects = vec![scene.subject("taken")];
    let other = Config { name: "ORDERS".to_owned(), subjects, ..Config::default() };
    scene.context.create_stream(other).await.unwrap();
    let (code, said) = outboxd(&scene, &["migrate"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("stream ORDERS takes some of stream.subjects"), "{said}");
    assert!(said.contains("NATS_CLUSTER_ID=ORDERS"), "{said}");

    // As a user that may ask, so does check, which sends nobody to migrate.
    let (_, said) = outboxd_with(&scene, &["check"], &[("NATS_USER", "root")]);
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("stream ORDERS takes subjects of it"), "{said}");
}

#[tokio::test]
async fn a_user_that_may_not_create_streams_is_told_so() {
    let scene = Scene::bare().await;
    let relay = [("NATS_USER", "relay")];
    let (code, said) = outboxd_with(&scene, &["migrate"], &relay);
    assert_eq!(code, Some(1), "{said}");
    let denied = format!("may not publish to $JS.API.STREAM.CREATE.{}", scene.stream);
    assert!(said.contains(&denied) && said.contains("privileges --role migrate"), "{said}");
}

#[tokio::test]
async fn without_subjects_nothing_is_created_that_takes_what_others_publish() {
    let nats = NatsServer::with_config("").await;
    let scene = Scene::on(&nats).await;
    let unset = [("OUTBOXD_STREAM__SUBJECTS", "")];
    let (code, said) = outboxd_with(&scene, &["migrate"], &unset);
    assert_eq!(code, Some(78), "{said}");
    let line = "$ OUTBOXD_STREAM__SUBJECTS='<subject>,<subject>' outboxd migrate";
    assert!(
        said.contains("the subjects to create it with, is empty") && said.contains(line),
        "{said}"
    );
    let (_, said) = outboxd_with(&scene, &["check"], &unset);
    assert!(said.contains(line), "{said}");
    let request = scene.context.client().request("hi", "".into()).await;
    assert!(request.is_err(), "nobody answers requests of others");

    // The role for `migrate` may not read events.
    let root = scene.env().into_iter().find(|(name, _)| name == "MONGODB_URI").unwrap().1;
    let as_root = [unset[0], ("MONGODB_URI", root.as_str())];
    let (code, said) = outboxd_with(&scene, &["migrate", "--subjects-of-events"], &as_root);
    assert_eq!(code, Some(78), "there are no events: {said}");

    scene.commit([scene.event("a", 1), scene.event("b", 2)]).await;
    let subject = scene.events.find_one(doc! {}).await.unwrap().unwrap();
    let subject = subject.get_str("subject").unwrap().to_owned();
    let named = format!("$ OUTBOXD_STREAM__SUBJECTS={subject} outboxd migrate");
    for verb in ["migrate", "check"] {
        let (_, said) = outboxd_with(&scene, &[verb], &as_root);
        assert!(said.contains(&named), "{verb}: {said}");
    }
    let (code, said) = outboxd_with(&scene, &["migrate", "--subjects-of-events"], &as_root);
    assert_eq!(code, Some(0), "{said}");
    let found = scene.context.get_stream(&scene.stream).await.unwrap();
    assert_eq!(found.cached_info().config.subjects, [subject]);
    let (code, said) = outboxd_with(&scene, &["check"], &unset);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(outboxd_with(&scene, &["migrate"], &unset).0, Some(0));

    let (code, said) = outboxd_with(&scene, &["privileges", "--role", "relay"], &unset);
    assert_eq!((code, said.contains("stream.subjects is not set")), (Some(0), true), "{said}");
}

#[tokio::test]
async fn subjects_that_take_replies_or_requests_of_others_are_warned_of() {
    let nats = NatsServer::with_config("").await;
    for (subject, what) in [
        ("_INBOX.>", "replies to everybody's requests"),
        ("_INBOX.outboxd.*.>", "replies to everybody's requests"),
        ("$SRV.PING", "the requests by which services are found"),
        ("$KV.bucket.>", "subjects of NATS itself"),
        ("*", "takes what others publish"),
    ] {
        let scene = Scene::alone(&nats).await;
        let mut stream = scene.context.get_stream(&scene.stream).await.unwrap();
        let mut config = stream.info().await.unwrap().config.clone();
        config.subjects = vec![subject.to_owned()];
        scene.context.update_stream(&config).await.unwrap();
        let (code, said) =
            outboxd_with(&scene, &["check"], &[("OUTBOXD_STREAM__SUBJECTS", subject)]);
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(code == Some(0) && said.contains(what), "{subject}: {said}");
        scene.context.delete_stream(&scene.stream).await.unwrap();
    }

    let scene = Scene::alone(&nats).await;
    assert!(!outboxd(&scene, &["check"]).1.contains("stream.contents       client"));
    let service =
        async_nats::ConnectOptions::new().name("prices").connect(&nats.url).await.unwrap();
    let subject = scene.subject("price");
    let _requests = service.queue_subscribe(subject.clone(), "q".to_owned()).await.unwrap();
    service.flush().await.unwrap();
    let (code, said) = outboxd(&scene, &["check"]);
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let found = format!("client prices subscribes to {subject} in the queue group");
    assert!(code == Some(0) && said.contains(&found), "{said}");
}

#[tokio::test]
async fn a_stream_is_named_by_either_variable_and_codes_of_its_creation_are_explained() {
    let scene = Scene::bare().await;
    let env = |one: &'static str, other: &'static str| {
        outboxd_with(
            &scene,
            &["config", "print"],
            &[("NATS_CLUSTER_ID", one), ("NATS_STREAM", other)],
        )
    };
    let (code, said) = env("", "SHOP");
    assert_eq!((code, said.contains("environment NATS_STREAM")), (Some(0), true), "{said}");
    let (code, said) = env("SHOP", "OTHER");
    assert!(code == Some(0) && said.contains("environment NATS_CLUSTER_ID"), "{said}");

    for code in ["10113", "10122", "10027", "10074", "10065", "10052", "10047"] {
        let (exit, said) = outboxd(&scene, &["explain", code]);
        assert_eq!(exit, Some(0), "{said}");
        assert!(said.contains("outboxd migrate"), "{code}: {said}");
    }
}

#[tokio::test]
async fn a_mapping_of_the_account_is_a_warning_and_the_events_arrive() {
    let nats = NatsServer::with_config("").await;
    let scene = Scene::alone(&nats).await;
    scene.cover(&["mapped"]).await;
    let (from, to) = (scene.subject("made"), scene.subject("mapped"));
    nats.reload(&format!("mappings: {{ \"{from}\": \"{to}\" }}\n"));
    until("the mapping is known", async || {
        scene.context.publish(from.clone(), "{}".into()).await.ok()?.await.ok()
    })
    .await;
    let before = scene.messages().await.len();

    let unmapped = [("OUTBOXD_STREAM__SUBJECTS", from.as_str())];
    let relay = Relay::leading(&scene, &unmapped).await;
    assert!(relay.log().contains("unless a mapping of the account renames it"), "{}", relay.log());
    scene.commit([scene.event("a", 1), scene.event("b", 2)]).await;
    scene.drained().await;
    assert_eq!(scene.messages().await.len() - before, 2);
    let (code, said) = outboxd_with(&scene, &["check"], &unmapped);
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test]
async fn an_event_that_was_refused_proves_that_no_mapping_covers_it() {
    let nats = NatsServer::with_config("").await;
    let scene = Scene::alone(&nats).await;
    let other = outboxd_client::Event::new("elsewhere", &doc! { "a": 1 }).unwrap();
    scene.commit([other]).await;
    let (code, said) = outboxd(&scene, &["check"]);
    assert!(code == Some(0) && said.contains("warn  outbox.subjects"), "{said}");

    let relay = Relay::leading(&scene, &[]).await;
    until("the event is refused", async || {
        scene.one(doc! { "failures.code": "not-covered" }).await
    })
    .await;
    assert_eq!(relay.stop(), Some(0));
    let (code, said) = outboxd(&scene, &["check"]);
    assert!(code == Some(1) && said.contains("FAIL  outbox.subjects"), "{said}");
}

#[tokio::test]
async fn servers_that_do_not_fit_are_no_place_for_the_stream() {
    let _alone = ALONE.lock().await;
    let cluster = NatsCluster::start().await;
    let scene =
        Scene::reached(mongodb_uri(), cluster.url(), async_nats::ConnectOptions::new()).await;
    for (name, text) in
        [("PLACEMENT_TAGS", "nowhere"), ("PLACEMENT_CLUSTER", "other"), ("REPLICAS", "5")]
    {
        let setting = [(format!("OUTBOXD_STREAM__{name}"), text)];
        let setting = setting.each_ref().map(|(name, text)| (name.as_str(), *text));
        let (code, said) = outboxd_with(&scene, &["migrate"], &setting);
        assert_eq!((code, said.contains("no servers fit")), (Some(1), true), "{name}: {said}");
        assert!(said.contains("OUTBOXD_STREAM__REPLICAS=1 outboxd migrate"), "{name}: {said}");
    }
    let placed = [("OUTBOXD_STREAM__PLACEMENT_CLUSTER", "c"), ("OUTBOXD_STREAM__REPLICAS", "3")];
    let (code, said) = outboxd_with(&scene, &["migrate"], &placed);
    assert_eq!(code, Some(0), "{said}");
}
