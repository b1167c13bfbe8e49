//! The page of the settings, made of their schema.

use serde_json::Value;

/// Where the order of the settings comes from.
const SHIPPED: &str = include_str!("../../config/outboxd.toml");
const WIDTH: usize = 125;

const HEAD: &str = "# Configuration

Every setting, in the order of [`config/outboxd.toml`](../config/outboxd.toml). This page is made of the settings themselves, and
`OUTBOXD_WRITE_DOCS=1 cargo test --workspace --features crash-points --test main docs::` writes it anew.

Settings come from flags (`--set dispatch.max_in_flight=64`) over the environment over the file (`--config FILE`, or
`OUTBOXD_CONFIG`) over the defaults. Of several variables for one setting the `OUTBOXD_…` one wins. The required ones are enough to start.
A secret isn't taken from a flag; each can be read from a file instead, whose path is the setting with `_file`, or the variable
with `_FILE`. An unknown setting is refused, and all mistakes are told at once.

```sh
outboxd config print              # what is in force, and where it came from
outboxd config check outboxd.toml # a file by itself, for CI
outboxd config schema             # JSON Schema of the file, for editors
```
";

/// The whole page.
pub(super) fn page(schema: &Value) -> String {
    let names = |value: &Value| {
        value["properties"].as_object().unwrap().keys().cloned().collect::<Vec<_>>()
    };
    let mut sections = names(schema);
    sections.sort_by_key(|section| place(section, ""));
    let listed: Vec<_> =
        sections.iter().map(|section| format!("[{section}](#{section})")).collect();
    let mut page = format!("{HEAD}\n{}\n", wrap(&format!("Sections: {}.", listed.join(", "))));
    for section in sections {
        let settings = &schema["properties"][&section];
        page += &format!("\n## {section}\n");
        let mut names = names(settings);
        names.sort_by_key(|name| place(&section, name));
        // A secret's file stands with the secret.
        let is_file = |name: &String| {
            name.strip_suffix("_file").is_some_and(|secret| names.contains(&secret.to_owned()))
        };
        for name in names.iter().filter(|name| !is_file(name)) {
            let is_secret = names.contains(&format!("{name}_file"));
            page += &format!(
                "\n### {section}.{name}\n\n{}\n",
                setting(&section, name, &settings["properties"][name], is_secret)
            );
        }
    }
    page
}

/// Where a section, or a setting of it, stands in the shipped file.
fn place(section: &str, name: &str) -> usize {
    let Some((before, rest)) = SHIPPED.split_once(&format!("\n[{section}]\n")) else {
        return usize::MAX;
    };
    let line = rest
        .lines()
        .position(|line| line.trim_start_matches("# ").starts_with(&format!("{name} = ")));
    before.len() + line.filter(|_| !name.is_empty()).unwrap_or(0)
}

fn setting(section: &str, name: &str, schema: &Value, is_secret: bool) -> String {
    let described = schema["description"].as_str().unwrap_or_default();
    let mut facts = kind(schema);
    if is_secret {
        facts += ", a secret";
    }
    if let (Some(least), Some(most)) = (schema["minimum"].as_u64(), schema["maximum"].as_u64()) {
        facts += &format!(", {least} to {most}");
    }
    facts += ".";
    // Where the description says it, the schema has at most a stand-in.
    if !described.contains("Required.") && !described.contains("Default: ") {
        facts += &match &schema["default"] {
            Value::Null => " Not set by default.".to_owned(),
            default => format!(" Default: `{default}`."),
        };
    }
    let key = format!("{section}.{name}");
    let variables = schema["x-environment"].as_array().unwrap();
    let variables: Vec<_> =
        variables.iter().map(|name| format!("`{}`", name.as_str().unwrap())).collect();
    facts += &format!(" Environment: {}.", variables.join(", "));
    if is_secret {
        facts += &format!(" From a file: `{key}_file`.");
    }
    format!("{}\n\n{}", wrap(&facts), wrap(&escaped(described)))
}

fn kind(schema: &Value) -> String {
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
        return format!("One of {}", words.join(", "));
    }
    let kind = match schema["type"].as_str() {
        Some("array") => "List of texts, in the environment separated by commas",
        Some("integer") => "Whole number",
        Some("boolean") => "`true` or `false`",
        _ if schema["pattern"].is_string() => "Duration, such as `10s` or `1h 30m`",
        _ => "Text",
    };
    kind.to_owned()
}

/// With what Markdown would take for HTML kept as text.
fn escaped(text: &str) -> String {
    let escape = |(i, part): (usize, &str)| {
        if i % 2 == 0 { part.replace('<', "\\<") } else { part.to_owned() }
    };
    text.split('`').enumerate().map(escape).collect::<Vec<_>>().join("`")
}

/// Lines of a bounded width; what stands in backticks isn't broken.
fn wrap(text: &str) -> String {
    let (mut lines, mut is_code) = (vec![String::new()], false);
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is a line from the start");
        let fits = line.chars().count() + 1 + word.chars().count() <= WIDTH;
        if line.is_empty() {
            line.push_str(word);
        } else if fits || is_code {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
        is_code ^= word.matches('`').count() % 2 == 1;
    }
    lines.join("\n")
}

#[test]
fn a_line_is_broken_outside_of_code_alone() {
    let text = format!("{} `a b` c", "x".repeat(WIDTH - 3));
    assert_eq!(wrap(&text), format!("{} `a b`\nc", "x".repeat(WIDTH - 3)));
    assert_eq!(escaped("a <b> `<c>`"), "a \\<b> `<c>`");
}
