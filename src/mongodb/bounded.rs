//! Bounds of an operator's queries, in time and in bytes. Any client can write a document of 16 MB
//! with anything in it, and an operator looks at the outbox when something is wrong.

use std::time::Duration;

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt as _;
use mongodb::Cursor;
use mongodb::error::Result;

/// Longest time that the server spends on one query that is asked again and again, or that something
/// else waits for.
pub(super) const QUERY_TIME: Duration = Duration::from_secs(10);
/// The same for a query that an operator asks once. A whole look at a million stuck events takes
/// three seconds, and an operator looks when the server is overloaded, too.
pub(super) const READ_ALL_TIME: Duration = Duration::from_secs(60);
/// Most bytes of one field that a query returns. No field of an event that follows the contract is
/// longer, payload and headers apart.
const MAX_FIELD: i64 = 8 << 10;
/// Most bytes of ids in one command.
const MAX_IDS: usize = 1 << 20;

/// In an aggregation: the value, or `otherwise` where it is too large. Sizes are those of BSON, so
/// it makes no difference which type the value has, or whether a text is UTF-8.
pub(super) fn small(value: impl Into<Bson>, otherwise: impl Into<Bson>) -> Document {
    let value = value.into();
    let size = doc! { "$bsonSize": { "value": value.clone() } };
    doc! { "$cond": [{ "$lte": [size, MAX_FIELD] }, value, otherwise.into()] }
}

/// The next document of many. One reply has thousands, and the thread that reads them may be the
/// relay's, so others have their turn between them.
pub(super) async fn next(found: &mut Cursor<Document>) -> Result<Option<Document>> {
    tokio::task::consume_budget().await;
    found.try_next().await
}

/// Parts of at most `events` ids that fit into one command.
pub(crate) fn parts(ids: &[Bson], events: usize) -> Vec<&[Bson]> {
    let (mut parts, mut first, mut bytes) = (Vec::new(), 0, 0);
    for (place, id) in ids.iter().enumerate() {
        let size = bson::serialize_to_vec(&doc! { "id": id }).map_or(MAX_IDS, |id| id.len());
        if place > first && (place - first >= events || bytes + size > MAX_IDS) {
            parts.push(&ids[first..place]);
            (first, bytes) = (place, 0);
        }
        bytes += size;
    }

    if first < ids.len() {
        parts.push(&ids[first..]);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_parted_by_number_and_by_size() {
        let lengths = |ids: &[Bson], most| -> Vec<_> {
            parts(ids, most).iter().map(|part| part.len()).collect()
        };
        let small: Vec<Bson> = (0..7).map(Bson::from).collect();
        assert_eq!(lengths(&small, 3), [3, 3, 1]);
        assert!(lengths(&[], 3).is_empty());

        let mut large = small;
        large.insert(2, Bson::String("x".repeat(2 << 20)));
        assert_eq!(lengths(&large, 500), [2, 1, 5]);
    }
}
