//! Writes of many events in one command, each event for itself, and which refusals are final.
//!
//! The server answers a command with an error for each event that it didn't write. Only what the
//! server, the network or another operation caused is repeated: see [`code::PASSING`]. Every other
//! error is final and that event's alone. A unique index or a validator of somebody else's can
//! refuse any write, so the codes of such errors can't be listed.

use bson::{Bson, Document, RawArrayBuf, RawDocumentBuf, doc, rawdoc};
use mongodb::Database;
use mongodb::error::{Error, ErrorKind, Result, WriteFailure};
use outboxd_client::field;

use super::code;
use super::collation::simple_document;
use super::outbox::Store;
use crate::error::mongodb_words;
use crate::relay::ports::Refused;

/// Longest text of a refusal. One that repeats a document may have megabytes.
const MAX_REASON_BYTES: usize = 2048;

/// What a command writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    Update,
    Delete,
}

/// Whether a command stops at the first write that the server refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Kept,
    None,
}

impl Store {
    /// Makes these writes, and returns those that the server will never make.
    pub(super) async fn write(
        &self,
        write: Write,
        statements: &[RawDocumentBuf],
        order: Order,
    ) -> Result<Vec<Refused>> {
        let (database, collection) = (self.database(), self.collection.name());
        let learn = |reply: &Document| self.written.learn(reply);
        all(&database, collection, write, statements, order, learn).await
    }

    /// Deletes each of these events that is `also` so.
    pub(super) async fn delete_each(&self, ids: &[Bson], also: Document) -> Result<Vec<Refused>> {
        let delete = |id: &Bson| {
            let mut wanted = doc! { field::ID: id };
            wanted.extend(also.clone());
            raw(doc! { "q": wanted, "limit": 1, "collation": simple_document() })
        };
        let deletes: Vec<_> = ids.iter().map(delete).collect::<Result<_>>()?;
        self.write(Write::Delete, &deletes, Order::None).await
    }
}

/// Makes these writes, and returns those that the server will never make. If the server refuses the
/// command because of what stands in one of them, each becomes a command of its own. `learn` gets
/// each reply.
pub(super) async fn all(
    database: &Database,
    collection: &str,
    write: Write,
    statements: &[RawDocumentBuf],
    order: Order,
    mut learn: impl FnMut(&Document),
) -> Result<Vec<Refused>> {
    match together(database, collection, write, statements, order, &mut learn).await {
        Err(error) if is_of_documents(&error) => {}
        written => return written,
    }

    let mut refused = Vec::new();
    for (index, statement) in statements.iter().enumerate() {
        if order == Order::Kept && !refused.is_empty() {
            break;
        }

        let alone = std::slice::from_ref(statement);
        match together(database, collection, write, alone, order, &mut learn).await {
            Ok(alone) => {
                refused.extend(alone.into_iter().map(|refused| Refused { index, ..refused }));
            }
            Err(error) if is_of_documents(&error) => {
                refused.push(Refused { index, error: cut(&mongodb_words(&error)) });
            }
            Err(error) => return Err(error),
        }
    }

    Ok(refused)
}

async fn together(
    database: &Database,
    collection: &str,
    write: Write,
    statements: &[RawDocumentBuf],
    order: Order,
    learn: &mut impl FnMut(&Document),
) -> Result<Vec<Refused>> {
    let mut all = RawArrayBuf::new();
    statements.iter().for_each(|statement| all.push(statement.clone()));

    let (ordered, concern) = (order == Order::Kept, rawdoc! { "w": "majority" });
    let command = match write {
        Write::Update => rawdoc! {
            "update": collection, "ordered": ordered, "updates": all, "writeConcern": concern,
        },
        Write::Delete => rawdoc! {
            "delete": collection, "ordered": ordered, "deletes": all, "writeConcern": concern,
        },
    };

    let reply = database.run_raw_command(command).await?;
    if let Some(error) = reply.get("writeConcernError") {
        let reason = error.as_document().and_then(|error| error.get_str("errmsg").ok());
        let reason = reason.unwrap_or("the server gives no reason");
        let message = format!("the write concern was not met: {reason}");
        return Err(Error::custom(message));
    }

    learn(&reply);

    let refused = reply.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
    refused.iter().filter_map(Bson::as_document).map(read_refused).collect()
}

