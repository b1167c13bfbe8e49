//! What stands around every page, and errors as pages.

use std::sync::Arc;

use askama::Template;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use tracing::warn;

use crate::console::access::Person;
use crate::console::outbox::Outbox;
use crate::console::site::Site;
use crate::console::text::{encoded, in_console};
use crate::error::{Error, ErrorKind};

/// What stands around every page.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) title: String,
    pub(super) person: Person,
    pub(super) outboxes: Vec<String>,
    /// The outbox that the page is about.
    pub(super) outbox: Option<String>,
    /// Name of the page in the navigation.
    pub(super) page: &'static str,
}

impl Frame {
    /// A link to a page of the outbox, for the navigation.
    pub(super) fn to(&self, page: &str) -> String {
        let first = self.outbox.as_ref().or(self.outboxes.first());
        format!("/o/{}/{page}", encoded(first.map_or("", String::as_str)))
    }

    /// Why this person can't act on events.
    pub(super) fn denied(&self) -> Option<&'static str> {
        self.person.denied()
    }

    /// The same page of each outbox.
    pub(super) fn others(&self) -> Vec<(&str, String)> {
        let page = match self.page {
            "scheduled" => "events?state=scheduled",
            page => page,
        };

        let to = |name: &String| format!("/o/{}/{page}", encoded(name));
        self.outboxes.iter().map(|name| (name.as_str(), to(name))).collect()
    }
}

/// A page that can't be shown, as a page.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    message: String,
}

/// The answer with a page.
pub(super) type Page = Result<Response, Problem>;

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage<'a> {
    title: &'a str,
    message: &'a str,
}

impl Site {
    pub(super) fn frame(&self, person: &Person, title: &str, page: &'static str) -> Frame {
        Frame {
            title: title.to_owned(),
            person: person.clone(),
            outboxes: self.outboxes.iter().map(|outbox| outbox.name.clone()).collect(),
            outbox: None,
            page,
        }
    }

    pub(super) fn frame_of(
        &self,
        outbox: &Outbox,
        person: &Person,
        title: &str,
        page: &'static str,
    ) -> Frame {
        Frame { outbox: Some(outbox.name.clone()), ..self.frame(person, title, page) }
    }

    pub(super) fn wanted(&self, name: &str) -> Result<&Arc<Outbox>, Problem> {
        self.outbox(name)
            .ok_or_else(|| Problem::not_found(format!("This console has no outbox {name}.")))
    }
}

impl Person {
    /// Whether a form was sent by a page of this session.
    pub(super) fn sent(&self, csrf: &str) -> Result<(), Problem> {
        match self.is_sender(csrf) {
            true => Ok(()),
            false => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "This form is not of your session, so nothing is done. Load the page again.",
            )),
        }
    }

    /// Whether a form was sent by a page of this session, and this person may act.
    pub(super) fn acts(&self, csrf: &str) -> Result<(), Problem> {
        self.sent(csrf)?;
        match self.denied() {
            None => Ok(()),
            Some(why) => Err(Problem::new(StatusCode::FORBIDDEN, why)),
        }
    }
}

impl Problem {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            ErrorKind::Usage => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, in_console(&error.report().to_string()))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = match self.status {
            StatusCode::NOT_FOUND => "Not found",
            StatusCode::FORBIDDEN => "Not allowed",
            StatusCode::UNAUTHORIZED => "Not signed in",
            StatusCode::BAD_REQUEST
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::UNPROCESSABLE_ENTITY
            | StatusCode::UNSUPPORTED_MEDIA_TYPE => "Not understood",
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => "Not read",
            StatusCode::CONFLICT => "Nothing done",
            _ => "No answer",
        };

        let page = ProblemPage { title, message: &self.message };
        (self.status, render(&page)).into_response()
    }
}

/// A template as a page.
pub(super) fn render(template: &impl Template) -> Response {
    match template.render() {
        Ok(html) => Html(html).into_response(),
        Err(error) => {
            warn!(%error, "a page of the console could not be made");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A template as a part of a page.
pub(super) fn part(template: &impl Template) -> Arc<str> {
    match template.render() {
        Ok(html) => html.into(),
        Err(error) => {
            warn!(%error, "a part of a page of the console could not be made");
            "".into()
        }
    }
}
