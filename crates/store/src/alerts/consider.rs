//! Decides the cases of a batch, in their order. Nothing is written here.

use std::collections::{HashMap, HashSet};

use muster_domain::alert::{Decision, DeferredFor, Facts, Job, Limits, Place, Plan, StormNow, day, day_start, decide, instant, words};
use muster_domain::consent::Effective;
use muster_wire::http::{AlertOutcome, CollectionRequest, ConsentKind, Priority, ShadowView};
use muster_wire::{CollectionId, ConsentId, DeviceId, StormId};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::AlertLimits;
use super::facts::{Case, LastJob, Of, Pair, Stratum, bytes_of, last_jobs, recent, recent_counts, used};
use super::ledger::{Ledger, OpenStorm, Opened, Scopes, StratumNow, window_from};
use super::policy::{Chosen, Policy};
use crate::collections::number;
use crate::consent::effective_in;
use crate::device_events::lowest_id;
use crate::dialect::{Batch, ID_BYTES, Tx, VALUE_BYTES, Value, parcels};
use crate::error::StoreError;
use crate::instant::{from_ms, to_ms};

/// What became of a case.
#[derive(Debug, Clone)]
pub(super) struct Verdict {
    pub(super) outcome: AlertOutcome,
    pub(super) why: String,
    pub(super) due: Option<(OffsetDateTime, DeferredFor)>,
    pub(super) resolved_at: Option<OffsetDateTime>,
    pub(super) rule: Option<String>,
    pub(super) consent: Option<ConsentId>,
    /// What it makes, or what it was counted with.
    pub(super) collection: Option<CollectionId>,
    pub(super) storm: Option<StormId>,
    pub(super) in_sample: bool,
    pub(super) shadow: Vec<ShadowView>,
    /// What the device is asked, where it is collected, and who goes first.
    pub(super) request: Option<(CollectionRequest, Priority)>,
}

pub(super) fn domain_limits(limits: &AlertLimits) -> Limits {
    Limits {
        max_age: Duration::try_from(limits.max_age).unwrap_or(Duration::MAX),
        per_day: limits.per_day,
        per_tenant_per_day: limits.per_tenant_per_day,
    }
}

/// Decides; what changes by it is in the ledger.
pub(super) async fn consider(
    tx: &mut Tx,
    policy: &Policy,
    cases: &[Case],
    limits: &AlertLimits,
    now: OffsetDateTime,
) -> Result<(Vec<Verdict>, Ledger), StoreError> {
    if cases.is_empty() {
        return Ok((Vec::new(), Ledger::default()));
    }
    let (plans, chosen) = policy.choose(tx, cases, limits.storm).await?;
    let consents = consents(tx, cases, &chosen, now).await?;
    let ledger = read(tx, cases, &plans, &chosen, limits, now).await?;
    let mut considering = Considering {
        policy,
        cases,
        plans,
        chosen,
        consents,
        limits: domain_limits(limits),
        now,
        ledger,
        verdicts: Vec::with_capacity(cases.len()),
    };
    for place in 0..cases.len() {
        considering.one(tx, place).await?;
    }
    Ok((considering.verdicts, considering.ledger))
}

async fn consents(tx: &mut Tx, cases: &[Case], chosen: &[Chosen], now: OffsetDateTime) -> Result<HashMap<DeviceId, Effective>, StoreError> {
    let asked = cases.iter().zip(chosen).filter(|(_, chosen)| chosen.plan.is_some());
    let devices: HashSet<&DeviceId> = asked.map(|(case, _)| &case.device.id).collect();
    let devices: Vec<&DeviceId> = devices.into_iter().collect();
    effective_in(tx, ConsentKind::Proactive, &devices, now).await
}

