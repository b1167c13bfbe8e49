//! The configuration: every mistake at once, secrets masked, the shipped file complete and true.

use std::process::Command;

use outboxd::config::{Config, Fleet, Sources};

use crate::support::OUTBOXD;

/// The file with every setting, which is generated from the settings.
const SHIPPED: &str = "config/outboxd.toml";

fn sources(env: &[(&str, &str)]) -> Sources {
    let base = [("MONGODB_URI", "mongodb://127.0.0.1/shop"), ("NATS_CLUSTER_ID", "SHOP")];
    let env = base
        .iter()
        .chain(env)
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect();
    Sources { file: None, env, ..Sources::default() }
}

#[test]
fn every_mistake_is_reported_at_once_and_nothing_starts() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        "[dispatch]\nmax_inflight = 3\n[retry]\ncron = \"soon\"\nmax_delay = 5\n",
    )
    .unwrap();
    let output = Command::new(OUTBOXD)
        .env_clear()
        .env("MONGODB_URI", "postgres://user:hunter2@db/shop")
        .env("OUTBOXD_LEASE__TTL", "1h")
        .env("OUTBOXD_MONGODB_COLLECTION", "events")
        .args(["run", "--config"])
        .arg(file.path())
        .args(["--set", "nats.token=hunter2"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    for part in [
        "mongodb.uri: is not a connection string",
        "lease.ttl: \"1h\" is out of range; give \"1s\" to \"5m\"",
        "environment OUTBOXD_MONGODB_COLLECTION: two underscores separate names; write OUTBOXD_MONGODB__COLLECTION",
        "dispatch.max_inflight: there is no such setting; the nearest is `dispatch.max_in_flight`",
        "retry.cron: is not a cron expression",
        "retry.max_delay: give a duration with its unit",
        "stream.name: is not set",
        "nats.token: a secret in an argument is seen by every process",
    ] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
    assert!(!said.contains("outboxd starts"), "{said}");
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        "[dispatch]\nmax_in_flight = 1\nmax_buffered_events = 1\n[nats]\nclient_id = \"file\"\n",
    )
    .unwrap();
    let mut sources =
        sources(&[("OUTBOXD_DISPATCH__MAX_IN_FLIGHT", "2"), ("NATS_CLIENT_ID", "pod-1")]);
    sources.file = Some(file.path().to_owned());
    sources.set = vec!["dispatch.max_in_flight=3".to_owned()];
    let config = Config::load(&sources).unwrap();
    assert_eq!(config.dispatch.max_in_flight, 3);
    assert_eq!(config.dispatch.max_buffered_events, 1);
    assert_eq!(config.nats.client_id, "pod-1");
    assert_eq!(config.mongodb.collection, "outbox");
}

#[test]
fn secrets_come_from_files_and_are_never_shown() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "hunter2\n").unwrap();
    let path = file.path().to_str().unwrap();
    let env = [
        ("MONGODB_URI", "mongodb://u:hunter2@db/shop"),
        ("NATS_USER", "svc"),
        ("NATS_PASSWORD_FILE", path),
    ];
    let config = Config::load(&sources(&env)).unwrap();
    assert!(config.nats.credentials.password.is_some());
    let shown = format!("{config}{config:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(config.to_string().contains("password = \"***\""), "{config}");
    assert!(
        config.to_string().contains(&format!("# file {path}, environment NATS_PASSWORD_FILE")),
        "{config}"
    );

    let both = [("NATS_USER", "svc"), ("NATS_PASSWORD", "hunter2"), ("NATS_PASSWORD_FILE", path)];
    let error = Config::load(&sources(&both)).unwrap_err().to_string();
    assert!(
        error.contains("is set by `nats.password` and by `nats.password_file`; keep one"),
        "{error}"
    );
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn the_shipped_file_has_every_setting_at_its_default() {
    let text = std::fs::read_to_string(SHIPPED).unwrap();
    let mut from_file = sources(&[("NATS_CLIENT_ID", "pod")]);
    from_file.file = Some(SHIPPED.into());

    let from_file = Config::load(&from_file).unwrap().to_string();
    let defaults = Config::load(&sources(&[("NATS_CLIENT_ID", "pod")])).unwrap().to_string();
    let values = |text: &str| {
        text.lines()
            .map(|line| line.split(" # ").next().unwrap().trim().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(values(&from_file), values(&defaults));

    let mut section = String::new();
    for line in defaults.lines() {
        if line.starts_with('[') {
            section = line.to_owned();
        }
        let name = line.trim_start_matches("# ").split(' ').next().unwrap();
        let in_section =
            text.split(&section).nth(1).unwrap_or_default().split("\n[").next().unwrap();
        let there = in_section
            .lines()
            .any(|line| line.trim_start_matches("# ").starts_with(&format!("{name} =")));
        assert!(
            name.is_empty() || name.starts_with('[') || there,
            "{section} {name} is missing in config/outboxd.toml"
        );
    }
}

#[test]
fn every_example_in_the_shipped_file_is_accepted() {
    let names: Vec<_> = Fleet::settings()
        .iter()
        .filter(|setting| setting.example.is_some())
        .map(|setting| setting.place().1.to_owned())
        .collect();
    let is_example = |line: &str| names.iter().any(|name| line.starts_with(&format!("{name} = ")));
    let text = std::fs::read_to_string(SHIPPED).unwrap();
    let lines = text.lines().map(|line| match line.strip_prefix("# ") {
        Some(example) if is_example(example) => format!("{example}\n"),
        _ => format!("{line}\n"),
    });

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), lines.collect::<String>()).unwrap();
    let missing = Fleet::check(file.path()).unwrap().missing;
    // The files that the examples name are not on this machine.
    assert_eq!(missing.len(), 4, "{missing:#?}");
    assert!(missing.iter().all(|line| line.contains("/run/secrets/")), "{missing:#?}");
}

