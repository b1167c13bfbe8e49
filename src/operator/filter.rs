//! The filter that an operator selects events with: flags on the command line, and the part behind
//! the `?` of the console's addresses.

use std::time::Duration;

use clap::Args;
use outboxd_client::{Key, Subject};
use serde::{Deserialize, Serialize};

use crate::document::state::State;
use crate::error::{Error, ErrorKind, Result};
use crate::failure::{TABLE, look_up};
use crate::finding::option;
use crate::group;
use crate::mongodb::selection::Selection;

/// How alike a code must be to one of the table to be named in its place.
const ALIKE: f64 = 0.8;

/// Selects events; every filter that is given must match.
#[derive(Debug, Clone, Args)]
pub(crate) struct Filter {
    /// Subject, with the wildcards of NATS: 'tickets.>', 'tickets.*.made', 'ticket:*'
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// Ordering key of the event, exact
    #[arg(long)]
    key: Option<String>,
    /// Only events older than this, such as 90s, 5m or 2h
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    /// Class of the newest failure: unknown, transient, config or poison
    #[arg(long, value_parser = ["unknown", "transient", "config", "poison"])]
    class: Option<String>,
    /// Code of the newest failure, as `outboxd groups` shows it
    #[arg(long)]
    code: Option<String>,
    /// Id of a group of similar failures, as `outboxd groups` shows it
    #[arg(long, value_name = "ID")]
    group: Option<String>,
    /// Only dead events
    #[arg(long, group = "state")]
    dead: bool,
    /// Only events that wait behind another event of their key
    #[arg(long, group = "state")]
    pub(crate) parked: bool,
    /// Only events that failed and are retried
    #[arg(long, group = "state")]
    failed: bool,
    /// Only scheduled events that wait for their time; dead ones appear with the other dead events
    #[arg(long, group = "state")]
    pub(crate) scheduled: bool,
}

impl Filter {
    pub(crate) fn selection(&self) -> Selection {
        let states = [
            (self.dead, State::Dead),
            (self.parked, State::Parked),
            (self.failed, State::Failed),
            (self.scheduled, State::Scheduled),
        ];
        Selection {
            ids: None,
            scheduled_ids: Vec::new(),
            subject: self.subject.clone(),
            key: self.key.clone(),
            older_than: self.older_than,
            class: self.class.clone(),
            code: self.code.clone(),
            group: self.group.clone(),
            state: states.into_iter().find_map(|(given, state)| given.then_some(state)),
            without_parked: false,
        }
    }

    /// The same filter for one group.
    pub(crate) fn of_group(&self, id: &str) -> Self {
        Self { group: Some(id.to_owned()), ..self.clone() }
    }

    /// The events that it selects from, as an adjective.
    pub(crate) fn kind(&self) -> &'static str {
        if self.scheduled { "scheduled" } else { "stuck" }
    }

    /// Whether the filter leaves events out. One that matches everything is none.
    pub(crate) fn is_narrow(&self) -> bool {
        let subject = self.subject.as_deref().is_some_and(|subject| !["*", ">"].contains(&subject));
        let age = self.older_than.is_some_and(|age| age > Duration::ZERO);
        let texts = [&self.key, &self.class, &self.code, &self.group];
        subject
            || age
            || texts.into_iter().any(Option::is_some)
            || self.dead
            || self.parked
            || self.failed
    }

    /// The filter as words of a command line, quoted for a shell.
    pub(crate) fn words(&self) -> Vec<String> {
        let age = self.older_than.map(|age| humantime::format_duration(age).to_string());
        let texts = [
            ("--subject", &self.subject),
            ("--key", &self.key),
            ("--older-than", &age),
            ("--class", &self.class),
            ("--code", &self.code),
            ("--group", &self.group),
        ];

        let flags = [
            ("--dead", self.dead),
            ("--parked", self.parked),
            ("--failed", self.failed),
            ("--scheduled", self.scheduled),
        ];
        let texts = texts.into_iter().filter_map(|(name, text)| Some(option(name, text.as_ref()?)));
        let flags = flags.into_iter().filter(|(_, given)| *given).map(|(name, _)| name.to_owned());

        texts.chain(flags).collect()
    }

    /// Explains why nothing matches, if nothing ever could.
    ///
    /// # Errors
    /// A filter that no event can match, such as a code with a slip of the pen.
    pub(crate) fn check_that_it_can_match(&self) -> Result<()> {
        let no = |message: String| Err(Error::new(ErrorKind::Usage, message));
        let is_of_failures = self.class.is_some() || self.code.is_some() || self.group.is_some();
        if self.parked && is_of_failures {
            return no("a parked event has not failed, so it has no class, code or group".into());
        }

        if let Some(code) = &self.code {
            check_code(code)?;
            if let (Some(rule), Some(class)) = (look_up(code), &self.class)
                && rule.class.as_str() != class
            {
                return no(format!("failures of code {code} are of class {}", rule.class.as_str()));
            }
        }

        if let Some(subject) = &self.subject
            && let Err(error) = Subject::new(example(subject))
        {
            return no(format!("--subject {subject} matches no subject of an event: {error}"));
        }

        if let Some(key) = &self.key
            && let Err(error) = Key::new(key.as_str())
        {
            return no(format!("--key matches no key of an event: {error}"));
        }

        match &self.group {
            Some(id) if !group::is_id(id) => no(format!(
                "{id} is no group: an id of a group has {} hexadecimal digits; `outboxd groups` lists \
                 them",
                group::ID_DIGITS
            )),
            Some(id) => Err(Error::new(
                ErrorKind::NotFound,
                format!("no stuck event of group {id} matches; `outboxd groups` lists the groups"),
            )),
            None => Ok(()),
        }
    }
}

