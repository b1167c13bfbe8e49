//! Texts with the names of fields in braces, such as `outbox.event.{aggregatetype}`, and the names
//! that such a field may have.

use std::borrow::Cow;

use outboxd_client::event::MAX_HEADER_BYTES;
use outboxd_client::field;

/// Most fields that the templates of a layout name, all together.
pub const MAX_FIELDS: usize = 8;
/// The relay's own fields, and `ts`: none of them can be a part of an event.
pub(super) const BOOKKEEPING: [&str; 10] = [
    field::TS,
    field::IS_LOCKED,
    field::FAILURES,
    field::ATTEMPTS,
    field::NEXT_ATTEMPT_AT,
    field::DEAD_AT,
    field::RETRY_REQUESTED_AT,
    field::DISCARD_REQUESTED_AT,
    field::DISCARD_REQUESTED_BY,
    field::DISCARD_GRANTED_TO,
];

/// Why a layout, or a template of it, was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// A closing brace that no opening one stands before.
    #[error("{0:?} has a `}}` without its `{{`")]
    Unopened(String),
    /// An opening brace that no closing one follows.
    #[error("{0:?} has a `{{` without its `}}`")]
    Unclosed(String),
    /// More than [`MAX_FIELDS`].
    #[error("{0:?} names one field too many: {MAX_FIELDS} in all templates are the most")]
    TooManyFields(String),
    /// A brace in the prefix of subjects.
    #[error("{0:?} has a brace; fields belong into the subject's template")]
    Prefix(String),
    /// A name that is empty, has a dot, a brace or a leading `$`.
    #[error("{0:?} is not the name of a field at the top of a document")]
    Name(String),
    /// The name of a field that the relay or the server writes.
    #[error("`{0}` is a field that the relay writes; it can't be a part of an event")]
    Bookkeeping(String),
}

/// What the fields that templates name hold in one document, by their place in [`Fields`].
pub(super) type Values<'a> = [Option<Cow<'a, str>>; MAX_FIELDS];

/// A template, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(pub(super) Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Text(Box<str>),
    /// The field at this place in [`Fields`].
    Field(usize),
}

/// The fields that the templates of a layout name, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fields(Vec<Box<str>>);

impl Template {
    /// The text of one field, and nothing else.
    pub(super) fn of_field(place: usize) -> Self {
        Self(vec![Part::Field(place)])
    }
}

impl Fields {
    pub(super) fn one(name: &str) -> Self {
        Self(vec![name.into()])
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|name| &**name)
    }

    pub(super) fn name(&self, place: usize) -> &str {
        &self.0[place]
    }

    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|known| **known == *name)
    }

    /// Takes a template apart, and learns the fields that it names.
    pub(super) fn template(&mut self, text: &str) -> Result<Template, LayoutError> {
        let mut parts = Vec::new();
        let mut rest = text;

        while !rest.is_empty() {
            let (fixed, after) = rest.split_once('{').unwrap_or((rest, ""));
            if fixed.contains('}') {
                return Err(LayoutError::Unopened(text.to_owned()));
            }

            if !fixed.is_empty() {
                parts.push(Part::Text(fixed.into()));
            }

            if fixed.len() == rest.len() {
                break;
            }

            let (name, after) =
                after.split_once('}').ok_or_else(|| LayoutError::Unclosed(text.to_owned()))?;
            parts.push(Part::Field(self.learn(name)?));
            rest = after;
        }

        match self.0.len() {
            ..=MAX_FIELDS => Ok(Template(parts)),
            _ => Err(LayoutError::TooManyFields(text.to_owned())),
        }
    }

    fn learn(&mut self, name: &str) -> Result<usize, LayoutError> {
        check_name(name)?;
        Ok(self.place(name).unwrap_or_else(|| {
            self.0.push(name.into());
            self.0.len() - 1
        }))
    }

    /// The template with the values of a document, or the name of a field that is missing.
    pub(super) fn fill<'a>(
        &'a self,
        template: &Template,
        values: &'a Values<'_>,
    ) -> Result<Cow<'a, str>, &'a str> {
        let value = |place: usize| values[place].as_deref().ok_or(self.name(place));
        if let [Part::Field(only)] = template.0[..] {
            return value(only).map(Cow::Borrowed);
        }

        let mut filled = String::new();
        for part in &template.0 {
            // Whatever it is for, it is refused; the fields may have megabytes.
            if filled.len() > MAX_HEADER_BYTES {
                break;
            }

            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Field(place) => filled.push_str(value(*place)?),
            }
        }

        Ok(filled.into())
    }
}

/// Whether a layout may name this field: one at the top of a document, and none of the relay's own.
pub(super) fn check_name(name: &str) -> Result<(), LayoutError> {
    if name.is_empty() || name.starts_with('$') || name.contains(['.', '{', '}', '\0']) {
        return Err(LayoutError::Name(name.to_owned()));
    }

    if BOOKKEEPING.contains(&name) {
        return Err(LayoutError::Bookkeeping(name.to_owned()));
    }

    Ok(())
}
