//! Reading decisions: where a scope stands and how it came there.

use muster_domain::consent::effective::standing;
use muster_domain::consent::record::last;
use muster_domain::consent::{Effective, OnRecord};
use muster_wire::ConsentId;
use muster_wire::http::{ConsentKind, ConsentRecord, ConsentScope, ConsentState, ConsentView, DeviceFlag, MAX_PAGE, Standing};
use time::OffsetDateTime;
use uuid::Uuid;

use super::effective::{HEARD_AT, NEWEST_MATERIAL, SITE_OF, effective_in, flag};
use super::{columns, record, scope_tenant};
use crate::collections::number;
use crate::connect::Store;
use crate::devices::TENANT_OF;
use crate::dialect::{Row, Tx, Value};
use crate::error::{StoreError, run};
use crate::instant::{maybe_from_ms, to_ms};

/// Which decisions.
#[derive(Debug, Clone, Copy)]
pub struct StandingFilter<'a> {
    /// About what.
    pub kind: ConsentKind,
    /// Recorded before this one.
    pub before: Option<ConsentId>,
    /// At most so many; cut at [`MAX_PAGE`].
    pub limit: u32,
    /// Only those of this tenant.
    pub tenant: Option<&'a str>,
    /// Only those of scopes of this type: `device`, `site`, `tenant`.
    pub scope_type: Option<&'a str>,
    /// Only these.
    pub state: Option<ConsentState>,
}

fn standing_of(row: &Row, now: OffsetDateTime) -> Result<Option<Standing>, StoreError> {
    let newest_material = row.get::<Option<i64>>(0)?.map(|value| number("the number of terms", value)).transpose()?;
    let Some((record, terms_number)) = record(row, 1)? else { return Ok(None) };
    let on_record = OnRecord {
        consent: record.consent_id,
        decision: record.decision,
        basis: record.basis,
        expires_at: record.expires_at,
        terms_number,
        tenant: record.tenant.clone(),
    };
    let (state, why) = standing(&on_record, newest_material, now);
    Ok(Some(Standing { scope: record.scope.clone(), state, why: format!("consent {why}"), record: Some(record) }))
}

async fn last_of(tx: &mut Tx, kind: ConsentKind, scope: &ConsentScope, now: OffsetDateTime) -> Result<Standing, StoreError> {
    let sql = format!(
        "SELECT {NEWEST_MATERIAL}, {} FROM consent_record r WHERE r.kind = $1 AND r.scope_type = $2 AND r.scope_tenant = $3 AND r.scope_id = $4 \
         ORDER BY r.version DESC LIMIT 1",
        columns("r")
    );
    let rows = tx.fetch(&sql, &key(kind, scope), None).await?;
    let found = rows.first().map(|row| standing_of(row, now)).transpose()?.flatten();
    let nobody = || Standing { scope: scope.clone(), state: ConsentState::None, why: "nobody has decided".to_owned(), record: None };
    Ok(found.unwrap_or_else(nobody))
}

fn key(kind: ConsentKind, scope: &ConsentScope) -> [Value<'_>; 4] {
    [Value::Text(kind.as_str()), Value::Text(scope.kind()), Value::Text(scope_tenant(scope)), Value::Text(scope.id())]
}

