//! Nothing leaves over a connection until the stream was compared with the watermark: what it has
//! lost comes before newer events.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::failure::Rejection;

/// Granted once for each connection.
#[derive(Debug, Default)]
pub(crate) struct Clearance {
    /// The connection over which the stream was compared; 0 for none.
    compared: AtomicU64,
    /// Why the comparison takes so long.
    unanswered: Mutex<Option<Rejection>>,
}

impl Clearance {
    /// Lets publishes leave over this connection.
    pub(crate) fn grant(&self, connection: u64) {
        self.compared.store(connection, Ordering::Relaxed);
        *self.unanswered.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn withdraw(&self) {
        self.compared.store(0, Ordering::Relaxed);
    }

    pub(crate) fn is_granted(&self, connection: u64) -> bool {
        connection != 0 && self.compared.load(Ordering::Relaxed) == connection
    }

    /// The stream gave no answer.
    pub(crate) fn unanswered(&self, rejection: Rejection) {
        *self.unanswered.lock().unwrap_or_else(PoisonError::into_inner) = Some(rejection);
    }

    /// Why it is not granted, if the stream gave no answer.
    pub(crate) fn why(&self) -> Option<Rejection> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
