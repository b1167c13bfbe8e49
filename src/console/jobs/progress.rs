//! How far an action is, and what came of its events.

use crate::mongodb::inspect::Entry;
use crate::operator::outcomes::Outcomes;

/// Most events that an action names.
const NAMED: usize = 50;

/// How far an action is.
#[derive(Debug, Default, Clone)]
pub(in crate::console) struct Progress {
    /// Events that were acted on.
    pub(in crate::console) done: u64,
    /// What came of them so far.
    pub(in crate::console) came: Vec<Came>,
    /// Events that somebody has to look at, each with the reason; the first [`NAMED`].
    pub(in crate::console) named: Vec<(String, String)>,
    /// How it ended: with an error or without.
    pub(in crate::console) ended: Option<std::result::Result<(), String>>,
}

/// So many events of an action came to the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::console) struct Came {
    pub(in crate::console) name: &'static str,
    /// Class in the style sheet, unless there is none.
    pub(in crate::console) class: &'static str,
    pub(in crate::console) events: u64,
}

impl Progress {
    /// So many events came to this.
    pub(in crate::console) fn count(
        &mut self,
        name: &'static str,
        class: &'static str,
        events: u64,
    ) {
        let came = Came { name, class, events };
        match self.came.iter_mut().find(|came| came.name == name) {
            Some(counted) => *counted = came,
            None => self.came.push(came),
        }
    }

    pub(in crate::console) fn name(&mut self, id: &str, why: String) {
        if self.named.len() < NAMED {
            self.named.push((id.to_owned(), why));
        }
    }

    /// Names the events that were refused, and those that others hold.
    pub(in crate::console) fn name_all(&mut self, outcomes: &Outcomes) {
        for Entry { id, code, error, .. } in &outcomes.refused {
            let why = [code.as_deref(), error.as_deref()].map(Option::unwrap_or_default).join(" ");
            self.name(id, format!("refused again: {}", why.trim()));
        }

        for (Entry { id, .. }, head) in &outcomes.held {
            self.name(
                id,
                match head {
                    Some(head) => format!("waits behind {} ({})", head.id, head.state.word()),
                    None => "the relay has not tried it yet".to_owned(),
                },
            );
        }
    }
}
