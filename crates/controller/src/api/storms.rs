//! `/api/v1/storms`: one indicator on many devices, of which a sample is collected.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use muster_wire::StormId;
use muster_wire::http::{Page, Problem, StormCollected, StormView};
use serde::Deserialize;

use super::extract::{Id, Json, Query};
use super::guard::Caller;
use super::problem::ApiResult;
use super::{Api, cursor};
use crate::alerts;

const LIST: &str = "storms";

/// Which storms.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// `next` of the page before.
    after: Option<String>,
    /// Items per page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// Only those that are not over.
    #[serde(default)]
    #[param(default = false)]
    open: bool,
}

/// List storms, newest first
#[utoipa::path(get, path = "/api/v1/storms", tag = "alerts", params(ListQuery),
    responses((status = 200, body = Page<StormView>), (status = 400, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(State(api): State<Arc<Api>>, Query(query): Query<ListQuery>) -> ApiResult<Json<Page<StormView>>> {
    let limit = cursor::page_size(query.limit)?;
    let before = cursor::decode::<StormId>(LIST, query.after.as_deref())?;
    let items = api.store.storms(query.open, before, limit).await?;
    Ok(Json(cursor::page(LIST, items, limit, |storm| storm.id)))
}

/// One storm, with the devices that are alike and what was collected of each kind
#[utoipa::path(get, path = "/api/v1/storms/{id}", tag = "alerts",
    params(("id" = String, Path, example = "stm_01jd8k2m3n4p5q6r7s8t9v0w1x")),
    responses((status = 200, body = StormView), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show(State(api): State<Arc<Api>>, Id(id): Id<StormId>) -> ApiResult<Json<StormView>> {
    let found = api.store.storm(id).await?;
    found.map(Json).ok_or_else(|| alerts::storm_not_found(id))
}

/// Collect from the devices of a storm that were not in the sample
///
/// One collection for all of them; consent is asked for as always. Asked again, it takes those that came meanwhile.
#[utoipa::path(post, path = "/api/v1/storms/{id}/collect", tag = "alerts", params(("id" = String, Path)),
    responses((status = 200, body = StormCollected), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn collect(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<StormId>,
) -> ApiResult<Json<StormCollected>> {
    alerts::collect_storm(&api, &caller.0, id).await.map(Json)
}
