//! The console: what it shows, to whom, and that nothing shown harms anybody.

mod access;
mod actions;
mod browser;
mod clicked;
mod hostile;
mod load;
mod numbers;
mod pictures;
mod published;
mod reading;
mod stopping;
mod streams;
mod tls;
mod watching;

use std::process::{Child, Stdio};

use bson::{Document, doc};
use reqwest::header::{CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Response};

use crate::support::{Scene, command, free_ports, until};

pub(crate) const OPERATOR: &str = "operators-token-of-32-characters";
const VIEWER: &str = "a-viewers-token-of-32-characters";

/// A console that answers.
pub(crate) struct Console {
    /// `outboxd console`, unless a daemon serves it.
    child: Option<Child>,
    pub(crate) url: String,
    /// Who vouches for it.
    authority: Option<Certificate>,
}

/// Somebody with a browser, or a program that acts like one.
pub(crate) struct Person {
    client: Client,
    url: String,
    cookie: Option<String>,
}

/// The people of a console, as its settings name them.
pub(crate) fn people() -> String {
    format!("operator alice {OPERATOR}\n# support\nviewer bob {VIEWER}\n")
}

impl Console {
    /// `outboxd console` on a scene.
    pub(crate) async fn start(scene: &Scene, settings: &[(&str, &str)]) -> Self {
        let listen = format!("127.0.0.1:{}", free_ports(1)[0]);
        let child = Some(start(scene, &listen, settings));
        let console = Self { child, url: format!("http://{listen}"), authority: None };
        console.answers().await;
        console
    }

    /// That of a daemon which listens there.
    pub(crate) async fn at(listen: &str) -> Self {
        let console = Self { child: None, url: format!("http://{listen}"), authority: None };
        console.answers().await;
        console
    }

    async fn answers(&self) {
        let stranger = self.stranger();
        until("the console answers", async || {
            stranger.client.get(stranger.at("/style.css")).send().await.ok()
        })
        .await;
    }

    pub(crate) fn stranger(&self) -> Person {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().redirect(Policy::none());
        let client = match &self.authority {
            Some(authority) => client.tls_certs_only([authority.clone()]),
            None => client,
        };
        let client = client.build().expect("a client");
        Person { client, url: self.url.clone(), cookie: None }
    }

    pub(crate) async fn person(&self, token: &str) -> Person {
        let mut person = self.stranger();
        let answer = person.post("/sign-in", &[("token", token)]).await;
        assert_eq!(answer.status(), 303, "signed in");
        let cookie = answer.headers()[SET_COOKIE].to_str().expect("a cookie");
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
        person.cookie = cookie.split(';').next().map(str::to_owned);
        person
    }
}

/// Starts `outboxd console`.
fn start(scene: &Scene, listen: &str, settings: &[(&str, &str)]) -> Child {
    command(scene, "console")
        .arg("console")
        .env("OUTBOXD_CONSOLE__LISTEN", listen)
        .env("OUTBOXD_CONSOLE__TOKENS", people())
        .envs(settings.iter().copied())
        .stdout(Stdio::null())
        .spawn()
        .expect("outboxd starts")
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Person {
    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        let mut request = self.client.get(self.at(path));
        if let Some(cookie) = &self.cookie {
            request = request.header(COOKIE, cookie);
        }
        request.send().await.expect("an answer")
    }

    /// A page that there is.
    pub(crate) async fn page(&self, path: &str) -> String {
        let answer = self.get(path).await;
        let status = answer.status();
        let text = answer.text().await.expect("a text");
        assert_eq!(status, 200, "{path}: {text}");
        text
    }

    pub(crate) async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Response {
        let form = reqwest::Url::parse_with_params("http://form/", fields).expect("a form");
        let form = form.query().unwrap_or_default().to_owned();
        let kind = "application/x-www-form-urlencoded";
        let mut request = self.client.post(self.at(path)).header(CONTENT_TYPE, kind).body(form);
        if let Some(cookie) = &self.cookie {
            request = request.header(COOKIE, cookie);
        }
        request.send().await.expect("an answer")
    }

    /// Sends the form of a page about an action, and waits for its end: the page with the outcome.
    pub(crate) async fn confirm(&self, path: &str, page: &str, fields: &[(&str, &str)]) -> String {
        let [csrf, preview] = ["csrf", "preview"].map(|name| hidden(page, name).expect("a form"));
        let form = [&[("csrf", csrf), ("preview", preview)], fields].concat();
        let answer = self.post(path, &form).await;
        assert_eq!(answer.status(), 303, "{}", answer.text().await.unwrap_or_default());
        self.ended(location(&answer)).await
    }

    /// The page of an action once it has ended.
    pub(crate) async fn ended(&self, job: &str) -> String {
        until("the action ends", async || {
            let page = self.page(job).await;
            (!page.contains("Under way")).then_some(page)
        })
        .await
    }

    /// What each form of this session carries.
    pub(crate) async fn csrf(&self) -> String {
        hidden(&self.page("/").await, "csrf").expect("a form").to_owned()
    }
}

/// The value of a hidden field of a page's form.
fn hidden<'a>(page: &'a str, name: &str) -> Option<&'a str> {
    page.split(&format!("name=\"{name}\" value=\"")).nth(1)?.split('"').next()
}

/// A number of an action's page.
fn number(page: &str, name: &str) -> Option<String> {
    let rest = page.split(&format!("<dt>{name}</dt><dd>")).nth(1)?;
    Some(rest.split('<').next()?.to_owned())
}

/// Where an answer leads.
fn location(answer: &Response) -> &str {
    answer.headers()[LOCATION].to_str().expect("an address")
}

/// An event that is dead for this reason.
pub(crate) fn dead(scene: &Scene, id: &str, key: &str, code: &str, error: &str) -> Document {
    let at = bson::DateTime::now();
    doc! {
        "_id": id, "ts": bson::Timestamp { time: 1_700_000_000, increment: 1 }, "subject": scene.subject("a"),
        "key": key, "payload": { "card": "4111", "name": "A" }, "isLocked": false, "deadAt": at, "attempts": 3_i64,
        "failures": [{ "at": at, "attempt": 3_i64, "code": code, "class": "poison", "error": error, "relay": "r" }],
    }
}