async fn read(
    tx: &mut Tx,
    cases: &[Case],
    plans: &[Plan],
    chosen: &[Chosen],
    limits: &AlertLimits,
    now: OffsetDateTime,
) -> Result<Ledger, StoreError> {
    let mut ledger = Ledger::default();
    let mut of: HashSet<Of> = HashSet::new();
    let mut seen: HashSet<(Pair, DeviceId)> = HashSet::new();
    let mut windows: HashSet<(Pair, i64)> = HashSet::new();
    let mut strata: HashMap<Pair, HashSet<Stratum>> = HashMap::new();
    let mut scopes: HashSet<String> = HashSet::new();
    let mut bytes: HashSet<&str> = HashSet::new();
    for (case, chosen) in cases.iter().zip(chosen) {
        let Some(plan) = chosen.plan else { continue };
        let pair = case.pair();
        of.insert((case.device.id.clone(), case.key.clone()));
        for (place, shadow) in std::iter::once((plan, false)).chain(chosen.shadow.iter().map(|place| (*place, true))) {
            let plan = &plans[place];
            scopes.extend(Scopes::new(plan, case, shadow).all().cloned());
            windows.insert((pair.clone(), window_from(plan, now)));
            if plan.max_bytes.is_some() {
                bytes.insert(&case.key);
            }
        }
        strata.entry(pair.clone()).or_default().insert(case.stratum());
        seen.insert((pair, case.device.id.clone()));
    }
    ledger.jobs = last_jobs(tx, &of.iter().collect::<Vec<_>>()).await?;
    ledger.recent = recent(tx, &seen.into_iter().collect::<Vec<_>>()).await?;
    let counts = recent_counts(tx, &windows.iter().map(|(pair, since)| (pair, *since)).collect::<Vec<_>>()).await?;
    for ((pair, since), count) in counts {
        ledger.counts.entry(pair).or_default().insert(since, count);
    }
    read_storms(tx, &mut ledger, &strata, now).await?;
    ledger.uses.before = used(tx, &scopes.iter().map(String::as_str).collect::<Vec<_>>(), day(now)).await?;
    for key in bytes {
        // A bundle of today may belong to a collection of as long ago as one lives.
        let today = day_start(day(now));
        let lives = Duration::try_from(limits.expires_after).unwrap_or(Duration::MAX);
        ledger.uses.bytes.insert(key.to_owned(), bytes_of(tx, key, today.saturating_sub(lives), today).await?);
    }
    Ok(ledger)
}

