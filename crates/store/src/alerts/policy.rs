//! The catalogue and the rules as they stand, and what they say about one alert.

use std::collections::{HashMap, HashSet};

use muster_domain::alert::{Plan, indicator_key};
use muster_domain::condition::Condition;
use muster_wire::DeviceId;
use muster_wire::http::{NewIndicator, NewRule, RuleMode, StormPolicy};

use super::facts::Case;
use crate::collections::{number, parse};
use crate::condition::matching_among_in;
use crate::dialect::{Tx, Value};
use crate::error::StoreError;

/// The catalogue and the rules.
pub(super) struct Policy {
    /// Version of the catalogue.
    pub(super) version: u32,
    indicators: HashMap<String, NewIndicator>,
    /// By indicator, in the order in which they are asked; rules that are off are not among them.
    rules: HashMap<String, Vec<NewRule>>,
}

/// A way to treat an alert: the place of its plan among all of a batch.
pub(super) type PlanPlace = usize;

/// What the rules say about one case.
#[derive(Debug, Clone, Default)]
pub(super) struct Chosen {
    /// What decides; `None`: not in the catalogue or switched off there.
    pub(super) plan: Option<PlanPlace>,
    /// Rules in shadow that fit.
    pub(super) shadow: Vec<PlanPlace>,
}

/// A rule that is asked about the devices of a batch.
struct Asked<'a> {
    rule: &'a NewRule,
    plan: PlanPlace,
    /// Whom it fits; `None`: everybody.
    fits: Option<HashSet<DeviceId>>,
}

/// Takes the gate: until this transaction ends, nobody else decides about alerts or changes what they are decided by. The version of the
/// catalogue.
pub(super) async fn take_gate(tx: &mut Tx) -> Result<u32, StoreError> {
    let sql = format!("SELECT p.catalogue_version FROM alert_gate p WHERE p.one = 1 {}", tx.dialect().hold("p"));
    version(tx, &sql).await
}

/// The version of the catalogue, without waiting for anybody.
pub(crate) async fn catalogue_version(tx: &mut Tx) -> Result<u32, StoreError> {
    version(tx, "SELECT catalogue_version FROM alert_gate WHERE one = 1").await
}

async fn version(tx: &mut Tx, sql: &str) -> Result<u32, StoreError> {
    let rows = tx.fetch(sql, &[], None).await?;
    let row = rows.first().ok_or_else(|| StoreError::Inconsistent("alert_gate has no row".to_owned()))?;
    number("the version of the catalogue", row.get::<i64>(0)?)
}

impl Policy {
    pub(super) async fn read(tx: &mut Tx, version: u32) -> Result<Self, StoreError> {
        let mut indicators = HashMap::new();
        for row in tx.fetch("SELECT name_key, definition FROM alert_indicator", &[], None).await? {
            indicators.insert(row.get(0)?, parse("an indicator", &row.get::<String>(1)?)?);
        }
        let mut rules: HashMap<String, Vec<NewRule>> = HashMap::new();
        for row in tx.fetch("SELECT definition FROM alert_rule", &[], None).await? {
            let rule: NewRule = parse("a rule", &row.get::<String>(0)?)?;
            if rule.mode != RuleMode::Off {
                rules.entry(indicator_key(&rule.indicator)).or_default().push(rule);
            }
        }
        for of in rules.values_mut() {
            of.sort_by(|a, b| (a.order, &a.name).cmp(&(b.order, &b.name)));
        }
        Ok(Self { version, indicators, rules })
    }

    /// The indicator by its key, where it is in the catalogue.
    pub(super) fn indicator(&self, key: &str) -> Option<&NewIndicator> {
        self.indicators.get(key)
    }

    /// What is said about each case: one statement for each rule that has a condition and is about an indicator of the batch.
    pub(super) async fn choose(&self, tx: &mut Tx, cases: &[Case], storm: StormPolicy) -> Result<(Vec<Plan>, Vec<Chosen>), StoreError> {
        let mut devices: HashMap<&str, HashSet<&DeviceId>> = HashMap::new();
        for case in cases {
            devices.entry(&case.key).or_default().insert(&case.device.id);
        }
        let mut plans = Vec::new();
        let mut of_catalogue: HashMap<&str, PlanPlace> = HashMap::new();
        let mut of_rules: HashMap<&str, Vec<Asked<'_>>> = HashMap::new();
        for (key, among) in devices {
            let Some(indicator) = self.indicators.get(key).filter(|indicator| indicator.enabled) else { continue };
            of_catalogue.insert(key, plans.len());
            plans.push(plan(indicator, None, storm)?);
            for rule in self.rules.get(key).into_iter().flatten() {
                let fits = match &rule.devices {
                    None => None,
                    Some(text) => {
                        let condition: Condition = text
                            .parse()
                            .map_err(|error| StoreError::Inconsistent(format!("the condition of rule {}: {error}", rule.name)))?;
                        let among: Vec<DeviceId> = among.iter().map(|device| (*device).clone()).collect();
                        Some(matching_among_in(tx, &condition, &among).await?.into_iter().collect())
                    }
                };
                of_rules.entry(key).or_default().push(Asked { rule, plan: plans.len(), fits });
                plans.push(plan(indicator, Some(rule), storm)?);
            }
        }
        let chosen = cases.iter().map(|case| {
            let Some(of_catalogue) = of_catalogue.get(case.key.as_str()) else { return Chosen::default() };
            let rules = of_rules.get(case.key.as_str()).into_iter().flatten();
            let mut chosen = Chosen::default();
            for asked in rules.filter(|asked| asked.fits.as_ref().is_none_or(|fits| fits.contains(&case.device.id))) {
                match asked.rule.mode {
                    RuleMode::Active => chosen.plan = chosen.plan.or(Some(asked.plan)),
                    RuleMode::Shadow => chosen.shadow.push(asked.plan),
                    RuleMode::Off => {}
                }
            }
            chosen.plan = chosen.plan.or(Some(*of_catalogue));
            chosen
        });
        let chosen = chosen.collect();
        Ok((plans, chosen))
    }

    /// Why an indicator is not acted on.
    pub(super) fn why_unknown(&self, key: &str, name: &str) -> String {
        match self.indicators.get(key) {
            Some(_) => format!("{name} is switched off in the catalogue, version {}", self.version),
            None => format!("{name} is not in the catalogue, version {}", self.version),
        }
    }
}

fn plan(indicator: &NewIndicator, rule: Option<&NewRule>, storm: StormPolicy) -> Result<Plan, StoreError> {
    Plan::new(indicator, rule, storm).map_err(|error| {
        let rule = rule.map_or("", |rule| rule.name.as_str());
        StoreError::Inconsistent(format!("the quiet hours of rule {rule}: {error}"))
    })
}

/// Raises the version of the catalogue, with the gate taken.
pub(super) async fn raise_version(tx: &mut Tx, at_ms: i64) -> Result<(), StoreError> {
    let sql = "UPDATE alert_gate SET catalogue_version = catalogue_version + 1, changed_at = $1 WHERE one = 1";
    tx.execute(sql, &[Value::Number(at_ms)], None).await.map(|_| ())
}
