//! What a rule would have done with the alerts of the past: they are decided once more, in their order and by the clock of then, against
//! what the rule itself would have collected. Nothing is written.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use muster_domain::alert::{
    DeferredFor, Facts, Job, Limits, Place, Plan, StormNow, Used, check_rule, day, day_start, decide, indicator_key, instant, seconds,
};
use muster_domain::condition::Condition;
use muster_wire::http::{AlertOutcome, BusiestDay, ConsentKind, NewRule, RulePreview};
use muster_wire::{AlertId, ConsentId, DeviceId};
use time::OffsetDateTime;
use uuid::Uuid;

use super::AlertLimits;
use super::consider::domain_limits;
use super::facts::{Case, Device, Stratum};
use super::policy::{Policy, catalogue_version};
use super::read::outcome;
use crate::apply::device_id;
use crate::condition::matching_among_in;
use crate::connect::Store;
use crate::consent::effective_in;
use crate::device_events::lowest_id;
use crate::dialect::{Tx, Value};
use crate::error::{StoreError, run};
use crate::instant::{from_ms, maybe_from_ms};

/// Most alerts of the past that one preview reads; the latest.
const MAX_PREVIEWED: usize = 50_000;

/// An alert of the past.
struct Past {
    case: Case,
    received_at: OffsetDateTime,
    decided: AlertOutcome,
    consent: Option<ConsentId>,
}

impl Store {
    /// What a rule (stored or not) would have done with the alerts since then: alone, and with what the registry says now.
    ///
    /// # Errors
    /// [`StoreError::Misuse`] for a rule that `muster_domain::alert::check_rule` finds fault with; otherwise the database's.
    pub async fn preview_rule(
        &self,
        rule: &NewRule,
        since: OffsetDateTime,
        limits: &AlertLimits,
        now: OffsetDateTime,
    ) -> Result<RulePreview, StoreError> {
        if let Some(fault) = check_rule(rule).first() {
            return Err(StoreError::Misuse(fault.to_string()));
        }
        run("previewing a rule", || async {
            let mut tx = self.begin_read().await?;
            Box::pin(preview_in(&mut tx, rule, since, limits, now)).await
        })
        .await
    }
}

async fn past(tx: &mut Tx, key: &str, since: OffsetDateTime) -> Result<Vec<Past>, StoreError> {
    let sql = format!(
        "SELECT a.id, a.device_id, a.indicator, a.tenant, a.site, a.model, a.version, a.fired_at, a.resolved_at, a.received_at, a.outcome, \
         a.consent_id FROM alert a WHERE a.indicator_key = $1 AND a.id >= $2 AND a.condition = 'fired' AND a.outcome NOT IN ('{}', '{}') \
         ORDER BY a.id DESC LIMIT {}",
        AlertOutcome::UnknownDevice,
        AlertOutcome::TenantMismatch,
        MAX_PREVIEWED + 1
    );
    let mut all = Vec::new();
    for row in tx.fetch(&sql, &[Value::Text(key), Value::Id(lowest_id(since))], None).await? {
        let device = Device {
            id: device_id(row.get(1)?)?,
            tenant: row.get(3)?,
            site: row.get(4)?,
            model: row.get(5)?,
            version: row.get(6)?,
            clock_skew_ms: None,
        };
        let case = Case {
            id: AlertId::from_uuid(row.get(0)?),
            device,
            indicator: row.get(2)?,
            key: key.to_owned(),
            fired_at: from_ms(row.get(7)?)?,
            resolved_at: maybe_from_ms(row.get(8)?)?,
            origin: None,
            again: false,
            has_place: false,
            storm: None,
        };
        all.push(Past {
            case,
            received_at: from_ms(row.get(9)?)?,
            decided: outcome(&row.get::<String>(10)?)?,
            consent: row.get::<Option<Uuid>>(11)?.map(ConsentId::from_uuid),
        });
    }
    all.reverse();
    Ok(all)
}

