//! Command lines as they stand in pages: split as a shell would, and held against the real command
//! line.

use std::collections::BTreeSet;

use clap::Parser;
use outboxd::cli::Cli;

/// Programs that run another, which comes last but for its arguments.
const RUNNERS: [&str; 3] = ["docker", "kubectl", "sudo"];

/// What is typed in the blocks of a page: of a session only what follows a prompt. Lines that go on
/// are joined.
pub(super) fn shell_lines<'a>(
    lines: impl Iterator<Item = (Option<&'a str>, &'a str)>,
) -> Vec<String> {
    let (mut typed, mut begun) = (Vec::new(), String::new());
    for (block, text) in lines {
        let text = match block {
            Some("sh" | "bash") => text,
            Some("console") => text.trim_start().strip_prefix("$ ").unwrap_or_default(),
            _ => continue,
        };
        match text.strip_suffix('\\') {
            Some(part) => begun.push_str(part),
            None => typed.push(std::mem::take(&mut begun) + text),
        }
    }
    typed
}

/// The commands of a line, each as its words. Assignments in front, redirections and comments are
/// left out, and so is the `…` that stands for more.
fn commands(line: &str) -> Vec<Vec<String>> {
    let mut commands: Vec<Vec<String>> = vec![Vec::new()];
    let (mut word, mut quote, mut is_redirection): (Option<String>, Option<char>, bool) =
        (None, None, false);
    let mut chars = line.chars().chain([' ']).peekable();
    while let Some(c) = chars.next() {
        let ends = quote.is_none() && (c.is_whitespace() || "|&;()<>".contains(c));
        if ends {
            // The number before `>` is a descriptor.
            let is_descriptor = c == '>'
                && word.as_ref().is_some_and(|word| word.bytes().all(|b| b.is_ascii_digit()));
            if let Some(word) = word.take().filter(|_| !is_descriptor)
                && !std::mem::take(&mut is_redirection)
                && let Some(command) = commands.last_mut()
            {
                command.push(word);
            }
        }
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '\\') => word.get_or_insert_default().extend(chars.next()),
            (None, '#') if word.is_none() => break,
            (None, '<' | '>') => {
                while chars.next_if(|next| "<>&".contains(*next)).is_some() {}
                is_redirection = true;
            }
            (None, '|' | '&' | ';' | '(' | ')') => commands.push(Vec::new()),
            (None, '…') => {}
            (None, c) if c.is_whitespace() => {}
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    let is_assignment = |word: &String| {
        let name = word.split_once('=').map_or("", |(name, _)| name);
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    commands
        .into_iter()
        .map(|words| words.into_iter().skip_while(is_assignment).collect())
        .collect()
}

/// The words of each command of this program with something to do.
pub(crate) fn of(program: &str, line: &str) -> Vec<Vec<String>> {
    let begins = |words: &Vec<String>| match words.first()?.as_str() {
        first if first == program => Some(0),
        first if RUNNERS.contains(&first) => words.iter().rposition(|word| word == program),
        _ => None,
    };
    let found =
        commands(line).into_iter().filter_map(|words| Some(words[begins(&words)?..].to_vec()));
    found.filter(|words| words.len() > 1).collect()
}

/// What outboxd says of a command line that it doesn't take.
pub(crate) fn refused(words: &[String]) -> Option<String> {
    // Help and the version are said by way of an error, too.
    Cli::try_parse_from(words)
        .err()
        .filter(|error| error.use_stderr())
        .map(|error| error.to_string())
}

/// The targets of a Makefile.
pub(super) fn targets(makefile: &str) -> BTreeSet<String> {
    let names = makefile.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name);
    let is_name = |name: &&str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
    };
    names.filter(is_name).map(str::to_owned).collect()
}

#[test]
fn a_line_is_split_as_a_shell_would() {
    let line = "A=1 B='x y' outboxd list --key 'a b' 2>log | head -n 1 & make; sudo outboxd stats >f ID… # outboxd none";
    assert_eq!(
        of("outboxd", line),
        [vec!["outboxd", "list", "--key", "a b"], vec!["outboxd", "stats", "ID"]]
    );
    assert_eq!(
        of("outboxd", "kubectl exec POD -c outboxd -- outboxd stats"),
        [["outboxd", "stats"]]
    );
    assert_eq!(
        of("outboxd", "outboxd; git clone URL outboxd; ID=$(outboxd list --dead)"),
        [["outboxd", "list", "--dead"]]
    );
    assert_eq!(
        shell_lines(
            [(Some("console"), "$ a \\"), (Some("console"), "$ b"), (None, "c")].into_iter()
        ),
        ["a b"]
    );
}
