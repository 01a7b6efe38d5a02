//! The catalogue and the rules: reading and changing them. A change takes the gate, so it lies between two batches of alerts and never
//! within one, and it is written down with who made it.

use muster_domain::alert::{check_indicator, check_rule, indicator_key};
use muster_wire::http::{CatalogueView, IndicatorView, MAX_INDICATORS, MAX_RULES, MAX_TEXT_CHARS, NewIndicator, NewRule, RuleView};
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::Changed;
use super::policy::{raise_version, take_gate};
use crate::collections::{number, parse};
use crate::connect::Store;
use crate::dialect::{Row, Tx, Value};
use crate::error::{StoreError, run};
use crate::instant::{from_ms, to_ms};
use crate::text::bounded;

const INDICATOR: &str = "definition, since_version, changed_version, added_at, changed_at, changed_by";
const RULE: &str = "definition, version, created_at, changed_at, changed_by";

fn indicator(row: &Row) -> Result<IndicatorView, StoreError> {
    Ok(IndicatorView {
        definition: parse("an indicator", &row.get::<String>(0)?)?,
        since_catalogue_version: number("a version of the catalogue", row.get::<i64>(1)?)?,
        changed_in_catalogue_version: number("a version of the catalogue", row.get::<i64>(2)?)?,
        added_at: from_ms(row.get(3)?)?,
        changed_at: from_ms(row.get(4)?)?,
        changed_by: row.get(5)?,
    })
}

fn rule(row: &Row) -> Result<RuleView, StoreError> {
    Ok(RuleView {
        definition: parse("a rule", &row.get::<String>(0)?)?,
        version: number("the version of a rule", row.get::<i64>(1)?)?,
        created_at: from_ms(row.get(2)?)?,
        changed_at: from_ms(row.get(3)?)?,
        changed_by: row.get(4)?,
    })
}

fn json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Misuse(format!("a definition could not be written as JSON: {error}")))
}

/// What is not checked before it comes here is refused here: a definition that cannot be read would stop every alert.
fn refuse(faults: &[muster_domain::alert::Fault]) -> Result<(), StoreError> {
    match faults {
        [] => Ok(()),
        faults => Err(StoreError::Misuse(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))),
    }
}

async fn write_change(
    tx: &mut Tx,
    what: &str,
    name: &str,
    definition: Option<&str>,
    who: &str,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO alert_change (id, at, who, what, name, definition) VALUES ($1, $2, $3, $4, $5, $6)";
    let values = [
        Value::Id(Uuid::now_v7()),
        Value::Number(to_ms(now)),
        Value::Text(who),
        Value::Text(what),
        Value::Text(name),
        Value::MaybeText(definition),
    ];
    tx.execute(sql, &values, None).await.map(|_| ())
}

async fn count(tx: &mut Tx, sql: &str) -> Result<usize, StoreError> {
    let rows = tx.fetch(sql, &[], None).await?;
    rows.first().map_or(Ok(0), |row| number("a number of definitions", row.get::<i64>(0)?))
}

async fn indicator_in(tx: &mut Tx, key: &str) -> Result<Option<IndicatorView>, StoreError> {
    let sql = format!("SELECT {INDICATOR} FROM alert_indicator WHERE name_key = $1");
    tx.fetch(&sql, &[Value::Text(key)], None).await?.first().map(indicator).transpose()
}

async fn rule_in(tx: &mut Tx, name: &str) -> Result<Option<RuleView>, StoreError> {
    let sql = format!("SELECT {RULE} FROM alert_rule WHERE name = $1");
    tx.fetch(&sql, &[Value::Text(name)], None).await?.first().map(rule).transpose()
}

impl Store {
    /// The catalogue.
    ///
    /// # Errors
    /// The database's.
    pub async fn catalogue(&self) -> Result<CatalogueView, StoreError> {
        run("reading the catalogue", || async {
            let mut tx = self.begin_read().await?;
            let rows = tx.fetch("SELECT catalogue_version, changed_at FROM alert_gate WHERE one = 1", &[], None).await?;
            let row = rows.first().ok_or_else(|| StoreError::Inconsistent("alert_gate has no row".to_owned()))?;
            let sql = format!("SELECT {INDICATOR} FROM alert_indicator ORDER BY name_key");
            Ok(CatalogueView {
                catalogue_version: number("the version of the catalogue", row.get::<i64>(0)?)?,
                changed_at: from_ms(row.get(1)?)?,
                indicators: tx.fetch(&sql, &[], None).await?.iter().map(indicator).collect::<Result<_, _>>()?,
            })
        })
        .await
    }

    /// Adds an indicator; it raises the version of the catalogue.
    ///
    /// # Errors
    /// [`StoreError::Misuse`] for one that `muster_domain::alert::check_indicator` finds fault with; otherwise the database's.
    pub async fn add_indicator(&self, new: &NewIndicator, who: &str, now: OffsetDateTime) -> Result<Changed<IndicatorView>, StoreError> {
        self.put_indicator(new, false, who, now).await
    }

    /// Changes an indicator of this name; it raises the version of the catalogue.
    ///
    /// # Errors
    /// As [`Store::add_indicator`].
    pub async fn change_indicator(&self, new: &NewIndicator, who: &str, now: OffsetDateTime) -> Result<Changed<IndicatorView>, StoreError> {
        self.put_indicator(new, true, who, now).await
    }

