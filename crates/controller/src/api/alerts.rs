//! `/api/v1/alerts`: what was taken in and what was decided. What takes them in stands beside it.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use muster_store::AlertFilter;
use muster_wire::http::{AlertCounts, AlertOutcome, AlertView, Page, Problem};
use muster_wire::{AlertId, CollectionId, DeviceId, StormId};
use serde::Deserialize;
use time::OffsetDateTime;

use super::extract::{Id, Json, Query};
use super::guard::Caller;
use super::problem::ApiResult;
use super::{Api, cursor};
use crate::alerts;

const LIST: &str = "alerts";

/// Which alerts.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// `next` of the page before.
    after: Option<String>,
    /// Items per page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// Only of this device.
    #[param(value_type = Option<String>, example = "press-0042")]
    device: Option<DeviceId>,
    /// Only of this indicator; without regard to case.
    #[param(example = "IOTEdgeAgentNotRunningCondition")]
    indicator: Option<String>,
    /// Only those that came to this.
    outcome: Option<AlertOutcome>,
    /// Only of this storm.
    #[param(value_type = Option<String>)]
    storm: Option<StormId>,
    /// Only those that made this collection or were counted with it.
    #[param(value_type = Option<String>)]
    collection: Option<CollectionId>,
    /// Only of devices of this tenant.
    tenant: Option<String>,
    /// Only those taken in at or after this instant.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<OffsetDateTime>,
}

/// List alerts, newest first
///
/// Without their data; that comes with one alert.
#[utoipa::path(get, path = "/api/v1/alerts", tag = "alerts", params(ListQuery),
    responses((status = 200, body = Page<AlertView>), (status = 400, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(State(api): State<Arc<Api>>, Query(query): Query<ListQuery>) -> ApiResult<Json<Page<AlertView>>> {
    let limit = cursor::page_size(query.limit)?;
    let filter = AlertFilter {
        before: cursor::decode::<AlertId>(LIST, query.after.as_deref())?,
        limit,
        device: query.device,
        indicator: query.indicator,
        outcome: query.outcome,
        storm: query.storm,
        collection: query.collection,
        tenant: query.tenant,
        since: query.since,
    };
    let items = api.store.alerts(&filter).await?;
    Ok(Json(cursor::page(LIST, items, limit, |alert| alert.id)))
}

/// One alert: what it said, what was decided, and why
#[utoipa::path(get, path = "/api/v1/alerts/{id}", tag = "alerts",
    params(("id" = String, Path, example = "alt_01jd8k2m3n4p5q6r7s8t9v0w1x")),
    responses((status = 200, body = AlertView), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show(State(api): State<Arc<Api>>, Id(id): Id<AlertId>) -> ApiResult<Json<AlertView>> {
    alerts::alert(&api, id).await.map(Json)
}

/// From when.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct CountsQuery {
    /// Count from this instant on; all there are when absent.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<OffsetDateTime>,
}

/// How many alerts came to what
#[utoipa::path(get, path = "/api/v1/alerts/counts", tag = "alerts", params(CountsQuery),
    responses((status = 200, body = AlertCounts), (status = 400, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn counts(State(api): State<Arc<Api>>, Query(query): Query<CountsQuery>) -> ApiResult<Json<AlertCounts>> {
    Ok(Json(api.store.alert_counts(query.since.unwrap_or(OffsetDateTime::UNIX_EPOCH)).await?))
}

/// Collect for an alert after all
///
/// For one that was left on demand, deferred, counted with another or came too late. Consent is asked for as always.
#[utoipa::path(post, path = "/api/v1/alerts/{id}/collect", tag = "alerts", params(("id" = String, Path)),
    responses(
        (status = 201, body = AlertView),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn collect(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>, Id(id): Id<AlertId>) -> ApiResult<Response> {
    let view = alerts::collect(&api, &caller.0, id).await?;
    let to =
        view.collection.map(|collection| format!("/api/v1/collections/{collection}")).unwrap_or_else(|| format!("/api/v1/alerts/{id}"));
    let location = HeaderValue::from_str(&to).expect("an id is ASCII");
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(view)).into_response())
}
