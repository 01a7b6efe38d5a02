//! Recording decisions: read what stands, ask the table, write the next record, end what it ends. All of a batch in a few statements.

use std::collections::HashMap;

use muster_domain::consent::effective::standing;
use muster_domain::consent::{By, Effective, Facts, Known, OnRecord, Refusal, What, effective, transition};
use muster_wire::http::{
    Actor, Basis, Channel, ConsentKind, ConsentRecord, ConsentScope, ConsentState, Decision, MAX_CONSENT_TEXT_CHARS, TermsDefault,
};
use muster_wire::{ConsentId, DeviceId};
use time::OffsetDateTime;
use uuid::Uuid;

use super::audit::{self, AuditLine, AuditWhat};
use super::effective::{HEARD_AT, flag};
use super::end::{Among, end_in_scope};
use super::terms::{Terms, terms_in};
use super::{COLUMN_COUNT, columns, record, scope_tenant};
use crate::alerts::catalogue_version;
use crate::connect::Store;
use crate::devices::TENANT_OF;
use crate::dialect::{Batch, Tx, VALUE_BYTES, Value, parcels};
use crate::error::{MAX_CONFLICT_RETRIES, StoreError, run};
use crate::instant::{maybe_from_ms, to_ms};
use crate::text::bounded;

/// A decision to be recorded.
#[derive(Debug, Clone)]
pub struct Deciding {
    /// What it is about.
    pub kind: ConsentKind,
    /// Which devices.
    pub scope: ConsentScope,
    /// What happens: somebody agrees, refuses, activates a device; a device goes to another tenant.
    pub what: What,
    /// Who decides, as the table asks it.
    pub by: By,
    /// Who decides, as the record says it.
    pub actor: Actor,
    /// How it reached us.
    pub channel: Channel,
    /// Whose token, or which part of the product, writes it down.
    pub recorded_by: String,
    /// Whose device it is about, where that is not what the registry says now: the owner it had.
    pub tenant: Option<String>,
    /// Version of the terms that was shown; the current one when absent.
    pub terms_version: Option<String>,
    /// Language in which they were shown.
    pub locale: Option<String>,
    /// With a grant: when it runs out.
    pub expires_at: Option<OffsetDateTime>,
    /// Why, in words.
    pub reason: Option<String>,
    /// Support case.
    pub case: Option<String>,
    /// Number of the decision that was seen, 0 for none: recorded only if it still is the last one.
    pub expect_version: Option<u32>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decided {
    /// It is on record.
    Recorded {
        /// The record.
        record: Box<ConsentRecord>,
        /// Tasks that were cancelled with it.
        cancelled: u64,
    },
    /// Nothing was decided: an activation that left the choice open, under terms where silence is a no.
    Unchanged,
    /// It may not be. That is on record too.
    Refused {
        /// Why not.
        refusal: Refusal,
        /// Where it stands.
        state: ConsentState,
    },
    /// Another decision was recorded first.
    Conflict {
        /// Number of the last one.
        version: u32,
    },
    /// The terms that were shown are not the current ones, or not published in this language.
    NotTheTerms,
    /// The device is not in the registry.
    UnknownDevice,
}

/// What stands for a scope.
struct Stands {
    last: Option<(ConsentRecord, Option<u32>)>,
    tenant: Option<String>,
    known_device: bool,
    flag: muster_wire::presence::ProactiveConsent,
    heard_at: Option<OffsetDateTime>,
}

impl Store {
    /// Records a decision, and ends in the same transaction what it ends: no task that needs this consent is dispatched after it.
    ///
    /// # Errors
    /// The database's; then nothing was decided.
    pub async fn decide_consent(&self, deciding: &Deciding, now: OffsetDateTime) -> Result<Decided, StoreError> {
        for _ in 0..MAX_CONFLICT_RETRIES {
            let decided = run("recording a decision about consent", || async {
                let mut tx = self.begin().await?;
                let decided = decide_in(&mut tx, std::slice::from_ref(deciding), now).await?.remove(0);
                tx.commit().await?;
                Ok(decided)
            })
            .await?;
            // Nobody said what had to stand before it: then it is judged again by what stands now.
            if !matches!(decided, Decided::Conflict { .. }) || deciding.expect_version.is_some() {
                return Ok(decided);
            }
        }
        Err(StoreError::Misuse(format!("the decision for {} was overtaken again and again", deciding.scope)))
    }
}

/// Records decisions, each for another scope; what came of each. A scope whose decision was overtaken is [`Decided::Conflict`].
pub(super) async fn decide_in(tx: &mut Tx, all: &[Deciding], now: OffsetDateTime) -> Result<Vec<Decided>, StoreError> {
    let mut decided: Vec<Option<Decided>> = vec![None; all.len()];
    let catalogue = catalogue_version(tx).await?;
    for &kind in ConsentKind::ALL {
        let places: Vec<usize> = (0..all.len()).filter(|&place| all[place].kind == kind).collect();
        if places.is_empty() {
            continue;
        }
        let terms = terms_in(tx, kind).await?;
        let newest_material = terms.iter().filter(|terms| terms.named.material).map(|terms| terms.number).max();
        let scopes: Vec<&ConsentScope> = places.iter().map(|&place| &all[place].scope).collect();
        let stands = read(tx, kind, &scopes).await?;
        let mut writes: Vec<(usize, ConsentRecord, Option<u32>)> = Vec::new();
        let mut refused = Vec::new();
        for &place in &places {
            let deciding = &all[place];
            let stands = stands.get(&deciding.scope);
            match judge(deciding, stands, &terms, newest_material, catalogue, now) {
                Ok((record, number)) => writes.push((place, record, number)),
                Err(outcome) => {
                    if let Decided::Refused { refusal, state } = &outcome {
                        refused.push(refused_line(deciding, *refusal, *state, now));
                    }
                    decided[place] = Some(outcome);
                }
            }
        }
        audit::write(tx, &refused).await?;
        let written = insert(tx, &writes).await?;
        for (place, record, _) in writes {
            if !written.contains(&record.consent_id.uuid()) {
                decided[place] = Some(Decided::Conflict { version: record.version });
                continue;
            }
            decided[place] = Some(Decided::Recorded { record: Box::new(record), cancelled: 0 });
        }
        end(tx, kind, all, &mut decided, now).await?;
    }
    Ok(decided.into_iter().map(|decided| decided.expect("each kind was gone through")).collect())
}

/// Ends the tasks that the decisions leave without consent: of all devices in one go, of a site or a tenant one by one.
async fn end(
    tx: &mut Tx,
    kind: ConsentKind,
    all: &[Deciding],
    decided: &mut [Option<Decided>],
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let mut devices: Vec<(usize, &DeviceId)> = Vec::new();
    for (place, outcome) in decided.iter_mut().enumerate() {
        let Some(Decided::Recorded { record, cancelled }) = outcome else { continue };
        if record.kind != kind || record.decision == Decision::Granted {
            continue;
        }
        match &all[place].scope {
            ConsentScope::Device { id } => devices.push((place, id)),
            ConsentScope::Site { id, tenant } => {
                *cancelled = end_in_scope(tx, kind, &Among::Site { tenant, site: id }, now).await?.len() as u64
            }
            ConsentScope::Tenant { id } => *cancelled = end_in_scope(tx, kind, &Among::Tenant(id), now).await?.len() as u64,
        }
    }
    if devices.is_empty() {
        return Ok(());
    }
    let among: Vec<&DeviceId> = devices.iter().map(|(_, device)| *device).collect();
    let ended = end_in_scope(tx, kind, &Among::Devices(&among), now).await?;
    for (place, device) in devices {
        if let Some(Decided::Recorded { cancelled, .. }) = &mut decided[place] {
            *cancelled = ended.iter().filter(|of| *of == device).count() as u64;
        }
    }
    Ok(())
}

/// The record to be written, or why there is none.
fn judge(
    deciding: &Deciding,
    stands: Option<&Stands>,
    terms: &[Terms],
    newest_material: Option<u32>,
    catalogue: u32,
    now: OffsetDateTime,
) -> Result<(ConsentRecord, Option<u32>), Decided> {
    let Some(stands) = stands.filter(|stands| stands.known_device) else { return Err(Decided::UnknownDevice) };
    let last = stands.last.as_ref().map(|(record, _)| record);
    let version = last.map_or(0, |record| record.version);
    if deciding.expect_version.is_some_and(|expected| expected != version) {
        return Err(Decided::Conflict { version });
    }
    let tenant = deciding.tenant.clone().or_else(|| match &deciding.scope {
        ConsentScope::Device { .. } => stands.tenant.clone(),
        scope => scope.tenant().map(str::to_owned),
    });
    let state = state(deciding, stands, tenant.as_deref(), newest_material, now);
    let current = terms.last();
    let facts = Facts {
        by: deciding.by,
        kind: deciding.kind,
        default: current.map_or(TermsDefault::OptIn, |terms| terms.default),
        material: false,
    };
    let to = match transition(state, deciding.what, &facts) {
        Ok(to) => to,
        // A device that repeats what is so, or a move of one that nobody decided for: nothing to refuse.
        Err(Refusal::NotInTable { .. }) if matches!(deciding.by, By::Device | By::Rule) => return Err(Decided::Unchanged),
        Err(refusal) => return Err(Decided::Refused { refusal, state }),
    };
    let decision = match to {
        ConsentState::Granted => Decision::Granted,
        ConsentState::Declined => Decision::Declined,
        ConsentState::Revoked => Decision::Revoked,
        ConsentState::None | ConsentState::Expired | ConsentState::Suspended => return Err(Decided::Unchanged),
    };
    // A rule of the product shows nobody any terms; everybody else was shown some.
    let shown = match deciding.by {
        By::Rule => None,
        _ => Some(shown(deciding, terms).ok_or(Decided::NotTheTerms)?),
    };
    let bound = |text: &str| bounded(text, MAX_CONSENT_TEXT_CHARS).into_owned();
    let record = ConsentRecord {
        consent_id: ConsentId::new(),
        kind: deciding.kind,
        tenant,
        scope: deciding.scope.clone(),
        version: version + 1,
        decision,
        basis: if deciding.what == What::Activated { Basis::DefaultOn } else { Basis::Explicit },
        terms: shown.map(|terms| terms.named.clone()),
        catalogue_version_at_decision: Some(catalogue),
        actor: Actor { id: bound(&deciding.actor.id), role: deciding.actor.role, auth: deciding.actor.auth.as_deref().map(bound) },
        channel: deciding.channel,
        recorded_by: bound(&deciding.recorded_by),
        reason: deciding.reason.as_deref().map(bound),
        decided_at: now,
        effective_at: now,
        expires_at: deciding.expires_at.filter(|_| decision == Decision::Granted),
        case_number: deciding.case.as_deref().map(bound),
        supersedes: last.map(|record| record.consent_id),
    };
    Ok((record, shown.map(|terms| terms.number)))
}

/// Where the scope stands for the table: its own decision, and for a device its own word beside it.
fn state(deciding: &Deciding, stands: &Stands, tenant: Option<&str>, newest_material: Option<u32>, now: OffsetDateTime) -> ConsentState {
    let Some((record, terms_number)) = &stands.last else { return ConsentState::None };
    let on_record = OnRecord {
        consent: record.consent_id,
        decision: record.decision,
        basis: record.basis,
        expires_at: record.expires_at,
        terms_number: *terms_number,
        tenant: record.tenant.clone(),
    };
    match deciding.scope {
        ConsentScope::Site { .. } | ConsentScope::Tenant { .. } => standing(&on_record, newest_material, now).0,
        ConsentScope::Device { .. } => {
            let known = Known {
                tenant,
                device: Some(&on_record),
                site: None,
                of_tenant: None,
                flag: stands.flag,
                heard_at: stands.heard_at,
                newest_material,
            };
            let Effective { state, .. } = effective(&known, now);
            state
        }
    }
}

/// The terms a decision is about: the current version, in the language that was shown, or the first there is.
fn shown<'a>(deciding: &Deciding, terms: &'a [Terms]) -> Option<&'a Terms> {
    let current = terms.last()?.number;
    let fits = |asked: &Option<String>, is: &str| asked.as_deref().is_none_or(|asked| asked == is);
    // A withdrawal is about whatever was agreed to before; only a yes has to be to the current terms.
    let wanted = deciding.terms_version.as_ref().filter(|_| deciding.what != What::Disable);
    terms.iter().find(|terms| {
        terms.number == current && wanted.is_none_or(|wanted| *wanted == terms.named.version) && fits(&deciding.locale, &terms.named.locale)
    })
}

