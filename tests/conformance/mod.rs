//! The cases that every client passes, `clients/conformance/*.json`, run with the Rust client
//! against MongoDB, a relay and NATS. `clients/README.md` describes the format.
//!
//! A file or a field that the runner does not know fails, so no case is passed over in silence.

mod consumed; // messages in; verdicts, copies, ids and messages put aside out
mod written; // events in; documents and messages, or refusals out

use bson::{Bson, Document, doc};
use serde::de::DeserializeOwned;

const FOLDER: &str = "clients/conformance";
/// The files that the runner knows.
const FILES: [&str; 8] =
    ["headers", "inboxes", "keys", "listeners", "payloads", "replicas", "scheduled", "subjects"];

#[test]
fn every_file_has_a_runner() {
    let files = std::fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<_> = files.map(|path| path.file_stem().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, FILES);
}

/// The cases of a file.
fn cases<T: DeserializeOwned>(name: &str) -> Vec<T> {
    let read = |case: Document| {
        let shown = case.get_str("name").unwrap().to_owned();
        bson::deserialize_from_document(case)
            .unwrap_or_else(|error| panic!("{name}: {shown}: {error}"))
    };
    documents(name).map(read).collect()
}

/// The cases of a file as they are, with their macros written out.
fn documents(name: &str) -> impl Iterator<Item = Document> {
    let text = std::fs::read_to_string(format!("{FOLDER}/{name}.json")).unwrap();
    let file: Document = serde_json::from_str(&text).unwrap();
    let cases = file.get_array("cases").unwrap();
    assert!(!cases.is_empty(), "{name} has no cases");

    let cases: Vec<_> = cases.iter().map(written_out).collect();
    cases.into_iter().map(|case| case.as_document().expect("a case has fields").clone())
}

fn written_out(value: &Bson) -> Bson {
    let fields = match value {
        Bson::Array(values) => return values.iter().map(written_out).collect(),
        Bson::Document(fields) => fields,
        other => return other.clone(),
    };

    if let Ok(repeat) = fields.get_array("$repeat") {
        return repeat[0].as_str().unwrap().repeat(number(&repeat[1])).into();
    }
    if let Ok(parts) = fields.get_array("$concat") {
        let parts = parts.iter().map(written_out);
        return parts.map(|part| part.as_str().unwrap().to_owned()).collect::<String>().into();
    }
    if let Some(levels) = fields.get("$nest") {
        return (1..number(levels)).fold(doc! {}, |inner, _| doc! { "a": inner }).into();
    }
    let fields = fields.iter().map(|(name, inner)| (name.clone(), written_out(inner)));
    fields.collect::<Document>().into()
}

fn number(value: &Bson) -> usize {
    let number = value.as_i64().or(value.as_i32().map(i64::from));
    usize::try_from(number.expect("a number")).unwrap()
}

/// Fails with every case that differs.
fn all_pass(cases: usize, differing: &[String]) {
    assert!(
        differing.is_empty(),
        "{} of {cases} differ:\n{}",
        differing.len(),
        differing.join("\n")
    );
}
