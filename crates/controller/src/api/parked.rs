//! `/api/v1/alerts/parked`: messages that were no alert, or one that may not be acted on.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use muster_store::ParkedFilter;
use muster_wire::ParkedId;
use muster_wire::alert::Poison;
use muster_wire::http::{AlertAnswer, Page, ParkedState, ParkedView, Problem, Replay};
use serde::Deserialize;

use super::extract::{Id, Json, JsonOrDefault, Query};
use super::guard::Caller;
use super::problem::ApiResult;
use super::{Api, cursor};
use crate::alerts;

const LIST: &str = "parked";

/// Which messages.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// `next` of the page before.
    after: Option<String>,
    /// Items per page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// Only those that stand like this.
    state: Option<ParkedState>,
    /// Only those refused for this reason.
    reason: Option<Poison>,
}

/// List messages that were no alert, newest first
///
/// Without their bodies; those come with one message.
#[utoipa::path(get, path = "/api/v1/alerts/parked", tag = "alerts", params(ListQuery),
    responses((status = 200, body = Page<ParkedView>), (status = 400, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(State(api): State<Arc<Api>>, Query(query): Query<ListQuery>) -> ApiResult<Json<Page<ParkedView>>> {
    let limit = cursor::page_size(query.limit)?;
    let before = cursor::decode::<ParkedId>(LIST, query.after.as_deref())?;
    let items = api.store.parked(&ParkedFilter { before, limit, state: query.state, reason: query.reason }).await?;
    Ok(Json(cursor::page(LIST, items, limit, |parked| parked.id)))
}

/// One message with its body, as text where it is text
#[utoipa::path(get, path = "/api/v1/alerts/parked/{id}", tag = "alerts",
    params(("id" = String, Path, example = "prk_01jd8k2m3n4p5q6r7s8t9v0w1x")),
    responses((status = 200, body = ParkedView), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show(State(api): State<Arc<Api>>, Id(id): Id<ParkedId>) -> ApiResult<Json<ParkedView>> {
    alerts::parked(&api, id).await.map(Json)
}

/// Put a message in again, as it was or mended
///
/// As if it came now, from the same sender: a body that was mended speaks for no device that its sender did not speak for. What is still no
/// alert is refused with 422 and the word of the reason as `code`, and stays parked.
#[utoipa::path(post, path = "/api/v1/alerts/parked/{id}/replay", tag = "alerts", params(("id" = String, Path)), request_body = Replay,
    responses(
        (status = 200, body = AlertAnswer),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn replay(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<ParkedId>,
    JsonOrDefault(replay): JsonOrDefault<Replay>,
) -> ApiResult<Json<AlertAnswer>> {
    alerts::replay(&api, &caller.0, id, replay).await.map(Json)
}

/// Say that a message is not wanted
///
/// It stays on record for as long as parked messages are kept.
#[utoipa::path(post, path = "/api/v1/alerts/parked/{id}/drop", tag = "alerts", params(("id" = String, Path)),
    responses(
        (status = 200, body = ParkedView),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn drop(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<ParkedId>,
) -> ApiResult<Json<ParkedView>> {
    alerts::drop_parked(&api, &caller.0, id).await.map(Json)
}
