//! Settings of the root and of the tables of a list, read by the same functions.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::{Reader, Reading, read};
use crate::config::sections::{DispatchConfig, NatsConfig, StreamConfig};
use crate::config::sources::Sources;

/// At most this many tables.
const MAX: usize = 3;

/// What a test reads of an outbox: the root is one, and so is each table `[[outbox]]`.
struct Outbox {
    stream: StreamConfig,
    nats: NatsConfig,
    dispatch: DispatchConfig,
}

fn outbox(reader: &mut Reader<'_>) -> Outbox {
    let stream = reader.section("stream", StreamConfig::read);
    let nats = reader.section("nats", |reader| NatsConfig::read(reader, &stream.name));
    let dispatch = reader.section("dispatch", DispatchConfig::read);
    Outbox { stream, nats, dispatch }
}

/// Reads a file, variables and flags: the root first, then its tables.
fn read_all(file: &str, env: &[(&str, &str)], set: &[&str]) -> (Outbox, Vec<Outbox>, Reading) {
    let on_disk = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(on_disk.path(), file).expect("a file that can be written");

    let text = |text: &&str| (*text).to_owned();
    let sources = Sources {
        file: Some(on_disk.path().to_owned()),
        env: env.iter().map(|(name, value)| (text(name), text(value))).collect(),
        set: set.iter().map(text).collect(),
        ..Sources::default()
    };

    let ((root, tables), reading) =
        read(&sources, |root| (outbox(root), root.tables("outbox", 0..=MAX, outbox)));
    (root, tables, reading)
}

/// The mistakes, without the names of temporary files.
fn mistakes(reading: &Reading) -> Vec<String> {
    let without_source = |line: &String| match line.rsplit_once(" (/") {
        Some((line, _)) => line.to_owned(),
        None => line.clone(),
    };
    reading.mistakes.iter().map(without_source).collect()
}

const TWO: &str = r#"
[stream]
name = "SHOP"
replicas = 3

[[outbox]]
stream.name = "TICKETS"
[outbox.dispatch]
max_in_flight = 7

[[outbox]]
stream = { name = "ORDERS", replicas = 1 }
"#;

#[test]
fn a_table_of_a_list_overrides_the_root() {
    let (root, tables, reading) = read_all(TWO, &[], &[]);
    assert_eq!(mistakes(&reading), Vec::<String>::new());

    let names = |outbox: &Outbox| (outbox.stream.name.clone(), outbox.stream.replicas);
    assert_eq!(names(&root), ("SHOP".to_owned(), 3));
    assert_eq!(
        tables.iter().map(names).collect::<Vec<_>>(),
        [("TICKETS".to_owned(), 3), ("ORDERS".to_owned(), 1)]
    );
    assert_eq!(root.dispatch.max_in_flight, 1024);
    assert_eq!(
        tables.iter().map(|outbox| outbox.dispatch.max_in_flight).collect::<Vec<_>>(),
        [7, 1024]
    );
    // A default is computed from the table's own settings.
    assert_eq!(tables[1].nats.inbox_prefix, "_INBOX.outboxd.ORDERS");
}

#[test]
fn without_a_list_there_are_no_tables() {
    let (_, tables, reading) = read_all("[stream]\nname = \"SHOP\"\n", &[], &[]);
    assert!(tables.is_empty());
    assert_eq!(mistakes(&reading), Vec::<String>::new());
}

#[test]
fn flags_and_the_environment_set_the_root_and_not_a_table_that_sets_it_itself() {
    let env = [("NATS_CLUSTER_ID", "ENV"), ("OUTBOXD_NATS__ACK_TIMEOUT", "2s")];
    let (root, tables, reading) = read_all(TWO, &env, &["stream.replicas=5"]);
    assert_eq!(mistakes(&reading), Vec::<String>::new());
    assert_eq!((root.stream.name.as_str(), root.stream.replicas), ("ENV", 5));
    assert_eq!((tables[0].stream.name.as_str(), tables[0].stream.replicas), ("TICKETS", 5));
    assert_eq!(tables[1].stream.replicas, 1);
    assert_eq!(tables[0].nats.ack_timeout, Duration::from_secs(2));
}

#[test]
fn flags_and_the_environment_cannot_reach_into_a_table() {
    let env = [("OUTBOXD_OUTBOX__0__STREAM__NAME", "X"), ("OUTBOXD_OUTBOX__STREAM", "X")];
    let set = ["outbox[1].stream.name=X", "outbox=X"];
    let (_, tables, reading) = read_all(TWO, &env, &set);

    assert_eq!(tables[1].stream.name, "ORDERS");
    assert_eq!(
        mistakes(&reading),
        [
            "outbox: only the file can hold tables [[outbox]] (flag --set)",
            "outbox.0.stream.name: only the file can hold tables [[outbox]] \
             (environment OUTBOXD_OUTBOX__0__STREAM__NAME)",
            "outbox.stream: only the file can hold tables [[outbox]] \
             (environment OUTBOXD_OUTBOX__STREAM)",
            "outbox[1].stream.name: only the file can hold tables [[outbox]] (flag --set)",
        ]
    );
}

