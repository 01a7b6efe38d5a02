//! The HTTP API: routes, who may use them, and what all of them share.
//!
//! One file per area; each holds the description, the handler and nothing that the console would want to do as well (that is in
//! [`crate::collections`] and [`crate::contents`]). Every error is a [`problem`] document.

mod alert_intake;
mod alerts;
mod bundles;
mod collections;
mod consent;
mod cursor;
mod devices;
mod events;
pub(crate) mod extract;
pub(crate) mod guard;
mod indicators;
mod parked;
pub(crate) mod problem;
mod rules;
mod schedules;
mod schemas;
mod service;
mod storms;
mod tasks;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderName, HeaderValue, StatusCode, header};
use metrics_exporter_prometheus::PrometheusHandle;
use muster_dispatch::DispatchHandle;
use muster_intake::{AmqpState, Desk};
use muster_landing::{LandingError, endpoint};
use muster_store::{Store, StoreError};
use muster_wire::{CollectionId, DeviceId, TaskId};
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::contents::Contents;
use crate::ready::Ready;
use crate::settings::Settings;
use guard::Guard;
use problem::{ApiError, Chain};

pub use extract::MAX_BODY_BYTES;
pub use schemas::collection_schema_json;

/// Collections followed at the same time; each reads the database at intervals.
pub const MAX_STREAMS: usize = 64;

/// What the handlers work with.
pub(crate) struct Api {
    pub(crate) settings: Settings,
    pub(crate) controller_id: String,
    pub(crate) mqtt_url: String,
    pub(crate) started_at: OffsetDateTime,
    pub(crate) store: Store,
    pub(crate) landing: muster_landing::Landing,
    pub(crate) contents: Contents,
    pub(crate) dispatch: DispatchHandle,
    pub(crate) desk: Desk,
    pub(crate) amqp: Option<AmqpState>,
    pub(crate) ready: Ready,
    pub(crate) metrics: Option<&'static PrometheusHandle>,
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) imports: Semaphore,
    /// No new work; streams end.
    pub(crate) soft_stop: CancellationToken,
    /// What is still under way is cut.
    pub(crate) hard_stop: CancellationToken,
}

type Shared = State<Arc<Api>>;