#[test]
fn a_file_that_is_not_toml_is_reported_by_its_place_and_not_by_its_line() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[nats]\nuser = \"svc\"\npassword = \"hunter2\n").unwrap();
    let mut sources = sources(&[]);
    sources.file = Some(file.path().to_owned());
    let error = Config::load(&sources).unwrap_err().to_string();
    assert!(error.contains("line 3"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(OUTBOXD).env_clear().args(args).output().unwrap();
    let [said, complained] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code(), said, complained)
}

#[test]
fn the_schema_takes_what_outboxd_takes() {
    let (code, schema, _) = run(&["config", "schema"]);
    assert_eq!(code, Some(0));
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    jsonschema::meta::validate(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let takes =
        |file: &str| validator.is_valid(&toml::from_str::<serde_json::Value>(file).unwrap());
    assert!(takes(&std::fs::read_to_string(SHIPPED).unwrap()));
    for good in [
        "",
        "[mongodb]\nuri_file = \"/run/secrets/uri\"",
        "[retry]\nbase_delay = \"1m 30s\"\nmax_attempts = 10000",
        "[stream]\nsubjects = [\"ticket:*\"]",
        "[[outbox]]\ndatabase = \"a\"\nstream = \"A\"\nkeep.for = \"1h\"",
        "[[outbox]]\nmongodb.database = \"a\"\n[outbox.stream]\nname = \"A\"\nreplicas = 3",
    ] {
        assert!(takes(good), "{good}");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), good).unwrap();
        Fleet::check(file.path()).unwrap();
    }
    for bad in [
        "[dispatch]\nmax_inflight = 3",
        "[dispatch]\nmax_in_flight = 0",
        "[dispatch]\nmax_in_flight = \"many\"",
        "[dispatch]\nordering = \"global\"",
        "[retry]\nbase_delay = 5",
        "[retry]\nbase_delay = \"5\"",
        "[retries]\nbase_delay = \"5s\"",
        "[stream]\nsubjects = [5]",
        "[outbox]\ndatabase = \"a\"",
        "[[outbox]]\nlog.level = \"debug\"",
        "[[outbox]]\nstream = 5",
    ] {
        assert!(!takes(bad), "{bad}");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bad).unwrap();
        Fleet::check(file.path()).expect_err(bad);
    }

    // Each setting has a description.
    for (section, of) in schema["properties"].as_object().unwrap() {
        let of = if section == "outbox" { &of["items"] } else { of };
        for (name, setting) in of["properties"].as_object().unwrap() {
            // A short name that is a section's, too, has both.
            let setting = setting.pointer("/anyOf/0").unwrap_or(setting);
            let is_section = section == "outbox" && setting["properties"].is_object();
            if is_section {
                continue;
            }
            assert!(
                setting["description"].as_str().is_some_and(|text| text.len() > 10),
                "{section}.{name}: {setting}"
            );
        }
    }
}

#[test]
fn every_variable_of_the_schema_is_read() {
    let outcome = |sources: &Sources| match Config::load(sources) {
        Ok(config) => config.to_string(),
        Err(error) => error.to_string(),
    };

    let schema = Fleet::schema();
    let mut read = 0;
    for (section, of) in schema["properties"].as_object().unwrap() {
        // The environment reaches no table.
        for (name, setting) in of["properties"].as_object().into_iter().flatten() {
            let mut sources = sources(&[]);
            if section == "mongodb" && name.starts_with("uri") {
                sources.env.retain(|(name, _)| name != "MONGODB_URI");
            }
            if section == "stream" && name == "name" {
                sources.env.retain(|(name, _)| name != "NATS_CLUSTER_ID");
            }
            let without = outcome(&sources);

            for variable in setting["x-environment"].as_array().unwrap() {
                let variable = variable.as_str().unwrap().to_owned();
                let mut sources = sources.clone();
                sources.env.insert(0, (variable.clone(), "[".to_owned()));
                assert_ne!(outcome(&sources), without, "{variable} changes nothing");
                read += 1;
            }
        }
    }
    assert!(read > 60, "{read}");
}

#[test]
fn a_file_is_checked_by_itself() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let text = "[admin]\nlisten = \"0.0.0.0:9464\"\n[nats]\ncreds = \"/nowhere/creds\"\n[stream]\nname = \"SHOP\"\n";
    std::fs::write(file.path(), text).unwrap();
    let (code, said, complained) = run(&["config", "check", path]);
    assert_eq!((code, complained.as_str()), (Some(0), ""));
    for part in [
        "no mistake",
        "mongodb.uri: is not set",
        "admin.listen: is not on loopback",
        "nats.creds: the file",
    ] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
    assert!(!said.contains("stream.name"), "{said}");

    std::fs::write(file.path(), "[stream]\nname = \"A B\"\nduplicate_windw = \"1m\"\n").unwrap();
    let (code, said, complained) = run(&["config", "check", path]);
    assert_eq!((code, said.as_str()), (Some(78), ""));
    for part in [
        "2 mistakes in",
        "stream.name: a stream's name has no spaces",
        "nearest is `stream.duplicate_window`",
    ] {
        assert!(complained.contains(part), "{part:?} in {complained}");
    }
    let (code, _, complained) = run(&["config", "check", "/nowhere/outboxd.toml"]);
    assert_eq!(code, Some(78), "{complained}");
}
