//! The ticketing services as processes, with a nats-server of their own: their subjects are the
//! same in every test.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use async_nats::jetstream::consumer::pull;
use axum::http::HeaderMap;
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use bson::oid::ObjectId;
use bson::{Document, doc};
use mongodb::Collection;
use ring::hmac;
use serde_json::{Value, json};

use super::process::OUTBOXD;
use super::{NatsServer, Scene, outboxd};

pub(crate) const KEY: &str = "the tests' key";

/// One service with its relay's scene.
pub(crate) struct Ticketing {
    pub(crate) scene: Scene,
    url: String,
    http: reqwest::Client,
    service: Child,
}

/// What a service answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// The first complaint of a refusal.
    pub(crate) fn complaint(&self) -> &str {
        self.body["errors"][0]["message"]
            .as_str()
            .unwrap_or_else(|| panic!("a refusal says why: {self:?}"))
    }

    pub(crate) fn id(&self) -> String {
        self.body["id"]
            .as_str()
            .unwrap_or_else(|| panic!("a record has an id: {self:?}"))
            .to_owned()
    }
}

impl Ticketing {
    /// Starts one of the services with a database and stream of its own. No relay runs yet.
    pub(crate) async fn start(service: &str, nats: &NatsServer) -> Self {
        Self::with(service, Scene::on(nats).await, &[]).await
    }

    /// The same, with more environment.
    pub(crate) async fn start_with(service: &str, nats: &NatsServer, env: &[(&str, &str)]) -> Self {
        Self::with(service, Scene::on(nats).await, env).await
    }

    /// A second service on the same stream, as in production.
    pub(crate) async fn beside(&self, service: &str) -> Self {
        self.beside_with(service, &[]).await
    }

    /// The same, with more environment.
    pub(crate) async fn beside_with(&self, service: &str, env: &[(&str, &str)]) -> Self {
        Self::with(service, self.scene.beside().await, env).await
    }

    async fn with(service: &str, scene: Scene, env: &[(&str, &str)]) -> Self {
        let (code, said) = outboxd(&scene, &["migrate"]);
        assert_eq!(code, Some(0), "{said}");
        // TLS is compiled in and wants one chosen; an error only says that it is.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::new();
        let (url, child) = serve(service, &scene, env);
        Self { scene, url, http, service: child }
    }

    pub(crate) fn records(&self, collection: &str) -> Collection<Document> {
        self.scene.database.collection(collection)
    }

    /// Everything written so far, in all collections: a refused request must leave it as it is.
    pub(crate) async fn everything(&self) -> Vec<Document> {
        let mut all = Vec::new();
        for name in ["users", "tickets", "orders", "charges", "expirations", "outbox"] {
            let mut cursor =
                self.records(name).find(doc! {}).sort(doc! { "_id": 1 }).await.expect("a read");
            while cursor.advance().await.expect("a read") {
                all.push(cursor.deserialize_current().expect("a document"));
            }
        }
        all
    }

    pub(crate) async fn post(&self, user: &str, path: &str, body: Value) -> Answer {
        self.send(self.http.post(self.at(path)).bearer_auth(token(user, 600)).json(&body)).await
    }

    pub(crate) async fn put(&self, user: &str, path: &str, body: Value) -> Answer {
        self.send(self.http.put(self.at(path)).bearer_auth(token(user, 600)).json(&body)).await
    }

    pub(crate) async fn get(&self, user: &str, path: &str) -> Answer {
        self.send(self.http.get(self.at(path)).bearer_auth(token(user, 600))).await
    }

    pub(crate) async fn delete(&self, user: &str, path: &str) -> Answer {
        self.send(self.http.delete(self.at(path)).bearer_auth(token(user, 600))).await
    }

    /// A GET with these headers, and no user.
    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let request = self.http.get(self.at(path));
        self.send(
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)),
        )
        .await
    }

    /// Kills the service (-9) and starts it again.
    pub(crate) async fn killed_and_started(mut self, service: &str) -> Self {
        self.service.kill().expect("a kill");
        self.service.wait().expect("its end");
        let (url, child) = serve(service, &self.scene, &[]);
        (self.url, self.service) = (url, child);
        self
    }

    /// A POST whose headers and body are as given.
    pub(crate) async fn raw(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let request = self.http.post(self.at(path)).body(body.to_owned());
        self.send(
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)),
        )
        .await
    }

    /// Puts a message into the stream as the other service's relay would.
    pub(crate) async fn hears(&self, subject: &'static str, message: Value) {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", ObjectId::new().to_hex());
        let (context, payload) = (&self.scene.context, message.to_string().into());
        let ack = context.publish_with_headers(subject, headers, payload).await;
        ack.expect("a publish").await.expect("an ack");
    }

    /// Whether the service's listener has acked everything there is.
    pub(crate) async fn heard_all(&self, group: &str) -> Option<()> {
        let stream = self.scene.context.get_stream(&self.scene.stream).await.expect("the stream");
        let consumer = stream.get_consumer::<pull::Config>(group).await.ok()?;
        let info = consumer.get_info().await.expect("its state");
        (info.num_pending == 0 && info.num_ack_pending == 0).then_some(())
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.expect("a body");
        let body = serde_json::from_str(&text)
            .unwrap_or_else(|_| panic!("every answer is JSON: {status} {text:?}"));
        Answer { status, headers, body }
    }
}

impl Drop for Ticketing {
    fn drop(&mut self) {
        let _ = self.service.kill();
        let _ = self.service.wait();
    }
}

/// Starts a service; returns when it answers.
fn serve(service: &str, scene: &Scene, env: &[(&str, &str)]) -> (String, Child) {
    // The services are a crate of their own; `make bins` builds them beside outboxd.
    let binary = Path::new(OUTBOXD).with_file_name("ticketing");
    assert!(binary.exists(), "{} is missing; run `make bins`", binary.display());

    let mut child = Command::new(binary)
        .arg(service)
        .env_clear()
        .envs(scene.env().into_iter().filter(|(name, _)| !name.starts_with("OUTBOXD_")))
        .envs([("JWT_KEY", KEY), ("PORT", "0"), ("NATS_CLIENT_ID", service)])
        .envs(env.iter().copied())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the service starts");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("its output is piped");
    BufReader::new(stdout).read_line(&mut line).expect("the service says where it listens");
    let url = line.trim().strip_prefix("listening on ");
    let url = url.unwrap_or_else(|| panic!("{line:?}")).to_owned();

    (url, child)
}

/// A user's token, valid for so many seconds from now; negative for one that has expired.
pub(crate) fn token(user: &str, seconds: i64) -> String {
    signed(user, seconds, "HS256", KEY)
}

/// A token that says that it was signed in this way, and was with this key, by HMAC-SHA256.
pub(crate) fn signed(user: &str, seconds: i64, algorithm: &str, key: &str) -> String {
    let exp = bson::DateTime::now().timestamp_millis() / 1000 + seconds;
    let parts = [json!({ "alg": algorithm, "typ": "JWT" }), json!({ "sub": user, "exp": exp })];
    let text = parts.map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()), text.as_bytes());
    format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}
