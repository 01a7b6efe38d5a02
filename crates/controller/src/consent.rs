//! Decisions about consent as the API takes them: who speaks for whom, and what the answer is.
//!
//! Whoever holds a token of this API is the vendor, a person or a program, and the vendor decides nothing. What it does is write down what a
//! customer decided: so a decision names the customer, the role and the channel. Without them the holder of the token would decide; that is
//! refused and put on record.

use http::StatusCode;
use muster_domain::consent::{By, Refusal, What, covers, is_built};
use muster_store::{AuditLine, Decided, Deciding, Published, StandingFilter};
use muster_wire::http::{
    Actor, Channel, ConsentAuditLine, ConsentKind, ConsentScope, ConsentState, ConsentView, DecisionRecorded, MAX_CONSENT_TEXT_CHARS,
    MAX_TERMS, MAX_TERMS_CHARS, NewDecision, NewTerms, Role, Standing, TermsView,
};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::api::problem::{ApiError, ApiResult};
use crate::api::{Api, device_not_found};

/// Longest version or language of terms, in characters.
const MAX_VERSION_CHARS: usize = 32;

/// Records a grant or a withdrawal.
pub(crate) async fn decide(api: &Api, caller: &str, new: NewDecision, what: What) -> ApiResult<DecisionRecorded> {
    let now = OffsetDateTime::now_utc();
    check_kind(new.kind)?;
    check(&new, what, now)?;
    // A role that is no customer's is the vendor by another name.
    let customer = new.on_behalf_of.filter(|actor| !matches!(actor.role, Role::Vendor | Role::System));
    let (by, actor, channel) = match (customer, new.channel) {
        (Some(actor), Some(channel)) => {
            let by = if covers(actor.role, &new.scope) { By::Customer } else { By::SmallerRole };
            (by, actor, channel)
        }
        (Some(_), None) => {
            return Err(unusable("a decision of a customer came by some channel").field("channel", "is needed: portal, api or paper"));
        }
        (None, _) => (By::Vendor, Actor { id: caller.to_owned(), role: Role::Vendor, auth: None }, Channel::Api),
    };
    let deciding = Deciding {
        kind: new.kind,
        scope: new.scope.clone(),
        what,
        by,
        actor,
        channel,
        recorded_by: caller.to_owned(),
        tenant: None,
        terms_version: new.terms_version,
        locale: new.locale,
        expires_at: new.expires_at,
        reason: new.reason,
        case: None,
        expect_version: new.expect_version,
    };
    match api.store.decide_consent(&deciding, now).await? {
        Decided::Recorded { record, cancelled } => {
            api.dispatch.poke([]);
            tracing::info!(
                consent.id = %record.consent_id, scope = %record.scope, decision = %record.decision, channel = %record.channel,
                cancelled, by = caller, "a decision about consent was recorded"
            );
            Ok(DecisionRecorded { record: *record, cancelled })
        }
        Decided::Refused { refusal, state } => Err(refused(refusal, state, &deciding)),
        Decided::Unchanged => Err(refused(Refusal::NotInTable { from: ConsentState::None }, ConsentState::None, &deciding)),
        Decided::Conflict { version } => Err(ApiError::new(
            StatusCode::CONFLICT,
            "consent_overtaken",
            "Another decision was recorded first",
            format!("the last decision for {} is number {version} now", deciding.scope),
        )
        .next_step("read what stands (muster consent show), and decide again with its number")),
        Decided::NotTheTerms => Err(ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "terms_not_current",
            "Not the current terms",
            "a grant is to the current version of the terms, in a language they are published in",
        )
        .next_step("muster consent terms list shows them")),
        Decided::UnknownDevice => match &deciding.scope {
            ConsentScope::Device { id } => Err(device_not_found(id)),
            scope => Err(ApiError::not_found("scope_not_found", "No such scope", format!("there is no {scope}"))),
        },
    }
}

fn refused(refusal: Refusal, state: ConsentState, deciding: &Deciding) -> ApiError {
    let detail = format!("{}: {refusal}", deciding.scope);
    match refusal {
        Refusal::Vendor => ApiError::new(StatusCode::FORBIDDEN, "vendor_cannot_decide", "The vendor does not decide", detail).next_step(
            "name the customer who decided, the role and the channel (--on-behalf-of, --role, --channel); this try is on record",
        ),
        Refusal::Role => ApiError::new(StatusCode::FORBIDDEN, "role_too_small", "The role does not cover this", detail).next_step(
            "a device-owner decides for a device, a site-owner for a site and its devices, a tenant-owner for all; this try is on record",
        ),
        Refusal::NotInTable { .. } => ApiError::new(StatusCode::CONFLICT, "consent_unchanged", "Nothing to change", detail)
            .next_step(format!("it is {state}; muster consent show says why")),
    }
}

fn unusable(detail: &str) -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_decision", "The decision cannot be recorded like this", detail)
}

fn check_kind(kind: ConsentKind) -> ApiResult<()> {
    if is_built(kind) {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "consent_kind_unsupported",
        "This kind of consent is not kept here",
        format!("{kind} is a consent of its own, and this version keeps only {}", ConsentKind::Proactive),
    ))
}

