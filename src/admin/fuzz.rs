//! Arbitrary bytes in the place of what a client sends to the admin endpoint.

use std::sync::Arc;

use axum::Router;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::runtime::{Builder, Runtime};

use super::board::Board;
use super::{Shared, http, router};
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Registry;

/// Without this in a request, nothing is answered but that it is missing.
const AUTHORIZATION: &str = "Bearer sesame";
/// What only a client with the token may see: an answer, or that a path or method is unknown.
const FOR_CLIENTS: [&str; 4] = ["200", "404", "405", "503"];
/// Bytes on their way: more than a request or an answer has here.
const PIPE: usize = 1 << 18;

thread_local! {
    static ENDPOINT: Endpoint = Endpoint::start();
}

struct Endpoint {
    runtime: Runtime,
    router: Router,
}

impl Endpoint {
    fn start() -> Self {
        let token = AUTHORIZATION.strip_prefix("Bearer ").map(Into::into);
        let board = Board::new(token, false);
        board.add("shop.outbox", Arc::new(Health::default()));
        let runtime = Builder::new_current_thread().enable_time().build();
        let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));

        let registry = runtime.block_on(async { Registry::start() });
        let registry = registry.unwrap_or_else(|error| panic!("no metrics: {error}"));
        let router = router(Shared { registry, board });
        Self { runtime, router }
    }
}

/// What a client sends before it closes its half of the connection.
pub(crate) fn request(bytes: &[u8]) {
    let answer = ENDPOINT.with(|endpoint| {
        let router = endpoint.router.clone();
        endpoint.runtime.block_on(answer(router, bytes))
    });
    let answer = String::from_utf8_lossy(&answer);
    if answer.is_empty() {
        return;
    }

    assert_eq!(answer.matches("HTTP/1.").count(), 1, "one answer to a connection: {answer}");
    let code = answer.split(' ').nth(1).unwrap_or_default();
    let is_client = String::from_utf8_lossy(bytes).contains(AUTHORIZATION);
    assert!(is_client || !FOR_CLIENTS.contains(&code), "without the token: {answer}");
    assert_ne!(code, "500", "{answer}");
}

async fn answer(router: Router, bytes: &[u8]) -> Vec<u8> {
    let (mut client, server) = duplex(PIPE);
    if client.write_all(bytes).await.and(client.shutdown().await).is_err() {
        panic!("the pipe has room for a request");
    }

    // How a broken request ends is in the answer.
    let http = http();
    _ = http.serve_connection(TokioIo::new(server), TowerToHyperService::new(router)).await;

    let mut answer = Vec::new();
    if let Err(error) = client.read_to_end(&mut answer).await {
        panic!("the answer is cut off: {error}");
    }
    answer
}