#[test]
fn a_mistake_names_the_table_it_stands_in() {
    let file = r#"
        [stream]
        name = "SHOP"
        [[outbox]]
        [[outbox]]
        stream.replicas = 9
        dispatch.max_in_flight = "many"
        [[outbox]]
        stream = { name = "A B", nam = "C" }
        streams.name = "D"
    "#;

    let (_, _, reading) = read_all(file, &[], &[]);
    assert_eq!(
        mistakes(&reading),
        [
            "outbox[1].stream.replicas: 9 is out of range; give 1 to 5",
            "outbox[1].dispatch.max_in_flight: give a whole number, not \"many\"",
            "outbox[2].stream.name: a stream's name has no spaces and none of `* > . / \\`",
            "outbox[2].stream.nam: there is no such setting; \
             the nearest is `outbox[2].stream.name`",
            "outbox[2].streams.name: there is no such setting; \
             the nearest is `outbox[2].stream.name`",
        ]
    );
}

#[test]
fn a_mistake_that_tables_take_from_the_root_is_reported_once() {
    let file = "[stream]\nname = \"A B\"\nreplicas = 9\n[[outbox]]\n[[outbox]]\n";
    let (_, tables, reading) = read_all(file, &[], &[]);
    assert_eq!(tables.len(), 2);
    assert_eq!(
        mistakes(&reading),
        [
            "stream.name: a stream's name has no spaces and none of `* > . / \\`",
            "stream.replicas: 9 is out of range; give 1 to 5",
        ]
    );
}

#[test]
fn a_list_is_written_as_a_list_and_is_bounded() {
    let (_, tables, reading) =
        read_all("[stream]\nname = \"A\"\n[outbox]\nstream.name = \"B\"\n", &[], &[]);
    assert!(tables.is_empty());
    assert_eq!(mistakes(&reading), ["outbox.stream.name: `outbox` is a list; write [[outbox]]"]);

    let (_, tables, reading) =
        read_all(&("[stream]\nname = \"A\"\n".to_owned() + &"[[outbox]]\n".repeat(4)), &[], &[]);
    assert_eq!(tables.len(), MAX);
    assert_eq!(mistakes(&reading), ["outbox: has 4 tables [[outbox]]; give 0 to 3"]);
}

#[test]
fn a_section_is_no_list() {
    let (_, _, reading) = read_all("[[stream]]\nname = \"A\"\n", &[], &[]);
    assert_eq!(
        mistakes(&reading),
        ["stream[0].name: there is no such setting; the nearest is `stream.name`"]
    );
}

#[test]
fn a_secret_of_a_table_overrides_either_form_at_the_root() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str, secret: &str| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, secret).expect("a file that can be written");
        path
    };

    let (root_file, table_file) = (path("root", "of-root\n"), path("table", "of-table\n"));
    let file = format!(
        "[stream]\nname = \"A\"\n[nats]\ntoken_file = {root_file:?}\n\
         [[outbox]]\n\
         [[outbox]]\nnats.token = \"direct\"\n\
         [[outbox]]\nnats.token_file = {table_file:?}\n"
    );

    let (root, tables, reading) = read_all(&file, &[], &[]);
    assert_eq!(mistakes(&reading), Vec::<String>::new());

    let token = |outbox: &Outbox| {
        let token = outbox.nats.credentials.token.as_ref().expect("a token");
        token.expose_secret().to_owned()
    };
    assert_eq!(token(&root), "of-root");
    assert_eq!(tables.iter().map(token).collect::<Vec<_>>(), ["of-root", "direct", "of-table"]);
    assert_eq!(reading.files.len(), 2, "each file is remembered once: {:?}", reading.files);

    let both = "[stream]\nname = \"A\"\n[[outbox]]\nnats.token = \"a\"\nnats.token_file = \"b\"\n";
    let (_, _, reading) = read_all(both, &[], &[]);
    assert_eq!(
        mistakes(&reading),
        ["outbox[0].nats.token: is set by `outbox[0].nats.token` and by \
             `outbox[0].nats.token_file`; keep one"]
    );
}

#[test]
fn a_file_variable_of_a_setting_that_is_no_secret_is_a_mistake() {
    let env = [("NATS_CLUSTER_ID", "A"), ("NATS_CREDS_FILE", "/run/creds")];
    let (_, _, reading) = read_all("", &env, &[]);
    assert_eq!(
        reading.mistakes,
        ["environment NATS_CREDS_FILE: `nats.creds` is not a secret; write NATS_CREDS"]
    );
}
