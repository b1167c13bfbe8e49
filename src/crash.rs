//! Named points at which a test can kill the process, to prove that no event is lost there, and
//! bounds that a test can lower, to reach them without a million documents.
//!
//! The points are active only in a build with the feature `crash-points`, and only when the
//! environment names one: `OUTBOXD_CRASH_AT=acked:3` ends the process by SIGKILL when it reaches
//! the point `acked` for the third time. `OUTBOXD_BOUND_LISTED=20` lowers the bound `LISTED`.

/// A point on an event's way, in the order in which the event passes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// The event holds its lane and a place in flight; nothing is sent.
    Claimed,
    /// The client has the publish; there is no ack yet.
    Submitted,
    /// The stream has acked the publish; MongoDB doesn't know yet.
    Acked,
    /// The delete is on its way to MongoDB.
    DeleteSent,
    /// The copy of an acked event to the kept ones is on its way to MongoDB.
    Keeping,
    /// The event is kept, and still in the outbox.
    Kept,
    /// A page of kept events is read, to be published again.
    Repairing,
    /// The page is published again; MongoDB doesn't know yet.
    Repaired,
    /// The publish failed; the mark isn't written.
    Marking,
    /// The failed event is marked; the later events of its key aren't parked.
    Parking,
    /// The parked events of a key are read, to be published.
    Unparking,
    /// Scheduled events are due; nothing of them is moved.
    Due,
    /// They are deleted where they were, in a transaction that is not committed.
    Taken,
    /// They are in the outbox, in that transaction.
    Put,
    /// The transaction is committed.
    Moved,
}

#[cfg(not(feature = "crash-points"))]
mod armed {
    pub(crate) fn here(_: super::Point) {}
    pub(crate) fn soon(_: super::Point) {}
    pub(crate) fn bound(_: &str, usual: usize) -> usize {
        usual
    }
}

#[cfg(feature = "crash-points")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::Point;

    /// Long enough to write a command to its socket, and usually too short for the answer.
    const SOON: Duration = Duration::from_micros(300);

    /// The point that kills, and how often the process still passes it.
    static ARMED: OnceLock<Option<(String, AtomicU32)>> = OnceLock::new();

    impl Point {
        fn name(self) -> &'static str {
            match self {
                Self::Claimed => "claimed",
                Self::Submitted => "submitted",
                Self::Acked => "acked",
                Self::DeleteSent => "delete_sent",
                Self::Keeping => "keeping",
                Self::Kept => "kept",
                Self::Repairing => "repairing",
                Self::Repaired => "repaired",
                Self::Marking => "marking",
                Self::Parking => "parking",
                Self::Unparking => "unparking",
                Self::Due => "due",
                Self::Taken => "taken",
                Self::Put => "put",
                Self::Moved => "moved",
            }
        }

        fn is_armed(self) -> bool {
            let armed = ARMED.get_or_init(|| {
                let at = std::env::var("OUTBOXD_CRASH_AT").ok()?;
                let (name, times) = at.split_once(':')?;
                Some((name.to_owned(), AtomicU32::new(times.parse().ok()?)))
            });
            armed.as_ref().is_some_and(|(name, left)| {
                *name == self.name() && left.fetch_sub(1, Ordering::SeqCst) == 1
            })
        }
    }

    /// Kills the process here if this pass of the point is the armed one.
    pub(crate) fn here(point: Point) {
        if point.is_armed() {
            die();
        }
    }

    /// Kills the process shortly after, while the next step is under way, if this pass is the armed
    /// one.
    pub(crate) fn soon(point: Point) {
        if point.is_armed() {
            std::thread::spawn(|| {
                std::thread::sleep(SOON);
                die();
            });
        }
    }

    /// The bound with this name, as the environment says, if it says so.
    pub(crate) fn bound(name: &str, usual: usize) -> usize {
        let lowered = std::env::var(format!("OUTBOXD_BOUND_{name}")).ok();
        lowered.and_then(|text| text.parse().ok()).unwrap_or(usual)
    }

    fn die() {
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

pub(crate) use armed::{bound, here, soon};