fn refused_line(deciding: &Deciding, refusal: Refusal, state: ConsentState, now: OffsetDateTime) -> AuditLine {
    let what = match deciding.what {
        What::Enable => "to grant",
        What::Disable => "to withdraw",
        What::Moved => "to end",
        _ => "to record an activation",
    };
    AuditLine {
        id: Uuid::now_v7(),
        at: now,
        who: deciding.recorded_by.clone(),
        what: AuditWhat::Refused,
        kind: deciding.kind,
        scope: deciding.scope.clone(),
        attempt: None,
        object: None,
        detail: Some(format!("{what}, by {} as {}: {refusal} (it is {state})", deciding.actor.id, deciding.actor.role)),
    }
}

async fn read(tx: &mut Tx, kind: ConsentKind, scopes: &[&ConsentScope]) -> Result<HashMap<ConsentScope, Stands>, StoreError> {
    let of = |alias: &str| {
        format!("{alias}.kind = $1 AND {alias}.scope_type = v.scope AND {alias}.scope_tenant = v.tenant AND {alias}.scope_id = v.id")
    };
    let sql = format!(
        "SELECT v.scope, v.tenant, v.id, d.id, {TENANT_OF}, d.consent, {HEARD_AT}, {} FROM [[v]] \
         LEFT JOIN device d ON v.scope = 'device' AND d.id = v.id \
         LEFT JOIN consent_record r ON {} AND r.version = (SELECT max(y.version) FROM consent_record y WHERE {})",
        columns("r"),
        of("r"),
        of("y")
    );
    const BEFORE: usize = 7;
    let bytes = |scope: &&ConsentScope| 3 * VALUE_BYTES + 8 + scope_tenant(scope).len() + scope.id().len();
    let mut all = HashMap::with_capacity(scopes.len());
    for parcel in parcels(scopes, bytes) {
        let batch = Batch::default()
            .texts("scope", parcel.iter().map(|scope| Some(scope.kind())))
            .texts("tenant", parcel.iter().map(|scope| Some(scope_tenant(scope))))
            .texts("id", parcel.iter().map(|scope| Some(scope.id())));
        for row in tx.fetch(&sql, &[Value::Text(kind.as_str())], Some(&batch)).await? {
            let scope = super::scope_of(&row.get::<String>(0)?, row.get(1)?, row.get(2)?)?;
            let is_device = matches!(scope, ConsentScope::Device { .. });
            let stands = Stands {
                known_device: !is_device || row.get::<Option<String>>(3)?.is_some(),
                tenant: row.get(4)?,
                flag: flag(row.get(5)?),
                heard_at: maybe_from_ms(row.get(6)?)?,
                last: record(&row, BEFORE)?,
            };
            all.insert(scope, stands);
        }
    }
    Ok(all)
}