async fn preview_in(
    tx: &mut Tx,
    rule: &NewRule,
    since: OffsetDateTime,
    limits: &AlertLimits,
    now: OffsetDateTime,
) -> Result<RulePreview, StoreError> {
    let key = indicator_key(&rule.indicator);
    let version = catalogue_version(tx).await?;
    let policy = Policy::read(tx, version).await?;
    let mut warnings = Vec::new();
    let Some(indicator) = policy.indicator(&key) else {
        return Ok(RulePreview {
            since,
            alerts: 0,
            fitting: 0,
            outcomes: BTreeMap::new(),
            decided: BTreeMap::new(),
            busiest_day: None,
            warnings: vec![policy.why_unknown(&key, &rule.indicator)],
        });
    };
    if !indicator.enabled {
        warnings.push(format!("{} is switched off in the catalogue: while it is, the rule is not asked", indicator.name));
    }
    let plan = Plan::new(indicator, Some(rule), limits.storm).map_err(|error| StoreError::Misuse(format!("quiet hours: {error}")))?;
    let mut past = past(tx, &key, since).await?;
    if past.len() > MAX_PREVIEWED {
        past.remove(0);
        let from = past.first().map_or(since, |past| past.received_at);
        warnings.push(format!("only the latest {MAX_PREVIEWED} alerts were looked at, from {}", instant(from)));
    }
    let alerts = past.len() as u64;
    let devices: HashSet<DeviceId> = past.iter().map(|past| past.case.device.id.clone()).collect();
    let devices: Vec<DeviceId> = devices.into_iter().collect();
    let fits: HashSet<DeviceId> = match &rule.devices {
        None => devices.into_iter().collect(),
        Some(text) => {
            let condition: Condition = text.parse().map_err(|error| StoreError::Misuse(format!("devices: {error}")))?;
            matching_among_in(tx, &condition, &devices).await?.into_iter().collect()
        }
    };
    let held = effective_in(tx, ConsentKind::Proactive, &fits.iter().collect::<Vec<_>>(), now).await?;
    let agreed = |past: &Past| match past.decided {
        AlertOutcome::NoConsent => None,
        _ => past.consent.or_else(|| held.get(&past.case.device.id)?.consent),
    };
    let mut replay =
        Replay { plan: &plan, limits: domain_limits(limits), jobs: HashMap::new(), used: HashMap::new(), storms: HashMap::new() };
    let (mut fitting, mut outcomes, mut decided) = (0, BTreeMap::new(), BTreeMap::new());
    let mut days: BTreeMap<i64, u64> = BTreeMap::new();
    for past in past.iter().filter(|past| fits.contains(&past.case.device.id)) {
        fitting += 1;
        *decided.entry(past.decided.to_string()).or_default() += 1;
        let would = replay.one(past, agreed(past));
        *outcomes.entry(would.to_string()).or_default() += 1;
        if would == AlertOutcome::Collected {
            *days.entry(day(past.received_at)).or_default() += 1;
        }
    }
    // Of two days with as many the earlier one.
    let busiest = days.into_iter().reduce(|a, b| if b.1 > a.1 { b } else { a });
    let busiest_day = busiest.map(|(day, collections)| BusiestDay { day: instant(day_start(day))[..10].to_owned(), collections });
    warnings.extend(
        [
            "conditions are asked of the registry as it is now, and consent as it was where that is on record",
            "collections are taken to end at once; while one is open, further alerts of its device are counted with it",
            "budgets count only what this rule would have collected itself, and what is deferred for one is not followed further",
            "rules that are asked before this one are not asked",
        ]
        .map(str::to_owned),
    );
    Ok(RulePreview { since, alerts, fitting, outcomes, decided, busiest_day, warnings })
}

/// What the rule would have collected so far.
struct Replay<'a> {
    plan: &'a Plan,
    limits: Limits,
    jobs: HashMap<DeviceId, OffsetDateTime>,
    /// By day and scope.
    used: HashMap<(i64, String), u64>,
    storms: HashMap<String, PastStorm>,
}

/// Storms of one tenant.
#[derive(Default)]
struct PastStorm {
    /// Who had the indicator, oldest first.
    recent: VecDeque<(OffsetDateTime, DeviceId)>,
    last: HashMap<DeviceId, OffsetDateTime>,
    /// Until when the one that is open lasts, and its sample.
    open: Option<(OffsetDateTime, u64, HashMap<Stratum, u64>)>,
    /// Places that were given while there was none.
    before: VecDeque<(OffsetDateTime, Stratum)>,
}

