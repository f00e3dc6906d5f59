//! Every refusal of the API, as Kafka Connect words it: `{"error_code": <HTTP status>, "message": "…"}`.

use axum::{
    Json,
    body::Bytes,
    extract::{Request, rejection::BytesRejection},
    http::{
        HeaderMap, Method, StatusCode, Uri,
        header::{HOST, ORIGIN},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use rowstream_api::ConfigErrors;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{topic_log::LogError, worker::WorkerError};

/// A refusal.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    message: String,
}

/// What a handler answers.
pub(super) type Answer<T = Response> = Result<T, ApiError>;

impl ApiError {
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into() }
    }
    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, message: message.into() }
    }
    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self { status: StatusCode::CONFLICT, message: message.into() }
    }
    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self { status: StatusCode::FORBIDDEN, message: message.into() }
    }
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, message: message.into() }
    }
    /// Connect's words for a wrong configuration; fields are named as in the flat map.
    pub(super) fn invalid(errors: &ConfigErrors) -> Self {
        let lines: Vec<String> = errors
            .0
            .iter()
            .map(|e| match e.field.strip_prefix("config.").unwrap_or(&e.field) {
                "" => e.message.clone(),
                field => format!("{field}: {}", e.message),
            })
            .collect();
        Self::bad_request(format!(
            "Connector configuration is invalid and contains the following {} error(s):\n{}\nYou can also find the above list of \
             errors at the endpoint `/connector-plugins/{{connectorType}}/config/validate`",
            lines.len(),
            lines.join("\n")
        ))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({ "error_code": self.status.as_u16(), "message": self.message });
        (self.status, Json(body)).into_response()
    }
}

impl From<WorkerError> for ApiError {
    fn from(error: WorkerError) -> Self {
        match error {
            WorkerError::NotFound(message) => Self::not_found(message),
            WorkerError::Conflict(message) => Self::conflict(message),
            WorkerError::BadRequest(message) => Self::bad_request(message),
            WorkerError::Invalid(errors) => Self::invalid(&errors),
            error @ WorkerError::Log(_) => Self::internal(error.to_string()),
        }
    }
}

impl From<LogError> for ApiError {
    fn from(error: LogError) -> Self {
        WorkerError::from(error).into()
    }
}

/// A request's body, when there is one at all.
pub(super) type Body = Result<Bytes, BytesRejection>;

/// Reads a JSON body; the answer to a wrong one says what was wrong where.
pub(super) fn parse<T: DeserializeOwned>(body: Body) -> Answer<T> {
    let bytes = body.map_err(|rejection| ApiError {
        status: rejection.status(),
        message: format!("the request's body can't be read: {}", rejection.body_text()),
    })?;
    serde_json::from_slice(&bytes).map_err(|e| {
        ApiError::bad_request(format!("the request's body is not the JSON that was expected: {e}"))
    })
}

pub(super) async fn unknown_path(uri: Uri) -> ApiError {
    ApiError::not_found(format!("HTTP 404 Not Found: there is nothing at {}", uri.path()))
}

pub(super) async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    ApiError {
        status: StatusCode::METHOD_NOT_ALLOWED,
        message: format!("HTTP 405 Method Not Allowed: {} does not take {method}", uri.path()),
    }
}

/// Refuses what a browser sends on behalf of another site's page. Tools send no `Origin`, the console sends our own.
pub(super) async fn same_origin(request: Request, next: Next) -> Response {
    match foreign_origin(request.headers()) {
        Some(origin) => {
            ApiError::forbidden(format!("requests from pages of another origin ({origin}) are refused"))
                .into_response()
        }
        None => next.run(request).await,
    }
}

fn foreign_origin(headers: &HeaderMap) -> Option<String> {
    let header = |name| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let origin = header(ORIGIN)?;
    let ours =
        origin.split_once("://").is_some_and(|(_, authority)| Some(authority) == header(HOST).as_deref());
    (!ours).then_some(origin)
}
