//! The healthy device beside the first of each stratum of a storm: what is different in the logs of the others can only be seen beside one.

use std::collections::HashMap;

use muster_domain::alert::{Collect, day};
use muster_wire::http::{ConsentKind, Origin, StormRole};
use muster_wire::{CollectionId, DeviceId, StormId};
use time::OffsetDateTime;

use super::AlertLimits;
use super::facts::{SITE, Stratum, VERSION, used};
use super::ledger::{Scopes, Uses};
use super::write::{count_uses, of_devices};
use crate::apply::device_id;
use crate::collections::parse;
use crate::consent::effective_in;
use crate::create::NewCollection;
use crate::create_many::{OfOne, create_of_one};
use crate::devices::{MODEL_OF, TENANT_OF};
use crate::dialect::{Tx, Value};
use crate::error::StoreError;
use crate::instant::{from_ms, to_ms};
use crate::presence::ONLINE;

/// Most strata for which one call looks: each is a look through the registry.
const MAX_LOOKED_FOR: usize = 20;
/// Most healthy devices that are asked for their consent for one stratum.
const MAX_CANDIDATES: usize = 200;

struct Wanted {
    storm: StormId,
    stratum: Stratum,
    indicator: String,
    key: String,
    tenant: String,
    /// Who raised the indicator since then is not healthy.
    since: i64,
    collect: Collect,
    first_fired_at: OffsetDateTime,
}

/// Finds them and makes their collections, or writes down why there is none.
pub(super) async fn find_twins(tx: &mut Tx, limits: &AlertLimits, now: OffsetDateTime) -> Result<Vec<CollectionId>, StoreError> {
    let sql = format!(
        "SELECT t.storm_id, t.version, t.site, t.model, s.indicator, s.indicator_key, s.tenant, s.opened_at - (s.ends_at - s.last_at), s.plan, \
         s.first_fired_at FROM alert_stratum t JOIN alert_storm s ON s.id = t.storm_id WHERE t.twin_from <= $1 \
         ORDER BY t.twin_from, t.storm_id, t.version, t.site, t.model LIMIT {MAX_LOOKED_FOR}"
    );
    let mut wanted = Vec::new();
    for row in tx.fetch(&sql, &[Value::Number(to_ms(now))], None).await? {
        wanted.push(Wanted {
            storm: StormId::from_uuid(row.get(0)?),
            stratum: Stratum { version: row.get(1)?, site: row.get(2)?, model: row.get(3)? },
            indicator: row.get(4)?,
            key: row.get(5)?,
            tenant: row.get(6)?,
            since: row.get(7)?,
            collect: parse("what a storm collects", &row.get::<String>(8)?)?,
            first_fired_at: from_ms(row.get(9)?)?,
        });
    }
    let scopes: HashMap<String, Scopes> = wanted.iter().map(|wanted| (wanted.tenant.clone(), Scopes::of_tenant(&wanted.tenant))).collect();
    let names: Vec<&str> = scopes.values().flat_map(Scopes::all).map(String::as_str).collect();
    let mut uses = Uses { before: used(tx, &names, day(now)).await?, ..Uses::default() };
    let mut made = Vec::new();
    tx.plan_for_values().await?;
    for wanted in &wanted {
        let scopes = &scopes[&wanted.tenant];
        let spent = uses.used(scopes, &wanted.key);
        let found = if spent.fleet >= u64::from(limits.per_day) {
            Err(format!("{} of {} collections of alerts were made today", spent.fleet, limits.per_day))
        } else if spent.tenant >= u64::from(limits.per_tenant_per_day) {
            Err(format!("{} of {} collections of its tenant were made today", spent.tenant, limits.per_tenant_per_day))
        } else {
            find(tx, wanted, limits, now).await?
        };
        if found.is_ok() {
            uses.count(scopes);
        }
        made.extend(write(tx, wanted, found).await?);
    }
    count_uses(tx, uses.added.iter().map(|(scope, count)| (scope.as_str(), *count)), day(now)).await?;
    Ok(made)
}

