//! What holds for every verb: help that works, no server, a wrong password, a reader that has gone.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use bson::{Bson, doc};
use clap::CommandFactory;
use outboxd::cli::Cli;

use crate::docs::commands;
use crate::support::{Mongod, OUTBOXD, Relay, Scene, outboxd_with, terminal, until};

const SECRET: &str = "wrong-horse";
const ID: &str = "6745f0a1b2c3d4e5f6a7b8c9";

/// Each verb that asks MongoDB, and what it prints when there is nothing to tell.
const ASK_MONGODB: &[&[&str]] = &[
    &["stats"],
    &["groups"],
    &["list"],
    &["audit"],
    &["show", ID],
    &["retry-now", ID, "--yes"],
    &["retry-now", "--all", "--dry-run"],
    &["discard", ID, "--yes"],
    &["edit", ID, "--set", "subject=a"],
    &["migrate"],
    &["migrate", "--status"],
    &["watch", "--count", "1"],
    &["check"],
];

#[test]
fn every_verb_shows_examples_that_are_right() {
    let command = Cli::command();
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        let help = verb
            .get_after_help()
            .unwrap_or_else(|| panic!("{} has no example", verb.get_name()))
            .to_string();
        let examples: Vec<_> =
            help.lines().filter(|line| line.trim_start().starts_with("outboxd ")).collect();
        assert!(!examples.is_empty(), "{help}");
        for example in examples {
            let words = commands::of("outboxd", example);
            assert!(!words.is_empty(), "{example}");
            for words in words {
                assert_eq!(commands::refused(&words), None, "{example}");
            }
            assert!(
                example.trim().starts_with(&format!("outboxd {}", verb.get_name())),
                "{example}"
            );
        }
    }
}

#[test]
fn the_version_names_the_commit() {
    let output = Command::new(OUTBOXD).arg("--version").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let commit = said
        .strip_prefix(concat!("outboxd ", env!("CARGO_PKG_VERSION"), " ("))
        .and_then(|rest| rest.strip_suffix(")\n"));
    let commit = commit.unwrap_or_else(|| panic!("{said}"));
    // A copy without its repository doesn't know.
    assert!(
        commit == "unknown commit"
            || commit.len() == 12 && commit.bytes().all(|b| b.is_ascii_hexdigit()),
        "{said}"
    );
}

#[test]
fn shells_and_man_are_served() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = Command::new(OUTBOXD).args(["completions", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && script.contains("retry-now"), "{shell}: {script}");
    }
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    let output = Command::new(OUTBOXD).arg("man").arg(&pages).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    for page in ["outboxd.1", "outboxd-retry-now.1", "outboxd-config-check.1"] {
        let page = std::fs::read_to_string(pages.join(page)).unwrap();
        assert!(page.contains(".SH NAME") && page.contains("outboxd"), "{page}");
    }
    let output = Command::new(OUTBOXD).args(["man", "/proc/nowhere"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("cannot write to /proc/nowhere; name a writable folder"), "{said}");
}

/// Runs a verb; returns its exit code, what it said, and what the system showed of it meanwhile.
fn watched(
    scene: &Scene,
    args: &[&str],
    settings: &[(&str, &str)],
) -> (Option<i32>, String, String) {
    let mut child = Command::new(OUTBOXD)
        .env_clear()
        .envs(scene.env())
        .envs(settings.iter().copied())
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let arguments =
        std::fs::read_to_string(format!("/proc/{}/cmdline", child.id())).unwrap_or_default();
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    (child.wait().unwrap().code(), out + &err, arguments)
}

