//! `/api/v1/devices`

use std::sync::Arc;

use axum::extract::State;
use muster_domain::condition::ConditionError;
use muster_store::DeviceFilter;
use muster_wire::DeviceId;
use muster_wire::http::{DeviceDetail, DeviceView, Page, PresenceState, Problem};
use serde::Deserialize;

use super::extract::{Id, Json, Query};
use super::problem::{ApiError, ApiResult};
use super::{Api, cursor};
use crate::targets::unreadable;

const LIST: &str = "devices";
/// Tasks shown with a device.
const RECENT_TASKS: u32 = 20;

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
    let device = api.store.device(&id).await?.ok_or_else(|| {
        ApiError::not_found("device_not_found", "No such device", format!("{id} is not in the registry"))
            .next_step("check the spelling; a device is known from the moment it first connects")
    })?;
    let tasks = api.store.device_tasks(&id, RECENT_TASKS).await?;
    Ok(Json(DeviceDetail { device, tasks }))
}