/// Writes records; those whose place was taken are not among the ids that come back.
async fn insert(tx: &mut Tx, writes: &[(usize, ConsentRecord, Option<u32>)]) -> Result<Vec<Uuid>, StoreError> {
    let mut written = Vec::with_capacity(writes.len());
    // Twenty-six values, and texts that are bounded where they came in.
    for parcel in parcels(writes, |(_, record, _)| COLUMN_COUNT * (VALUE_BYTES + 24) + record.actor.id.len() + record.scope.id().len()) {
        let records = || parcel.iter().map(|(_, record, _)| record);
        let terms = || records().map(|record| record.terms.as_ref());
        let batch = Batch::default()
            .ids("id", records().map(|record| record.consent_id.uuid()))
            .texts("kind", records().map(|record| Some(record.kind.as_str())))
            .texts("scope_type", records().map(|record| Some(record.scope.kind())))
            .texts("scope_tenant", records().map(|record| Some(scope_tenant(&record.scope))))
            .texts("scope_id", records().map(|record| Some(record.scope.id())))
            .numbers("version", records().map(|record| Some(i64::from(record.version))))
            .texts("decision", records().map(|record| Some(record.decision.as_str())))
            .texts("basis", records().map(|record| Some(record.basis.as_str())))
            .texts("tenant", records().map(|record| record.tenant.as_deref()))
            .texts("terms_id", terms().map(|terms| terms.map(|terms| terms.id.as_str())))
            .texts("terms_version", terms().map(|terms| terms.map(|terms| terms.version.as_str())))
            .texts("terms_sha256", terms().map(|terms| terms.map(|terms| terms.sha256.as_str())))
            .texts("terms_locale", terms().map(|terms| terms.map(|terms| terms.locale.as_str())))
            .smalls("terms_material", terms().map(|terms| terms.map(|terms| i16::from(terms.material))))
            .numbers("terms_number", parcel.iter().map(|(_, _, number)| number.map(i64::from)))
            .numbers("catalogue_version", records().map(|record| record.catalogue_version_at_decision.map(i64::from)))
            .texts("actor_id", records().map(|record| Some(record.actor.id.as_str())))
            .texts("actor_role", records().map(|record| Some(record.actor.role.as_str())))
            .texts("actor_auth", records().map(|record| record.actor.auth.as_deref()))
            .texts("channel", records().map(|record| Some(record.channel.as_str())))
            .texts("recorded_by", records().map(|record| Some(record.recorded_by.as_str())))
            .texts("reason", records().map(|record| record.reason.as_deref()))
            .numbers("decided_at", records().map(|record| Some(to_ms(record.decided_at))))
            .numbers("effective_at", records().map(|record| Some(to_ms(record.effective_at))))
            .numbers("expires_at", records().map(|record| record.expires_at.map(to_ms)))
            .texts("case_number", records().map(|record| record.case_number.as_deref()));
        // The decision before it is found in the table: what was read may be old by now, and then its place is taken anyway.
        let sql = format!(
            "INSERT INTO consent_record ({}) SELECT {}, (SELECT b.id FROM consent_record b WHERE b.kind = v.kind AND b.scope_type = v.scope_type \
             AND b.scope_tenant = v.scope_tenant AND b.scope_id = v.scope_id AND b.version = v.version - 1) FROM [[v]] WHERE true \
             ON CONFLICT (kind, scope_type, scope_tenant, scope_id, version) DO NOTHING RETURNING id",
            columns("consent_record").replace("consent_record.", ""),
            columns("v").trim_end_matches(", v.supersedes"),
        );
        for row in tx.fetch(&sql, &[], Some(&batch)).await? {
            written.push(row.get(0)?);
        }
    }
    Ok(written)
}
