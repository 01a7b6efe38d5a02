//! `/api/v1/rules`: what is collected when an indicator is raised, where the catalogue alone does not say enough.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use muster_wire::http::{NewRule, Page, Problem, RulePreview, RuleTest, RuleView};
use serde::Deserialize;
use time::OffsetDateTime;

use super::extract::{Id, Json, Query};
use super::guard::Caller;
use super::problem::{ApiError, ApiResult};
use super::{Api, cursor};
use crate::alerts;

const LIST: &str = "rules";
/// How far a preview looks back when nobody says how far: a week.
const PREVIEW_SECONDS: u64 = 7 * 24 * 3600;

/// Which rules.
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

/// List rules, in the order in which they are asked
#[utoipa::path(get, path = "/api/v1/rules", tag = "rules", params(ListQuery),
    responses((status = 200, body = Page<RuleView>), (status = 400, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(State(api): State<Arc<Api>>, Query(query): Query<ListQuery>) -> ApiResult<Json<Page<RuleView>>> {
    let limit = cursor::page_size(query.limit)?;
    let after = cursor::decode::<String>(LIST, query.after.as_deref())?;
    let all = api.store.rules().await?;
    let from = match after {
        None => 0,
        Some(last) => {
            let (order, name) = last.split_once(' ').ok_or_else(cursor::invalid)?;
            let place = (order.parse::<u32>().map_err(|_| cursor::invalid())?, name);
            all.iter().take_while(|rule| (rule.definition.order, rule.definition.name.as_str()) <= place).count()
        }
    };
    let items = all.into_iter().skip(from).take(limit as usize).collect();
    Ok(Json(cursor::page(LIST, items, limit, |rule: &RuleView| format!("{} {}", rule.definition.order, rule.definition.name))))
}

/// One rule
#[utoipa::path(get, path = "/api/v1/rules/{id}", tag = "rules", params(("id" = String, Path, example = "agent-down-in-oslo")),
    responses((status = 200, body = RuleView), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show(State(api): State<Arc<Api>>, Id(name): Id<String>) -> ApiResult<Json<RuleView>> {
    alerts::rule(&api, &name).await.map(Json)
}

/// Make a rule
///
/// It holds from the next batch of alerts on. With `"mode": "shadow"` it only writes down what it would have done.
#[utoipa::path(post, path = "/api/v1/rules", tag = "rules", request_body = NewRule,
    responses(
        (status = 201, body = RuleView),
        (status = 409, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Json(new): Json<NewRule>,
) -> ApiResult<Response> {
    let view = alerts::put_rule(&api, &caller.0, &new, false).await?;
    let location = HeaderValue::from_str(&format!("/api/v1/rules/{}", view.definition.name)).ok();
    let mut response = (StatusCode::CREATED, Json(view)).into_response();
    response.headers_mut().extend(location.map(|location| (header::LOCATION, location)));
    Ok(response)
}

/// Change a rule: all of it, as the body says
#[utoipa::path(put, path = "/api/v1/rules/{id}", tag = "rules", params(("id" = String, Path)), request_body = NewRule,
    responses(
        (status = 200, body = RuleView),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn change(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Id(name): Id<String>,
    Json(new): Json<NewRule>,
) -> ApiResult<Json<RuleView>> {
    if new.name != name {
        return Err(other_name(&name, &new.name));
    }
    alerts::put_rule(&api, &caller.0, &new, true).await.map(Json)
}

/// A body that is about another thing than its path.
pub(super) fn other_name(path: &str, body: &str) -> ApiError {
    let shown = |text: &str| text.chars().take(200).collect::<String>();
    let detail = format!("the path names {:?} and the body {:?}", shown(path), shown(body));
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "name_differs", "Path and body differ", detail)
        .next_step("a name does not change: make a new one under the other name, and remove this one")
        .field("name", "is not the name in the path")
}

/// Remove a rule
///
/// What it decided stays; from the next batch of alerts on the others and the catalogue decide.
#[utoipa::path(delete, path = "/api/v1/rules/{id}", tag = "rules", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Id(name): Id<String>,
) -> ApiResult<StatusCode> {
    if !api.store.delete_rule(&name, &caller.0, OffsetDateTime::now_utc()).await? {
        return Err(alerts::rule_not_found(&name));
    }
    tracing::info!(rule = name, by = %caller.0, "a rule was removed");
    Ok(StatusCode::NO_CONTENT)
}

/// What would be decided about an event now
///
/// The body is an event in one of the forms of `POST /api/v1/alerts`. Nothing is written and no device is asked.
#[utoipa::path(post, path = "/api/v1/rules/test", tag = "rules",
    request_body(content = Object, content_type = "application/cloudevents+json", description = "An event"),
    responses((status = 200, body = RuleTest), (status = 400, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn test(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> ApiResult<Json<RuleTest>> {
    alerts::test(&api, &alerts::posted(&api.settings, &caller, &headers, body)).await.map(Json)
}

/// How far back.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PreviewQuery {
    /// Look at the alerts of the last so many seconds.
    #[param(minimum = 1, maximum = 2_678_400, default = 604_800)]
    since_seconds: Option<u64>,
}

/// What a rule that does not stand yet would have done with past alerts
#[utoipa::path(post, path = "/api/v1/rules/preview", tag = "rules", params(PreviewQuery), request_body = NewRule,
    responses(
        (status = 200, body = RulePreview),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn preview_new(
    State(api): State<Arc<Api>>,
    Query(query): Query<PreviewQuery>,
    Json(new): Json<NewRule>,
) -> ApiResult<Json<RulePreview>> {
    alerts::preview(&api, &new, query.since_seconds.unwrap_or(PREVIEW_SECONDS)).await.map(Json)
}

/// What a rule would have done with past alerts, as it stands now
#[utoipa::path(get, path = "/api/v1/rules/{id}/preview", tag = "rules", params(("id" = String, Path), PreviewQuery),
    responses(
        (status = 200, body = RulePreview),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn preview(
    State(api): State<Arc<Api>>,
    Id(name): Id<String>,
    Query(query): Query<PreviewQuery>,
) -> ApiResult<Json<RulePreview>> {
    let rule = alerts::rule(&api, &name).await?;
    alerts::preview(&api, &rule.definition, query.since_seconds.unwrap_or(PREVIEW_SECONDS)).await.map(Json)
}
