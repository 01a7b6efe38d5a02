//! The service itself: status, probes, metrics, description.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use muster_store::Dialect;
use muster_wire::http::{Problem, Readiness, ServiceStatus};

use super::extract::Json;
use super::problem::{ApiError, ApiResult};
use super::{Api, openapi_json};

/// How the service is doing
#[utoipa::path(get, path = "/api/v1/status", tag = "service", responses((status = 200, body = ServiceStatus)))]
pub(crate) async fn status(State(api): State<Arc<Api>>) -> ApiResult<Json<ServiceStatus>> {
    let dispatch = serde_json::to_value(api.dispatch.status()).map_err(|error| ApiError::internal("describe the dispatcher", &error))?;
    Ok(Json(ServiceStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        controller: api.controller_id.clone(),
        started_at: api.started_at,
        database: match api.store.dialect() {
            Dialect::Postgres => "postgres".to_owned(),
            Dialect::Sqlite => "sqlite".to_owned(),
        },
        broker: if api.settings.broker_is_embedded() { "embedded" } else { "external" }.to_owned(),
        mqtt_url: api.mqtt_url.clone(),
        landing: api.settings.landing.kind.as_str().to_owned(),
        readiness: api.ready.now(&api).await,
        dispatch,
    }))
}

/// Whether the process answers
#[utoipa::path(get, path = "/healthz", tag = "service", security(()), responses((status = 200, content_type = "text/plain", body = String)))]
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether everything it needs is there
#[utoipa::path(get, path = "/readyz", tag = "service", security(()), responses((status = 200, body = Readiness), (status = 503, body = Readiness)))]
pub(crate) async fn readyz(State(api): State<Arc<Api>>) -> Response {
    let readiness = api.ready.now(&api).await;
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

/// Metrics in the Prometheus text format
#[utoipa::path(get, path = "/metrics", tag = "service",
    responses((status = 200, content_type = "text/plain", body = String), (status = 503, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn metrics(State(api): State<Arc<Api>>) -> ApiResult<Response> {
    let handle = api.metrics.ok_or_else(|| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "metrics_elsewhere",
            "Metrics are not recorded here",
            "the program this server runs in records metrics itself",
        )
    })?;
    let status = api.dispatch.status();
    metrics::gauge!("muster_mqtt_connected").set(if status.mqtt_connected { 1.0 } else { 0.0 });
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"))], handle.render()).into_response())
}

/// This description
#[utoipa::path(get, path = "/api/openapi.json", tag = "service", responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json", body = Object)))]
pub(crate) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], openapi_json()).into_response()
}
