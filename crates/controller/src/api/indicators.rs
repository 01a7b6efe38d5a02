//! `/api/v1/indicators`: the catalogue, and the page under `/indicators` on which everybody reads it.
//!
//! What may be collected without being asked is no secret: both answer without a token. Who changed an entry is told only to those with one.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use muster_wire::http::{CatalogueView, IndicatorView, NewIndicator, Problem};

use super::Api;
use super::extract::{Id, Json};
use super::guard::Caller;
use super::problem::ApiResult;
use super::rules::other_name;
use crate::{alerts, published};

/// The catalogue as this reader may see it.
async fn catalogue(api: &Api, caller: Option<Extension<Caller>>) -> ApiResult<CatalogueView> {
    let mut catalogue = api.store.catalogue().await?;
    if caller.is_none() {
        catalogue.indicators.iter_mut().for_each(|indicator| indicator.changed_by.clear());
    }
    Ok(catalogue)
}

/// The catalogue as it is published
///
/// Answers without a token; `changed_by` is then empty.
#[utoipa::path(get, path = "/api/v1/indicators", tag = "rules", security(()), responses((status = 200, body = CatalogueView)))]
pub(crate) async fn list(State(api): State<Arc<Api>>, caller: Option<Extension<Caller>>) -> ApiResult<Json<CatalogueView>> {
    catalogue(&api, caller).await.map(Json)
}

/// One entry of the catalogue
///
/// Answers without a token; `changed_by` is then empty. The name is compared without regard to case.
#[utoipa::path(get, path = "/api/v1/indicators/{id}", tag = "rules", security(()),
    params(("id" = String, Path, example = "IOTEdgeAgentNotRunningCondition")),
    responses((status = 200, body = IndicatorView), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    caller: Option<Extension<Caller>>,
    Id(name): Id<String>,
) -> ApiResult<Json<IndicatorView>> {
    let catalogue = catalogue(&api, caller).await?;
    let found = catalogue.indicators.into_iter().find(|indicator| same_name(&indicator.definition.name, &name));
    found.map(Json).ok_or_else(|| alerts::indicator_not_found(&name))
}

fn same_name(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

/// Add an indicator to the catalogue
///
/// The version of the catalogue is raised, and the public page shows it at once.
#[utoipa::path(post, path = "/api/v1/indicators", tag = "rules", request_body = NewIndicator,
    responses(
        (status = 201, body = IndicatorView),
        (status = 409, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Json(new): Json<NewIndicator>,
) -> ApiResult<Response> {
    let view = alerts::put_indicator(&api, &caller.0, &new, false).await?;
    Ok((StatusCode::CREATED, Json(view)).into_response())
}

/// Change an indicator: all of it, as the body says
///
/// Its name stays in the spelling of the catalogue. The version of the catalogue is raised.
#[utoipa::path(put, path = "/api/v1/indicators/{id}", tag = "rules", params(("id" = String, Path)), request_body = NewIndicator,
    responses(
        (status = 200, body = IndicatorView),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn change(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Id(name): Id<String>,
    Json(new): Json<NewIndicator>,
) -> ApiResult<Json<IndicatorView>> {
    if !same_name(&name, &new.name) {
        return Err(other_name(&name, &new.name));
    }
    alerts::put_indicator(&api, &caller.0, &new, true).await.map(Json)
}

/// The catalogue as a page for people
///
/// Answers without a token, needs no script, and loads nothing.
#[utoipa::path(get, path = "/indicators", tag = "rules", security(()), responses((status = 200, content_type = "text/html", body = String)))]
pub(crate) async fn page(State(api): State<Arc<Api>>) -> ApiResult<Response> {
    let html = published::page(&api.store.catalogue().await?);
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(published::POLICY)),
        (HeaderName::from_static("referrer-policy"), HeaderValue::from_static("no-referrer")),
    ];
    Ok((headers, html).into_response())
}
