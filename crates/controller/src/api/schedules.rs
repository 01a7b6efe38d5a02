//! `/api/v1/schedules`

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use muster_wire::http::{NewSchedule, Page, Problem, ScheduleCreated, ScheduleRun, ScheduleView};
use serde::Deserialize;
use time::OffsetDateTime;

use super::extract::{Id, Json, Query};
use super::guard::Caller;
use super::problem::ApiResult;
use super::{Api, cursor};
use crate::schedules;

const LIST: &str = "schedules";
const RUNS: &str = "runs";

/// Which schedules.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// `next` of the page before.
    after: Option<String>,
    /// Items per page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
}

/// List schedules, by name
#[utoipa::path(get, path = "/api/v1/schedules", tag = "schedules", params(ListQuery),
    responses((status = 200, body = Page<ScheduleView>), (status = 400, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(State(api): State<Arc<Api>>, Query(query): Query<ListQuery>) -> ApiResult<Json<Page<ScheduleView>>> {
    let limit = cursor::page_size(query.limit)?;
    let after = cursor::decode::<String>(LIST, query.after.as_deref())?;
    let items = schedules::list(&api, after.as_deref(), limit as usize).await?;
    Ok(Json(cursor::page(LIST, items, limit, |view| view.name.clone())))
}

/// Make a schedule
///
/// Its collection is checked now as it will be at each run; times like `24h` in it count back from the run.
#[utoipa::path(post, path = "/api/v1/schedules", tag = "schedules", request_body = NewSchedule,
    responses(
        (status = 201, body = ScheduleCreated),
        (status = 409, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Json(new): Json<NewSchedule>,
) -> ApiResult<Response> {
    let (schedule, warnings) = schedules::create(&api, &caller.0, new).await?;
    let location = HeaderValue::from_str(&format!("/api/v1/schedules/{}", schedule.name)).expect("a name is ASCII");
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(ScheduleCreated { schedule, warnings })).into_response())
}

/// One schedule, with its last run
#[utoipa::path(get, path = "/api/v1/schedules/{id}", tag = "schedules", params(("id" = String, Path, example = "nightly-logs")),
    responses((status = 200, body = ScheduleView), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show(State(api): State<Arc<Api>>, Id(name): Id<String>) -> ApiResult<Json<ScheduleView>> {
    let schedule = schedules::find(&api, &name).await?;
    schedules::show(&api, schedule).await.map(Json)
}

/// Pause a schedule
///
/// Runs that come due meanwhile are on record as paused. Pausing what is paused changes nothing.
#[utoipa::path(post, path = "/api/v1/schedules/{id}/pause", tag = "schedules", params(("id" = String, Path)),
    responses((status = 200, body = ScheduleView), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn pause(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Id(name): Id<String>,
) -> ApiResult<Json<ScheduleView>> {
    let schedule = schedules::find(&api, &name).await?;
    api.store.pause_schedule(schedule.id, Some((OffsetDateTime::now_utc(), &caller.0))).await?;
    let schedule = schedules::find(&api, &name).await?;
    schedules::show(&api, schedule).await.map(Json)
}

/// Go on with a schedule
#[utoipa::path(post, path = "/api/v1/schedules/{id}/resume", tag = "schedules", params(("id" = String, Path)),
    responses((status = 200, body = ScheduleView), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn resume(State(api): State<Arc<Api>>, Id(name): Id<String>) -> ApiResult<Json<ScheduleView>> {
    let schedule = schedules::find(&api, &name).await?;
    api.store.pause_schedule(schedule.id, None).await?;
    let schedule = schedules::find(&api, &name).await?;
    schedules::show(&api, schedule).await.map(Json)
}

/// Run a schedule now, beside its times
#[utoipa::path(post, path = "/api/v1/schedules/{id}/run", tag = "schedules", params(("id" = String, Path)),
    responses(
        (status = 200, body = ScheduleRun),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn run_now(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Id(name): Id<String>,
) -> ApiResult<Json<ScheduleRun>> {
    schedules::run_now(&api, &caller.0, &name).await.map(Json)
}

/// Remove a schedule and the record of its runs
///
/// The collections it made stay.
#[utoipa::path(delete, path = "/api/v1/schedules/{id}", tag = "schedules", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Id(name): Id<String>,
) -> ApiResult<StatusCode> {
    let schedule = schedules::find(&api, &name).await?;
    api.store.delete_schedule(schedule.id).await?;
    tracing::info!(schedule = name, by = %caller.0, "a schedule was removed");
    Ok(StatusCode::NO_CONTENT)
}

/// The runs of a schedule, newest first: made, missed, left out
#[utoipa::path(get, path = "/api/v1/schedules/{id}/runs", tag = "schedules", params(("id" = String, Path), ListQuery),
    responses((status = 200, body = Page<ScheduleRun>), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn runs(
    State(api): State<Arc<Api>>,
    Id(name): Id<String>,
    Query(query): Query<ListQuery>,
) -> ApiResult<Json<Page<ScheduleRun>>> {
    let limit = cursor::page_size(query.limit)?;
    let before = cursor::decode::<i64>(RUNS, query.after.as_deref())?;
    let before = before.map(|ms| OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).map_err(|_| cursor::invalid()));
    let schedule = schedules::find(&api, &name).await?;
    let items = api.store.schedule_runs(schedule.id, before.transpose()?, limit).await?;
    Ok(Json(cursor::page(RUNS, items, limit, |run| run.due.unix_timestamp_nanos() / 1_000_000)))
}