/// Everything that is served.
pub(crate) fn router(api: Arc<Api>) -> Router {
    let guard = Arc::new(Guard::new(&api.settings));
    let v1 = Router::new()
        .route("/collections", get(collections::list).post(collections::create))
        .route("/collections/preview", post(collections::preview))
        .route("/collections/prune", post(collections::prune))
        .route("/collections/{id}", get(collections::show))
        .route("/collections/{id}/tasks", get(tasks::list))
        .route("/collections/{id}/pause", post(collections::pause))
        .route("/collections/{id}/resume", post(collections::resume))
        .route("/collections/{id}/cancel", post(collections::cancel))
        .route("/collections/{id}/rerun", post(collections::rerun))
        .route("/collections/{id}/events", get(events::events))
        .route("/schedules", get(schedules::list).post(schedules::create))
        .route("/schedules/{id}", get(schedules::show).delete(schedules::delete))
        .route("/schedules/{id}/pause", post(schedules::pause))
        .route("/schedules/{id}/resume", post(schedules::resume))
        .route("/schedules/{id}/run", post(schedules::run_now))
        .route("/schedules/{id}/runs", get(schedules::runs))
        .route("/consent", get(consent::list))
        .route("/consent/effective", get(consent::effective))
        .route("/consent/grant", post(consent::grant))
        .route("/consent/revoke", post(consent::revoke))
        .route("/consent/audit", get(consent::audit))
        .route("/consent/terms", get(consent::terms).post(consent::publish))
        .route("/consent/terms/{id}", get(consent::terms_text))
        .route("/alerts", alert_intake::route().get(alerts::list))
        .route("/alerts/counts", get(alerts::counts))
        .route("/alerts/parked", get(parked::list))
        .route("/alerts/parked/{id}", get(parked::show))
        .route("/alerts/parked/{id}/replay", post(parked::replay))
        .route("/alerts/parked/{id}/drop", post(parked::drop))
        .route("/alerts/{id}", get(alerts::show))
        .route("/alerts/{id}/collect", post(alerts::collect))
        .route("/indicators", get(indicators::list).post(indicators::create))
        .route("/indicators/{id}", get(indicators::show).put(indicators::change))
        .route("/rules", get(rules::list).post(rules::create))
        .route("/rules/test", post(rules::test))
        .route("/rules/preview", post(rules::preview_new))
        .route("/rules/{id}", get(rules::show).put(rules::change).delete(rules::delete))
        .route("/rules/{id}/preview", get(rules::preview))
        .route("/storms", get(storms::list))
        .route("/storms/{id}", get(storms::show))
        .route("/storms/{id}/collect", post(storms::collect))
        .route("/tasks/{id}", get(tasks::show))
        .route("/devices", get(devices::list))
        .route("/devices/import", post(devices::import))
        .route("/devices/tags", post(devices::patch_many))
        .route("/devices/{id}", get(devices::show).patch(devices::patch).delete(devices::forget))
        .route("/devices/{id}/timeline", get(devices::timeline))
        .route("/bundles", get(bundles::list))
        .route("/bundles/{id}", get(bundles::show))
        .route("/bundles/{id}/files", get(bundles::files))
        .route("/bundles/{id}/objects/{*name}", get(bundles::download))
        .route("/bundles/{id}/cat", get(bundles::cat))
        .route("/bundles/{id}/verify", post(bundles::verify))
        .route("/schemas/collection.json", get(schemas::collection))
        .route("/status", get(service::status));
    let mut router = Router::new()
        .nest("/api/v1", v1)
        .route("/indicators", get(indicators::page))
        .route("/api/openapi.json", get(service::openapi))
        .route("/metrics", get(service::metrics))
        .route("/healthz", get(service::healthz))
        .route("/readyz", get(service::readyz))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES));
    if let Some(directory) = api.landing.directory() {
        router = router.nest_service("/landing", endpoint::router(directory));
    }
    router
        .layer(middleware::from_fn_with_state(guard, guard::guard))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), observe))
        .with_state(api)
}

async fn not_found(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(200).collect();
    ApiError::not_found("route_not_found", "No such route", format!("there is nothing at {path}"))
        .next_step("the routes are described in /api/openapi.json")
}

async fn method_not_allowed(request: Request) -> ApiError {
    let detail = format!("{} is not offered here", request.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed", detail)
        .next_step("the routes are described in /api/openapi.json")
}

/// Counts and times every request by its route, and cuts what is under way when the server has waited long enough.
async fn observe(State(api): Shared, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "OPTIONS" | "PATCH") => known.to_owned(),
        _ => "other".to_owned(),
    };
    let mut response = tokio::select! {
        response = next.run(request) => response,
        () = api.hard_stop.cancelled() => {
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "The server stops", "the server stopped before this was done").into_response()
        }
    };
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response.headers_mut().insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    let status = response.status().as_u16().to_string();
    metrics::counter!("muster_http_requests_total", "route" => route.clone(), "method" => method, "status" => status).increment(1);
    metrics::histogram!("muster_http_seconds", "route" => route).record(began.elapsed().as_secs_f64());
    response
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if !error.is_transient() {
            return Self::internal("use the database", &error);
        }
        tracing::warn!(error = %Chain(&error), "the database could not be used");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "database_unavailable", "The database is away", "the database could not be asked")
            .next_step("try again after a moment; /readyz says what is missing")
    }
}

