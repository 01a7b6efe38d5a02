//! `/api/v1/consent`

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use muster_domain::consent::What;
use muster_store::StandingFilter;
use muster_wire::http::{
    ConsentAuditLine, ConsentKind, ConsentScope, ConsentState, ConsentView, DecisionRecorded, NewDecision, NewTerms, Page, Problem,
    Standing, TermsView,
};
use muster_wire::{ConsentId, DeviceId};
use serde::Deserialize;
use uuid::Uuid;

use super::extract::{Id, Json, Query};
use super::guard::Caller;
use super::problem::{ApiError, ApiResult};
use super::{Api, cursor};
use crate::consent;

const LIST: &str = "consent";
const AUDIT: &str = "consent_audit";

/// Which decisions.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// `next` of the page before.
    after: Option<String>,
    /// Items per page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// About what.
    #[param(default = "proactive")]
    kind: Option<ConsentKind>,
    /// Only of this tenant.
    tenant: Option<String>,
    /// Only for scopes of this type: `device`, `site` or `tenant`.
    scope_type: Option<ScopeType>,
    /// Only those that stand like this.
    state: Option<ConsentState>,
}

/// A type of scope.
#[derive(Debug, Clone, Copy, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ScopeType {
    /// One device.
    Device,
    /// A site of a tenant.
    Site,
    /// A tenant.
    Tenant,
}