/// A device of the same version, model and site, or of another site where there is none.
async fn find(tx: &mut Tx, wanted: &Wanted, limits: &AlertLimits, now: OffsetDateTime) -> Result<Result<OfOne, String>, StoreError> {
    for of_site in [true, false] {
        let candidates = healthy(tx, wanted, of_site).await?;
        let held = effective_in(tx, ConsentKind::Proactive, &candidates.iter().collect::<Vec<_>>(), now).await?;
        let agreed = candidates.into_iter().find_map(|device| Some((held.get(&device)?.consent?, device)));
        if let Some((consent, device)) = agreed {
            let origin = Origin::Storm { storm: wanted.storm, indicator: wanted.indicator.clone(), role: StormRole::Twin };
            let request = wanted.collect.request(wanted.first_fired_at, None);
            let reason = format!("healthy beside {} of {}", wanted.indicator, wanted.storm);
            let new = of_devices(CollectionId::new(), request, origin, reason, vec![device], limits, now);
            return Ok(Ok(OfOne { new: NewCollection { priority: wanted.collect.priority, ..new }, consent }));
        }
    }
    Ok(Err("no online device of this version and model has consented and raised nothing".to_owned()))
}

async fn healthy(tx: &mut Tx, wanted: &Wanted, of_site: bool) -> Result<Vec<DeviceId>, StoreError> {
    let is = |column: &str, parameter: &str| format!("COALESCE({column}, '') = {parameter}");
    let site = if of_site { format!(" AND {}", is(SITE, "$7")) } else { format!(" AND {} <> $7", "COALESCE(".to_owned() + SITE + ", '')") };
    let sql = format!(
        "SELECT d.id FROM device d WHERE d.presence = {ONLINE} AND {} AND {} AND {}{site} \
         AND NOT EXISTS (SELECT 1 FROM alert_recent r WHERE r.device_id = d.id AND r.indicator_key = $4 AND r.tenant = $1 AND r.last_at >= $5) \
         AND NOT EXISTS (SELECT 1 FROM alert_stratum x WHERE x.storm_id = $6 AND x.twin = d.id) ORDER BY d.id LIMIT {MAX_CANDIDATES}",
        is(TENANT_OF, "$1"),
        is(VERSION, "$2"),
        is(MODEL_OF, "$3"),
    );
    let values = [
        Value::Text(&wanted.tenant),
        Value::Text(&wanted.stratum.version),
        Value::Text(&wanted.stratum.model),
        Value::Text(&wanted.key),
        Value::Number(wanted.since),
        Value::Id(wanted.storm.uuid()),
        Value::Text(&wanted.stratum.site),
    ];
    tx.fetch(&sql, &values, None).await?.iter().map(|row| device_id(row.get(0)?)).collect()
}

async fn write(tx: &mut Tx, wanted: &Wanted, found: Result<OfOne, String>) -> Result<Option<CollectionId>, StoreError> {
    let sql = "UPDATE alert_stratum SET twin_from = NULL, twin = $1, twin_collection = $2, no_twin = $3 \
        WHERE storm_id = $4 AND version = $5 AND site = $6 AND model = $7";
    let (device, collection, none) = match &found {
        Ok(one) => (Some(one.new.tasks[0].device.as_str()), Some(one.new.id), None),
        Err(why) => (None, None, Some(why.as_str())),
    };
    let values = [
        Value::MaybeText(device),
        Value::MaybeId(collection.map(CollectionId::uuid)),
        Value::MaybeText(none),
        Value::Id(wanted.storm.uuid()),
        Value::Text(&wanted.stratum.version),
        Value::Text(&wanted.stratum.site),
        Value::Text(&wanted.stratum.model),
    ];
    tx.execute(sql, &values, None).await?;
    if let Ok(one) = found {
        create_of_one(tx, &[one]).await?;
    }
    Ok(collection)
}
