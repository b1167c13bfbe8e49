//! Arbitrary bytes in the place of what MongoDB answers to the tail.

use bson::RawDocument;

use super::transaction::{Continued, Step, Survey};

/// Takes a reply whose `page` is a page of changes, with the bytes of any server.
pub(crate) fn page(bytes: &[u8]) {
    let Ok(reply) = RawDocument::from_bytes(bytes) else { return };
    let Ok(page) = reply.get_array("page") else { return };
    let Ok(survey) = Survey::of(page) else { return };

    let mut continued = Continued::default();
    // The second time as the page after the first one.
    for is_cut in [true, false] {
        let Ok(steps) = continued.steps(&survey.changes, is_cut) else { return };
        assert!(steps.len() <= survey.changes.len(), "more steps than changes");

        for step in steps {
            let (Step::Inserted(change, _) | Step::Committed(change)) = step else { continue };
            let _ = (change.id(), change.committed_ms(), change.is_request());
        }
        let _ = continued.may_repeat();
    }
}