impl PastStorm {
    /// The device has it now; how many have it within the time that counts.
    fn touch(&mut self, device: &DeviceId, at: OffsetDateTime, within: time::Duration) -> u64 {
        self.last.insert(device.clone(), at);
        self.recent.push_back((at, device.clone()));
        while let Some((seen, device)) = self.recent.front().filter(|(seen, _)| *seen < at - within).cloned() {
            self.recent.pop_front();
            if self.last.get(&device) == Some(&seen) {
                self.last.remove(&device);
            }
        }
        self.before.retain(|(seen, _)| *seen >= at - within);
        match &mut self.open {
            Some((ends, ..)) if *ends >= at => *ends = at + within,
            open => *open = None,
        }
        self.last.len() as u64
    }

    fn now(&self, devices: u64, stratum: &Stratum) -> StormNow {
        match &self.open {
            Some((_, sampled, strata)) => {
                StormNow::Open { sampled: *sampled, of_stratum: strata.get(stratum).copied().unwrap_or_default() }
            }
            None => StormNow::None { devices },
        }
    }

    fn open(&mut self, ends: OffsetDateTime) {
        let mut strata: HashMap<Stratum, u64> = HashMap::new();
        let sampled = self.before.len() as u64;
        for (_, stratum) in self.before.drain(..) {
            *strata.entry(stratum).or_default() += 1;
        }
        self.open = Some((ends, sampled, strata));
    }
}

impl Replay<'_> {
    fn one(&mut self, past: &Past, consent: Option<ConsentId>) -> AlertOutcome {
        let (case, now, within) = (&past.case, past.received_at, seconds(self.plan.storm.within_seconds));
        let tenant = case.device.tenant.clone().unwrap_or_default();
        let site = format!("site:{}:{tenant}:{}", tenant.len(), case.device.site.as_deref().unwrap_or_default());
        let scopes = ["".to_owned(), format!("tenant:{tenant}"), site, format!("device:{}", case.device.id)];
        let used = |scope: &String| self.used.get(&(day(now), scope.clone())).copied().unwrap_or_default();
        let mut facts = Facts {
            now,
            fired_at: case.fired_at,
            resolved_at: case.resolved_at,
            again: false,
            has_place: false,
            plan: Ok(self.plan),
            consent: consent.ok_or("nobody agreed"),
            job: self.jobs.get(&case.device.id).map(|made| Job { ended_at: Some(*made) }),
            used: Used {
                fleet: used(&scopes[0]),
                tenant: used(&scopes[1]),
                rule: used(&scopes[0]),
                rule_site: used(&scopes[2]),
                rule_device: used(&scopes[3]),
                bytes: 0,
            },
            storm: StormNow::None { devices: 0 },
        };
        let stratum = case.stratum();
        if facts.admitted(&self.limits).is_ok() {
            let storm = self.storms.entry(tenant).or_default();
            let devices = storm.touch(&case.device.id, now, within);
            facts.storm = storm.now(devices, &stratum);
            let mut decision = decide(&facts, &self.limits);
            if decision.place == Place::Opens {
                storm.open(now + within);
                facts.storm = storm.now(devices, &stratum);
                decision = decide(&facts, &self.limits);
            }
            match (decision.place, &mut storm.open) {
                (Place::Sampled, Some((_, sampled, strata))) => {
                    *sampled += 1;
                    *strata.entry(stratum).or_default() += 1;
                }
                (Place::Before, _) => storm.before.push_back((now, stratum)),
                _ => {}
            }
            facts.has_place = !matches!(decision.place, Place::Unasked | Place::Left);
            // What is written a little later is waited for, and then there is no reason left to wait.
            if let Some((due, DeferredFor::Lookahead)) = decision.due {
                (facts.now, facts.again) = (due, true);
            }
            if decision.place == Place::Left {
                return decision.outcome;
            }
        }
        let would = decide(&facts, &self.limits).outcome;
        if would == AlertOutcome::Collected {
            self.jobs.insert(case.device.id.clone(), facts.now);
            for scope in scopes {
                *self.used.entry((day(now), scope)).or_default() += 1;
            }
        }
        would
    }
}
