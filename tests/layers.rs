//! The layers of the house: imports go down only, and no two files import each other, directly or
//! around a corner.
//!
//! Read from the source: the `use` lines, the paths that begin with `crate::` or a crate of the
//! workspace, and the children that a `mod.rs` calls by name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The modules of the daemon, the lowest layer first. A module imports its own layer, if that is
/// allowed, and the layers below.
const LAYERS: &[Layer] = &[
    Layer {
        modules: &[
            "backoff",
            "crash",
            "document",
            "driver_words",
            "duration",
            "error",
            "failure",
            "finding",
            "group",
            "pattern",
            "printable",
            "shutdown",
            "task",
            "tls",
        ],
        among_themselves: true,
    },
    Layer { modules: &["config", "telemetry"], among_themselves: true },
    Layer { modules: &["relay"], among_themselves: false },
    // Two sides of the world that know nothing of each other.
    Layer { modules: &["jetstream", "mongodb"], among_themselves: false },
    Layer {
        modules: &["admin", "check", "daemon", "operator", "privileges"],
        among_themselves: true,
    },
    Layer { modules: &["console"], among_themselves: true },
    Layer { modules: &["cli"], among_themselves: false },
    Layer { modules: &["fuzz", "lib", "main", "program"], among_themselves: true },
];

/// What the core must not name: each is behind a port.
const NOT_IN_THE_CORE: &[&str] = &["async_nats", "axum", "clap", "mongodb", "reqwest"];

/// Crates of the workspace: the name in a path, the folder, and the file that is its root.
const CRATES: &[(&str, &str, &str)] = &[
    ("outboxd_client", "clients/rust/src", "lib.rs"),
    ("outboxd", "src", "lib.rs"),
    ("ticketing", "examples/ticketing/src", "lib.rs"),
    ("bench", "benches", "main.rs"),
];

struct Layer {
    modules: &'static [&'static str],
    /// Whether its modules may import each other.
    among_themselves: bool,
}

/// Source files by their path.
type Files = BTreeMap<PathBuf, String>;
/// For each file, the files it imports.
type Imports = BTreeMap<PathBuf, BTreeSet<PathBuf>>;

fn files() -> Files {
    let mut files = Files::new();
    for (_, folder, _) in CRATES {
        read(Path::new(folder), &mut files);
    }

    files
}

fn read(folder: &Path, into: &mut Files) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            into.insert(path, text);
        }
    }
}

/// The part of a file that ships, without comments.
fn shipped(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    // A visibility such as `pub(in crate::config)` is no import.
    lines.collect::<Vec<_>>().join("\n").replace("(in crate::", "(in ")
}

/// Every path that a `use` statement names, with its braces expanded. An indented one that begins
/// with `super` stands in a module within the file.
fn used(text: &str) -> Vec<String> {
    let is_use = |line: &str| {
        let line = line.trim_start();
        let visible = ["pub ", "pub(crate) ", "pub(super) "];
        let line = visible.iter().find_map(|word| line.strip_prefix(word)).unwrap_or(line);
        line.starts_with("use ")
    };

    let mut found = Vec::new();
    for statement in text.split(';') {
        let lines: Vec<_> = statement.lines().collect();
        let Some(first) = lines.iter().rposition(|line| is_use(line)) else {
            continue;
        };
        let indented = lines[first].starts_with(' ');
        let statement = lines[first..].join(" ");

        let mut paths = Vec::new();
        expand("", &without_aliases(statement.split_once("use ").unwrap().1), &mut paths);
        found.extend(paths.into_iter().filter(|path| !(indented && path.starts_with("super::"))));
    }

    found
}

/// `{a as b, c}` becomes `{a,c}`.
fn without_aliases(tree: &str) -> String {
    let mut words = tree.split_whitespace();
    let mut kept = String::new();
    while let Some(word) = words.next() {
        match word {
            "as" => {
                kept += words
                    .next()
                    .unwrap_or("")
                    .trim_start_matches(|c: char| c.is_alphanumeric() || c == '_')
            }
            word => kept += word,
        }
    }

    kept
}

