//! The handbook is right: its links lead somewhere, outboxd accepts its commands, what it names
//! exists. The reference pages and `config/outboxd.toml` are generated from the program;
//! `OUTBOXD_WRITE_DOCS=1` writes them.

pub(crate) mod commands;
mod configuration;
mod reference;
mod shipped;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use outboxd::config::Fleet;
use outboxd::finding::CHECKS;
use serde_json::Value;

use self::commands::{of, refused, shell_lines, targets};

/// The generated file with every setting.
const SHIPPED: &str = "config/outboxd.toml";
/// The generated page.
const CONFIGURATION: &str = "docs/configuration.md";
/// What people who tried the programs left in their folders.
const NOT_OURS: [&str; 3] = ["node_modules", "target", "venv"];
/// What follows a section's name and a dot in the name of a file.
const EXTENSIONS: [&str; 6] = ["conf", "json", "md", "rs", "toml", "yaml"];

/// A line of a page.
struct Line<'a> {
    text: &'a str,
    /// The language of the block it stands in.
    block: Option<&'a str>,
}

fn markdown(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !NOT_OURS.contains(&name.as_str()) {
            markdown(&path, into);
        } else if name.ends_with(".md") {
            into.push(path);
        }
    }
}

/// Every page with its text.
fn pages() -> Vec<(PathBuf, String)> {
    let mut paths =
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
            .map(PathBuf::from)
            .to_vec();
    for folder in ["docs", "deploy", "clients", "examples"] {
        markdown(Path::new(folder), &mut paths);
    }
    paths.sort();
    let read = |path: PathBuf| (path.clone(), fs::read_to_string(&path).unwrap());
    paths.into_iter().map(read).collect()
}

/// The lines of a page, without the fences of its blocks.
fn lines(page: &str) -> Vec<Line<'_>> {
    let (mut block, mut found) = (None, Vec::new());
    for text in page.lines() {
        match text.trim_start().strip_prefix("```") {
            Some(language) if block.is_none() => block = Some(language.trim()),
            Some(_) => block = None,
            None => found.push(Line { text, block }),
        }
    }
    found
}

/// The paragraphs outside of blocks, each as what stands between one backtick and the next: prose,
/// code, prose, …
fn paragraphs(page: &str) -> Vec<Vec<String>> {
    let mut paragraphs = vec![String::new()];
    for Line { text, block } in lines(page) {
        match (block, paragraphs.last_mut()) {
            (None, Some(paragraph)) if !text.trim().is_empty() => {
                paragraph.push(' ');
                paragraph.push_str(text.trim());
            }
            _ => paragraphs.push(String::new()),
        }
    }
    paragraphs.iter().map(|text| text.split('`').map(str::to_owned).collect()).collect()
}

fn code(page: &str) -> Vec<String> {
    paragraphs(page).into_iter().flat_map(|parts| parts.into_iter().skip(1).step_by(2)).collect()
}

fn links(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    for parts in paragraphs(page) {
        let prose: String = parts.into_iter().step_by(2).collect();
        let ends = prose.split("](").skip(1);
        found.extend(ends.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())));
    }
    found
}

/// What a forge lets a link name after `#`.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for line in lines(page).iter().filter(|line| line.block.is_none() && line.text.starts_with('#'))
    {
        let heading = line.text.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        let anchor: String =
            heading.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect();
        let numbered = (1..).map(|n| format!("{anchor}-{n}"));
        let free = std::iter::once(anchor.clone())
            .chain(numbered)
            .find(|anchor| !anchors.contains(anchor));
        anchors.extend(free);
    }
    anchors
}

fn broken_links(path: &Path, page: &str) -> Vec<String> {
    let is_broken = |link: &String| {
        let (file, anchor) = link
            .split_once('#')
            .map_or((link.as_str(), None), |(file, anchor)| (file, Some(anchor)));
        let file = path.parent().unwrap_or(Path::new("")).join(file);
        match anchor {
            None => !file.exists(),
            Some(anchor) if link.starts_with('#') => !anchors(page).contains(anchor),
            Some(anchor) => {
                !fs::read_to_string(file).is_ok_and(|there| anchors(&there).contains(anchor))
            }
        }
    };
    let within = links(page)
        .into_iter()
        .filter(|link| !link.contains("://") && !link.starts_with("mailto:"));
    within.filter(is_broken).collect()
}

