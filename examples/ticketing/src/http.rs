//! The shape of the services' HTTP: what a request must look like, and the one shape of a refusal.
//!
//! Every answer that isn't a success is `{"errors": [{"message": "…", "field": "…"}]}`; `field` is
//! there when one is to blame. That holds for unknown routes, wrong methods and bodies that aren't
//! JSON too.

use std::time::Duration;

use axum::extract::{
    DefaultBodyLimit, FromRef, FromRequest, FromRequestParts, MatchedPath, Path, Request,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router, body::Bytes};
use bson::oid::ObjectId;
use opentelemetry::propagation::Extractor;
use serde_json::Value;
use tokio::sync::Semaphore;
use tracing::{Instrument, Span, error, field, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::fields::Fields;
use crate::refusal::ApiError;
use crate::token::Verifier;
use crate::traces;

/// Longest body. A ticket has a title and a price.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// How long a client may take to send its body.
const BODY_TIME: Duration = Duration::from_secs(10);
/// How long the work of one request may take. MongoDB elects a new primary in about 10 s.
const WORK_TIME: Duration = Duration::from_secs(15);
/// Requests that are worked on at once; the others wait for their turn. Several times the
/// connections to MongoDB.
const WORK_AT_ONCE: u32 = 256;
/// How long a request tries to get past others that change the same record.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Records in a list, unless `?limit=` says otherwise.
const PAGE: i64 = 100;
/// Most records in a list.
const MAX_PAGE: i64 = 1000;

/// What is being worked on, whether or not the client still waits for it.
static UNDER_WAY: Semaphore = Semaphore::const_new(WORK_AT_ONCE as usize);

/// The routes of a service with what every service has: `/healthz`, limits, and JSON for what isn't
/// there.
pub fn router(routes: Router) -> Router {
    routes
        .route("/healthz", get(|| async { Json(serde_json::json!({ "status": "ok" })) }))
        .fallback(|uri: Uri| async move {
            ApiError::new(StatusCode::NOT_FOUND, format!("there is nothing at {}", uri.path()))
        })
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("{} does not take {method}", uri.path()),
            )
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn(traced))
}

/// One span for each request, in the trace of whoever sent it.
async fn traced(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let span = info_span!(
        "request",
        otel.name = format!("{} {route}", request.method()),
        otel.kind = "server",
        http.request.method = %request.method(),
        http.route = route,
        url.path = request.uri().path(),
        http.response.status_code = field::Empty,
    );

    // Without a layer that exports there is no trace to join.
    let _ = span.set_parent(traces::remote(&Carrier(request.headers())));
    async {
        let response = next.run(request).await;
        Span::current().record("http.response.status_code", response.status().as_u16());
        response
    }
    .instrument(span)
    .await
}

/// Headers of a request, for those who look for a trace in them.
struct Carrier<'a>(&'a HeaderMap);

impl Extractor for Carrier<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}

/// Runs the work of a request to its end even if the client hangs up: a transaction is finished,
/// not left behind.
///
/// # Errors
/// What `work` says; 503 when it takes too long.
pub async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    let work = async {
        let _under_way = UNDER_WAY.acquire().await;
        work.await
    };
    let work = tokio::spawn(work.in_current_span());

    match tokio::time::timeout(WORK_TIME, work).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => {
            error!(%error, "request ended early");
            Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the request failed"))
        }
        Err(_) => Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the database took too long; the change may still be made, so look before trying again",
        )),
    }
}

/// Waits until no request is being worked on. Call it when no new one can come.
pub async fn all_done() {
    // Only a closed semaphore refuses, and no one closes it.
    let _ = UNDER_WAY.acquire_many(WORK_AT_ONCE).await;
}

/// The user who asks.
#[derive(Debug)]
pub struct User(pub String);

impl<S: Sync> FromRequestParts<S> for User
where
    Verifier: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let user = Verifier::from_ref(state).asks(&parts.headers);
        user.map(Self).map_err(|message| ApiError::new(StatusCode::UNAUTHORIZED, message))
    }
}

/// The record's id in the path.
#[derive(Debug)]
pub struct Id(pub ObjectId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = Path::<String>::from_request_parts(parts, state).await;
        let id = text.ok().and_then(|Path(text)| ObjectId::parse_str(text).ok());
        id.map(Self).ok_or_else(|| ApiError::bad_field("id", "an id has 24 hexadecimal digits"))
    }
}

/// A JSON object as the body.
#[derive(Debug)]
pub struct Body(pub Fields);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            let message = "send the body as `Content-Type: application/json`";
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }

        let bytes = match tokio::time::timeout(BODY_TIME, Bytes::from_request(request, state)).await
        {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                let message = format!("the body is longer than {MAX_BODY_BYTES} bytes");
                return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message));
            }

            Ok(Err(rejection)) => {
                return Err(ApiError::new(rejection.status(), "the body can't be read"));
            }

            Err(_) => {
                return Err(ApiError::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "the body did not come in time",
                ));
            }
        };

        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(object)) => Ok(Self(Fields::new(object))),
            Ok(_) => Err(ApiError::new(StatusCode::BAD_REQUEST, "the body must be a JSON object")),
            Err(error) => Err(ApiError::new(
                StatusCode::BAD_REQUEST,
                format!("the body is not JSON: {error}"),
            )),
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let given =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// Which records of a list: `?limit=` of them, those after the id `?after=`, in the order of their
/// ids.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    pub limit: i64,
    pub after: Option<ObjectId>,
}

impl<S: Send + Sync> FromRequestParts<S> for Page {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let mut page = Self { limit: PAGE, after: None };
        for pair in parts.uri.query().unwrap_or_default().split('&') {
            match pair.split_once('=') {
                Some(("limit", text)) => {
                    let limit = text.parse().ok().filter(|limit| (1..=MAX_PAGE).contains(limit));
                    page.limit = limit.ok_or_else(|| {
                        ApiError::bad_field(
                            "limit",
                            format!("limit is a number of 1 to {MAX_PAGE}"),
                        )
                    })?;
                }
                Some(("after", text)) => {
                    let id = ObjectId::parse_str(text);
                    page.after = Some(id.map_err(|_| {
                        ApiError::bad_field("after", "after is an id of 24 hexadecimal digits")
                    })?);
                }
                _ => {}
            }
        }

        Ok(page)
    }
}

impl Page {
    /// The condition that `filter` gets for `after`.
    pub fn narrow(self, mut filter: bson::Document) -> bson::Document {
        if let Some(after) = self.after {
            filter.insert("_id", bson::doc! { "$gt": after });
        }
        filter
    }
}
