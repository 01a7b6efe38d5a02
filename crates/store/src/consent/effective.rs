//! What holds for devices: one statement for a batch.

use std::collections::HashMap;

use muster_domain::consent::{Effective, Known, OnRecord, effective};
use muster_wire::http::{Basis, ConsentKind, Decision};
use muster_wire::presence::ProactiveConsent;
use muster_wire::{ConsentId, DeviceId};
use time::OffsetDateTime;
use uuid::Uuid;

use super::word;
use crate::apply::device_id;
use crate::collections::number;
use crate::connect::Store;
use crate::devices::TENANT_OF;
use crate::dialect::{Batch, Dialect, Row, Tx, VALUE_BYTES, Value, parcels};
use crate::error::{StoreError, run};
use crate::instant::maybe_from_ms;

/// The tag that says where it stands.
pub(super) const SITE_OF: &str = "CAST(d.tags->>'site' AS text)";
/// When a device was last heard itself; one that is known from a message the broker kept was heard when that came.
pub(super) const HEARD_AT: &str = "COALESCE(d.heard_at, d.first_seen)";
/// Columns of a decision here.
const LEVEL: usize = 6;

/// The last decision of a scope, joined as `table`.
fn level(dialect: Dialect, table: &str, kind: &str, tenant: &str, id: &str) -> String {
    let of = |alias: &str| {
        format!("{alias}.kind = $1 AND {alias}.scope_type = '{kind}' AND {alias}.scope_tenant = {tenant} AND {alias}.scope_id = {id}")
    };
    dialect.left_join_last("consent_record", table, of, "version")
}

fn statement(dialect: Dialect) -> String {
    let columns = |table: &str| {
        ["id", "decision", "basis", "expires_at", "terms_number", "tenant"].map(|column| format!("{table}.{column}")).join(", ")
    };
    format!(
        "SELECT d.id, {TENANT_OF}, d.consent, {HEARD_AT}, {NEWEST_MATERIAL}, {}, {}, {} FROM [[v]] JOIN device d ON d.id = v.device{}{}{}",
        columns("x"),
        columns("s"),
        columns("t"),
        level(dialect, "x", "device", "''", "d.id"),
        level(dialect, "s", "site", TENANT_OF, SITE_OF),
        level(dialect, "t", "tenant", "''", TENANT_OF),
    )
}

/// Number of the newest version of the terms of kind `$1` that asked everybody again.
pub(super) const NEWEST_MATERIAL: &str = "(SELECT max(m.number) FROM consent_terms m WHERE m.kind = $1 AND m.material = 1)";

fn on_record(row: &Row, first: usize) -> Result<Option<OnRecord>, StoreError> {
    let Some(id) = row.get::<Option<Uuid>>(first)? else { return Ok(None) };
    let (decision, basis): (String, String) = (row.get(first + 1)?, row.get(first + 2)?);
    Ok(Some(OnRecord {
        consent: ConsentId::from_uuid(id),
        decision: word("a decision", &decision, Decision::from_word(&decision))?,
        basis: word("a basis", &basis, Basis::from_word(&basis))?,
        expires_at: maybe_from_ms(row.get(first + 3)?)?,
        terms_number: row.get::<Option<i64>>(first + 4)?.map(|value| number("the number of terms", value)).transpose()?,
        tenant: row.get(first + 5)?,
    }))
}

/// What holds for these devices now; those that are not in the registry have no entry.
pub(crate) async fn effective_in(
    tx: &mut Tx,
    kind: ConsentKind,
    devices: &[&DeviceId],
    now: OffsetDateTime,
) -> Result<HashMap<DeviceId, Effective>, StoreError> {
    let sql = statement(tx.dialect());
    let mut all = HashMap::with_capacity(devices.len());
    for parcel in parcels(devices, |device| VALUE_BYTES + device.as_str().len()) {
        let batch = Batch::default().texts("device", parcel.iter().map(|device| Some(device.as_str())));
        for row in tx.fetch(&sql, &[Value::Text(kind.as_str())], Some(&batch)).await? {
            let (device, site, of_tenant) = (on_record(&row, 5)?, on_record(&row, 5 + LEVEL)?, on_record(&row, 5 + 2 * LEVEL)?);
            let tenant: Option<String> = row.get(1)?;
            let known = Known {
                tenant: tenant.as_deref(),
                device: device.as_ref(),
                site: site.as_ref(),
                of_tenant: of_tenant.as_ref(),
                flag: flag(row.get(2)?),
                heard_at: maybe_from_ms(row.get(3)?)?,
                newest_material: row.get::<Option<i64>>(4)?.map(|value| number("the number of terms", value)).transpose()?,
            };
            all.insert(device_id(row.get(0)?)?, effective(&known, now));
        }
    }
    Ok(all)
}

/// The word of a device as the registry keeps it.
pub(super) fn flag(word: Option<String>) -> ProactiveConsent {
    word.map_or(ProactiveConsent::Unknown, |word| ProactiveConsent::from_word(&word))
}

impl Store {
    /// What holds for these devices now, fresh from the records; a device that is not in the registry has no entry.
    ///
    /// # Errors
    /// The database's.
    pub async fn effective_consent(
        &self,
        kind: ConsentKind,
        devices: &[&DeviceId],
        now: OffsetDateTime,
    ) -> Result<HashMap<DeviceId, Effective>, StoreError> {
        run("reading consent", || async {
            let mut tx = self.begin_read().await?;
            effective_in(&mut tx, kind, devices, now).await
        })
        .await
    }
}