/// `a::{b, c::d}` becomes `a::b` and `a::c::d`.
fn expand(prefix: &str, tree: &str, into: &mut Vec<String>) {
    let Some((before, rest)) = tree.split_once('{') else {
        into.push(format!("{prefix}{tree}"));
        return;
    };
    let prefix = format!("{prefix}{before}");
    let inner = rest.strip_suffix('}').unwrap_or(rest);
    let (mut depth, mut part) = (0, String::new());
    for c in inner.chars().chain([',']) {
        match c {
            ',' if depth == 0 && !part.is_empty() => {
                expand(&prefix, &std::mem::take(&mut part), into);
                continue;
            }
            ',' if depth == 0 => continue,
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        part.push(c);
    }
}

/// Paths in the code itself: `crate::a::b` and those of the workspace's crates.
fn named(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for root in ["crate", "outboxd_client", "ticketing"] {
        for rest in text.split(&format!("{root}::")).skip(1) {
            let end = rest.find(|c: char| !c.is_alphanumeric() && !"_:".contains(c));
            let path = rest[..end.unwrap_or(rest.len())].trim_end_matches(':');
            if !path.is_empty() {
                found.push(format!("{root}::{path}"));
            }
        }
    }

    found
}

/// The root of a file's crate. A program of `examples/ticketing` in a folder is a crate of its own.
fn root_of(file: &Path, files: &Files) -> PathBuf {
    let (_, folder, root) = CRATES.iter().find(|(_, folder, _)| file.starts_with(folder)).unwrap();
    let program = file.ancestors().map(|folder| folder.join("main.rs")).find(|main| {
        let is_below = main.starts_with(folder) && main.parent() != Some(Path::new(folder));
        files.contains_key(main) && main.starts_with("examples") && is_below
    });
    program.unwrap_or_else(|| Path::new(folder).join(root))
}

/// The file that holds a module, below a folder.
fn module(folder: &Path, name: &str, files: &Files) -> Option<PathBuf> {
    let candidates = [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")];
    candidates.into_iter().find(|file| files.contains_key(file))
}

/// Where the children of a file's module are.
fn children(file: &Path) -> PathBuf {
    let stem = file.file_stem().unwrap().to_string_lossy();
    match &*stem {
        "mod" | "lib" | "main" => file.parent().unwrap().to_owned(),
        _ => file.with_extension(""),
    }
}

fn parent(file: &Path, root: &Path, files: &Files) -> PathBuf {
    let stem = file.file_stem().unwrap().to_string_lossy();
    let folder = if stem == "mod" { file.parent().unwrap().parent() } else { file.parent() };
    let folder = folder.unwrap();
    let above = [folder.join("mod.rs"), folder.with_extension("rs")];
    above.into_iter().find(|above| files.contains_key(above)).unwrap_or_else(|| root.to_owned())
}

/// The file that a path leads to: as far as its parts are modules.
fn resolve(path: &str, file: &Path, files: &Files) -> Option<PathBuf> {
    let root = root_of(file, files);
    let mut parts = path.split("::").peekable();
    let mut at = match parts.next()? {
        "crate" => root.clone(),
        "self" => file.to_owned(),
        "super" => parent(file, &root, files),
        name => {
            let (_, folder, root) = CRATES.iter().find(|(of, ..)| *of == name)?;
            Path::new(folder).join(root)
        }
    };
    while parts.next_if_eq(&"super").is_some() {
        at = parent(&at, &root, files);
    }
    for part in parts {
        match module(&children(&at), part, files) {
            Some(below) => at = below,
            None => break,
        }
    }

    Some(at)
}

fn imports(files: &Files) -> Imports {
    let mut imports = Imports::new();
    for (file, text) in files {
        let text = shipped(text);
        let mut into: BTreeSet<_> = used(&text)
            .iter()
            .chain(&named(&text))
            .filter_map(|path| resolve(path, file, files))
            .collect();
        // A module that calls its child by name imports it; one that only declares it does not.
        let declared = text.lines().filter_map(|line| {
            let name = line.trim_end_matches(';').rsplit_once("mod ")?.1;
            Some((name, module(&children(file), name, files)?))
        });
        for (name, child) in declared {
            let calls = |line: &str| line.contains(&format!("{name}::")) && !line.contains("//");
            if text.lines().any(calls) {
                into.insert(child);
            }
        }
        into.remove(file);
        imports.insert(file.clone(), into);
    }

    imports
}

/// The module of the daemon that a file belongs to.
fn module_of(file: &Path) -> Option<String> {
    let below = file.strip_prefix("src").ok()?;
    Some(below.iter().next()?.to_string_lossy().trim_end_matches(".rs").to_owned())
}

/// Arrows that go up, or sideways where that is not allowed; modules in no layer; drivers that the
/// core names.
fn arrows_that_go_up(files: &Files) -> Vec<String> {
    let layer = |module: &str| LAYERS.iter().position(|layer| layer.modules.contains(&module));
    let mut wrong = Vec::new();
    for (file, imported) in imports(files) {
        let Some(module) = module_of(&file) else {
            let daemon = imported.iter().filter(|to| module_of(to).is_some());
            wrong.extend(daemon.map(|to| format!("{} imports {}", file.display(), to.display())));
            continue;
        };
        let Some(own) = layer(&module) else {
            wrong.push(format!("{} is in no layer", file.display()));
            continue;
        };
        for to in imported {
            let Some(other) = module_of(&to).filter(|other| *other != module) else {
                continue;
            };
            let allowed = layer(&other)
                .is_some_and(|below| below < own || below == own && LAYERS[own].among_themselves);
            if !allowed {
                wrong.push(format!("{} imports {}", file.display(), to.display()));
            }
        }
    }
    for (file, text) in files.iter().filter(|(file, _)| file.starts_with("src/relay")) {
        for driver in NOT_IN_THE_CORE {
            if shipped(text).contains(&format!("{driver}::")) {
                wrong.push(format!("{} names {driver}", file.display()));
            }
        }
    }

    wrong
}

/// Files that import each other, directly or around a corner, as one line for each circle.
fn circles(files: &Files) -> Vec<String> {
    let imports = imports(files);
    let reached = |from: &PathBuf| {
        let mut seen = BTreeSet::new();
        let mut open: Vec<_> = imports[from].iter().collect();
        while let Some(file) = open.pop() {
            if seen.insert(file) {
                open.extend(&imports[file]);
            }
        }
        seen
    };
    let reach: BTreeMap<_, _> = imports.keys().map(|file| (file, reached(file))).collect();
    let mut found = BTreeSet::new();
    for (file, to) in &reach {
        let circle: Vec<_> = to
            .iter()
            .filter(|other| reach[**other].contains(file))
            .map(|file| file.display().to_string())
            .collect();
        if !circle.is_empty() {
            found.insert(circle.join(", "));
        }
    }

    found.into_iter().collect()
}

#[test]
fn imports_go_down_only() {
    let files = files();
    assert!(files.len() > 120, "only {} files were found", files.len());

    assert_eq!(arrows_that_go_up(&files), Vec::<String>::new());
}

#[test]
fn no_files_import_each_other() {
    assert_eq!(circles(&files()), Vec::<String>::new());
}

#[test]
fn an_arrow_that_is_added_is_found() {
    let with = |file: &str, line: &str| {
        let mut files = files();
        let text = files.get_mut(Path::new(file)).unwrap();
        *text = format!("{line}\n{text}");
        files
    };
    for (file, line, found) in [
        ("src/relay/settle.rs", "use crate::mongodb::store::Store;", "src/mongodb/store.rs"),
        ("src/relay/settle.rs", "use mongodb::Client;", "names mongodb"),
        ("src/document/record.rs", "use crate::{cli::{Cli}, error};", "src/cli/mod.rs"),
        ("src/mongodb/act.rs", "use super::super::jetstream::acks::Acks;", "src/jetstream/acks.rs"),
        ("src/error.rs", "type C = crate::config::Config;", "src/config/mod.rs"),
        ("clients/rust/src/event.rs", "use outboxd::cli::Cli;", "src/cli/mod.rs"),
        ("examples/ticketing/src/http.rs", "use outboxd::cli::Cli;", "src/cli/mod.rs"),
    ] {
        let wrong = arrows_that_go_up(&with(file, line));
        assert!(wrong.iter().any(|line| line.contains(found)), "{file}: {line}: {wrong:?}");
    }
    for (file, line, around) in [
        ("clients/rust/src/event.rs", "use crate::enqueue::Outbox;", "enqueue.rs"),
        ("src/relay/dispatch/lane.rs", "use super::Dispatch;", "src/relay/dispatch/mod.rs"),
        ("src/cli/output.rs", "use super::list;", "src/cli/list.rs"),
        ("benches/peer.rs", "use crate::report;", "benches/report.rs"),
    ] {
        let found = circles(&with(file, line));
        assert!(found.iter().any(|circle| circle.contains(around)), "{file}: {line}: {found:?}");
    }
}
