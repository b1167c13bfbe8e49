//! Documents without the fields that the settings redact.

use bson::Bson;

/// In the place of a value that is not shown.
const REDACTED: &str = "(redacted)";

/// A value of the document with what is at one of these paths replaced. `*` is any field or element.
/// As in MongoDB, a path goes through arrays without naming their elements; it also finds fields with
/// dots in their names. What should have fields by a path's name but has none is not shown at all: so
/// a payload that is a text is not, where any path is set.
pub(super) fn redact(mut value: Bson, paths: &[String]) -> Bson {
    for path in paths {
        let parts: Vec<_> = path.split('.').collect();
        replace(&mut value, &parts, true);
    }

    value
}

/// `is_named` says whether the path named this value, and not `*`.
fn replace(value: &mut Bson, path: &[&str], is_named: bool) {
    let Some((first, rest)) = path.split_first() else {
        *value = REDACTED.into();
        return;
    };

    match value {
        Bson::Document(fields) => {
            for (name, value) in fields.iter_mut() {
                if *first == "*" {
                    replace(value, rest, false);
                }
                if let Some(rest) = behind(name, path) {
                    replace(value, rest, *first != "*");
                }
            }
        }
        Bson::Array(elements) => {
            let place = first.parse::<usize>().ok();
            for (at, element) in elements.iter_mut().enumerate() {
                match element {
                    element if Some(at) == place => replace(element, rest, true),
                    element if *first == "*" => replace(element, rest, false),
                    Bson::Document(_) | Bson::Array(_) => replace(element, path, is_named),
                    element if place.is_none() && is_named => replace(element, path, true),
                    _ => {}
                }
            }
        }
        Bson::JavaScriptCodeWithScope(_) => *value = REDACTED.into(),
        _ if is_named => *value = REDACTED.into(),
        _ => {}
    }
}

/// The path behind a field of this name, whose dots are part of the name.
fn behind<'a>(name: &str, path: &'a [&'a str]) -> Option<&'a [&'a str]> {
    let mut rest = path;
    for part in name.split('.') {
        let (first, behind) = rest.split_first()?;
        if part != *first && *first != "*" {
            return None;
        }
        rest = behind;
    }

    Some(rest)
}

#[cfg(test)]
mod tests {
    use bson::{Bson, doc};

    use super::redact;

    #[test]
    fn what_is_at_a_path_is_not_shown() {
        let payload = doc! {
            "customer": { "email": "a@b", "name": "A" },
            "items": [{ "price": 5, "sku": "x" }, { "price": 6 }],
        };
        let paths = ["customer.email", "items.*.price", "items.1", "none.at.all"];
        let shown = redact(payload.into(), &paths.map(str::to_owned));
        let wanted = doc! {
            "customer": { "email": "(redacted)", "name": "A" },
            "items": [{ "price": "(redacted)", "sku": "x" }, "(redacted)"],
        };
        assert_eq!(shown, Bson::from(wanted));

        // Arrays on the way, and at the top.
        let shown = |payload: Bson, path: &str| redact(payload, &[path.to_owned()]);
        let list = || doc! { "customer": [{ "email": "a@b", "at": 1 }, [{ "email": "c@d" }]] };
        let wanted =
            doc! { "customer": [{ "email": "(redacted)", "at": 1 }, [{ "email": "(redacted)" }]] };
        assert_eq!(shown(list().into(), "customer.email"), Bson::from(wanted.clone()));
        let top = Bson::Array(vec![list().into(), list().into()]);
        let wanted = Bson::Array(vec![wanted.clone().into(), wanted.into()]);
        assert_eq!(shown(top, "customer.email"), wanted);

        // Dots in names, and a text or code where fields should be.
        for payload in [
            doc! { "customer.email": "a@b" },
            doc! { "a": { "customer.email": "a@b" } },
            doc! { "customer": "a@b" },
            doc! { "customer": ["a@b"] },
            doc! { "customer": bson::JavaScriptCodeWithScope { code: "x".into(), scope: doc! { "email": "a@b" } } },
        ] {
            let paths = ["customer.email", "a.customer.email"].map(str::to_owned);
            let shown = redact(payload.into(), &paths).into_relaxed_extjson().to_string();
            assert!(!shown.contains("a@b") && shown.contains("(redacted)"), "{shown}");
        }

        // Nobody can find a path in these.
        assert_eq!(redact("a@b".into(), &["x".to_owned()]), Bson::from("(redacted)"));
        assert_eq!(redact("a@b".into(), &[]), Bson::from("a@b"));
    }
}
