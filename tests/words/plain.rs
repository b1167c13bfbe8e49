//! The words that messages do without: help texts, findings, errors, log lines, remedies and the
//! descriptions of settings are plain technical English.

use std::path::Path;

use clap::{Command, CommandFactory};
use outboxd::cli::Cli;
use outboxd::config::Fleet;
use outboxd::failure::TABLE;

/// Words and turns that a newcomer reads twice, each as it stands between spaces.
const AVOIDED: [&str; 52] = [
    "mend",
    "mends",
    "mended",
    "anew",
    "afresh",
    "go on",
    "goes on",
    "went on",
    "whoever",
    "as a rule",
    "hear",
    "hears",
    "heard",
    "bear out",
    "bears out",
    "is told",
    "are told",
    "tells of",
    "forgive",
    "forgives",
    "for ever",
    "cannot look",
    "says",
    "say so",
    "no good",
    "ought",
    "lest",
    "till",
    "hence",
    "whence",
    "thereby",
    "heed",
    "oops",
    "please",
    "sorry",
    "simply",
    "obviously",
    "utilize",
    "else than",
    "as ever",
    "if only",
    "not as much",
    "many an",
    "badly",
    "laid out",
    "get there",
    "gets there",
    "hardly",
    "for want of",
    "bears",
    "does without",
    "look whether",
];

/// The avoided words in a text.
fn avoided(text: &str) -> Vec<&'static str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '\'';
    let words: Vec<_> = text.split(|c| !is_word(c)).filter(|word| !word.is_empty()).collect();
    let plain = format!(" {} ", words.join(" ").to_lowercase());
    AVOIDED.into_iter().filter(|word| plain.contains(&format!(" {word} "))).collect()
}

/// The string literals of a Rust file, without those in comments, each with its line.
fn literals(text: &str) -> Vec<(usize, String)> {
    let (mut found, mut chars, mut line) = (Vec::new(), text.chars().peekable(), 1);
    while let Some(c) = chars.next() {
        match c {
            '\n' => line += 1,
            '/' if chars.peek() == Some(&'/') => while chars.next_if(|c| *c != '\n').is_some() {},
            // A quote as a character, not a string.
            '\'' if chars.peek() == Some(&'"') => drop(chars.next()),
            '\\' => drop(chars.next()),
            '"' => {
                let (begins, mut literal) = (line, String::new());
                while let Some(c) = chars.next().filter(|c| *c != '"') {
                    line += usize::from(c == '\n');
                    match c {
                        '\\' => {
                            line += usize::from(chars.next() == Some('\n'));
                            literal.push(' ');
                        }
                        c => literal.push(c),
                    }
                }
                found.push((begins, literal));
            }
            _ => {}
        }
    }
    found
}

fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let shown = path.display().to_string();
        if path.is_dir() {
            sources(&path, found);
        } else if shown.ends_with(".rs") && !shown.contains("tests") && !shown.contains("fuzz") {
            found.push((shown, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The help of each verb.
fn help(command: &mut Command, name: &str, found: &mut Vec<(String, String)>) {
    found.push((format!("{name} --help"), command.render_long_help().to_string()));
    for verb in command.get_subcommands_mut() {
        let name = format!("{name} {}", verb.get_name());
        help(verb, &name, found);
    }
}

#[test]
fn no_message_has_a_word_that_a_newcomer_reads_twice() {
    let (mut texts, mut files) = (Vec::new(), Vec::new());
    sources(Path::new("src"), &mut files);
    assert!(files.len() > 100);
    for (file, text) in files {
        let shipped = text.split("#[cfg(test)]\nmod").next().unwrap();
        let said = literals(shipped).into_iter();
        texts.extend(said.map(|(line, literal)| (format!("{file}:{line}"), literal)));
    }
    assert!(texts.len() > 1000);

    help(&mut Cli::command(), "outboxd", &mut texts);
    texts.extend(TABLE.iter().map(|rule| (rule.code.to_owned(), rule.remedy.to_owned())));
    texts.extend(Fleet::settings().iter().map(|of| (of.key.to_string(), of.doc.to_owned())));
    let found: Vec<_> = texts
        .iter()
        .map(|(place, text)| (place, avoided(text)))
        .filter(|(_, words)| !words.is_empty())
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}

fn pages(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.display().to_string();
        if path.is_dir() {
            if !["node_modules", "target", "venv"].iter().any(|made| name.ends_with(made)) {
                pages(&path, found);
            }
        } else if name.ends_with(".md") {
            found.push(name);
        }
    }
}

#[test]
fn no_page_has_one_either() {
    let mut names = vec!["README.md".to_owned(), "CONTRIBUTING.md".into(), "SECURITY.md".into()];
    for folder in ["docs", "deploy", "clients"] {
        pages(Path::new(folder), &mut names);
    }
    assert!(names.len() > 40);

    // A changelog keeps what was written, and the page of the faults has the names of tests.
    let kept = ["CHANGELOG.md", "faults.md"];
    let found: Vec<_> = names
        .into_iter()
        .filter(|name| !kept.iter().any(|end| name.ends_with(end)))
        .map(|name| (avoided(&std::fs::read_to_string(&name).unwrap()), name))
        .filter(|(words, _)| !words.is_empty())
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_word_counts_only_as_a_whole_and_only_in_a_literal() {
    assert_eq!(avoided("It Goes\n on, and amends"), ["goes on"]);
    let text = "let a = \"mend \\\" it\"; // \"anew\"\nlet b = '\"'; let c = \"x\";";
    assert_eq!(literals(text), [(1, "mend   it".to_owned()), (2, "x".to_owned())]);
}