/// A filter as the part behind the `?` of an address has it. An empty text is no filter.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    pub(crate) state: String,
    pub(crate) subject: String,
    pub(crate) key: String,
    pub(crate) older_than: String,
    pub(crate) class: String,
    pub(crate) code: String,
    pub(crate) group: String,
}

impl Asked {
    /// The filter.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a duration or a state that is none.
    pub(crate) fn filter(&self) -> Result<Filter> {
        let given = |text: &String| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let older_than = given(&self.older_than).map(|text| {
            humantime::parse_duration(&text).map_err(|_| {
                let message = format!("{text} is not an age such as 90s, 5m or 2h");
                Error::new(ErrorKind::Usage, message)
            })
        });

        // BSON has no pattern with such a character, and no subject or key has it.
        if [&self.subject, &self.key].iter().any(|text| text.contains('\0')) {
            return Err(Error::new(ErrorKind::Usage, "a filter can't have a NUL character"));
        }

        let states = [State::Dead, State::Parked, State::Failed, State::Scheduled];
        let state = states.into_iter().find(|state| state.word() == self.state);
        if state.is_none() && !self.state.is_empty() {
            let message =
                format!("no stuck event is {}; give dead, parked, failed or scheduled", self.state);
            return Err(Error::new(ErrorKind::Usage, message));
        }

        Ok(Filter {
            subject: given(&self.subject),
            key: Some(self.key.clone()).filter(|key| !key.is_empty()),
            older_than: older_than.transpose()?,
            class: given(&self.class),
            code: given(&self.code),
            group: given(&self.group),
            dead: state == Some(State::Dead),
            parked: state == Some(State::Parked),
            failed: state == Some(State::Failed),
            scheduled: state == Some(State::Scheduled),
        })
    }
}

/// JetStream's codes are numbers; not every one of them is in the table.
fn check_code(code: &str) -> Result<()> {
    let is_number = !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_digit());
    if is_number || look_up(code).is_some() {
        return Ok(());
    }

    let alike = |known: &str| strsim::jaro_winkler(known, code);
    let nearest = TABLE.iter().map(|rule| rule.code).max_by(|a, b| alike(a).total_cmp(&alike(b)));
    let nearest = match nearest.filter(|nearest| alike(nearest) >= ALIKE) {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => "`outboxd explain` lists the codes".to_owned(),
    };
    Err(Error::new(ErrorKind::Usage, format!("no failure has the code {code}; {nearest}")))
}

/// A subject that a filter matches.
fn example(filter: &str) -> String {
    let filter = filter
        .strip_suffix('>')
        .filter(|rest| rest.is_empty() || rest.ends_with('.'))
        .map_or_else(|| filter.to_owned(), |rest| format!("{rest}x"));
    filter.replace('*', "x")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter() -> Filter {
        Filter {
            subject: None,
            key: None,
            older_than: None,
            class: None,
            code: None,
            group: None,
            dead: false,
            parked: false,
            failed: false,
            scheduled: false,
        }
    }

    fn of(change: impl Fn(&mut Filter)) -> Filter {
        let mut made = filter();
        change(&mut made);
        made
    }

    #[test]
    fn what_can_never_match_is_explained() {
        let text = |text: &str| Some(text.to_owned());
        for (never, why) in [
            (of(|f| f.code = text("not-coverd")), "did you mean not-covered?"),
            (of(|f| f.code = text("")), "`outboxd explain` lists"),
            (of(|f| f.code = text("xyz")), "`outboxd explain` lists"),
            (of(|f| (f.parked, f.code) = (true, text("timeout"))), "has not failed"),
            (of(|f| (f.code, f.class) = (text("not-covered"), text("poison"))), "class config"),
            (of(|f| f.subject = text("a b")), "without spaces"),
            (of(|f| f.subject = text("a..b")), "empty token"),
            (of(|f| f.subject = text("$JS.>")), "belong to the server"),
            (of(|f| f.subject = text("a.>.b")), "wildcards"),
            (of(|f| f.key = text("")), "it is empty"),
            (of(|f| f.key = Some("k".repeat(256))), "255 bytes"),
            (of(|f| f.group = text("0123abcd")), "no stuck event of group 0123abcd"),
        ] {
            let error = never.check_that_it_can_match().expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn what_may_match_another_time_is_no_error() {
        let text = |text: &str| Some(text.to_owned());
        for may in [
            filter(),
            of(|f| f.code = text("10999")),
            of(|f| f.code = text("10077-subject")),
            of(|f| (f.code, f.class) = (text("not-covered"), text("config"))),
            of(|f| f.subject = text("tickets.>")),
            of(|f| f.subject = text(">")),
            of(|f| f.subject = text("ticket:*")),
            of(|f| f.subject = text("*.made")),
            of(|f| f.parked = true),
        ] {
            assert!(may.check_that_it_can_match().is_ok(), "{may:?}");
        }
    }

    #[test]
    fn a_filter_that_matches_everything_is_none() {
        for wide in ["*", ">"] {
            assert!(!of(|f| f.subject = Some(wide.to_owned())).is_narrow());
        }
        assert!(!of(|f| f.older_than = Some(Duration::ZERO)).is_narrow());
        assert!(!of(|f| f.scheduled = true).is_narrow(), "it takes everything that is scheduled");
        assert!(of(|f| f.dead = true).is_narrow());
        assert!(of(|f| f.subject = Some("tickets.>".to_owned())).is_narrow());
    }
}
