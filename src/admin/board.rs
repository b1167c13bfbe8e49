//! What the endpoint reports about: the outboxes of the process, and the token of requests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use secrecy::SecretString;
use serde::Serialize;

use crate::mongodb::inspect::Inspect;
use crate::telemetry::health::{Health, Ready};

/// The outboxes of a process, by name.
#[derive(Debug, Clone)]
pub(super) struct Board {
    posted: Arc<Mutex<Posted>>,
    /// Whether the answers have an entry for each outbox, or are those of a single one.
    is_fleet: bool,
}

#[derive(Debug)]
struct Posted {
    outboxes: BTreeMap<String, Outbox>,
    token: Option<SecretString>,
}

#[derive(Debug, Clone)]
pub(super) struct Outbox {
    pub(super) health: Arc<Health>,
    /// Nothing until MongoDB was reached.
    pub(super) inspect: Option<Inspect>,
}

/// The answer to `/readyz`.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Readiness {
    One(Ready),
    Fleet { ready: bool, outboxes: BTreeMap<String, Ready> },
}

impl Readiness {
    pub(super) fn is_ready(&self) -> bool {
        match self {
            Self::One(one) => one.ready,
            Self::Fleet { ready, .. } => *ready,
        }
    }
}

impl Board {
    pub(super) fn new(token: Option<SecretString>, is_fleet: bool) -> Self {
        let posted = Posted { outboxes: BTreeMap::new(), token };
        Self { posted: Arc::new(Mutex::new(posted)), is_fleet }
    }

    fn lock(&self) -> MutexGuard<'_, Posted> {
        self.posted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_fleet(&self) -> bool {
        self.is_fleet
    }

    pub(super) fn token(&self) -> Option<SecretString> {
        self.lock().token.clone()
    }

    pub(super) fn set_token(&self, token: Option<SecretString>) {
        self.lock().token = token;
    }

    pub(super) fn add(&self, name: &str, health: Arc<Health>) {
        self.lock().outboxes.insert(name.to_owned(), Outbox { health, inspect: None });
    }

    pub(super) fn remove(&self, name: &str) {
        self.lock().outboxes.remove(name);
    }

    pub(super) fn reached(&self, name: &str, inspect: Inspect) {
        if let Some(outbox) = self.lock().outboxes.get_mut(name) {
            outbox.inspect = Some(inspect);
        }
    }

    pub(super) fn outboxes(&self) -> Vec<(String, Outbox)> {
        self.lock().outboxes.iter().map(|(name, outbox)| (name.clone(), outbox.clone())).collect()
    }

    /// Whether the loop of every outbox turns. One that has stopped is a fault of the process.
    pub(super) fn is_alive(&self) -> bool {
        self.lock().outboxes.values().all(|outbox| outbox.health.is_alive())
    }

    /// A fleet is ready while it can deliver for one of its outboxes: restarting the process would
    /// help none of the others.
    pub(super) fn readiness(&self) -> Readiness {
        let mut outboxes: BTreeMap<_, _> = self
            .outboxes()
            .into_iter()
            .map(|(name, outbox)| (name, outbox.health.ready()))
            .collect();

        match outboxes.pop_first() {
            Some((_, one)) if !self.is_fleet => Readiness::One(one),
            first => {
                outboxes.extend(first);
                let ready = outboxes.is_empty() || outboxes.values().any(|outbox| outbox.ready);
                Readiness::Fleet { ready, outboxes }
            }
        }
    }
}