/// A statement becomes bytes at once: as documents, a thousand of them are ten times as big.
pub(super) fn raw(statement: Document) -> Result<RawDocumentBuf> {
    Ok(RawDocumentBuf::try_from(&statement)?)
}

/// Reads one of the `writeErrors` of a reply.
///
/// # Errors
/// When the refusal may pass: the command has to be repeated.
fn read_refused(error: &Document) -> Result<Refused> {
    let reason = cut(error.get_str("errmsg").unwrap_or("(no reason given)"));
    let number = |name: &str| error.get(name).and_then(as_integer);
    let index = number("index").and_then(|index| usize::try_from(index).ok());

    match (index, number("code")) {
        (Some(index), Some(code)) if !is_passing(code) => Ok(Refused { index, error: reason }),
        (_, code) => {
            let reason = format!("{reason} (code {})", code.unwrap_or(0));
            Err(Error::custom(reason))
        }
    }
}

fn as_integer(value: &Bson) -> Option<i64> {
    value.as_i64().or_else(|| value.as_i32().map(i64::from))
}

fn is_passing(code: i64) -> bool {
    code::PASSING.iter().any(|passing| i64::from(*passing) == code)
}

/// Without the values of a duplicate key, which may be of a payload.
pub(super) fn cut(reason: &str) -> String {
    let reason = reason.split(" dup key:").next().unwrap_or(reason);
    reason[..reason.floor_char_boundary(MAX_REASON_BYTES)].to_owned()
}

/// Whether the server refused a command because of what stands in a document or in a statement, and
/// would refuse it again.
pub(super) fn is_of_documents(error: &Error) -> bool {
    match &*error.kind {
        ErrorKind::Command(error) => code::OF_DOCUMENTS.contains(&error.code),
        ErrorKind::Write(WriteFailure::WriteError(error)) => !is_passing(error.code.into()),
        _ => false,
    }
}

/// Whether the server answered, and refused.
pub(crate) fn is_refusal(error: &Error) -> bool {
    matches!(&*error.kind, ErrorKind::Command(_) | ErrorKind::Write(_))
}

/// Whether the server would refuse the same command again.
pub(super) fn is_lasting(error: &Error) -> bool {
    let is_labelled = ["RetryableWriteError", "TransientTransactionError"]
        .iter()
        .any(|label| error.contains_label(label));
    match &*error.kind {
        ErrorKind::Command(error) => !is_labelled && !is_passing(error.code.into()),
        ErrorKind::Write(WriteFailure::WriteError(error)) => {
            !is_labelled && !is_passing(error.code.into())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_does_not_answer_has_refused_nothing() {
        let gone = Error::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
        assert!(!is_refusal(&gone));
    }

    fn refusal(code: Bson) -> Document {
        doc! { "index": 3, "code": code, "errmsg": "é".repeat(5_000) }
    }

    #[test]
    fn only_what_passes_by_itself_is_repeated() {
        for passing in code::PASSING {
            assert!(read_refused(&refusal(passing.into())).is_err(), "{passing}");
        }

        // Unique indexes, validators, and what nobody has thought of.
        for code in [11_000, 11_001, 121, 171, 66, 17_419, 1, 8, 61, 96, 999_999] {
            for code in [Bson::from(code), Bson::from(i64::from(code))] {
                let refused = read_refused(&refusal(code.clone())).expect("a refusal");
                assert_eq!(refused.index, 3, "{code}");
                assert!(refused.error.len() <= MAX_REASON_BYTES);
            }
        }
    }

    #[test]
    fn a_refusal_that_names_no_event_is_repeated() {
        assert!(read_refused(&doc! { "code": 11_000, "errmsg": "e" }).is_err());
        assert!(read_refused(&doc! { "index": 0, "errmsg": "e" }).is_err());
    }
}
