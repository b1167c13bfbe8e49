//! Payloads without the fields that the settings redact.

use bson::Bson;

/// In the place of a value that is not shown.
const REDACTED: &str = "(redacted)";

/// The payload with each value at one of these paths replaced. `*` is any field or element. A
/// payload that is a text or bytes has no paths; where any is set, it is not shown at all.
pub(super) fn redact(mut payload: Bson, paths: &[String]) -> Bson {
    let has_fields = matches!(payload, Bson::Document(_) | Bson::Array(_));
    if !has_fields && !paths.is_empty() {
        return REDACTED.into();
    }

    for path in paths {
        let parts: Vec<_> = path.split('.').collect();
        replace(&mut payload, &parts);
    }

    payload
}

fn replace(value: &mut Bson, path: &[&str]) {
    let Some((first, rest)) = path.split_first() else {
        *value = REDACTED.into();
        return;
    };

    match value {
        Bson::Document(fields) => {
            let fields = fields.iter_mut().filter(|(name, _)| *first == "*" || *name == first);
            fields.for_each(|(_, value)| replace(value, rest));
        }
        Bson::Array(elements) => {
            let place = first.parse::<usize>().ok();

            let elements = elements.iter_mut().enumerate();
            let wanted = elements.filter(|(at, _)| *first == "*" || Some(*at) == place);
            wanted.for_each(|(_, value)| replace(value, rest));
        }
        _ => {}
    }
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

        // Nobody can find a path in these.
        assert_eq!(redact("a@b".into(), &["x".to_owned()]), Bson::from("(redacted)"));
        assert_eq!(redact("a@b".into(), &[]), Bson::from("a@b"));
    }
}