#[tokio::test]
async fn without_mongodb_every_verb_says_so_and_fails() {
    let scene = Scene::bare().await;
    let uri = format!("mongodb://svc:{SECRET}@127.0.0.1:1/shop?serverSelectionTimeoutMS=300");
    for args in ASK_MONGODB {
        let (code, said, arguments) = watched(&scene, args, &[("MONGODB_URI", &uri)]);
        assert_eq!(code, Some(1), "{args:?}: {said}");
        assert!(said.contains("127.0.0.1:1"), "{args:?} names whom it could not reach: {said}");
        assert!(
            !said.contains(SECRET) && !arguments.contains(SECRET),
            "{args:?}: {said} {arguments}"
        );
        assert!(!said.contains("panicked") && !said.contains("Kind:"), "{args:?}: {said}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_by_every_verb_and_shown_by_none() {
    let (scene, mongod) = (Scene::bare().await, Mongod::with_users().await);
    let uri = mongod.uri("admin", SECRET, "shop");
    let settings = [("MONGODB_URI", uri.as_str())];
    for args in ASK_MONGODB {
        let (code, said, arguments) = watched(&scene, args, &settings);
        assert_eq!(code, Some(1), "{args:?}: {said}");
        let lower = said.to_lowercase();
        assert!(
            lower.contains("authentication failed") || lower.contains("was refused"),
            "{args:?}: {said}"
        );
        assert!(
            !said.contains(SECRET) && !arguments.contains(SECRET),
            "{args:?}: {said} {arguments}"
        );
    }
    // The relay waits for someone to mend it.
    let relay = Relay::start(
        &scene,
        &[settings[0], ("NATS_TOKEN", SECRET), ("OUTBOXD_LOG__LEVEL", "trace")],
    );
    relay.says("trying again").await;
    let arguments = std::fs::read_to_string(format!("/proc/{}/cmdline", relay.pid())).unwrap();
    assert!(!relay.log().contains(SECRET) && !arguments.contains(SECRET), "{}", relay.log());
    assert_eq!(relay.stop(), Some(0));
    let (code, said) = outboxd_with(&scene, &["config", "print"], &settings);
    assert_eq!((code, said.contains(SECRET)), (Some(0), false), "{said}");
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_error() {
    let scene = Scene::new().await;
    let refused = doc! { "code": "not-covered" };
    let stuck = (0..500).map(|n| {
        doc! {
            "_id": n.to_string(), "subject": "x", "payload": "y".repeat(100), "isLocked": false,
            "failures": [refused.clone()],
        }
    });
    scene.events.insert_many(stuck).bypass_document_validation(true).await.unwrap();
    let more: &[&[&str]] = &[
        &["list", "--limit", "500", "--output", "json"],
        &["watch", "--interval", "100ms"],
        &["show", "7"],
        &["config", "print"],
        &["config", "schema"],
        &["explain"],
        &["completions", "bash"],
        &["--help"],
        &["migrate", "--print"],
    ];
    for args in [&["stats"], &["groups"], &["list"], &["audit"], &["check"]]
        .map(|args: &[&str; 1]| &args[..])
        .iter()
        .chain(more)
    {
        let mut child = Command::new(OUTBOXD)
            .env_clear()
            .envs(scene.env())
            .args(*args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        // What check found is told by its exit code all the same.
        let code = i32::from(args[0] == "check");
        assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(code), ""), "{args:?}");
    }
    // One that can't take more is an error.
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(OUTBOXD)
        .env_clear()
        .envs(scene.env())
        .arg("stats")
        .stdout(full)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        (output.status.code(), said.contains("standard output can't be written")),
        (Some(1), true),
        "{said}"
    );
}

#[tokio::test]
async fn what_an_event_says_is_never_obeyed_by_a_terminal_or_a_shell() {
    let scene = Scene::new().await;
    let failure = doc! { "at": bson::DateTime::now(), "attempt": 1_i64, "class": "\x1b[2Jc", "code": "$(x)", "error": "\x1b]0;e\x07\nfake", "relay": "\x1br" };
    let hostile = doc! {
        "_id": "'; reboot \x1b[31m", "subject": "\x1b[2J", "key": "\x1b[3Jk\n", "payload": "\x1b[2J", "isLocked": false,
        "ts": bson::Timestamp { time: 1, increment: 1 }, "failures": [failure], "\x1b[4J": "\x1b[2J",
    };
    scene.events.insert_one(hostile).bypass_document_validation(true).await.unwrap();
    // Shapes that no outboxd writes.
    for (id, failures) in [
        ("o", doc! { "0": 1 }.into()),
        ("n", Bson::Array(vec![5.into()])),
        ("e", Bson::Array(vec![doc! { "error": {} }.into()])),
    ] {
        let odd = doc! { "_id": id, "isLocked": false, "failures": failures };
        scene.events.insert_one(odd).bypass_document_validation(true).await.unwrap();
    }
    let id = "'; reboot \x1b[31m";
    for args in [
        &["stats"][..],
        &["list"],
        &["groups"],
        &["show", id, "--payload"],
        &["watch", "--count", "1"],
        &["check"],
        &["retry-now", "--all", "--dry-run"],
    ] {
        let (code, said) = outboxd_with(&scene, args, &[]);
        assert!(code == Some(0) || args == ["check"], "{args:?}: {said}");
        assert!(said.chars().all(|c| c == '\n' || !c.is_control()), "{args:?}: {said:?}");
    }
    let (_, said) = outboxd_with(&scene, &["list", "--code", "$(x)"], &[]);
    assert!(said.contains(r#""'; reboot \u001b[31m""#), "{said}");
    let (_, said) = outboxd_with(&scene, &["groups", "--code", "$(x)"], &[]);
    let group = said.split("outboxd groups ").nth(1).unwrap()[..8].to_owned();
    assert!(said.contains(&format!("`outboxd groups {group} --code '$(x)'`")), "{said}");
    let (_, said) = outboxd_with(&scene, &["groups", &group], &[]);
    assert!(said.contains(r#"outboxd show '"'\''; reboot \u001b[31m"'"#), "{said}");
}

#[tokio::test]
async fn watch_draws_on_a_terminal_and_gives_it_back() {
    let scene = Scene::new().await;
    let relay = Relay::leading(&scene, &[]).await;
    let admin = format!("http://{}", relay.admin().await);
    scene.commit((0..50).map(|n| scene.event(&format!("k{n}"), 1))).await;
    let failed = doc! { "_id": "f", "subject": "x", "payload": {}, "isLocked": false, "deadAt": bson::DateTime::now(), "failures": [{ "code": "not-covered", "class": "config", "error": "e" }] };
    scene.events.insert_one(failed).bypass_document_validation(true).await.unwrap();
    for (quit, columns) in [("q", 80), ("\x03", 160)] {
        let args = ["watch", "--interval", "100ms", "--admin", &admin];
        let (mut child, mut terminal) = terminal::on_terminal(&args, scene.env(), columns);
        let mut said = String::new();
        let mut taken = [0; 4096];
        while !said.contains("/s") || !said.contains("not-covered") {
            let read = terminal.read(&mut taken).unwrap();
            said.push_str(&String::from_utf8_lossy(&taken[..read]));
        }
        for part in [
            "\x1b[?1049h",
            "q quits",
            "relayed by",
            "backlog",
            "\x1b[31m",
            "`outboxd groups` shows",
        ] {
            assert!(said.contains(part), "{part:?} in {said}");
        }
        terminal.write_all(quit.as_bytes()).unwrap();
        while let Ok(read @ 1..) = terminal.read(&mut taken) {
            said.push_str(&String::from_utf8_lossy(&taken[..read]));
        }
        assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");
        assert!(said.contains("\x1b[?25h") && said.trim_end().ends_with("\x1b[?1049l"), "{said:?}");
    }
    // Plain where there is no terminal; and what it shows is true.
    let (code, said) = outboxd_with(
        &scene,
        &["watch", "--count", "2", "--interval", "100ms", "--admin", &admin],
        &[],
    );
    assert_eq!((code, said.contains('\x1b')), (Some(0), false), "{said}");
    let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in ["published 0/s", "backlog 1 ", "dead 1 "] {
        assert!(words.contains(part), "{part:?} in {said}");
    }
    assert_eq!(relay.stop(), Some(0));
    let said = until("it is seen that nobody relays", async || {
        let (code, said) = outboxd_with(&scene, &["watch", "--count", "1", "--admin", &admin], &[]);
        assert_eq!(code, Some(0), "{said}");
        said.contains("NO RELAY").then_some(said)
    })
    .await;
    assert!(said.contains(&format!("unknown: {admin} does not answer")), "{said}");
}
