//! What a collection's validator has against a document, in the validator's own words.
//!
//! MongoDB reports a refused document as "Document failed validation" and puts the rules that it
//! breaks into `errInfo`, a document of many levels. The outbox's validator has a sentence for each
//! rule; this finds those sentences.

use bson::{Bson, Document};
use mongodb::error::{Error, ErrorKind, WriteFailure};

/// MongoDB's code for a document that its collection's validator refuses.
const DOCUMENT_VALIDATION_FAILURE: i32 = 121;
/// Most reasons given. One is usual.
const MAX_REASONS: usize = 5;
/// Deepest level that is looked at. The outbox's validator has its sentences within ten.
const MAX_DEPTH: usize = 20;

/// Why the validator refuses the document, if this error says so in words.
pub(crate) fn reasons(error: &Error) -> Option<String> {
    let details = match &*error.kind {
        ErrorKind::Write(WriteFailure::WriteError(error)) => {
            (error.code == DOCUMENT_VALIDATION_FAILURE).then_some(error.details.as_ref())
        }
        ErrorKind::InsertMany(error) => {
            let mut errors = error.write_errors.iter().flatten();
            errors
                .find(|error| error.code == DOCUMENT_VALIDATION_FAILURE)
                .map(|error| error.details.as_ref())
        }
        _ => None,
    };

    let mut found = Vec::new();
    collect(details??, 0, &mut found);
    found.truncate(MAX_REASONS);
    (!found.is_empty()).then(|| found.join("; "))
}

fn collect(details: &Document, depth: usize, found: &mut Vec<String>) {
    if depth >= MAX_DEPTH || found.len() >= MAX_REASONS {
        return;
    }

    if let Ok(missing) = details.get_array("missingProperties") {
        found.extend(
            missing.iter().filter_map(Bson::as_str).map(|name| format!("{name} is missing")),
        );
        return;
    }

    if let (Ok(name), Ok(demand)) =
        (details.get_str("propertyName"), details.get_str("description"))
    {
        found.push(format!("{name}: {demand}"));
        return;
    }

    if let Some(sentence) = details.get_document("specifiedAs").ok().and_then(sentence) {
        found.push(sentence.to_owned());
        return;
    }

    for (_, value) in details {
        match value {
            Bson::Document(inner) => collect(inner, depth + 1, found),
            Bson::Array(inner) => {
                for inner in inner.iter().filter_map(Bson::as_document) {
                    collect(inner, depth + 1, found);
                }
            }
            _ => {}
        }
    }
}

/// The sentence of a rule of the form `{$expr: {$cond: [rule, true, {$not: [sentence]}]}}`.
fn sentence(rule: &Document) -> Option<&str> {
    let cond = rule.get_document("$expr").ok()?.get_array("$cond").ok()?;
    cond.last()?.as_document()?.get_array("$not").ok()?.first()?.as_str()
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    fn found(details: Document) -> Vec<String> {
        let mut found = Vec::new();
        collect(&details, 0, &mut found);
        found
    }

    #[test]
    fn the_sentences_of_all_broken_rules_are_found() {
        let details = doc! { "failingDocumentId": 1, "details": {
            "operatorName": "$and",
            "clausesNotSatisfied": [
                { "index": 0, "details": {
                    "operatorName": "$jsonSchema",
                    "schemaRulesNotSatisfied": [
                        { "operatorName": "properties", "propertiesNotSatisfied": [
                            { "propertyName": "key", "description": "the aggregate's id", "details": [
                                { "operatorName": "minLength", "specifiedAs": { "minLength": 1 } },
                            ] },
                        ] },
                        { "operatorName": "required", "missingProperties": ["ts", "payload"] },
                    ],
                } },
                { "index": 2, "details": {
                    "operatorName": "$expr",
                    "specifiedAs": { "$expr": { "$cond": [
                        { "$lte": [1, 2] }, true, { "$not": ["key is longer than 255 bytes."] },
                    ] } },
                } },
            ],
        } };
        assert_eq!(
            found(details),
            [
                "key: the aggregate's id",
                "ts is missing",
                "payload is missing",
                "key is longer than 255 bytes.",
            ]
        );
    }

    #[test]
    fn a_rule_without_words_gives_none() {
        let rule = doc! { "details": { "operatorName": "$eq", "specifiedAs": { "a": 1 } } };
        assert!(found(rule).is_empty());
        let bottomless = (0..200).fold(doc! {}, |inner, _| doc! { "details": inner });
        assert!(found(bottomless).is_empty());
    }
}