    async fn put_indicator(
        &self,
        new: &NewIndicator,
        replace: bool,
        who: &str,
        now: OffsetDateTime,
    ) -> Result<Changed<IndicatorView>, StoreError> {
        refuse(&check_indicator(new))?;
        let (who, definition, key) = (bounded(who, MAX_TEXT_CHARS), json(new)?, indicator_key(&new.name));
        run("changing the catalogue", || async {
            let mut tx = self.begin().await?;
            let version = take_gate(&mut tx).await?;
            let known = indicator_in(&mut tx, &key).await?;
            match &known {
                None if replace => return Ok(Changed::NotThere),
                Some(_) if !replace => return Ok(Changed::Taken),
                None if count(&mut tx, "SELECT count(*) FROM alert_indicator").await? >= MAX_INDICATORS => return Ok(Changed::TooMany),
                _ => {}
            }
            raise_version(&mut tx, to_ms(now)).await?;
            let sql = "INSERT INTO alert_indicator (name_key, name, definition, since_version, changed_version, added_at, changed_at, changed_by) \
                VALUES ($1, $2, $3, $4, $4, $5, $5, $6) ON CONFLICT (name_key) DO UPDATE SET name = excluded.name, \
                definition = excluded.definition, changed_version = excluded.changed_version, changed_at = excluded.changed_at, \
                changed_by = excluded.changed_by";
            let values = [
                Value::Text(&key),
                Value::Text(&new.name),
                Value::Text(&definition),
                Value::Number(i64::from(version) + 1),
                Value::Number(to_ms(now)),
                Value::Text(&who),
            ];
            tx.execute(sql, &values, None).await?;
            let what = if known.is_some() { "indicator_changed" } else { "indicator_added" };
            write_change(&mut tx, what, &new.name, Some(&definition), &who, now).await?;
            let view = indicator_in(&mut tx, &key).await?.ok_or_else(|| StoreError::Inconsistent(format!("indicator {key} is gone")))?;
            tx.commit().await?;
            Ok(Changed::Done(view))
        })
        .await
    }

    /// Rules, in the order in which they are asked.
    ///
    /// # Errors
    /// The database's.
    pub async fn rules(&self) -> Result<Vec<RuleView>, StoreError> {
        run("reading rules", || async {
            let rows = self.reader().await?.fetch(&format!("SELECT {RULE} FROM alert_rule"), &[], None).await?;
            let mut rules = rows.iter().map(rule).collect::<Result<Vec<_>, _>>()?;
            rules.sort_by(|a, b| (a.definition.order, &a.definition.name).cmp(&(b.definition.order, &b.definition.name)));
            Ok(rules)
        })
        .await
    }

    /// Makes a rule or, with `replace`, changes the one of its name. [`Changed::NotThere`] with an indicator that is not in the catalogue, and
    /// for a change of a rule that is not there. The indicator is kept in the spelling of the catalogue.
    ///
    /// # Errors
    /// [`StoreError::Misuse`] for one that `muster_domain::alert::check_rule` finds fault with; otherwise the database's.
    pub async fn put_rule(&self, new: &NewRule, replace: bool, who: &str, now: OffsetDateTime) -> Result<Changed<RuleView>, StoreError> {
        refuse(&check_rule(new))?;
        let who = bounded(who, MAX_TEXT_CHARS);
        run("changing a rule", || async {
            let mut tx = self.begin().await?;
            take_gate(&mut tx).await?;
            let Some(about) = indicator_in(&mut tx, &indicator_key(&new.indicator)).await? else { return Ok(Changed::NotThere) };
            let known = rule_in(&mut tx, &new.name).await?;
            match &known {
                None if replace => return Ok(Changed::NotThere),
                Some(_) if !replace => return Ok(Changed::Taken),
                None if count(&mut tx, "SELECT count(*) FROM alert_rule").await? >= MAX_RULES => return Ok(Changed::TooMany),
                _ => {}
            }
            let definition = json(&NewRule { indicator: about.definition.name, ..new.clone() })?;
            let sql = "INSERT INTO alert_rule (name, definition, version, created_at, changed_at, changed_by) VALUES ($1, $2, 1, $3, $3, $4) \
                ON CONFLICT (name) DO UPDATE SET definition = excluded.definition, version = alert_rule.version + 1, \
                changed_at = excluded.changed_at, changed_by = excluded.changed_by";
            let values = [Value::Text(&new.name), Value::Text(&definition), Value::Number(to_ms(now)), Value::Text(&who)];
            tx.execute(sql, &values, None).await?;
            let what = if known.is_some() { "rule_changed" } else { "rule_made" };
            write_change(&mut tx, what, &new.name, Some(&definition), &who, now).await?;
            let view = rule_in(&mut tx, &new.name).await?.ok_or_else(|| StoreError::Inconsistent(format!("rule {} is gone", new.name)))?;
            tx.commit().await?;
            Ok(Changed::Done(view))
        })
        .await
    }

    /// Deletes a rule; false: there was none.
    ///
    /// # Errors
    /// The database's.
    pub async fn delete_rule(&self, name: &str, who: &str, now: OffsetDateTime) -> Result<bool, StoreError> {
        let (name, who) = (bounded(name, MAX_TEXT_CHARS), bounded(who, MAX_TEXT_CHARS));
        run("deleting a rule", || async {
            let mut tx = self.begin().await?;
            take_gate(&mut tx).await?;
            if tx.execute("DELETE FROM alert_rule WHERE name = $1", &[Value::Text(&name)], None).await? == 0 {
                return Ok(false);
            }
            write_change(&mut tx, "rule_deleted", &name, None, &who, now).await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }
}