/// The open storms of the pairs, and of those the strata that are asked for.
async fn read_storms(
    tx: &mut Tx,
    ledger: &mut Ledger,
    asked: &HashMap<Pair, HashSet<Stratum>>,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    const OPEN: &str = "SELECT v.key, v.tenant, s.id, s.sampled, s.ends_at FROM [[v]] \
        JOIN alert_storm s ON s.indicator_key = v.key AND s.tenant = v.tenant AND s.closed_at IS NULL";
    const STRATA: &str = "SELECT t.version, t.site, t.model, t.sampled, v.key, v.tenant FROM [[v]] \
        JOIN alert_stratum t ON t.storm_id = v.storm AND t.version = v.version AND t.site = v.site AND t.model = v.model";
    let pairs: Vec<&Pair> = asked.keys().collect();
    for parcel in parcels(&pairs, |pair| 2 * VALUE_BYTES + pair.key.len() + pair.tenant.len()) {
        let batch = Batch::default()
            .texts("key", parcel.iter().map(|pair| Some(pair.key.as_str())))
            .texts("tenant", parcel.iter().map(|pair| Some(pair.tenant.as_str())));
        for row in tx.fetch(OPEN, &[], Some(&batch)).await? {
            let pair = Pair { key: row.get(0)?, tenant: row.get(1)? };
            let id = StormId::from_uuid(row.get(2)?);
            let ends_at: i64 = row.get(4)?;
            if ends_at < to_ms(now) {
                ledger.over.push(id);
                continue;
            }
            let sampled = number("the sample of a storm", row.get::<i64>(3)?)?;
            let storm = OpenStorm { id, sampled, strata: HashMap::new(), ends_at, touched: false, opened: None };
            ledger.storms.insert(pair, storm);
        }
    }
    let strata: Vec<(StormId, &Pair, &Stratum)> = ledger
        .storms
        .iter()
        .flat_map(|(pair, storm)| asked.get_key_value(pair).into_iter().map(move |(pair, strata)| (storm.id, pair, strata)))
        .flat_map(|(id, pair, strata)| strata.iter().map(move |stratum| (id, pair, stratum)))
        .collect();
    let bytes = |(_, pair, stratum): &(StormId, &Pair, &Stratum)| {
        let texts = [&pair.key, &pair.tenant, &stratum.version, &stratum.site, &stratum.model];
        ID_BYTES + texts.iter().map(|text| VALUE_BYTES + text.len()).sum::<usize>()
    };
    let mut found: Vec<(Pair, Stratum, u64)> = Vec::new();
    for parcel in parcels(&strata, bytes) {
        let batch = Batch::default()
            .ids("storm", parcel.iter().map(|(id, ..)| id.uuid()))
            .texts("key", parcel.iter().map(|(_, pair, _)| Some(pair.key.as_str())))
            .texts("tenant", parcel.iter().map(|(_, pair, _)| Some(pair.tenant.as_str())))
            .texts("version", parcel.iter().map(|(.., stratum)| Some(stratum.version.as_str())))
            .texts("site", parcel.iter().map(|(.., stratum)| Some(stratum.site.as_str())))
            .texts("model", parcel.iter().map(|(.., stratum)| Some(stratum.model.as_str())));
        for row in tx.fetch(STRATA, &[], Some(&batch)).await? {
            let stratum = Stratum { version: row.get(0)?, site: row.get(1)?, model: row.get(2)? };
            let pair = Pair { key: row.get(4)?, tenant: row.get(5)? };
            found.push((pair, stratum, number("the sample of a stratum", row.get::<i64>(3)?)?));
        }
    }
    for (pair, stratum, before) in found {
        if let Some(storm) = ledger.storms.get_mut(&pair) {
            storm.strata.insert(stratum, StratumNow { before, added: 0, twin: false });
        }
    }
    Ok(())
}

struct Considering<'a> {
    policy: &'a Policy,
    cases: &'a [Case],
    plans: Vec<Plan>,
    chosen: Vec<Chosen>,
    consents: HashMap<DeviceId, Effective>,
    limits: Limits,
    now: OffsetDateTime,
    ledger: Ledger,
    verdicts: Vec<Verdict>,
}

