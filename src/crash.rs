//! Named points at which the process can be made to die, so that tests can show that nothing is
//! lost at any of them.
//!
//! Does something only in a build with the feature `crash-points`, and only when asked:
//! `OUTBOXD_CRASH_AT=acked:3` ends the process by SIGKILL when it comes to the point `acked` for
//! the third time.

/// A point on an event's way, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// Its lane and a place in flight are taken; nothing is sent.
    Claimed,
    /// The publish is handed to the client; no ack yet.
    Submitted,
    /// The stream has acked it; nobody else knows.
    Acked,
    /// Its delete is on its way to MongoDB.
    DeleteSent,
    /// It failed; the mark isn't written.
    Marking,
    /// It failed and is marked; those behind it aren't parked.
    Parking,
    /// Those behind it are read, to follow it.
    Unparking,
}

#[cfg(not(feature = "crash-points"))]
mod armed {
    pub(crate) fn here(_: super::Point) {}
    pub(crate) fn soon(_: super::Point) {}
}

#[cfg(feature = "crash-points")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::Point;

    /// A command is written to its socket well within this, and hardly ever answered.
    const SOON: Duration = Duration::from_micros(300);

    /// The point that kills, and how many times it is still passed.
    static ARMED: OnceLock<Option<(String, AtomicU32)>> = OnceLock::new();

    impl Point {
        fn name(self) -> &'static str {
            match self {
                Self::Claimed => "claimed",
                Self::Submitted => "submitted",
                Self::Acked => "acked",
                Self::DeleteSent => "delete_sent",
                Self::Marking => "marking",
                Self::Parking => "parking",
                Self::Unparking => "unparking",
            }
        }

        fn is_the_end(self) -> bool {
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

    /// Dies here, if it is the time.
    pub(crate) fn here(point: Point) {
        if point.is_the_end() {
            die();
        }
    }

    /// Dies while what follows is under way, if it is the time.
    pub(crate) fn soon(point: Point) {
        if point.is_the_end() {
            std::thread::spawn(|| {
                std::thread::sleep(SOON);
                die();
            });
        }
    }

    fn die() {
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

pub(crate) use armed::{here, soon};
