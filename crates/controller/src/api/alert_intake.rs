//! `POST /api/v1/alerts`: an event, from a monitoring system or a webhook.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest as _, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use muster_intake::{NotTaken, Settled};
use muster_store::StoreError;
use muster_wire::ParkedId;
use muster_wire::alert::{MAX_ALERT_BYTES, Refused};
use muster_wire::http::{AlertAnswer, Problem};

use super::Api;
use super::extract::{BODY_TIMEOUT, Json};
use super::guard::Caller;
use super::problem::{ApiError, ApiResult, Chain};
use crate::alerts;

/// Who asks whether it may send.
const REQUEST_ORIGIN: &str = "webhook-request-origin";

/// The route; its bodies are smaller than those of others.
pub(super) fn route() -> MethodRouter<Arc<Api>> {
    post(raise).options(allow).layer(DefaultBodyLimit::max(MAX_ALERT_BYTES))
}

/// What a sender of webhooks asks before it sends (HTTP webhooks for event delivery 1.0.1, section 4): whether it may, and how fast. Whoever has a
/// token may, as fast as answers come.
async fn allow(headers: HeaderMap) -> Response {
    let mut response = StatusCode::OK.into_response();
    let answers = response.headers_mut();
    answers.insert(header::ALLOW, HeaderValue::from_static("GET, POST, OPTIONS"));
    if let Some(origin) = headers.get(REQUEST_ORIGIN) {
        answers.insert(HeaderName::from_static("webhook-allowed-origin"), origin.clone());
        answers.insert(HeaderName::from_static("webhook-allowed-rate"), HeaderValue::from_static("*"));
    }
    response
}

/// Raise an alert
///
/// A CloudEvent around the common alert schema of Azure Monitor: as one document (`application/cloudevents+json`), or with its attributes in
/// headers `ce-…` and the schema as body. Where the setting `intake.bare` names a source, the schema alone is taken as well, as an action group
/// posts it to a webhook. The same event posted again is answered as a duplicate and does nothing.
///
/// What is no alert, or may not be acted on, is refused with 400 and its reason as `code` (`malformed`, `unsupported_type`, `unknown_device`, …);
/// it is kept and can be put in again once it is mended.
#[utoipa::path(post, path = "/api/v1/alerts", tag = "alerts",
    request_body(content = Object, content_type = "application/cloudevents+json", description = "The event; at most 256 KiB, headers included"),
    responses(
        (status = 202, body = AlertAnswer, description = "Written down and decided"),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 413, body = Problem, content_type = "application/problem+json"),
        (status = 503, body = Problem, content_type = "application/problem+json", description = "Nothing was lost that was not posted: post it again"),
    ))]
pub(crate) async fn raise(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>, request: Request) -> ApiResult<Response> {
    let headers = request.headers().clone();
    let message = alerts::posted(&api.settings, &caller, &headers, body(request).await?);
    match api.desk.post(message).await {
        Ok(Settled::Answered(answer)) => Ok((StatusCode::ACCEPTED, Json(answer)).into_response()),
        Ok(Settled::Parked { id, refused }) => Err(refusal(id, refused)),
        Err(NotTaken::Store(error)) => Err(store_error(&error)),
        Err(NotTaken::Stopped) => {
            Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "The server stops", "the alert was not taken")
                .next_step("post it again after a moment"))
        }
    }
}

async fn body(request: Request) -> ApiResult<Bytes> {
    match tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, &())).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let detail = format!("an alert may have at most {MAX_ALERT_BYTES} bytes");
            Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "Alert too large", detail)
                .next_step("leave out what is not needed to know what happened; the logs are collected from the device"))
        }
        Ok(Err(_)) => {
            Err(ApiError::new(StatusCode::BAD_REQUEST, "body_unreadable", "Body unreadable", "the body ended before it was complete"))
        }
        Err(_) => {
            let detail = format!("the body did not arrive within {BODY_TIMEOUT:?}");
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "Body took too long", detail))
        }
    }
}

fn refusal(id: ParkedId, refused: Refused) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, refused.reason.as_str(), "Not an alert that can be acted on", refused.detail)
        .next_step(format!("mend the event and post it anew; what came is kept as {id} (/api/v1/alerts/parked/{id})"))
}

fn store_error(error: &StoreError) -> ApiError {
    if !error.is_transient() {
        return ApiError::internal("take the alert in", error);
    }
    tracing::warn!(error = %Chain(error), "an alert could not be taken in");
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "database_unavailable", "The database is away", "the alert was not taken")
        .next_step("post it again after a moment; /readyz says what is missing")
}
