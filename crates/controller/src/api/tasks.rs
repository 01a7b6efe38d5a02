//! `/api/v1/collections/{id}/tasks` and `/api/v1/tasks`

use std::str::FromStr;
use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use muster_store::TaskFilter;
use muster_wire::http::{Page, Problem, TaskDetail, TaskView};
use muster_wire::{CollectionId, DeviceId, Reason, TaskId, TaskState};
use serde::Deserialize;

use super::extract::{Id, Json, Query};
use super::problem::{ApiError, ApiResult};
use super::{Api, collection_not_found, cursor, task_not_found};

const LIST: &str = "tasks";

/// Which tasks.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// `next` of the page before.
    after: Option<String>,
    /// Items per page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// Only in these states, separated by commas.
    #[param(example = "failed,expired")]
    state: Option<String>,
    /// Only with these reason codes, separated by commas.
    #[param(example = "no_answer")]
    reason: Option<String>,
    /// Only of this device.
    #[param(value_type = Option<String>)]
    device: Option<DeviceId>,
}

/// The words of a list separated by commas.
fn words<T: FromStr<Err = String>>(field: &str, text: Option<&str>) -> ApiResult<Vec<T>> {
    let words = text.into_iter().flat_map(|text| text.split(',')).map(str::trim).filter(|word| !word.is_empty());
    words
        .map(|word| {
            word.parse().map_err(|error: String| {
                ApiError::new(StatusCode::BAD_REQUEST, "invalid_query", "Query cannot be used", "a parameter has no value that can be used")
                    .field(field, error)
            })
        })
        .collect()
}

struct StateWord(TaskState);

impl FromStr for StateWord {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        let found = TaskState::ALL.into_iter().find(|state| state.as_str() == word);
        found
            .map(Self)
            .ok_or_else(|| format!("{word:?} is not a state; the states are {}", TaskState::ALL.map(TaskState::as_str).join(", ")))
    }
}

/// List the tasks of a collection, in their order
#[utoipa::path(get, path = "/api/v1/collections/{id}/tasks", tag = "collections", params(("id" = CollectionId, Path), ListQuery),
    responses(
        (status = 200, body = Page<TaskView>),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Id(id): Id<CollectionId>,
    Query(query): Query<ListQuery>,
) -> ApiResult<Json<Page<TaskView>>> {
    let limit = cursor::page_size(query.limit)?;
    let after = cursor::decode::<TaskId>(LIST, query.after.as_deref())?;
    // A cursor from another collection would leave this one's range.
    if after.is_some_and(|after| after.collection() != id) {
        return Err(cursor::invalid());
    }
    let states: Vec<TaskState> = words::<StateWord>("state", query.state.as_deref())?.into_iter().map(|word| word.0).collect();
    let reasons: Vec<Reason> = words("reason", query.reason.as_deref())?;
    let items = api.store.tasks(id, &TaskFilter { after, limit, states, reasons, device: query.device }).await?;
    if items.is_empty() && api.store.collection(id).await?.is_none() {
        return Err(collection_not_found(id));
    }
    Ok(Json(cursor::page(LIST, items, limit, |task| task.id)))
}

/// One task with its earlier attempts
#[utoipa::path(get, path = "/api/v1/tasks/{id}", tag = "collections", params(("id" = TaskId, Path)),
    responses((status = 200, body = TaskDetail), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show(State(api): State<Arc<Api>>, Id(id): Id<TaskId>) -> ApiResult<Json<TaskDetail>> {
    api.store.task(id).await?.map(Json).ok_or_else(|| task_not_found(id))
}