/// A text is there, short, and made of visible characters.
fn is_name(text: &str, most: usize) -> bool {
    !text.trim().is_empty() && text.chars().count() <= most && !text.chars().any(char::is_control)
}

fn check(new: &NewDecision, what: What, now: OffsetDateTime) -> ApiResult<()> {
    let rule = format!("is 1 to {MAX_CONSENT_TEXT_CHARS} visible characters");
    let mut faults: Vec<(&str, String)> = Vec::new();
    let tenant_of_site = match &new.scope {
        ConsentScope::Site { tenant, .. } => Some(("scope.tenant", tenant.as_str())),
        _ => None,
    };
    let actor = new.on_behalf_of.as_ref();
    let texts = [
        Some(("scope.id", new.scope.id())),
        tenant_of_site,
        actor.map(|actor| ("on_behalf_of.id", actor.id.as_str())),
        actor.and_then(|actor| Some(("on_behalf_of.auth", actor.auth.as_deref()?))),
        new.reason.as_deref().map(|reason| ("reason", reason)),
    ];
    for (field, text) in texts.into_iter().flatten() {
        if !is_name(text, MAX_CONSENT_TEXT_CHARS) {
            faults.push((field, rule.clone()));
        }
    }
    if let Some(channel) = new.channel.filter(|channel| !matches!(channel, Channel::Portal | Channel::Api | Channel::Paper)) {
        faults.push(("channel", format!("is {channel}, which only the product itself uses; it is portal, api or paper")));
    }
    if let Some(end) = new.expires_at {
        if what != What::Enable {
            faults.push(("expires_at", "belongs to a grant".to_owned()));
        } else if end <= now {
            faults.push(("expires_at", "lies in the past".to_owned()));
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(faults.into_iter().fold(unusable("a value cannot be used"), |error, (field, message)| error.field(field, message)))
}

/// Where consent stands for a scope.
pub(crate) async fn show(api: &Api, kind: ConsentKind, scope: &ConsentScope) -> ApiResult<ConsentView> {
    check_kind(kind)?;
    let found = api.store.consent(kind, scope, OffsetDateTime::now_utc()).await?;
    found.ok_or_else(|| match scope {
        ConsentScope::Device { id } => device_not_found(id),
        scope => ApiError::not_found("scope_not_found", "No such scope", format!("there is no {scope}")),
    })
}

/// The last decision of each scope.
pub(crate) async fn list(api: &Api, filter: &StandingFilter<'_>) -> ApiResult<Vec<Standing>> {
    check_kind(filter.kind)?;
    Ok(api.store.consents(filter, OffsetDateTime::now_utc()).await?)
}

/// What was refused and removed, with the id of each line for the cursor.
pub(crate) async fn audit(api: &Api, before: Option<Uuid>, limit: u32) -> ApiResult<Vec<(Uuid, ConsentAuditLine)>> {
    let lines = api.store.consent_audit(before, limit).await?;
    let view = |line: AuditLine| {
        let AuditLine { id, at, who, what, kind, scope, attempt, object, detail } = line;
        (id, ConsentAuditLine { at, who, what: what.as_str().to_owned(), kind, scope, attempt, object, detail })
    };
    Ok(lines.into_iter().map(view).collect())
}

/// Publishes terms.
pub(crate) async fn publish(api: &Api, caller: &str, new: NewTerms) -> ApiResult<TermsView> {
    check_kind(new.kind)?;
    let words = |text: &str| is_name(text, MAX_VERSION_CHARS) && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    let mut faults: Vec<(&str, String)> = Vec::new();
    for (field, text) in [("version", &new.version), ("locale", &new.locale)] {
        if !words(text) {
            faults.push((field, format!("is 1 to {MAX_VERSION_CHARS} of A-Z a-z 0-9 - . _")));
        }
    }
    let chars = new.text.chars().count();
    if new.text.trim().is_empty() || chars > MAX_TERMS_CHARS || new.text.contains('\0') {
        faults.push(("text", format!("is 1 to {MAX_TERMS_CHARS} characters, without NUL; this one has {chars}")));
    }
    if !faults.is_empty() {
        let error = ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_terms",
            "The terms cannot be published like this",
            "a value cannot be used",
        );
        return Err(faults.into_iter().fold(error, |error, (field, message)| error.field(field, message)));
    }
    let sha256: String = Sha256::digest(new.text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    match api.store.publish_terms(&new, &sha256, caller, OffsetDateTime::now_utc()).await? {
        Published::New(view) => {
            api.dispatch.poke([]);
            tracing::info!(version = view.version, locale = view.locale, material = view.material, by = caller, "terms were published");
            Ok(*view)
        }
        Published::Exists => Err(ApiError::new(
            StatusCode::CONFLICT,
            "terms_exist",
            "These terms are published",
            format!(
                "version {} is there in {}, or its other languages say something else of silence or of asking again",
                new.version, new.locale
            ),
        )
        .next_step("a published text never changes; publish another version")),
        Published::TooMany => Err(ApiError::new(
            StatusCode::CONFLICT,
            "too_many_terms",
            "Too many terms",
            format!("there are {MAX_TERMS} texts of terms already"),
        )),
    }
}
