//! What changes while a batch is decided, one alert after the other: what was collected, what is used up, which devices have what, and
//! which storms there are. Read before the batch, written behind it.

use std::collections::{BTreeMap, HashMap, HashSet};

use muster_domain::alert::{Collect, Plan, Used, seconds};
use muster_wire::{DeviceId, StormId};
use time::OffsetDateTime;

use super::facts::{Case, LastJob, Of, Pair, Stratum};
use crate::instant::to_ms;

/// Which counters a collection of a plan is counted by.
#[derive(Debug, Clone)]
pub(super) struct Scopes {
    fleet: Option<String>,
    tenant: Option<String>,
    rule: Option<String>,
    rule_site: Option<String>,
    rule_device: Option<String>,
}

/// All collections that alerts made.
const FLEET: &str = "fleet";

impl Scopes {
    /// Of a collection that nobody's rule made: a healthy device beside others.
    pub(super) fn of_tenant(tenant: &str) -> Self {
        let tenant = (!tenant.is_empty()).then(|| format!("tenant:{tenant}"));
        Self { fleet: Some(FLEET.to_owned()), tenant, rule: None, rule_site: None, rule_device: None }
    }

    /// Sites and devices are counted only where the rule has a limit for them: there are many. A rule in shadow counts for itself.
    pub(super) fn new(plan: &Plan, case: &Case, shadow: bool) -> Self {
        let tenant = case.device.tenant.as_deref().unwrap_or_default();
        let kind = if shadow { "shadow" } else { "rule" };
        let of = |rule: &String| format!("{kind}:{rule}");
        let site = |rule: &String| {
            let site = case.device.site.as_deref().unwrap_or_default();
            format!("{kind}-site:{rule}:{}:{tenant}:{site}", tenant.len())
        };
        let rule = plan.rule.as_ref();
        let counted = if shadow { Self { fleet: None, tenant: None, ..Self::of_tenant(tenant) } } else { Self::of_tenant(tenant) };
        Self {
            rule: rule.map(of),
            rule_site: rule.filter(|_| plan.per_site_per_day.is_some()).map(site),
            rule_device: rule.filter(|_| plan.per_device_per_day.is_some()).map(|rule| format!("{kind}-device:{rule}:{}", case.device.id)),
            ..counted
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &String> {
        [&self.fleet, &self.tenant, &self.rule, &self.rule_site, &self.rule_device].into_iter().flatten()
    }
}

/// What is used up today.
#[derive(Debug, Default)]
pub(super) struct Uses {
    pub(super) before: HashMap<String, u64>,
    pub(super) added: BTreeMap<String, u64>,
    /// Bytes by indicator.
    pub(super) bytes: HashMap<String, u64>,
}

impl Uses {
    fn of(&self, scope: Option<&String>) -> u64 {
        scope.map_or(0, |scope| self.before.get(scope).copied().unwrap_or_default() + self.added.get(scope).copied().unwrap_or_default())
    }

    pub(super) fn used(&self, scopes: &Scopes, key: &str) -> Used {
        Used {
            fleet: self.of(scopes.fleet.as_ref()),
            tenant: self.of(scopes.tenant.as_ref()),
            rule: self.of(scopes.rule.as_ref()),
            rule_site: self.of(scopes.rule_site.as_ref()),
            rule_device: self.of(scopes.rule_device.as_ref()),
            bytes: self.bytes.get(key).copied().unwrap_or_default(),
        }
    }

    pub(super) fn count(&mut self, scopes: &Scopes) {
        for scope in scopes.all() {
            *self.added.entry(scope.clone()).or_default() += 1;
        }
    }
}

/// A storm that is open.
#[derive(Debug)]
pub(super) struct OpenStorm {
    pub(super) id: StormId,
    /// Devices that are collected of it, or will be.
    pub(super) sampled: u64,
    /// Of those, by stratum; as far as this batch asks.
    pub(super) strata: HashMap<Stratum, StratumNow>,
    /// When it ends unless another comes.
    pub(super) ends_at: i64,
    /// A device of it came in this batch.
    pub(super) touched: bool,
    /// It was opened in this batch.
    pub(super) opened: Option<Opened>,
}

/// What is written down about a storm when it opens.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) collect: Collect,
    pub(super) first_fired_at: OffsetDateTime,
    pub(super) why: String,
    /// Its earlier alerts are those that came at or after this.
    pub(super) since: i64,
}

/// The sample of one stratum.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct StratumNow {
    pub(super) before: u64,
    pub(super) added: u64,
    /// Its first device came in this batch, and a healthy one is to be looked for.
    pub(super) twin: bool,
}

/// All that changes.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) jobs: HashMap<Of, LastJob>,
    /// Alerts that were counted with a collection that was there before the batch.
    pub(super) coalesced: HashMap<Of, (LastJob, u64)>,
    pub(super) uses: Uses,
    /// When each device of the batch had the indicator before.
    pub(super) recent: HashMap<(Pair, DeviceId), i64>,
    /// Who has it in this batch.
    pub(super) touched: HashSet<(Pair, DeviceId)>,
    /// By pair and moment: devices that had it since then.
    pub(super) counts: HashMap<Pair, HashMap<i64, u64>>,
    pub(super) storms: HashMap<Pair, OpenStorm>,
    /// Storms that are over and were not closed yet.
    pub(super) over: Vec<StormId>,
}

/// The moment from which devices count towards a storm.
pub(super) fn window_from(plan: &Plan, now: OffsetDateTime) -> i64 {
    to_ms(now.saturating_sub(seconds(plan.storm.within_seconds)))
}

impl Ledger {
    /// The device has the indicator now.
    pub(super) fn touch(&mut self, pair: &Pair, device: &DeviceId) {
        let of = (pair.clone(), device.clone());
        if self.touched.contains(&of) {
            return;
        }
        let last = self.recent.get(&of).copied();
        for (since, count) in self.counts.get_mut(pair).into_iter().flatten() {
            if last.is_none_or(|last| last < *since) {
                *count += 1;
            }
        }
        self.touched.insert(of);
    }

    /// Devices of the pair within the time that counts for the plan.
    pub(super) fn devices(&self, pair: &Pair, plan: &Plan, now: OffsetDateTime) -> u64 {
        self.counts.get(pair).and_then(|counts| counts.get(&window_from(plan, now))).copied().unwrap_or_default()
    }
}

impl OpenStorm {
    pub(super) fn of_stratum(&self, stratum: &Stratum) -> u64 {
        self.strata.get(stratum).map_or(0, |now| now.before + now.added)
    }

    /// One more device of the stratum is collected, or will be.
    pub(super) fn sample(&mut self, stratum: Stratum, control_twin: bool) {
        self.sampled += 1;
        let now = self.strata.entry(stratum).or_default();
        now.twin |= control_twin && now.before + now.added == 0;
        now.added += 1;
    }
}
