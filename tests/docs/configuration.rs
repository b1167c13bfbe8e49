//! The handbook's page of the settings, generated from the settings.

use outboxd::config::{SettingInfo, Unset};

/// The longest line of a generated file, where no code makes it longer.
const WIDTH: usize = 100;

const HEAD: &str = "# Configuration

Every setting, in the order of [`config/outboxd.toml`](../config/outboxd.toml). This page and that
file are generated from the settings:
`OUTBOXD_WRITE_DOCS=1 cargo test --workspace --features crash-points --test main docs::` writes both.

A flag (`--set dispatch.max_in_flight=64`) overrides the environment, which overrides the file
(`--config FILE`, or `OUTBOXD_CONFIG`), which overrides the default. If several variables set one
setting, the first one listed wins. To start, outboxd needs only the required settings.

outboxd rejects a secret in a flag. To read a secret from a file, add `_file` to the setting, or
`_FILE` to the variable, and give the path: `mongodb.uri_file`, `MONGODB_URI_FILE`. outboxd rejects
unknown settings, and reports all mistakes at once.

```sh
outboxd config print              # what is in force, and where it came from
outboxd config check outboxd.toml # a file by itself, for CI
outboxd config schema             # JSON Schema of the file, for editors
```
";

/// The whole page.
pub(super) fn page(settings: &[SettingInfo]) -> String {
    let mut sections: Vec<_> = settings.iter().map(|setting| setting.place().0).collect();
    sections.dedup();
    let listed: Vec<_> =
        sections.iter().map(|section| format!("[{section}](#{section})")).collect();

    let mut page = format!("{HEAD}\n{}\n", wrap(&format!("Sections: {}.", listed.join(", ")), ""));
    for section in sections {
        page += &format!("\n## {section}\n");
        for setting in settings.iter().filter(|setting| setting.place().0 == section) {
            let (facts, doc) = (wrap(&facts(setting), ""), wrap(&escaped(setting.doc), ""));
            page += &format!("\n### {}\n\n{facts}\n\n{doc}\n", setting.key);
        }
    }
    page
}

/// Type, bounds, default and other names, in one paragraph.
fn facts(setting: &SettingInfo) -> String {
    let mut facts = kind(setting);
    if setting.is_secret {
        facts += ", a secret";
    }
    if let Some((least, most)) = &setting.bounds {
        facts += &format!(", {least} to {most}");
    }
    facts += ".";

    facts += &match &setting.unset {
        Unset::Default(value) => format!(" Default: `{value}`."),
        Unset::Computed(words) => format!(" Default: {}.", escaped(words)),
        Unset::Required => " Required.".to_owned(),
        Unset::Absent => " Not set by default.".to_owned(),
    };

    let variables: Vec<_> =
        setting.all_variables().iter().map(|name| format!("`{name}`")).collect();
    facts += &format!(" Environment: {}.", variables.join(", "));
    if setting.is_secret {
        facts += &format!(" From a file: `{}_file`.", setting.key);
    }
    facts
}

fn kind(setting: &SettingInfo) -> String {
    if !setting.words.is_empty() {
        let words: Vec<_> = setting.words.iter().map(|word| format!("`{word}`")).collect();
        return format!("One of {}", words.join(", "));
    }

    let kind = match setting.kind["type"].as_str() {
        Some("array") => "List of texts, in the environment separated by commas or in brackets",
        Some("boolean") => "`true` or `false`",
        Some("integer") => "Whole number",
        _ if setting.kind["pattern"].is_string() => "Duration, such as `10s` or `1h 30m`",
        _ => "Text",
    };
    kind.to_owned()
}

/// The text, with `<` escaped outside of code, where Markdown would take it for HTML.
fn escaped(text: &str) -> String {
    let escape = |(i, part): (usize, &str)| {
        if i % 2 == 0 { part.replace('<', "\\<") } else { part.to_owned() }
    };
    text.split('`').enumerate().map(escape).collect::<Vec<_>>().join("`")
}

/// The text in lines of a bounded width, each behind `prefix`. Code in backticks stays on one line.
pub(super) fn wrap(text: &str, prefix: &str) -> String {
    let (mut lines, mut is_code) = (vec![String::new()], false);
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is a line from the start");
        let length = prefix.len() + line.chars().count() + 1 + word.chars().count();

        if line.is_empty() {
            line.push_str(word);
        } else if length <= WIDTH || is_code {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
        is_code ^= word.matches('`').count() % 2 == 1;
    }
    lines.iter().map(|line| format!("{prefix}{line}")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_line_is_broken_outside_of_code_only() {
    let text = format!("{} `a b` c", "x".repeat(WIDTH - 5));
    assert_eq!(wrap(&text, "# "), format!("# {} `a b`\n# c", "x".repeat(WIDTH - 5)));
    assert_eq!(escaped("a <b> `<c>`"), "a \\<b> `<c>`");
}