/// List the last decision of each scope, newest first
///
/// What holds for a device follows from several of them and from the device's own word: see `/api/v1/consent/effective`.
#[utoipa::path(get, path = "/api/v1/consent", tag = "consent", params(ListQuery),
    responses((status = 200, body = Page<Standing>), (status = 400, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(State(api): State<Arc<Api>>, Query(query): Query<ListQuery>) -> ApiResult<Json<Page<Standing>>> {
    let limit = cursor::page_size(query.limit)?;
    let before = cursor::decode::<ConsentId>(LIST, query.after.as_deref())?;
    let scope_type = query.scope_type.map(|scope| match scope {
        ScopeType::Device => "device",
        ScopeType::Site => "site",
        ScopeType::Tenant => "tenant",
    });
    let filter = StandingFilter {
        kind: query.kind.unwrap_or(ConsentKind::Proactive),
        before,
        limit,
        tenant: query.tenant.as_deref(),
        scope_type,
        state: query.state,
    };
    let items = consent::list(&api, &filter).await?;
    let id = |standing: &Standing| standing.record.as_ref().map_or_else(|| ConsentId::from_uuid(Uuid::nil()), |record| record.consent_id);
    Ok(Json(cursor::page(LIST, items, limit, id)))
}

/// Of which scope.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ScopeQuery {
    /// A device.
    #[param(value_type = Option<String>, example = "press-0042")]
    device: Option<DeviceId>,
    /// A site; needs its tenant.
    site: Option<String>,
    /// A tenant.
    tenant: Option<String>,
    /// About what.
    #[param(default = "proactive")]
    kind: Option<ConsentKind>,
}

impl ScopeQuery {
    fn scope(self) -> ApiResult<ConsentScope> {
        match (self.device, self.site, self.tenant) {
            (Some(id), None, None) => Ok(ConsentScope::Device { id }),
            (None, Some(id), Some(tenant)) => Ok(ConsentScope::Site { id, tenant }),
            (None, None, Some(id)) => Ok(ConsentScope::Tenant { id }),
            _ => Err(ApiError::new(
                StatusCode::BAD_REQUEST,
                "invalid_query",
                "Query cannot be used",
                "name a device, or a tenant, or a site with its tenant",
            )),
        }
    }
}

/// Where consent stands for a device, a site or a tenant, and how it came there
///
/// Of a device: what its own decision, its site's and its tenant's come to together with its own word; a refusal at any level wins.
#[utoipa::path(get, path = "/api/v1/consent/effective", tag = "consent", params(ScopeQuery),
    responses((status = 200, body = ConsentView), (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn effective(State(api): State<Arc<Api>>, Query(query): Query<ScopeQuery>) -> ApiResult<Json<ConsentView>> {
    let kind = query.kind.unwrap_or(ConsentKind::Proactive);
    consent::show(&api, kind, &query.scope()?).await.map(Json)
}

/// Record that a customer agreed
///
/// It names the customer, the role and the channel. Without them the holder of the token would decide, and that is the vendor: refused with
/// 403, and on record.
#[utoipa::path(post, path = "/api/v1/consent/grant", tag = "consent", request_body = NewDecision,
    responses(
        (status = 201, body = DecisionRecorded),
        (status = 403, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn grant(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Json(new): Json<NewDecision>,
) -> ApiResult<Response> {
    let recorded = consent::decide(&api, &caller.0, new, What::Enable).await?;
    Ok((StatusCode::CREATED, Json(recorded)).into_response())
}

/// Record that a customer refused or withdrew
///
/// From this moment no device of the scope is asked; what is queued or under way is cancelled with it, its grants are closed and what was
/// uploaded of it is removed within minutes. What was sealed before stays.
#[utoipa::path(post, path = "/api/v1/consent/revoke", tag = "consent", request_body = NewDecision,
    responses(
        (status = 201, body = DecisionRecorded),
        (status = 403, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn revoke(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Json(new): Json<NewDecision>,
) -> ApiResult<Response> {
    let recorded = consent::decide(&api, &caller.0, new, What::Disable).await?;
    Ok((StatusCode::CREATED, Json(recorded)).into_response())
}

/// Which page.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditQuery {
    /// `next` of the page before.
    after: Option<String>,
    /// Items per page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
}

/// What was refused, and what was removed when a consent ended; newest first
#[utoipa::path(get, path = "/api/v1/consent/audit", tag = "consent", params(AuditQuery),
    responses((status = 200, body = Page<ConsentAuditLine>), (status = 400, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn audit(State(api): State<Arc<Api>>, Query(query): Query<AuditQuery>) -> ApiResult<Json<Page<ConsentAuditLine>>> {
    let limit = cursor::page_size(query.limit)?;
    let before = cursor::decode::<Uuid>(AUDIT, query.after.as_deref())?;
    let lines = consent::audit(&api, before, limit).await?;
    let Page { items, next } = cursor::page(AUDIT, lines, limit, |(id, _)| *id);
    Ok(Json(Page { items: items.into_iter().map(|(_, line)| line).collect(), next }))
}

/// About what.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TermsQuery {
    /// About what.
    #[param(default = "proactive")]
    kind: Option<ConsentKind>,
    /// Language of the text; any when absent.
    #[param(example = "en-GB")]
    locale: Option<String>,
}

/// List the published terms, the current version first
#[utoipa::path(get, path = "/api/v1/consent/terms", tag = "consent", params(TermsQuery), responses((status = 200, body = Page<TermsView>)))]
pub(crate) async fn terms(State(api): State<Arc<Api>>, Query(query): Query<TermsQuery>) -> ApiResult<Json<Page<TermsView>>> {
    let mut items = api.store.terms(query.kind.unwrap_or(ConsentKind::Proactive)).await?;
    items.retain(|terms| query.locale.as_ref().is_none_or(|locale| *locale == terms.locale));
    Ok(Json(Page { items, next: None }))
}

/// One version of the terms, with its text
#[utoipa::path(get, path = "/api/v1/consent/terms/{id}", tag = "consent", params(("id" = String, Path, example = "2026-11-28"), TermsQuery),
    responses((status = 200, body = TermsView), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn terms_text(
    State(api): State<Arc<Api>>,
    Id(version): Id<String>,
    Query(query): Query<TermsQuery>,
) -> ApiResult<Json<TermsView>> {
    let kind = query.kind.unwrap_or(ConsentKind::Proactive);
    let found = api.store.terms_text(kind, &version, query.locale.as_deref()).await?;
    found.map(Json).ok_or_else(|| {
        let language = query.locale.as_deref().map(|locale| format!(" in {locale}")).unwrap_or_default();
        ApiError::not_found(
            "terms_not_found",
            "No such terms",
            format!("there is no version {version:?} of the terms for {kind}{language}"),
        )
        .next_step("muster consent terms list shows what is published")
    })
}

/// Publish terms
///
/// A new version is the current one from now on. With `material`, grants to earlier versions are suspended until their owners agree again.
#[utoipa::path(post, path = "/api/v1/consent/terms", tag = "consent", request_body = NewTerms,
    responses(
        (status = 201, body = TermsView),
        (status = 409, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn publish(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Json(new): Json<NewTerms>,
) -> ApiResult<Response> {
    let view = consent::publish(&api, &caller.0, new).await?;
    Ok((StatusCode::CREATED, Json(view)).into_response())
}
