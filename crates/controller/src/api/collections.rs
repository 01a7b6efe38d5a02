//! `/api/v1/collections`

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use muster_store::CollectionFilter;
use muster_wire::http::{
    Cancel, CollectionAnswer, CollectionState, CollectionView, NewCollection, Origin, Page, Pause, Preview, Problem, Prune, Pruned, Rerun,
    Touched,
};
use muster_wire::method::request::LogItem;
use muster_wire::{CollectionId, DeviceId};
use serde::Deserialize;
use serde_json::Value;

use super::extract::{Id, Json, JsonOrDefault, Query, RawJson, read_json};
use super::guard::Caller;
use super::problem::{ApiError, ApiResult};
use super::{Api, cursor};
use crate::{collections, retention};

/// Makes a repeated create find what the first one made.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const LIST: &str = "collections";

/// Which collections.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// `next` of the page before.
    after: Option<String>,
    /// Items per page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// Only in this state.
    #[param(value_type = Option<String>, example = "running")]
    state: Option<CollectionState>,
    /// Only this kind of request.
    #[param(example = "bundle")]
    kind: Option<String>,
    /// Only for this support case.
    case: Option<String>,
    /// Only by this caller.
    created_by: Option<String>,
}

/// List collections, newest first
#[utoipa::path(get, path = "/api/v1/collections", tag = "collections", params(ListQuery),
    responses((status = 200, body = Page<CollectionView>), (status = 400, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(State(api): State<Arc<Api>>, Query(query): Query<ListQuery>) -> ApiResult<Json<Page<CollectionView>>> {
    let limit = cursor::page_size(query.limit)?;
    let before = cursor::decode::<CollectionId>(LIST, query.after.as_deref())?;
    let filter = CollectionFilter { before, limit, state: query.state, kind: query.kind, case: query.case, created_by: query.created_by };
    let items = api.store.collections(&filter).await?;
    Ok(Json(cursor::page(LIST, items, limit, |view| view.id)))
}

/// Collect
///
/// With an `Idempotency-Key`, the same request again answers 200 with the collection made before, and another request under the same key 409.
#[utoipa::path(post, path = "/api/v1/collections", tag = "collections",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 200 visible ASCII characters")),
    request_body = NewCollection,
    responses(
        (status = 201, description = "Made now", body = CollectionAnswer),
        (status = 200, description = "Made before by the same request", body = CollectionAnswer),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
        (status = 413, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    RawJson(body): RawJson,
) -> ApiResult<Response> {
    let new: NewCollection = read_json(&body).map_err(|error| point_at(error, &body))?;
    // A value that is not ASCII becomes one that is refused.
    let key = headers.get(IDEMPOTENCY_KEY).map(|value| value.to_str().unwrap_or_default().to_owned());
    let (is_new, answer) = collections::create(&api, &caller.0, key, Origin::Manual, new).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let location = HeaderValue::from_str(&format!("/api/v1/collections/{}", answer.created.id)).expect("an id is ASCII");
    Ok((status, [(header::LOCATION, location)], Json(answer)).into_response())
}

/// What a collection would do
///
/// Takes the body of a create, checks it as that would, and makes nothing.
#[utoipa::path(post, path = "/api/v1/collections/preview", tag = "collections", request_body = NewCollection,
    responses(
        (status = 200, body = Preview),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 413, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn preview(State(api): State<Arc<Api>>, RawJson(body): RawJson) -> ApiResult<Json<Preview>> {
    let new: NewCollection = read_json(&body).map_err(|error| point_at(error, &body))?;
    crate::preview::preview(&api, new).await.map(Json)
}

/// One collection, counted now
#[utoipa::path(get, path = "/api/v1/collections/{id}", tag = "collections", params(("id" = CollectionId, Path)),
    responses((status = 200, body = CollectionView), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show(State(api): State<Arc<Api>>, Id(id): Id<CollectionId>) -> ApiResult<Json<CollectionView>> {
    collections::show(&api, id).await.map(Json)
}

/// Pause
///
/// No device is asked from now on, by whichever controller; what is out may end. Pausing what is paused changes nothing.
#[utoipa::path(post, path = "/api/v1/collections/{id}/pause", tag = "collections", params(("id" = CollectionId, Path)), request_body = Pause,
    responses(
        (status = 200, body = CollectionView),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn pause(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<CollectionId>,
    JsonOrDefault(pause): JsonOrDefault<Pause>,
) -> ApiResult<Json<CollectionView>> {
    collections::pause(&api, &caller.0, id, pause).await.map(Json)
}

/// Resume
///
/// A stage whose devices are all done is passed, whatever its gate said; abort rules and the byte budget count from now on. Resuming what
/// is not paused changes nothing.
#[utoipa::path(post, path = "/api/v1/collections/{id}/resume", tag = "collections", params(("id" = CollectionId, Path)),
    responses(
        (status = 200, body = CollectionView),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn resume(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<CollectionId>,
) -> ApiResult<Json<CollectionView>> {
    collections::resume(&api, &caller.0, id).await.map(Json)
}

/// Cancel what is not final
///
/// With `queued_only`, what is with a device may end, and is not tried again. Cancelling what is over touches nothing and is no error.
#[utoipa::path(post, path = "/api/v1/collections/{id}/cancel", tag = "collections", params(("id" = CollectionId, Path)), request_body = Cancel,
    responses((status = 200, body = Touched), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn cancel(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<CollectionId>,
    JsonOrDefault(cancel): JsonOrDefault<Cancel>,
) -> ApiResult<Json<Touched>> {
    collections::cancel(&api, &caller.0, id, cancel).await.map(Json)
}

/// Run ended tasks again, inside the same collection
///
/// Without reasons: those that failed, were refused or expired.
#[utoipa::path(post, path = "/api/v1/collections/{id}/rerun", tag = "collections", params(("id" = CollectionId, Path)), request_body = Rerun,
    responses(
        (status = 200, body = Touched),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn rerun(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<CollectionId>,
    JsonOrDefault(rerun): JsonOrDefault<Rerun>,
) -> ApiResult<Json<Touched>> {
    collections::rerun(&api, &caller.0, id, rerun).await.map(Json)
}

/// Delete old history
///
/// Attempts that ended longer ago than this and were followed by another, of one collection or of all; of all, what was done to devices too.
/// Tasks and bundles stay. One request deletes at most 100,000 rows of each kind and says whether there is more.
#[utoipa::path(post, path = "/api/v1/collections/prune", tag = "collections", request_body = Prune,
    responses(
        (status = 200, body = Pruned),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn prune(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Json(prune): Json<Prune>,
) -> ApiResult<Json<Pruned>> {
    retention::prune(&api, &caller.0, &prune).await.map(Json)
}

/// Faults named in one answer.
const MAX_FAULTS_LISTED: usize = 20;

/// Which of two shapes `request` and `target` have is read from their `kind`, and on the way there the reader forgets the place inside.
/// So for the members that hold long lists, the place is looked for again.
fn point_at(error: ApiError, body: &[u8]) -> ApiError {
    let problem = error.problem();
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return error };
    if problem.code != "invalid_body" {
        return error;
    }
    let mut faults: Vec<(String, String)> = Vec::new();
    let list = |pointer: &str| value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if value.pointer("/request/kind").is_some_and(|kind| kind == "bundle") && value.pointer("/request/until").is_some() {
        let why = "does not exist for bundles: devices put the value of since in its place. Collect from since on, and cut afterwards";
        faults.push(("request.until".to_owned(), why.to_owned()));
    }
    for (index, device) in list("/target/devices").iter().enumerate() {
        if let Err(fault) = DeviceId::deserialize(device) {
            faults.push((format!("target.devices[{index}]"), fault.to_string()));
        }
    }
    for (index, item) in list("/request/items").iter().enumerate() {
        if let Err(fault) = serde_path_to_error::deserialize::<_, LogItem>(item) {
            let inner = match fault.path().to_string() {
                path if path == "." => String::new(),
                path => format!(".{path}"),
            };
            faults.push((format!("request.items[{index}]{inner}"), fault.into_inner().to_string()));
        }
    }
    if faults.is_empty() {
        return error;
    }
    let mut problem = problem.clone();
    problem.errors.clear();
    faults.into_iter().take(MAX_FAULTS_LISTED).fold(ApiError::from(problem), |error, (field, message)| error.field(field, message))
}
