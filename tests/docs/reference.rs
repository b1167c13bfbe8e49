//! The handbook's reference pages, generated from the program: verbs, failure codes, checks, and
//! the fields of an event.

use clap::{Command, CommandFactory};
use outboxd::cli::Cli;
use outboxd::failure::{Class, TABLE};
use outboxd::finding::CHECKS;
use serde_json::Value;

/// The sections of `docs/failures.md` about one code each.
const SECTIONS: [(&str, &str); 7] = [
    ("10077", "the-stream-is-full"),
    ("10077-subject", "one-subject-is-full"),
    ("ack-unchecked", "somebody-forges-acks"),
    ("false-duplicate", "an-id-is-used-twice"),
    ("malformed", "repair-a-malformed-event"),
    ("no-replies", "the-relay-receives-no-replies"),
    ("not-moved", "scheduled-events-are-late"),
];

/// How each of these pages says where it comes from.
const GENERATED: &str = "This page is generated; `OUTBOXD_WRITE_DOCS=1 cargo test --workspace \
                         --features crash-points --test main docs::` writes it.";

/// Every verb with its help.
pub(super) fn verbs() -> String {
    let mut page = format!("# Verbs\n\nWhat each verb prints with `--help`. {GENERATED}\n");
    let mut command = Cli::command().mut_args(|arg| arg.hide_env(true)).max_term_width(100);
    command.build();
    add_verb(&mut command, "outboxd", &mut page);
    page
}

fn add_verb(command: &mut Command, name: &str, page: &mut String) {
    let help = command.render_help().to_string();
    let help: Vec<_> = help.lines().map(str::trim_end).collect();
    *page += &format!("\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end());

    let verbs = command.get_subcommands_mut().filter(|verb| verb.get_name() != "help");
    for verb in verbs {
        let name = format!("{name} {}", verb.get_name());
        add_verb(verb, &name, page);
    }
}

/// Every failure code under its class, and every check.
pub(super) fn codes() -> String {
    let mut page = format!(
        "# Failure codes and checks\n\nA number is JetStream's own error code. If a code has several \
         meanings, outboxd adds a word to the\nnumber, which it derives from the text of the \
         error. `outboxd groups` shows the code of each\ngroup, and `outboxd explain CODE` prints \
         its line of this page. {GENERATED}\n"
    );
    for class in [Class::Unknown, Class::Transient, Class::Config, Class::Poison] {
        page += &format!("\n## {}\n\nWhat happens: {}.\n\n", class.as_str(), class.treatment());
        page += "| code | what happened | what to do |\n| --- | --- | --- |\n";
        for rule in TABLE.iter().filter(|rule| rule.class == class) {
            let section = SECTIONS.iter().find(|(code, _)| *code == rule.code);
            let more =
                section.map_or(String::new(), |(_, at)| format!(" ([more](failures.md#{at}))"));
            page += &format!(
                "| `{}` | {} | {}{more} |\n",
                rule.code,
                cell(rule.meaning),
                cell(rule.remedy)
            );
        }
    }

    page += "\nA code that is not listed is `unknown` at first, and `config` once the event is marked. \
             Look it up in nats-server's\ndocumentation.\n\n## Checks\n\nThe names of what \
             `outboxd check` examines, in the field `check` of `--output json`:\n\n";
    for check in CHECKS {
        page += &format!("- `{check}`\n");
    }
    page
}

/// The text in a cell of a table, where `|` would end it and `<` begin HTML.
fn cell(text: &str) -> String {
    let escape = |(i, part): (usize, &str)| {
        if i % 2 == 0 { part.replace('<', "\\<") } else { part.to_owned() }
    };
    let parts: Vec<_> = text.split('`').enumerate().map(escape).collect();
    parts.join("`").replace('|', "\\|")
}

/// The fields of an event and of a scheduled event, as the validators demand them.
pub(super) fn document() -> String {
    let mut page = format!(
        "# Fields of an event\n\nWhat the validators that `outboxd migrate` creates demand, as in \
         [event.schema.json](writers/event.schema.json)\nand \
         [scheduled.schema.json](writers/scheduled.schema.json). [The event \
         document](event.md) explains each field. {GENERATED}\n"
    );
    for (name, file) in [("An event", "event"), ("A scheduled event", "scheduled")] {
        let text = std::fs::read_to_string(format!("docs/writers/{file}.schema.json"))
            .expect("the schema is beside the writers");
        let schema: Value = serde_json::from_str(&text).expect("the schema is JSON");
        page += &format!("\n## {name}\n\n| field | BSON types | required | rule |\n");
        page += "| --- | --- | --- | --- |\n";
        for (field, of) in schema["properties"].as_object().expect("it has properties") {
            let required = schema["required"].as_array().expect("some are required");
            let required = if required.iter().any(|of| of == field) { "yes" } else { "no" };
            let types = match &of["bsonType"] {
                Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
                one => one.as_str().into_iter().collect::<Vec<_>>(),
            };
            let rule = cell(of["description"].as_str().unwrap_or_default());
            page += &format!("| `{field}` | {} | {required} | {rule} |\n", types.join(", "));
        }
    }
    page
}
