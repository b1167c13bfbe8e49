//! The rules of the house that a tool can check.

use std::path::{Path, PathBuf};

/// Most lines of a file.
const MAX_LINES: usize = 450;
/// Most lines of a function, from its name to its closing brace.
const MAX_FUNCTION: usize = 70;
/// Fewest blank lines among a hundred lines of function bodies.
const MIN_AIR: usize = 6;
/// Folders with Rust source.
const FOLDERS: [&str; 5] =
    ["src", "clients/rust/src", "examples/ticketing/src", "benches", "tests"];

/// Endings of source in the languages of the other clients.
const OTHERS: [&str; 6] = ["ts", "mjs", "js", "py", "go", "java"];
/// Folders that a package manager or a build fills.
const MADE: [&str; 5] = ["node_modules", "dist", "venv", ".venv", "target"];

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    files_with(&["rs"], folder, into);
}

fn files_with(endings: &[&str], folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is = |names: &[&str], part: Option<&std::ffi::OsStr>| {
            part.and_then(|part| part.to_str()).is_some_and(|part| names.contains(&part))
        };

        if path.is_dir() {
            if !is(&MADE, path.file_name()) {
                files_with(endings, &path, into);
            }
        } else if is(endings, path.extension()) {
            into.push(path);
        }
    }
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Functions of a formatted file that are too long, by the line they begin in.
fn long_functions(text: &str) -> Vec<(usize, usize)> {
    let lines: Vec<_> = text.lines().collect();
    let is_function = |line: &str| {
        let words = line.split_whitespace();
        let mut words = words
            .skip_while(|word| word.starts_with("pub") || ["async", "const", "in"].contains(word));
        words.next() == Some("fn")
    };
    // A declaration over several lines has no body.
    let is_end = |line: &str| line == "}" || (line.starts_with(')') && line.ends_with(';'));
    let length = |start: usize| {
        let end = (start + 1..lines.len())
            .find(|&at| indent(lines[at]) == indent(lines[start]) && is_end(lines[at].trim()));
        end.map_or(0, |end| end - start + 1)
    };

    (0..lines.len())
        .filter(|&at| is_function(lines[at]) && !lines[at].ends_with(';'))
        .map(|at| (at + 1, length(at)))
        .filter(|(_, length)| *length > MAX_FUNCTION)
        .collect()
}

/// Blank lines among the lines of function bodies, and those lines.
fn air(text: &str) -> (usize, usize) {
    let lines: Vec<_> = text.lines().collect();
    let is_body = |line: &str| indent(line) >= 8;
    let blank =
        lines.windows(2).filter(|pair| pair[0].trim().is_empty() && is_body(pair[1])).count();

    (blank, lines.iter().filter(|line| is_body(line)).count())
}

#[test]
fn every_file_is_short_has_a_header_and_panics_only_on_broken_invariants() {
    let mut files = Vec::new();
    for folder in FOLDERS {
        rust_files(Path::new(folder), &mut files);
    }
    assert!(files.len() > 150, "{files:?}");

    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let shown = file.display();
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{shown} has {lines} lines: where does the seam run?");
        assert!(text.starts_with("//!"), "{shown} has no header that states what it is for");

        let shipped = text.split("#[cfg(test)]\nmod").next().unwrap();
        let is_shipped = file.starts_with("src") || file.starts_with("clients");
        // In its tests too: `expect` says what was thought to hold.
        assert!(!is_shipped || !text.contains(".unwrap()"), "{shown} has .unwrap()");

        if is_shipped && !file.ends_with("tests.rs") {
            for word in ["todo!(", "unimplemented!(", "dbg!("] {
                assert!(!shipped.contains(word), "{shown} has {word}");
            }
        }
    }
}

#[test]
fn files_in_other_languages_are_short_too() {
    let mut files = Vec::new();
    for folder in ["clients", "docs", "examples"] {
        files_with(&OTHERS, Path::new(folder), &mut files);
    }
    for ending in ["ts", "mjs", "py", "go", "java"] {
        let of_it = files.iter().filter(|file| file.extension().is_some_and(|it| it == ending));
        assert!(of_it.count() > 1, "{ending}: {files:?}");
    }

    for file in files {
        let lines = std::fs::read_to_string(&file).unwrap().lines().count();
        let shown = file.display();
        assert!(lines <= MAX_LINES, "{shown} has {lines} lines: where does the seam run?");
    }
}

#[test]
fn functions_are_short_and_their_steps_are_apart() {
    let mut files = Vec::new();
    for folder in ["src", "clients/rust/src", "examples/ticketing/src"] {
        rust_files(Path::new(folder), &mut files);
    }

    let (mut blank, mut lines) = (0, 0);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let shipped = text.split("#[cfg(test)]\nmod").next().unwrap();
        let long = long_functions(shipped);
        assert!(long.is_empty(), "{}: functions (line, length): {long:?}", file.display());

        let (found, of) = air(shipped);
        (blank, lines) = (blank + found, lines + of);
    }
    assert!(100 * blank >= MIN_AIR * lines, "{blank} blank lines in {lines} lines of functions");
}

#[test]
fn a_long_function_is_found() {
    let body = "        step();\n".repeat(MAX_FUNCTION);
    let text = format!("impl A {{\n    pub(crate) async fn a(\n    ) {{\n{body}    }}\n}}\n");

    assert_eq!(long_functions(&text), [(2, MAX_FUNCTION + 3)]);
    assert_eq!(long_functions("fn a() {\n    b()\n}\n"), []);
    let declared = format!("trait A {{\n    fn a(\n    ) -> u8;\n{}}}\n", text);
    assert_eq!(long_functions(&declared), [(5, MAX_FUNCTION + 3)], "only the one with a body");
}

#[test]
fn every_migration_is_embedded() {
    let files = std::fs::read_dir("migrations").unwrap().count();
    assert_eq!(files, outboxd::mongodb::migrations::MIGRATIONS.len());
}