impl Considering<'_> {
    async fn one(&mut self, tx: &mut Tx, place: usize) -> Result<(), StoreError> {
        let case = &self.cases[place];
        let pair = case.pair();
        let of: Of = (case.device.id.clone(), case.key.clone());
        let unknown = match self.chosen[place].plan {
            None => self.policy.why_unknown(&case.key, &case.indicator),
            Some(_) => String::new(),
        };
        let plan = self.chosen[place].plan.map(|plan| self.plans[plan].clone());
        let scopes = plan.as_ref().map(|plan| Scopes::new(plan, case, false));
        let (consent, no_consent) = match self.consents.get(&case.device.id) {
            Some(effective) => (effective.consent.filter(|_| effective.is_granted()), effective.why.clone()),
            None => (None, "the device is not in the registry".to_owned()),
        };
        let mut facts = Facts {
            now: self.now,
            fired_at: case.fired_at,
            resolved_at: case.resolved_at,
            again: case.again,
            has_place: case.has_place,
            plan: plan.as_ref().ok_or(unknown.as_str()),
            consent: consent.ok_or(no_consent.as_str()),
            job: self.ledger.jobs.get(&of).map(|last| last.job),
            used: scopes.as_ref().map(|scopes| self.ledger.uses.used(scopes, &case.key)).unwrap_or_default(),
            storm: StormNow::None { devices: 0 },
        };
        if !case.again && facts.admitted(&self.limits).is_ok() {
            self.ledger.touch(&pair, &case.device.id);
        }
        if let Some(plan) = &plan {
            facts.storm = self.storm_now(&pair, case, plan);
        }
        let shadow = self.shadow(place, &facts, &pair);
        let mut decision = decide(&facts, &self.limits);
        if let (Place::Opens, Some(plan)) = (decision.place, &plan) {
            self.open(tx, &pair, place, plan).await?;
            facts.storm = self.storm_now(&pair, case, plan);
            decision = decide(&facts, &self.limits);
        }
        let collection = self.follow(&decision, &pair, case, &of, plan.as_ref(), scopes.as_ref());
        let until = |plan: &Plan| plan.collect.until(case.fired_at, case.resolved_at);
        let request = plan.as_ref().filter(|_| decision.outcome == AlertOutcome::Collected).map(|plan| {
            // What ends in the future is asked for without an end: all there is, up to then.
            let until = until(plan).filter(|until| *until <= self.now);
            (plan.collect.request(case.fired_at, until), plan.collect.priority)
        });
        let storm = match facts.admitted(&self.limits) {
            Ok(_) if !case.again => self.ledger.storms.get_mut(&pair).map(|storm| {
                storm.touched = true;
                storm.ends_at = storm
                    .ends_at
                    .max(to_ms(self.now + muster_domain::alert::seconds(plan.as_ref().map_or(0, |plan| plan.storm.within_seconds))));
                storm.id
            }),
            _ => case.storm,
        };
        let kept = matches!(decision.outcome, AlertOutcome::Collected | AlertOutcome::Deferred);
        self.verdicts.push(Verdict {
            outcome: decision.outcome,
            why: decision.why,
            due: decision.due,
            resolved_at: case.resolved_at,
            rule: plan.and_then(|plan| plan.rule),
            consent,
            collection,
            storm,
            in_sample: kept && (case.has_place || matches!(decision.place, Place::Before | Place::Sampled)),
            shadow,
            request,
        });
        Ok(())
    }

    fn storm_now(&self, pair: &Pair, case: &Case, plan: &Plan) -> StormNow {
        match self.ledger.storms.get(pair) {
            Some(storm) => StormNow::Open { sampled: storm.sampled, of_stratum: storm.of_stratum(&case.stratum()) },
            None => StormNow::None { devices: self.ledger.devices(pair, plan, self.now) },
        }
    }

    /// What rules in shadow would have done, each by itself.
    fn shadow(&mut self, place: usize, facts: &Facts<'_>, pair: &Pair) -> Vec<ShadowView> {
        let case = &self.cases[place];
        let mut views = Vec::with_capacity(self.chosen[place].shadow.len());
        for &of in &self.chosen[place].shadow {
            let plan = &self.plans[of];
            let scopes = Scopes::new(plan, case, true);
            let mut facts = Facts { plan: Ok(plan), used: self.ledger.uses.used(&scopes, &case.key), ..facts.clone() };
            facts.storm = self.storm_now(pair, case, plan);
            let mut decision = decide(&facts, &self.limits);
            if decision.place == Place::Opens {
                let devices = self.ledger.devices(pair, plan, self.now);
                facts.storm = StormNow::Open { sampled: devices.saturating_sub(1), of_stratum: 0 };
                decision = decide(&facts, &self.limits);
            }
            if decision.outcome == AlertOutcome::Collected {
                self.ledger.uses.count(&scopes);
            }
            views.push(ShadowView { rule: plan.rule.clone().unwrap_or_default(), outcome: decision.outcome, why: decision.why });
        }
        views
    }

    /// What a decision means for those behind it.
    fn follow(
        &mut self,
        decision: &Decision,
        pair: &Pair,
        case: &Case,
        of: &Of,
        plan: Option<&Plan>,
        scopes: Option<&Scopes>,
    ) -> Option<CollectionId> {
        if let (Place::Sampled, Some(storm)) = (decision.place, self.ledger.storms.get_mut(pair)) {
            storm.sample(case.stratum(), plan.is_some_and(|plan| plan.storm.control_twin));
        }
        match decision.outcome {
            AlertOutcome::Collected => {
                let collection = CollectionId::new();
                self.ledger.jobs.insert(of.clone(), LastJob { task: collection.task(0), job: Job { ended_at: None } });
                if let Some(scopes) = scopes {
                    self.ledger.uses.count(scopes);
                }
                Some(collection)
            }
            AlertOutcome::Coalesced => {
                let last = *self.ledger.jobs.get(of)?;
                self.ledger.coalesced.entry(of.clone()).or_insert((last, 0)).1 += 1;
                Some(last.collection())
            }
            _ => None,
        }
    }

    /// Opens a storm: those before it are part of it, and have their places in its sample.
    async fn open(&mut self, tx: &mut Tx, pair: &Pair, place: usize, plan: &Plan) -> Result<(), StoreError> {
        let since = window_from(plan, self.now);
        let devices = self.ledger.devices(pair, plan, self.now);
        let within = muster_domain::alert::seconds(plan.storm.within_seconds);
        let id = StormId::from_uuid(crate::alerts::write::ordered_id(self.now, place));
        let mut storm = OpenStorm {
            id,
            sampled: 0,
            strata: HashMap::new(),
            ends_at: to_ms(self.now + within),
            touched: true,
            opened: Some(Opened {
                collect: plan.collect.clone(),
                first_fired_at: self.cases[place].fired_at,
                why: format!("{devices} devices in {}, of {}", words(within), plan.storm.devices),
                since,
            }),
        };
        let mut placed: HashSet<String> = HashSet::new();
        for row in tx.fetch(&before_sql("a.device_id, a.version, a.site, a.model"), &before_values(pair, since)?, None).await? {
            let word = |place| Ok::<_, StoreError>(row.get::<Option<String>>(place)?.unwrap_or_default());
            if placed.insert(row.get(0)?) {
                storm.sample(Stratum { version: word(1)?, site: word(2)?, model: word(3)? }, plan.storm.control_twin);
            }
        }
        for (case, verdict) in self.cases.iter().zip(&mut self.verdicts) {
            let before = matches!(verdict.outcome, AlertOutcome::Collected | AlertOutcome::Deferred | AlertOutcome::Coalesced);
            if !before || verdict.storm.is_some() || case.again || case.pair() != *pair {
                continue;
            }
            verdict.storm = Some(id);
            if verdict.in_sample && placed.insert(case.device.id.to_string()) {
                storm.sample(case.stratum(), plan.storm.control_twin);
            }
        }
        self.ledger.storms.insert(pair.clone(), storm);
        Ok(())
    }
}

