//! Copies of another service's records, kept by its events.
//!
//! The owner of a record counts its changes: the record has version 0 when it is created, and each
//! later event has a version one higher. A copy takes an event only if it has the version before
//! it. So a repeated event changes nothing, an old one can't overwrite a newer one, and one that
//! comes too early is asked for again.
//!
//! | stored | event of version `v` | verdict |
//! | --- | --- | --- |
//! | nothing | `v` is 0 | stored: [`Verdict::Done`] |
//! | `v - 1` | | stored: [`Verdict::Done`] |
//! | `v` or newer | | an old one: [`Verdict::Done`] |
//! | older than `v - 1`, or nothing | `v` is 1 or more | too early: [`Verdict::Later`] |
//!
//! A copy that was removed stays as `{ _id, version, removedAt }`, so that a message that comes
//! again doesn't bring it back. Live copies are `{ removedAt: null }`.

use bson::{Bson, DateTime, Document, doc};
use mongodb::error::{ErrorKind, WriteFailure};
use mongodb::{ClientSession, Collection};
use serde::Serialize;

use crate::verdict::{HandleError, Verdict};

/// The field that counts a record's changes.
const VERSION: &str = "version";
/// The field of a copy that was removed.
const REMOVED_AT: &str = "removedAt";
/// MongoDB's code for a value that a unique index has already.
const DUPLICATE_KEY: i32 = 11_000;

/// A collection of copies. Each document has an `_id` and a whole number `version`.
///
/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Replica<T: Send + Sync> {
    copies: Collection<T>,
}

/// A copy to be stored.
struct Copy {
    id: Bson,
    version: i64,
    document: Document,
}

impl<T: Serialize + Send + Sync> Replica<T> {
    /// Copies in this collection.
    pub fn new(copies: Collection<T>) -> Self {
        Self { copies }
    }

    /// Stores a copy if it is the next version of its record. No transaction is needed.
    ///
    /// # Errors
    /// [`HandleError::Mongodb`]; [`HandleError::Unprocessable`] for a copy without an `_id` and a
    /// version.
    pub async fn apply(&self, copy: &T) -> Result<Verdict, HandleError> {
        self.store(Copy::of(copy)?).await
    }

    /// The same, in the transaction under way on `session`, for work that changes more than the
    /// copy.
    ///
    /// # Errors
    /// As [`Replica::apply`].
    pub async fn apply_in(
        &self,
        session: &mut ClientSession,
        copy: &T,
    ) -> Result<Verdict, HandleError> {
        self.store_in(session, Copy::of(copy)?).await
    }

    /// Removes a copy whose record was deleted in this version. `{ _id, version, removedAt }` stays,
    /// so that a message that comes late does not bring the copy back.
    ///
    /// # Errors
    /// As [`Replica::apply`].
    pub async fn remove(&self, id: impl Into<Bson>, version: i64) -> Result<Verdict, HandleError> {
        self.store(Copy::removed(id.into(), version)?).await
    }

    /// The same, in the transaction under way on `session`.
    ///
    /// # Errors
    /// As [`Replica::apply`].
    pub async fn remove_in(
        &self,
        session: &mut ClientSession,
        id: impl Into<Bson>,
        version: i64,
    ) -> Result<Verdict, HandleError> {
        self.store_in(session, Copy::removed(id.into(), version)?).await
    }

    async fn store(&self, copy: Copy) -> Result<Verdict, HandleError> {
        let Copy { id, version, document } = copy;
        let copies = self.copies.clone_with_type::<Document>();

        if version == 0 {
            return match copies.insert_one(document).await {
                // Another unique index may be the one that refuses it.
                Err(error) if is_duplicate(&error) && self.version(None, &id).await?.is_some() => {
                    Ok(Verdict::Done)
                }
                Err(error) => Err(error.into()),
                Ok(_) => Ok(Verdict::Done),
            };
        }

        let before = doc! { "_id": &id, VERSION: version - 1 };

        if copies.replace_one(before, document).await?.matched_count == 1 {
            return Ok(Verdict::Done);
        }
        Ok(unless_next(self.version(None, &id).await?, version))
    }

