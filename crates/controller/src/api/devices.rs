//! `/api/v1/devices`

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use http::{HeaderMap, StatusCode, header};
use muster_domain::condition::ConditionError;
use muster_store::{DeviceFilter, LinePlace};
use muster_wire::DeviceId;
use muster_wire::http::{
    CSV, DeviceDetail, DevicePatch, DeviceView, DevicesPatch, DevicesPatched, ImportRow, Imported, NDJSON, Page, PresenceState, Problem,
    TimelineEntry,
};
use serde::Deserialize;

use super::extract::{Id, Json, Query};
use super::guard::Caller;
use super::problem::{ApiError, ApiResult};
use super::{Api, cursor, device_not_found};
use crate::import::Format;
use crate::registry::{self, Mode};
use crate::targets::unreadable;

const LIST: &str = "devices";
const TIMELINE: &str = "timeline";
/// Tasks shown with a device.
const RECENT_TASKS: u32 = 20;
/// Devices behind a gateway that are shown with it.
const CHILDREN: u32 = 100;

/// Which devices.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// `next` of the page before.
    after: Option<String>,
    /// Items per page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// Only connected, not connected, or never heard of.
    #[param(value_type = Option<String>, example = "online")]
    presence: Option<PresenceState>,
    /// Only ids that begin like this.
    prefix: Option<String>,
    /// Only those that meet this condition over the registry.
    #[param(example = "tags.site = 'oslo' AND NOT presence = 'offline'")]
    condition: Option<String>,
}

/// List devices, by id
#[utoipa::path(get, path = "/api/v1/devices", tag = "devices", params(ListQuery),
    responses((status = 200, body = Page<DeviceView>), (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(State(api): State<Arc<Api>>, Query(query): Query<ListQuery>) -> ApiResult<Json<Page<DeviceView>>> {
    let limit = cursor::page_size(query.limit)?;
    let after = cursor::decode::<DeviceId>(LIST, query.after.as_deref())?;
    let condition = query.condition.map(|text| text.parse().map_err(|error: ConditionError| unreadable("condition", error))).transpose()?;
    let items = api.store.devices(&DeviceFilter { after, limit, presence: query.presence, prefix: query.prefix, condition }).await?;
    Ok(Json(cursor::page(LIST, items, limit, |device| device.id.clone())))
}

/// One device with its recent tasks
#[utoipa::path(get, path = "/api/v1/devices/{id}", tag = "devices", params(("id" = String, Path, example = "press-0042")),
    responses((status = 200, body = DeviceDetail), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show(State(api): State<Arc<Api>>, Id(id): Id<DeviceId>) -> ApiResult<Json<DeviceDetail>> {
    let device = api.store.device(&id).await?.ok_or_else(|| device_not_found(&id))?;
    let tasks = api.store.device_tasks(&id, RECENT_TASKS).await?;
    let children = api.store.children(&id, CHILDREN).await?;
    Ok(Json(DeviceDetail { device, children, tasks }))
}

/// Which part of a line.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TimelineQuery {
    /// `next` of the page before.
    after: Option<String>,
    /// Items per page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
}

/// Everything about one device on one line of time, newest first
///
/// What was asked of it, each moment of each attempt, what was sealed, what people did to it, and what the registry knows of it. A device that
/// was forgotten still has its line.
#[utoipa::path(get, path = "/api/v1/devices/{id}/timeline", tag = "devices", params(("id" = String, Path, example = "press-0042"), TimelineQuery),
    responses((status = 200, body = Page<TimelineEntry>), (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn timeline(
    State(api): State<Arc<Api>>,
    Id(id): Id<DeviceId>,
    Query(query): Query<TimelineQuery>,
) -> ApiResult<Json<Page<TimelineEntry>>> {
    let limit = cursor::page_size(query.limit)?;
    let before = cursor::decode::<LinePlace>(TIMELINE, query.after.as_deref())?;
    let line = api.store.timeline(&id, before, limit).await?;
    if line.is_empty() && before.is_none() {
        return Err(device_not_found(&id));
    }
    let page = cursor::page(TIMELINE, line, limit, |(place, _)| *place);
    Ok(Json(Page { items: page.items.into_iter().map(|(_, entry)| entry).collect(), next: page.next }))
}

/// How a list is entered.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ImportQuery {
    /// Say what would be done, and write nothing.
    #[serde(default)]
    dry_run: bool,
    /// Enter nothing when one row is refused.
    #[serde(default)]
    all_or_nothing: bool,
}

/// Enter many devices
///
/// The body is CSV with the header `id,parent,tags.NAME,…` (`:number` or `:boolean` behind a name says what its cells are; text otherwise), or
/// one `ImportRow` per line as NDJSON. What a row says is laid over what is there; a row that cannot be used is told, and the others are entered.
#[utoipa::path(post, path = "/api/v1/devices/import", tag = "devices", params(ImportQuery),
    request_body(content((String = "text/csv"), (ImportRow = "application/x-ndjson"))),
    responses(
        (status = 200, body = Imported),
        (status = 415, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn import(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<ImportQuery>,
    request: Request,
) -> ApiResult<Json<Imported>> {
    let format = list_format(request.headers())?;
    let mode = match query {
        ImportQuery { dry_run: true, .. } => Mode::DryRun,
        ImportQuery { all_or_nothing: true, .. } => Mode::AllOrNothing,
        _ => Mode::Rows,
    };
    registry::import(&api, &caller.0, format, request.into_body(), mode).await.map(Json)
}

fn list_format(headers: &HeaderMap) -> ApiResult<Format> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        CSV => Ok(Format::Csv),
        NDJSON => Ok(Format::Ndjson),
        _ => Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "Body is no list of devices",
            "a list of devices is CSV or NDJSON",
        )
        .next_step(format!("send the header Content-Type: {CSV} or {NDJSON}"))),
    }
}

/// Change what is said of many devices
///
/// All of them have to be in the registry; otherwise nothing is changed.
#[utoipa::path(post, path = "/api/v1/devices/tags", tag = "devices", request_body = DevicesPatch,
    responses((status = 200, body = DevicesPatched), (status = 422, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn patch_many(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<DevicesPatch>,
) -> ApiResult<Json<DevicesPatched>> {
    registry::patch_many(&api, &caller.0, body).await.map(Json)
}

/// Change what is said of a device
///
/// A JSON merge patch (RFC 7396): members named are set, `null` removes, what is not named stays.
#[utoipa::path(patch, path = "/api/v1/devices/{id}", tag = "devices", params(("id" = String, Path, example = "press-0042")), request_body = DevicePatch,
    responses(
        (status = 200, body = DeviceView),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn patch(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<DeviceId>,
    Json(body): Json<DevicePatch>,
) -> ApiResult<Json<DeviceView>> {
    registry::patch(&api, &caller.0, id, body).await.map(Json)
}

/// Forget a device
///
/// Its tasks and bundles stay. Refused while a task for it is open. A device that speaks again enters the registry anew.
#[utoipa::path(delete, path = "/api/v1/devices/{id}", tag = "devices", params(("id" = String, Path, example = "press-0042")),
    responses(
        (status = 200, description = "As it was", body = DeviceView),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn forget(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<DeviceId>,
) -> ApiResult<Json<DeviceView>> {
    registry::forget(&api, &caller.0, id).await.map(Json)
}