impl From<LandingError> for ApiError {
    fn from(error: LandingError) -> Self {
        match error {
            LandingError::ObjectNotFound { .. } => Self::not_found("object_not_found", "No such object", error.to_string()),
            LandingError::RangeOutside { size_bytes, .. } => Self::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "range_not_satisfiable",
                "The range lies outside the object",
                error.to_string(),
            )
            .next_step(format!("the object has {size_bytes} bytes")),
            error if error.is_permanent() => Self::internal("read the landing zone", &error),
            error => {
                tracing::warn!(error = %Chain(&error), "the landing zone could not be read");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "landing_unavailable",
                    "The landing zone is away",
                    "the landing zone could not be read",
                )
                .next_step("try again after a moment; /readyz says what is missing")
            }
        }
    }
}

pub(crate) fn collection_not_found(id: CollectionId) -> ApiError {
    ApiError::not_found("collection_not_found", "No such collection", format!("there is no collection {id}"))
}

pub(crate) fn device_not_found(id: &DeviceId) -> ApiError {
    ApiError::not_found("device_not_found", "No such device", format!("{id} is not in the registry"))
        .next_step("check the spelling; a device is known from the moment it first connects, or is imported")
}

pub(crate) fn task_not_found(id: TaskId) -> ApiError {
    ApiError::not_found("task_not_found", "No such task", format!("there is no task {id}"))
}

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("Needed as soon as the server has tokens configured (setting auth.tokens)."))
            .build();
        openapi.components.get_or_insert_with(Default::default).add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

/// The description of the API.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Muster",
        description = "Asks a fleet of edge devices for logs and support bundles, and follows every request to a verified object.\n\nTimes are RFC 3339 in UTC, sizes are bytes. Errors are `application/problem+json` with a stable `code`. Lists are paged with `limit` and `after`; `next` of a page is the `after` of the next. A create takes an `Idempotency-Key`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    security(("bearer" = [])),
    modifiers(&Bearer),
    paths(
        collections::list, collections::create, collections::preview, collections::show, collections::pause, collections::resume, collections::cancel,
        collections::rerun, collections::prune, events::events,
        schedules::list, schedules::create, schedules::show, schedules::delete, schedules::pause, schedules::resume, schedules::run_now,
        schedules::runs, consent::list, consent::effective, consent::grant, consent::revoke, consent::audit, consent::terms,
        consent::terms_text, consent::publish,
        alert_intake::raise, alerts::list, alerts::show, alerts::counts, alerts::collect, parked::list, parked::show, parked::replay, parked::drop,
        storms::list, storms::show, storms::collect,
        rules::list, rules::show, rules::create, rules::change, rules::delete, rules::test, rules::preview_new, rules::preview,
        indicators::list, indicators::show, indicators::create, indicators::change, indicators::page, tasks::list, tasks::show, devices::list, devices::show, devices::import,
        devices::timeline, devices::patch_many, devices::patch, devices::forget,
        bundles::list, bundles::show, bundles::files, bundles::download, bundles::cat, bundles::verify,
        schemas::collection, service::status, service::openapi, service::metrics, service::healthz, service::readyz,
    ),
    components(schemas(muster_wire::http::Problem, muster_wire::http::TaskEnded, muster_wire::http::CollectionEnded, muster_wire::http::Counters)),
    tags(
        (name = "collections", description = "Requests to collect"),
        (name = "schedules", description = "Collections that are made again and again"),
        (name = "consent", description = "Who agreed to collection that nobody asked for"),
        (name = "alerts", description = "What devices raised, what was decided about it, and what was no alert"),
        (name = "rules", description = "What is collected for an alert: the catalogue of indicators, and the rules"),
        (name = "devices", description = "The registry"),
        (name = "bundles", description = "What arrived"),
        (name = "service", description = "The service itself"),
    )
)]
struct Description;

/// The description of the API as JSON, as committed in `docs/openapi.json`.
pub fn openapi_json() -> String {
    let mut text = Description::openapi().to_pretty_json().expect("the description is plain data");
    text.push('\n');
    text
}
