//! The one shape of a refusal: `{"errors": [{"message": "…", "field": "…"}]}`.

use std::fmt;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use mongodb::error::ErrorKind;
use serde::Serialize;
use tracing::error;

/// A refusal.
#[derive(Debug, Clone)]
pub struct ApiError {
    status: StatusCode,
    errors: Vec<Complaint>,
    /// When it makes sense to ask again.
    retry_after: Option<Duration>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, Serialize)]
pub struct Complaint {
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<&'static str>,
}

impl ApiError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let errors = vec![Complaint { message: message.into(), field: None }];
        Self { status, errors, retry_after: None }
    }

    pub fn bad_request(errors: Vec<Complaint>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, errors, retry_after: None }
    }

    pub fn bad_field(field: &'static str, message: impl Into<String>) -> Self {
        Self::bad_request(vec![Complaint { message: message.into(), field: Some(field) }])
    }

    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no such {what}"))
    }

    pub fn forbidden(message: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    pub fn busy() -> Self {
        let message = "others are changing the same record; nothing was changed, try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    pub fn declined(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYMENT_REQUIRED, reason)
    }

    pub fn too_many(message: &str, retry_after: Duration) -> Self {
        let refused = Self::new(StatusCode::TOO_MANY_REQUESTS, message);
        Self { retry_after: Some(retry_after), ..refused }
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let messages: Vec<_> =
            self.errors.iter().map(|complaint| complaint.message.as_str()).collect();
        f.write_str(&messages.join("; "))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Json(serde_json::json!({ "errors": self.errors }));
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();

        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, after.as_secs().max(1).into());
        }

        response
    }
}

/// A refusal leaves a transaction as an error of the driver, which rolls it back.
impl From<ApiError> for mongodb::error::Error {
    fn from(refusal: ApiError) -> Self {
        Self::custom(refusal)
    }
}

impl From<mongodb::error::Error> for ApiError {
    fn from(error: mongodb::error::Error) -> Self {
        if let Some(refusal) = error.get_custom::<Self>() {
            return refusal.clone();
        }

        error!(%error, "request failed");
        match &*error.kind {
            ErrorKind::ServerSelection { .. }
            | ErrorKind::Io(_)
            | ErrorKind::ConnectionPoolCleared { .. } => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the database can't be reached; try again",
            ),
            _ => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the request failed; its reason is in the service's log",
            ),
        }
    }
}
