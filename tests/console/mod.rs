//! The console: what it shows, to whom, and that nothing shown harms anybody.

mod access;
mod hostile;
mod numbers;
mod streams;

use std::process::{Child, Stdio};

use bson::{Document, doc};
use reqwest::header::{CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};

use crate::support::{Scene, command, free_ports, until};

pub(crate) const OPERATOR: &str = "operators-token-of-32-characters";
const VIEWER: &str = "a-viewers-token-of-32-characters";

/// `outboxd console` on a scene.
pub(crate) struct Console {
    child: Child,
    pub(crate) url: String,
}

/// Somebody with a browser, or a program that acts like one.
pub(crate) struct Person {
    client: Client,
    url: String,
    cookie: Option<String>,
}

impl Console {
    pub(crate) async fn start(scene: &Scene, settings: &[(&str, &str)]) -> Self {
        let listen = format!("127.0.0.1:{}", free_ports(1)[0]);
        let people = format!("operator alice {OPERATOR}\n# support\nviewer bob {VIEWER}\n");
        let child = command(scene, "console")
            .arg("console")
            .env("OUTBOXD_CONSOLE__LISTEN", &listen)
            .env("OUTBOXD_CONSOLE__TOKENS", people)
            .envs(settings.iter().copied())
            .stdout(Stdio::null())
            .spawn()
            .expect("outboxd starts");
        let console = Self { child, url: format!("http://{listen}") };

        let stranger = console.stranger();
        until("the console answers", async || {
            stranger.client.get(stranger.at("/style.css")).send().await.ok()
        })
        .await;
        console
    }

    pub(crate) fn stranger(&self) -> Person {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().redirect(Policy::none()).build().expect("a client");
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

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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

    /// What each form of this session carries.
    pub(crate) async fn csrf(&self) -> String {
        let page = self.page("/").await;
        let rest = page.split("name=\"csrf\" value=\"").nth(1).expect("a form");
        rest.split('"').next().expect("its token").to_owned()
    }
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
