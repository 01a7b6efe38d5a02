//! Body, path and query of a request, with problems instead of plain text when they cannot be read.

use std::str::FromStr;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::problem::ApiError;

/// Largest body of a request to the API (uploads of devices go elsewhere and have their own limits).
pub const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;
/// How long a body may take to arrive.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A JSON body, in or out.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let RawJson(bytes) = RawJson::from_request(request, state).await?;
        read_json(&bytes).map(Self)
    }
}

/// The bytes of a body that says it is JSON, for who wants to read them in a way of its own.
pub(crate) struct RawJson(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for RawJson {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if essence != "application/json" && !(essence.starts_with("application/") && essence.ends_with("+json")) {
            let given = if essence.is_empty() { "none".to_owned() } else { essence };
            return Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "Body is not JSON",
                format!("the body has to be JSON; its content type is {given}"),
            )
            .next_step("send the header Content-Type: application/json"));
        }
        match tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state)).await {
            Ok(Ok(bytes)) => Ok(Self(bytes)),
            Ok(Err(rejection)) => Err(body_error(&rejection)),
            Err(_) => {
                let detail = format!("the body did not arrive within {BODY_TIMEOUT:?}");
                Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "Body took too long", detail))
            }
        }
    }
}

/// A JSON body that may be left out: then all its members have their defaults.
pub(crate) struct JsonOrDefault<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for JsonOrDefault<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let headers = request.headers();
        let is_empty =
            headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0") && !headers.contains_key(header::TRANSFER_ENCODING);
        if is_empty {
            return Ok(Self(T::default()));
        }
        Json::from_request(request, state).await.map(|Json(value)| Self(value))
    }
}

fn body_error(rejection: &BytesRejection) -> ApiError {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            "Body too large",
            format!("a body may have at most {MAX_BODY_BYTES} bytes"),
        )
        .next_step("name fewer devices in one request, or take the target \"all\"");
    }
    ApiError::new(StatusCode::BAD_REQUEST, "body_unreadable", "Body unreadable", "the body ended before it was complete")
}

/// Reads JSON: broken JSON is 400, JSON of the wrong shape 422 with the place.
pub(crate) fn read_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        match inner.classify() {
            Category::Data => wrong_shape(&path, &inner.to_string()),
            Category::Syntax | Category::Eof | Category::Io => malformed(&inner),
        }
    })?;
    reader.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

fn malformed(error: &serde_json::Error) -> ApiError {
    let what = without_place(&error.to_string()).to_owned();
    ApiError::new(
        StatusCode::BAD_REQUEST,
        "malformed_json",
        "Body is not well-formed JSON",
        format!("{what} at line {}, column {}", error.line(), error.column()),
    )
}

/// A body that is JSON and not of the shape that is wanted.
pub(crate) fn wrong_shape(path: &str, message: &str) -> ApiError {
    let path = if path == "." { "" } else { path };
    ApiError::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "invalid_body",
        "Body does not have the shape described",
        "a member is missing, unknown or of the wrong type",
    )
    .next_step("compare with /api/openapi.json")
    .field(path, without_place(message))
}

/// The library's text without ` at line 1 column 2`, which is said apart or is misleading.
fn without_place(text: &str) -> &str {
    text.rfind(" at line ").map_or(text, |at| &text[..at])
}

/// The `{id}` of a path.
pub(crate) struct Id<T>(pub(crate) T);

impl<S: Send + Sync, T> FromRequestParts<S> for Id<T>
where
    T: FromStr + Send,
    T::Err: std::fmt::Display,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = path_member(parts, state, "id").await?;
        text.parse().map(Self).map_err(|error: T::Err| invalid_id(&error.to_string()))
    }
}

/// A path's id that cannot be one.
pub(crate) fn invalid_id(reason: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "invalid_id", "Not an id", reason)
}

/// The `{*name}` of a path: a name that may hold slashes.
pub(crate) struct Name(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        path_member(parts, state, "name").await.map(Self)
    }
}

async fn path_member<S: Send + Sync>(parts: &mut Parts, state: &S, wanted: &str) -> Result<String, ApiError> {
    let members = RawPathParams::from_request_parts(parts, state).await.map_err(|error| invalid_id(&error.body_text()))?;
    let found = members.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned());
    found.ok_or_else(|| invalid_id("the path lacks it"))
}

/// The query of a request; unknown parameters are refused, so that a misspelt filter never means "everything".
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(query) => Ok(Self(query.0)),
            Err(rejection) => {
                let text = rejection.body_text();
                let reason = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
                let error = ApiError::new(
                    StatusCode::BAD_REQUEST,
                    "invalid_query",
                    "Query cannot be used",
                    "a parameter is unknown or has no value that can be used",
                );
                Err(match reason.split_once(": ") {
                    Some((field, message)) if !field.contains(' ') => error.field(field, message),
                    _ => error.field("", reason),
                })
            }
        }
    }
}