/// Command lines of outboxd and targets of make that aren't there, each with what was said of it.
fn wrong_commands(page: &str, makefile: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let typed = shell_lines(lines(page).iter().map(|line| (line.block, line.text)));
    let named = code(page);
    let known = targets(makefile);
    for (line, whole) in
        typed.iter().map(|line| (line, true)).chain(named.iter().map(|line| (line, false)))
    {
        for mut words in of("outboxd", line) {
            // In a sentence a verb stands for itself.
            if !whole && words.len() == 2 {
                words.push("--help".to_owned());
            }
            wrong.extend(refused(&words).map(|why| format!("{line}: {why}")));
        }
        for words in of("make", line) {
            let asked =
                words.iter().skip(1).filter(|word| !word.starts_with('-') && !word.contains('='));
            wrong.extend(
                asked
                    .filter(|word| !known.contains(*word))
                    .map(|word| format!("{line}: no target {word}")),
            );
        }
    }
    wrong
}

/// The names of all settings and of all checks of `outboxd check`, which look alike.
fn known_names(schema: &Value) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for (section, settings) in schema["properties"].as_object().unwrap() {
        let names = settings["properties"].as_object().into_iter().flat_map(|of| of.keys());
        known.extend(names.map(|name| format!("{section}.{name}")));
    }
    known.extend(CHECKS.map(str::to_owned));
    known
}

/// Code that looks like a setting and is none.
fn unknown_settings(page: &str, schema: &Value, known: &BTreeSet<String>) -> Vec<String> {
    let is_unknown = |text: &String| {
        let Some((section, name)) = text.split_once('.') else { return false };
        let is_name =
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        is_name
            && !EXTENSIONS.contains(&name)
            && schema["properties"][section].is_object()
            && !known.contains(text)
    };
    code(page)
        .into_iter()
        .filter_map(|text| Some(text.split(" = ").next()?.to_owned()))
        .filter(is_unknown)
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    assert!(
        pages.iter().any(|(path, page)| path.ends_with("docs/README.md") && links(page).len() > 10)
    );
    let broken = pages.iter().flat_map(|(path, page)| {
        broken_links(path, page).into_iter().map(move |link| format!("{}: {link}", path.display()))
    });
    let broken: Vec<_> = broken.collect();
    assert!(broken.is_empty(), "{broken:#?}");
    let page = "[a](paged.md) [b](none.md)\n\n# Two `words`\n\n[c](#two-words) [d](#two) [e](faults.md#none) `[f](none.md)`\n";
    assert_eq!(
        broken_links(Path::new("docs/page.md"), page),
        ["none.md", "#two", "faults.md#none"]
    );
}

#[test]
fn every_command_is_one_that_outboxd_takes() {
    let makefile = fs::read_to_string("Makefile").unwrap();
    let wrong: Vec<_> = pages()
        .iter()
        .flat_map(|(path, page)| {
            let wrong = wrong_commands(page, &makefile);
            wrong.into_iter().map(|said| format!("{}: {said}", path.display())).collect::<Vec<_>>()
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let page = "```sh\noutboxd stats --none\noutboxd stats\nmake none\n```\n\nSee `outboxd discard`, `outboxd none`, `make test`.\n";
    let wrong = wrong_commands(page, &makefile);
    let of = |part: &str| wrong.iter().filter(|said| said.starts_with(part)).count();
    assert_eq!(
        (of("outboxd stats --none"), of("make none"), of("outboxd none"), wrong.len()),
        (1, 1, 1, 3),
        "{wrong:#?}"
    );
}

#[test]
fn every_setting_that_is_named_exists() {
    let schema = Fleet::schema();
    let known = known_names(&schema);
    let unknown: Vec<_> = pages()
        .iter()
        .flat_map(|(path, page)| {
            let unknown = unknown_settings(page, &schema, &known);
            unknown
                .into_iter()
                .map(|name| format!("{}: {name}", path.display()))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
    let page = "`lease.ttl`, `lease.tll`, `stream.dedupe`, `nats.conf`, `mongodb.url = \"x\"`";
    assert_eq!(unknown_settings(page, &schema, &known), ["lease.tll", "mongodb.url"]);
}

#[test]
fn the_shipped_file_and_the_reference_pages_are_generated_from_the_program() {
    let settings = Fleet::settings();
    let page = configuration::page(&settings);
    for (path, made) in [
        (SHIPPED, shipped::file(&settings)),
        (CONFIGURATION, page.clone()),
        ("docs/verbs.md", reference::verbs()),
        ("docs/codes.md", reference::codes()),
        ("docs/document.md", reference::document()),
    ] {
        if std::env::var_os("OUTBOXD_WRITE_DOCS").is_some() {
            fs::write(path, &made).unwrap();
        }

        let found = fs::read_to_string(path).unwrap_or_default();
        let differs = made.lines().zip(found.lines()).find(|(made, found)| made != found);
        assert!(
            made == found,
            "{path} is out of date; OUTBOXD_WRITE_DOCS=1 writes it. First difference: {differs:#?}"
        );
    }

    let listed = anchors(&page);
    for setting in ["mongodburi", "dispatchmax_in_flight", "streamname"] {
        assert!(listed.contains(setting), "{setting} is missing: {listed:?}");
    }
}
