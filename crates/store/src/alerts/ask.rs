//! Collecting for one alert because a person asks.

use muster_domain::alert::Job;
use muster_wire::http::{AlertOutcome, ConsentKind, Origin};
use muster_wire::{AlertId, CollectionId};
use time::OffsetDateTime;

use super::AlertLimits;
use super::consider::{Verdict, reason};
use super::due::{CASE, stored_cases, update_decided};
use super::facts::{LastJob, last_jobs};
use super::policy::{Policy, take_gate};
use super::read::outcome;
use super::write::{insert_jobs, of_devices};
use crate::connect::Store;
use crate::consent::effective_in;
use crate::create::NewCollection;
use crate::create_many::{OfOne, create_of_one};
use crate::dialect::{Tx, Value};
use crate::error::{StoreError, run};

/// What may be asked for: what was seen and not collected.
const ASKABLE: [AlertOutcome; 4] = [AlertOutcome::OnDemand, AlertOutcome::Deferred, AlertOutcome::Coalesced, AlertOutcome::Stale];

impl Store {
    /// Makes the collection of an alert that was left on demand, deferred, coalesced or stale, because a person asks. Consent is asked as
    /// always; budgets, quiet hours and cooldowns are not. `None`: there is no such alert. `Some(Err(why))`: it cannot be.
    ///
    /// # Errors
    /// The database's; then nothing was done.
    pub async fn collect_alert(
        &self,
        id: AlertId,
        who: &str,
        limits: &AlertLimits,
        now: OffsetDateTime,
    ) -> Result<Option<Result<CollectionId, String>>, StoreError> {
        run("collecting for an alert", || async {
            let mut tx = self.begin().await?;
            let asked = Box::pin(ask_in(&mut tx, id, who, limits, now)).await?;
            tx.commit().await?;
            Ok(asked)
        })
        .await
    }
}

async fn ask_in(
    tx: &mut Tx,
    id: AlertId,
    who: &str,
    limits: &AlertLimits,
    now: OffsetDateTime,
) -> Result<Option<Result<CollectionId, String>>, StoreError> {
    let version = take_gate(tx).await?;
    let sql = format!("SELECT {CASE}, a.outcome FROM alert a WHERE a.id = $1");
    let rows = tx.fetch(&sql, &[Value::Id(id.uuid())], None).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let stands = outcome(&row.get::<String>(12)?)?;
    if !ASKABLE.contains(&stands) {
        let askable = ASKABLE.map(AlertOutcome::as_str).join(", ");
        return Ok(Some(Err(format!("it is {stands}; only what is {askable} can be asked for"))));
    }
    let cases = stored_cases(tx, &rows).await?;
    let case = &cases[0];
    let policy = Policy::read(tx, version).await?;
    let (plans, chosen) = policy.choose(tx, &cases, limits.storm).await?;
    let Some(plan) = chosen[0].plan.map(|place| &plans[place]) else {
        return Ok(Some(Err(policy.why_unknown(&case.key, &case.indicator))));
    };
    let held = effective_in(tx, ConsentKind::Proactive, &[&case.device.id], now).await?;
    let consent = match held.get(&case.device.id) {
        None => return Ok(Some(Err(format!("{} is not in the registry any more", case.device.id)))),
        Some(effective) => match effective.consent {
            Some(consent) => consent,
            None => return Ok(Some(Err(effective.why.clone()))),
        },
    };
    let of = (case.device.id.clone(), case.key.clone());
    if let Some(last) = last_jobs(tx, &[&of]).await?.get(&of).filter(|last| last.job.ended_at.is_none()) {
        return Ok(Some(Err(format!("its collection {} is open", last.collection()))));
    }
    let collection = CollectionId::new();
    let until = plan.collect.until(case.fired_at, case.resolved_at).filter(|until| *until <= now);
    let request = plan.collect.request(case.fired_at, until);
    let origin = Origin::Alert { alert: id, indicator: case.indicator.clone() };
    let new = of_devices(collection, request, origin, reason(case), vec![case.device.id.clone()], limits, now);
    let new = NewCollection { priority: plan.collect.priority, created_by: who.to_owned(), ..new };
    create_of_one(tx, &[OfOne { new, consent }]).await?;
    insert_jobs(tx, &[(of, LastJob { task: collection.task(0), job: Job { ended_at: None } }, 1)], now).await?;
    let verdict = Verdict {
        outcome: AlertOutcome::Collected,
        why: format!("asked for by {who}"),
        due: None,
        resolved_at: case.resolved_at,
        rule: plan.rule.clone(),
        consent: Some(consent),
        collection: Some(collection),
        storm: case.storm,
        in_sample: case.has_place,
        shadow: Vec::new(),
        request: None,
    };
    update_decided(tx, &cases, &[verdict], version, now).await?;
    Ok(Some(Ok(collection)))
}
