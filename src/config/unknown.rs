//! What the sources hold and no setting asked for. An unknown name is rejected, with the nearest
//! known one.

use super::info::SettingInfo;
use super::sources::Values;

/// A line for every name in the sources that is neither one of `settings` nor in a place where one
/// of these `lists` of tables allows it.
pub(super) fn lines(values: &Values, settings: &[&SettingInfo], lists: &[String]) -> Vec<String> {
    let mut known = Vec::new();
    for setting in settings {
        known.push(setting.key.clone());
        if setting.is_secret {
            known.push(format!("{}_file", setting.key));
        }
    }

    let known: Vec<_> = known.iter().map(String::as_str).collect();

    let mut lines = Vec::new();
    for (key, source) in values.direct() {
        if let Some((list, _)) = list_of(key, lists) {
            lines.push(format!("{key}: only the file can hold tables [[{list}]] ({source})"));
        } else if !known.contains(&key) {
            lines.push(unknown(key, source, &known));
        }
    }

    for (key, source) in values.file() {
        let list = list_of(key, lists).filter(|(_, rest)| !rest.starts_with('['));
        let shared = of_root(key, lists).filter(|name| known.contains(name));
        let line = match (list, shared) {
            (Some((list, _)), _) => {
                format!("{key}: `{list}` is a list; write [[{list}]] ({source})")
            }
            _ if known.contains(&key) => continue,
            (None, Some(shared)) => {
                format!("{key}: all tables share `{shared}`; set it outside of them ({source})")
            }
            (None, None) => unknown(key, source, &known),
        };
        lines.push(line);
    }

    for (name, right) in values.misspelt(&known) {
        lines.push(format!("environment {name}: two underscores separate names; write {right}"));
    }

    for setting in settings.iter().filter(|setting| !setting.is_secret) {
        for name in setting.variables.iter().filter(|name| values.has_file_variable(name)) {
            let key = &setting.key;
            lines.push(format!("environment {name}_FILE: `{key}` is not a secret; write {name}"));
        }
    }

    lines
}

/// The list that a name reaches into, and the rest of the name.
fn list_of<'a>(key: &'a str, lists: &'a [String]) -> Option<(&'a str, &'a str)> {
    lists.iter().find_map(|list| {
        let rest = key.strip_prefix(list.as_str())?;
        let reaches = rest.is_empty() || rest.starts_with(['.', '[']);
        reaches.then_some((list.as_str(), rest))
    })
}

/// The name that a setting of a table has outside of its list.
fn of_root<'a>(key: &'a str, lists: &[String]) -> Option<&'a str> {
    let (_, rest) =
        lists.iter().find_map(|list| key.strip_prefix(list.as_str())?.split_once("]."))?;
    Some(rest)
}

fn unknown(key: &str, source: &str, known: &[&str]) -> String {
    // Comparing names would be most of what a fuzzer waits for.
    let known = if cfg!(fuzzing) { &[] } else { known };
    let distance = |candidate: &&&str| strsim::damerau_levenshtein(key, candidate);
    let nearest = known.iter().min_by_key(distance).copied().unwrap_or("(none)");
    format!("{key}: there is no such setting; the nearest is `{nearest}` ({source})")
}
