//! Consent on record: decisions, terms, what holds for a device, and what follows when it ends.
//!
//! A decision is a row that is written once. What holds for a scope is its row with the highest version; two writers cannot both write the
//! next one, so of two decisions made at the same time one is recorded and the other is told. Whether a decision may be recorded at all is
//! the table of `muster_domain::consent::transition`.
//!
//! What holds is asked of these rows each time and held nowhere: when a collection is made, in the transaction that claims a task, before a
//! grant is issued, and in the transaction that seals a bundle. A collection that needs no consent costs no statement for it.

mod audit;
mod cleanup;
mod decide;
mod effective;
mod end;
mod flag;
mod read;
mod terms;

pub use audit::{AuditLine, AuditWhat};
pub use cleanup::{Cleanup, LAST_LOOK_AFTER, MAX_CLEANUPS};
pub use decide::{Decided, Deciding};
pub use end::{MAX_SUSPENSION, RECHECK_SUSPENDED};
pub use read::StandingFilter;
pub use terms::{Published, Terms};

pub(crate) use effective::effective_in;
pub(crate) use end::{admit, end_unconsented};
pub(crate) use flag::{note_flags, noted_before, owners_changed};

use muster_wire::ConsentId;
use muster_wire::http::{Actor, Basis, Channel, ConsentKind, ConsentRecord, ConsentScope, Decision, Role, TermsRef};
use uuid::Uuid;

use crate::collections::number;
use crate::dialect::Row;
use crate::error::StoreError;
use crate::instant::{from_ms, maybe_from_ms};

/// The columns of a record, of the table by this name.
fn columns(table: &str) -> String {
    const COLUMNS: &[&str] = &[
        "id",
        "kind",
        "scope_type",
        "scope_tenant",
        "scope_id",
        "version",
        "decision",
        "basis",
        "tenant",
        "terms_id",
        "terms_version",
        "terms_sha256",
        "terms_locale",
        "terms_material",
        "terms_number",
        "catalogue_version",
        "actor_id",
        "actor_role",
        "actor_auth",
        "channel",
        "recorded_by",
        "reason",
        "decided_at",
        "effective_at",
        "expires_at",
        "case_number",
        "supersedes",
    ];
    COLUMNS.iter().map(|column| format!("{table}.{column}")).collect::<Vec<_>>().join(", ")
}

/// How many columns that are.
const COLUMN_COUNT: usize = 27;

fn word<T>(what: &str, word: &str, known: Option<T>) -> Result<T, StoreError> {
    known.ok_or_else(|| StoreError::Inconsistent(format!("{what} {word:?}")))
}

pub(crate) fn kind_of(text: &str) -> Result<ConsentKind, StoreError> {
    word("a kind of consent", text, ConsentKind::from_word(text))
}

/// The three columns of a scope.
fn scope_of(kind: &str, tenant: String, id: String) -> Result<ConsentScope, StoreError> {
    Ok(match kind {
        "device" => ConsentScope::Device { id: crate::apply::device_id(id)? },
        "site" => ConsentScope::Site { id, tenant },
        "tenant" => ConsentScope::Tenant { id },
        other => return Err(StoreError::Inconsistent(format!("a scope of consent {other:?}"))),
    })
}

/// What stands in the column beside kind and id: only a site needs its tenant to be told from others.
fn scope_tenant(scope: &ConsentScope) -> &str {
    match scope {
        ConsentScope::Site { tenant, .. } => tenant,
        ConsentScope::Device { .. } | ConsentScope::Tenant { .. } => "",
    }
}

/// A record and the number of its terms, from the columns of [`columns`] that begin at `first`; `None` where there is none.
fn record(row: &Row, first: usize) -> Result<Option<(ConsentRecord, Option<u32>)>, StoreError> {
    let Some(id) = row.get::<Option<Uuid>>(first)? else { return Ok(None) };
    let text = |place: usize| row.get::<String>(first + place);
    let maybe = |place: usize| row.get::<Option<String>>(first + place);
    let maybe_number = |what: &str, place: usize| row.get::<Option<i64>>(first + place)?.map(|value| number(what, value)).transpose();
    let (decision, basis, role, channel) = (text(6)?, text(7)?, text(17)?, text(19)?);
    let terms = match (maybe(9)?, maybe(10)?, maybe(11)?, maybe(12)?) {
        (Some(id), Some(version), Some(sha256), Some(locale)) => {
            Some(TermsRef { id, version, sha256, locale, material: row.get::<Option<i16>>(first + 13)? == Some(1) })
        }
        _ => None,
    };
    let record = ConsentRecord {
        consent_id: ConsentId::from_uuid(id),
        kind: kind_of(&text(1)?)?,
        scope: scope_of(&text(2)?, text(3)?, text(4)?)?,
        version: number("the number of a decision", row.get::<i64>(first + 5)?)?,
        decision: word("a decision", &decision, Decision::from_word(&decision))?,
        basis: word("a basis", &basis, Basis::from_word(&basis))?,
        tenant: maybe(8)?,
        terms,
        catalogue_version_at_decision: maybe_number("the version of a catalogue", 15)?,
        actor: Actor { id: text(16)?, role: word("a role", &role, Role::from_word(&role))?, auth: maybe(18)? },
        channel: word("a channel", &channel, Channel::from_word(&channel))?,
        recorded_by: text(20)?,
        reason: maybe(21)?,
        decided_at: from_ms(row.get(first + 22)?)?,
        effective_at: from_ms(row.get(first + 23)?)?,
        expires_at: maybe_from_ms(row.get(first + 24)?)?,
        case_number: maybe(25)?,
        supersedes: row.get::<Option<Uuid>>(first + 26)?.map(ConsentId::from_uuid),
    };
    Ok(Some((record, maybe_number("the number of terms", 14)?)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_columns_are_counted() {
        assert_eq!(super::columns("r").split(", ").count(), super::COLUMN_COUNT);
    }
}