/// Rows of alerts before a storm that have a place in its sample.
fn before_sql(columns: &str) -> String {
    format!("SELECT {columns} FROM alert a WHERE {} AND a.in_sample = 1", before_condition("a"))
}

/// Which alerts came before a storm and belong to it: parameters are the indicator, the tenant and the lowest id.
pub(super) fn before_condition(alias: &str) -> String {
    let outcomes =
        [AlertOutcome::Collected, AlertOutcome::Deferred, AlertOutcome::Coalesced].map(|outcome| format!("'{outcome}'")).join(", ");
    format!(
        "{alias}.indicator_key = $1 AND COALESCE({alias}.tenant, '') = $2 AND {alias}.id >= $3 AND {alias}.storm_id IS NULL \
         AND {alias}.condition = 'fired' AND {alias}.outcome IN ({outcomes})"
    )
}

pub(super) fn before_values(pair: &Pair, since: i64) -> Result<[Value<'_>; 3], StoreError> {
    let lowest: Uuid = lowest_id(from_ms(since)?);
    Ok([Value::Text(&pair.key), Value::Text(&pair.tenant), Value::Id(lowest)])
}

/// `INDICATOR at TIME`.
pub(super) fn reason(case: &Case) -> String {
    format!("{} at {}", case.indicator, instant(case.fired_at))
}
