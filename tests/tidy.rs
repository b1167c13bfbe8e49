//! The rules of the house that a tool can check.

use std::path::{Path, PathBuf};

const MAX_LINES: usize = 470;

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

#[test]
fn every_file_is_short_has_a_header_and_panics_only_on_broken_invariants() {
    let mut files = Vec::new();
    for folder in ["src", "tests"] {
        rust_files(Path::new(folder), &mut files);
    }
    assert!(files.len() > 20, "{files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let shown = file.display();
        assert!(
            text.lines().count() <= MAX_LINES,
            "{shown} has over {MAX_LINES} lines: where does the seam run?"
        );
        assert!(text.starts_with("//!"), "{shown} has no header that says what it is for");
        let shipped = text.split("#[cfg(test)]\nmod").next().unwrap();
        if file.starts_with("src") && !file.ends_with("tests.rs") {
            for word in [".unwrap()", "todo!(", "unimplemented!(", "dbg!("] {
                assert!(!shipped.contains(word), "{shown} has {word}");
            }
        }
    }
}

#[test]
fn every_migration_is_embedded() {
    let files = std::fs::read_dir("migrations").unwrap().count();
    assert_eq!(files, outboxd::mongodb::migrations::MIGRATIONS.len());
}