impl Store {
    /// Where consent stands for a scope, and all its decisions; `None` for a device that is not in the registry.
    ///
    /// # Errors
    /// The database's; [`StoreError::Inconsistent`] where the history of decisions has a hole.
    pub async fn consent(&self, kind: ConsentKind, scope: &ConsentScope, now: OffsetDateTime) -> Result<Option<ConsentView>, StoreError> {
        run("reading consent", || async {
            let mut tx = self.begin_read().await?;
            let history = history(&mut tx, kind, scope).await?;
            let whole = history.len() < MAX_PAGE as usize;
            if let Some(broken) = whole.then(|| last(history.iter().rev()).err()).flatten() {
                return Err(StoreError::Inconsistent(broken.to_string()));
            }
            let own = last_of(&mut tx, kind, scope, now).await?;
            let mut view = ConsentView {
                kind,
                scope: scope.clone(),
                state: own.state,
                consent: own.record.as_ref().filter(|_| own.state == ConsentState::Granted).map(|record| record.consent_id),
                why: own.why.clone(),
                tenant: scope.tenant().map(str::to_owned),
                site: None,
                device_says: None,
                standings: vec![own],
                history,
            };
            match scope {
                ConsentScope::Tenant { .. } => {}
                ConsentScope::Site { tenant, .. } => {
                    let above = last_of(&mut tx, kind, &ConsentScope::Tenant { id: tenant.clone() }, now).await?;
                    if matches!(above.state, ConsentState::Declined | ConsentState::Revoked) || view.state == ConsentState::None {
                        (view.state, view.why) = (above.state, format!("{} for its tenant", above.why));
                        view.consent =
                            above.record.as_ref().filter(|_| above.state == ConsentState::Granted).map(|record| record.consent_id);
                    }
                    view.standings.push(above);
                }
                ConsentScope::Device { id } => {
                    let sql = format!("SELECT {TENANT_OF}, {SITE_OF}, d.consent, {HEARD_AT} FROM device d WHERE d.id = $1");
                    let rows = tx.fetch(&sql, &[Value::Text(id.as_str())], None).await?;
                    let Some(row) = rows.first() else { return Ok(None) };
                    (view.tenant, view.site) = (row.get(0)?, row.get(1)?);
                    view.device_says =
                        Some(DeviceFlag { flag: flag(row.get(2)?).as_str().to_owned(), heard_at: maybe_from_ms(row.get(3)?)? });
                    if let Some(tenant) = view.tenant.clone() {
                        if let Some(site) = view.site.clone() {
                            let scope = ConsentScope::Site { id: site, tenant: tenant.clone() };
                            view.standings.push(last_of(&mut tx, kind, &scope, now).await?);
                        }
                        view.standings.push(last_of(&mut tx, kind, &ConsentScope::Tenant { id: tenant }, now).await?);
                    }
                    let effective = effective_in(&mut tx, kind, &[id], now).await?.remove(id);
                    let Effective { state, consent, why } =
                        effective.unwrap_or_else(|| Effective::none("the device is not in the registry"));
                    (view.state, view.consent, view.why) = (state, consent, why);
                }
            }
            Ok(Some(view))
        })
        .await
    }

    /// The last decision of each scope, the newest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn consents(&self, filter: &StandingFilter<'_>, now: OffsetDateTime) -> Result<Vec<Standing>, StoreError> {
        // What a state means for the row: expired and suspended lie over a grant.
        let expired = "(r.expires_at IS NOT NULL AND r.expires_at <= $6)";
        let outdated = format!("({NEWEST_MATERIAL} > COALESCE(r.terms_number, 0))");
        let state = match filter.state {
            None => "true".to_owned(),
            Some(ConsentState::None) => "false".to_owned(),
            Some(state @ (ConsentState::Declined | ConsentState::Revoked)) => format!("r.decision = '{state}'"),
            Some(ConsentState::Expired) => format!("r.decision = 'granted' AND {expired}"),
            Some(ConsentState::Suspended) => format!("r.decision = 'granted' AND NOT {expired} AND {outdated}"),
            Some(ConsentState::Granted) => format!("r.decision = 'granted' AND NOT {expired} AND COALESCE(NOT {outdated}, true)"),
        };
        let sql = format!(
            "SELECT {NEWEST_MATERIAL}, {} FROM consent_record r WHERE r.kind = $1 AND r.id < $2 AND ($3 IS NULL OR r.tenant = $3) \
             AND ($4 IS NULL OR r.scope_type = $4) AND ($6 IS NOT NULL) AND {state} AND r.version = (SELECT max(y.version) FROM consent_record y \
             WHERE y.kind = r.kind AND y.scope_type = r.scope_type AND y.scope_tenant = r.scope_tenant AND y.scope_id = r.scope_id) \
             ORDER BY r.id DESC LIMIT $5",
            columns("r")
        );
        let values = [
            Value::Text(filter.kind.as_str()),
            Value::Id(filter.before.map_or(Uuid::max(), ConsentId::uuid)),
            Value::MaybeText(filter.tenant),
            Value::MaybeText(filter.scope_type),
            Value::Number(i64::from(filter.limit.min(MAX_PAGE))),
            Value::Number(to_ms(now)),
        ];
        run("listing consent", || async {
            let rows = self.reader().await?.fetch(&sql, &values, None).await?;
            rows.iter().filter_map(|row| standing_of(row, now).transpose()).collect()
        })
        .await
    }
}

async fn history(tx: &mut Tx, kind: ConsentKind, scope: &ConsentScope) -> Result<Vec<ConsentRecord>, StoreError> {
    let sql = format!(
        "SELECT {} FROM consent_record r WHERE r.kind = $1 AND r.scope_type = $2 AND r.scope_tenant = $3 AND r.scope_id = $4 \
         ORDER BY r.version DESC LIMIT {MAX_PAGE}",
        columns("r")
    );
    let rows = tx.fetch(&sql, &key(kind, scope), None).await?;
    rows.iter().filter_map(|row| record(row, 0).map(|found| found.map(|(record, _)| record)).transpose()).collect()
}
