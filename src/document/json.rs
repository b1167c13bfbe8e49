//! Extended JSON with fields in their order. The order is part of an `_id`, and people who edit a
//! payload expect to find it again.

use bson::Bson;

/// On one line, with the type of each value.
pub(crate) fn canonical(value: &Bson) -> String {
    write(value, None, &|value| value.clone().into_canonical_extjson().to_string())
}

/// On several lines, with numbers as people write them.
pub(crate) fn for_people(value: &Bson) -> String {
    write(value, Some(0), &|value| value.clone().into_relaxed_extjson().to_string())
}

/// Reads either form.
pub(crate) fn read(text: &str) -> Result<Bson, serde_json::Error> {
    serde_json::from_str(text)
}

/// `depth` is that of the value, unless all is on one line.
fn write(value: &Bson, depth: Option<usize>, scalar: &impl Fn(&Bson) -> String) -> String {
    let inner = depth.map(|depth| depth + 1);
    let (open, parts, close) = match value {
        Bson::Document(document) if !document.is_empty() => {
            let colon = if depth.is_some() { ": " } else { ":" };
            let field = |(name, value): (&String, &Bson)| {
                let name = serde_json::Value::from(name.as_str());
                format!("{name}{colon}{}", write(value, inner, scalar))
            };
            ('{', document.iter().map(field).collect::<Vec<_>>(), '}')
        }
        Bson::Array(values) if !values.is_empty() => {
            let values = values.iter().map(|value| write(value, inner, scalar));
            ('[', values.collect(), ']')
        }
        value => return scalar(value),
    };

    match depth {
        None => format!("{open}{}{close}", parts.join(",")),
        Some(depth) => {
            let (outer, inner) = ("  ".repeat(depth), "  ".repeat(depth + 1));
            let parts = parts.join(&format!(",\n{inner}"));
            format!("{open}\n{inner}{parts}\n{outer}{close}")
        }
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn the_order_of_fields_is_kept() {
        let value = Bson::from(doc! {
            "z": 1_i64, "a": [doc! { "y": bson::DateTime::from_millis(5), "b": {} }, "\"q\""],
            "m": bson::oid::ObjectId::from_bytes([1; 12]), "d": 1.5, "n": Bson::Null,
        });
        let text = canonical(&value);
        assert!(text.starts_with(r#"{"z":{"$numberLong":"1"},"a":[{"y":"#), "{text}");
        assert_eq!(format!("{:?}", read(&text).expect("JSON")), format!("{value:?}"));

        let text = for_people(&value);
        assert!(text.starts_with("{\n  \"z\": 1,\n  \"a\": [\n    {\n      \"y\": "), "{text}");
        let again = read(&text).expect("JSON");
        assert_eq!(for_people(&again), text);
    }
}
