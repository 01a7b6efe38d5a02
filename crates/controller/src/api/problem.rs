//! Every error of the API, as one kind of document. Codes are stable; who should act on which status:
//!
//! | status | who acts |
//! | --- | --- |
//! | 400, 405, 413, 415, 416, 422 | the caller's program or its user: the request itself has to change |
//! | 401, 403, 421 | whoever configured the client: token, address |
//! | 404, 409 | the caller looks again: it is about another thing than thought, or was done before |
//! | 408, 429, 503 | nobody yet: try again after a moment; if it stays, the operator looks at `/readyz` |
//! | 500 | the operator, with the server's log |

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use muster_wire::http::{PROBLEM_JSON, Problem};

/// A problem on its way to the caller.
#[derive(Debug)]
pub(crate) struct ApiError(Box<Problem>);

/// Result of a handler.
pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// A problem with a stable code.
    pub(crate) fn new(status: StatusCode, code: &str, title: &str, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(status.as_u16(), code, title, detail)))
    }

    /// Something of ours failed; the log has it, the caller gets no internals.
    pub(crate) fn internal(doing: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = %Chain(error), "failed to {doing}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error", format!("the server failed to {doing}"))
            .next_step("look at the server's log; trying again may help")
    }

    /// No such thing.
    pub(crate) fn not_found(code: &str, title: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, title, detail)
    }

    /// Adds what to do next.
    pub(crate) fn next_step(self, text: impl Into<String>) -> Self {
        Self(Box::new(self.0.next_step(text)))
    }

    /// Adds a value at fault.
    pub(crate) fn field(self, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self(Box::new(self.0.field(field, message)))
    }

    /// The document.
    pub(crate) fn problem(&self) -> &Problem {
        &self.0
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).expect("problems are made from a status");
        let body = serde_json::to_vec(&self.0).expect("a problem is plain text and numbers");
        let mut response = (status, Body::from(body)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"muster\""));
        }
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

/// An error with all its causes, on one line.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