    async fn store_in(
        &self,
        session: &mut ClientSession,
        copy: Copy,
    ) -> Result<Verdict, HandleError> {
        let Copy { id, version, document } = copy;
        let copies = self.copies.clone_with_type::<Document>();

        match self.version(Some(&mut *session), &id).await? {
            // A duplicate key would end the transaction, so it isn't left to the index.
            None if version == 0 => {
                copies.insert_one(document).session(session).await?;
                Ok(Verdict::Done)
            }
            Some(stored) if stored == version - 1 => {
                let before = doc! { "_id": id, VERSION: stored };
                copies.replace_one(before, document).session(session).await?;
                Ok(Verdict::Done)
            }
            stored => Ok(unless_next(stored, version)),
        }
    }

    async fn version(
        &self,
        session: Option<&mut ClientSession>,
        id: &Bson,
    ) -> Result<Option<i64>, HandleError> {
        let copies = self.copies.clone_with_type::<Document>();
        let find = copies.find_one(doc! { "_id": id }).projection(doc! { VERSION: 1 });
        let found = match session {
            Some(session) => find.session(session).await?,
            None => find.await?,
        };

        found.map(|stored| version_of(&stored)).transpose()
    }
}

impl Copy {
    fn of(copy: &impl Serialize) -> Result<Self, HandleError> {
        let document = bson::serialize_to_document(copy).map_err(HandleError::failed)?;
        let version = version_of(&document)?;
        let id = document.get("_id").filter(|id| **id != Bson::Null).cloned();
        let id = id.ok_or_else(|| HandleError::unprocessable("the copy has no _id"))?;

        Ok(Self { id, version, document })
    }

    fn removed(id: Bson, version: i64) -> Result<Self, HandleError> {
        let document = doc! { "_id": id, VERSION: version, REMOVED_AT: DateTime::now() };
        Self::of(&document)
    }
}

fn version_of(document: &Document) -> Result<i64, HandleError> {
    let version = match document.get(VERSION) {
        Some(Bson::Int32(version)) => Some(i64::from(*version)),
        Some(Bson::Int64(version)) => Some(*version),
        // A service in JavaScript wrote it.
        Some(Bson::Double(version)) if version.fract() == 0.0 => Some(*version as i64),
        _ => None,
    };

    let version = version.filter(|version| *version >= 0);
    version.ok_or_else(|| {
        HandleError::unprocessable("the copy has no field version with a whole number from 0 on")
    })
}

/// The verdict on an event that is not the next one.
fn unless_next(stored: Option<i64>, version: i64) -> Verdict {
    match stored {
        Some(stored) if stored >= version => Verdict::Done,
        _ => Verdict::Later,
    }
}

fn is_duplicate(error: &mongodb::error::Error) -> bool {
    match &*error.kind {
        ErrorKind::Write(WriteFailure::WriteError(error)) => error.code == DUPLICATE_KEY,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_a_whole_number_whatever_its_type() {
        let versions = [Bson::Int32(3), Bson::Int64(3), Bson::Double(3.0)];

        for version in versions {
            assert_eq!(version_of(&doc! { VERSION: version }).expect("a version"), 3);
        }

        let none = [Bson::Null, Bson::Double(1.5), Bson::Int32(-1), Bson::String("1".to_owned())];

        for version in none {
            assert!(version_of(&doc! { VERSION: &version }).is_err(), "{version}");
        }
    }

    #[test]
    fn an_older_event_is_done_and_a_newer_one_waits() {
        assert_eq!(unless_next(Some(4), 4), Verdict::Done);
        assert_eq!(unless_next(Some(9), 4), Verdict::Done);
        assert_eq!(unless_next(Some(2), 4), Verdict::Later);
        assert_eq!(unless_next(None, 4), Verdict::Later);
    }
}
