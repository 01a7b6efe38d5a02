//! How alerts, and what is decided by, look as a row.

use muster_wire::http::{AlertView, IndicatorView, ParkedView, RuleView, StormView, StratumView, TestedDevice, span_in_words};
use time::OffsetDateTime;

use super::units::{bytes, count, relative};
use super::{Column, Listed};

/// A word of the API as people read it.
pub(crate) fn spoken(word: &str) -> String {
    word.replace('_', " ")
}

impl Listed for AlertView {
    const COLUMNS: &'static [Column] = &[
        Column::id("ALERT"),
        Column::id("DEVICE"),
        Column::text("INDICATOR"),
        Column::text("SEVERITY"),
        Column::text("OUTCOME"),
        Column::id("COLLECTION"),
        Column::number("TIMES"),
        Column::text("CAME"),
        Column::text("WHY"),
    ];

    fn cells(&self, now: OffsetDateTime) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.device.clone(),
            self.indicator.clone(),
            self.severity.map(|severity| severity.to_string()).unwrap_or_default(),
            spoken(self.outcome.as_str()),
            self.collection.map(|id| id.to_string()).unwrap_or_default(),
            if self.occurrences > 0 { count(self.occurrences) } else { String::new() },
            relative(self.received_at, now),
            self.why.clone(),
        ]
    }

    fn name(&self) -> String {
        self.id.to_string()
    }
}

impl Listed for ParkedView {
    const COLUMNS: &'static [Column] = &[
        Column::id("MESSAGE"),
        Column::text("STATE"),
        Column::text("REASON"),
        Column::text("VIA"),
        Column::text("FROM"),
        Column::number("SIZE"),
        Column::text("CAME"),
        Column::text("DETAIL"),
    ];

    fn cells(&self, now: OffsetDateTime) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.state.to_string(),
            self.reason.to_string(),
            self.via.to_string(),
            self.from.clone(),
            bytes(self.bytes),
            relative(self.received_at, now),
            self.detail.clone(),
        ]
    }

    fn name(&self) -> String {
        self.id.to_string()
    }
}

impl Listed for RuleView {
    const COLUMNS: &'static [Column] = &[
        Column::id("RULE"),
        Column::text("MODE"),
        Column::number("ORDER"),
        Column::text("INDICATOR"),
        Column::text("DEVICES"),
        Column::text("COLLECTS"),
        Column::text("CHANGED"),
        Column::text("BY"),
    ];

    fn cells(&self, now: OffsetDateTime) -> Vec<String> {
        let rule = &self.definition;
        let collects = match (&rule.collect, rule.ignore) {
            (_, true) => "nothing".to_owned(),
            (Some(request), false) => request.in_words(),
            (None, false) => "as the catalogue".to_owned(),
        };
        vec![
            rule.name.clone(),
            rule.mode.to_string(),
            rule.order.to_string(),
            rule.indicator.clone(),
            rule.devices.clone().unwrap_or_else(|| "all".to_owned()),
            collects,
            relative(self.changed_at, now),
            self.changed_by.clone(),
        ]
    }

    fn name(&self) -> String {
        self.definition.name.clone()
    }
}

impl Listed for IndicatorView {
    const COLUMNS: &'static [Column] = &[
        Column::id("INDICATOR"),
        Column::text("ENABLED"),
        Column::text("COLLECTS"),
        Column::text("BACK"),
        Column::text("NOT AGAIN FOR"),
        Column::number("SINCE VERSION"),
        Column::text("CHANGED"),
    ];

    fn cells(&self, now: OffsetDateTime) -> Vec<String> {
        let new = &self.definition;
        vec![
            new.name.clone(),
            if new.enabled { "yes" } else { "no" }.to_owned(),
            new.collect.in_words(),
            span_in_words(new.lookback_seconds),
            span_in_words(new.cooldown_seconds),
            self.since_catalogue_version.to_string(),
            relative(self.changed_at, now),
        ]
    }

    fn name(&self) -> String {
        self.definition.name.clone()
    }
}

impl Listed for StormView {
    const COLUMNS: &'static [Column] = &[
        Column::id("STORM"),
        Column::text("INDICATOR"),
        Column::text("TENANT"),
        Column::number("DEVICES"),
        Column::number("COLLECTED"),
        Column::number("ON DEMAND"),
        Column::number("TWINS"),
        Column::text("BEGAN"),
        Column::text("OVER"),
    ];

    fn cells(&self, now: OffsetDateTime) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.indicator.clone(),
            self.tenant.clone().unwrap_or_default(),
            count(self.devices),
            count(self.collected),
            count(self.on_demand),
            count(self.twins),
            relative(self.opened_at, now),
            self.closed_at.map(|at| relative(at, now)).unwrap_or_else(|| "not yet".to_owned()),
        ]
    }

    fn name(&self) -> String {
        self.id.to_string()
    }
}

impl Listed for StratumView {
    const COLUMNS: &'static [Column] = &[
        Column::text("VERSION"),
        Column::text("SITE"),
        Column::text("MODEL"),
        Column::number("DEVICES"),
        Column::number("COLLECTED"),
        Column::id("HEALTHY TWIN"),
    ];

    fn cells(&self, _now: OffsetDateTime) -> Vec<String> {
        let twin = self.twin.as_ref().map(|twin| twin.to_string());
        vec![
            self.version.clone().unwrap_or_default(),
            self.site.clone().unwrap_or_default(),
            self.model.clone().unwrap_or_default(),
            count(self.devices),
            count(self.collected),
            twin.or_else(|| self.no_twin.as_ref().map(|why| format!("none: {why}"))).unwrap_or_default(),
        ]
    }

    fn name(&self) -> String {
        self.twin_collection.map(|id| id.to_string()).unwrap_or_default()
    }
}

impl Listed for TestedDevice {
    const COLUMNS: &'static [Column] =
        &[Column::id("DEVICE"), Column::text("OUTCOME"), Column::id("RULE"), Column::text("COLLECTS"), Column::text("WHY")];

    fn cells(&self, _now: OffsetDateTime) -> Vec<String> {
        vec![
            self.device.clone(),
            spoken(self.outcome.as_str()),
            self.rule.clone().unwrap_or_else(|| "none: the catalogue".to_owned()),
            self.request.as_ref().map(|request| request.in_words()).unwrap_or_default(),
            self.why.clone(),
        ]
    }

    fn name(&self) -> String {
        self.device.clone()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use muster_wire::alert::{AlertCondition, AlertShape, AlertVia, Severity};
    use muster_wire::http::AlertOutcome;
    use time::macros::datetime;

    use super::super::{Out, table};
    use super::*;

    /// An alert of which something was collected.
    pub(crate) fn alert() -> AlertView {
        AlertView {
            id: "alt_01jd8k2m3n4p5q6r7s8t9v0w1x".parse().expect("an id"),
            source: "urn:device:press-0042".to_owned(),
            event_id: "7".to_owned(),
            device: "press-0042".to_owned(),
            indicator: "IOTEdgeAgentNotRunningCondition".to_owned(),
            condition: AlertCondition::Fired,
            severity: Some(Severity::Sev1),
            shape: AlertShape::Structured,
            via: AlertVia::Amqp,
            tenant: Some("contoso".to_owned()),
            site: Some("oslo".to_owned()),
            model: None,
            version: Some("1.4.2".to_owned()),
            fired_at: datetime!(2026-11-21 11:50:00 UTC),
            time_inferred: false,
            received_at: datetime!(2026-11-21 11:50:02 UTC),
            resolved_at: None,
            origin_alert_id: Some("a-1".to_owned()),
            outcome: AlertOutcome::Collected,
            why: "consent of the device was granted".to_owned(),
            decided_at: datetime!(2026-11-21 11:50:02 UTC),
            due_at: None,
            rule: Some("agent-down-in-oslo".to_owned()),
            catalogue_version: 3,
            consent: None,
            collection: Some("col_01jd8k2m3n4p5q6r7s".parse().expect("an id")),
            occurrences: 2,
            storm: None,
            shadow: vec![],
            description: None,
            traceparent: None,
            extensions: BTreeMap::new(),
            data: None,
        }
    }

    #[test]
    fn alerts_as_a_table() {
        let out = Out::for_test(Some(200));
        let left = AlertView {
            outcome: AlertOutcome::OnDemand,
            why: "2 of this stratum are \u{1b}[2Jcollected".to_owned(),
            collection: None,
            occurrences: 0,
            severity: None,
            ..alert()
        };
        let rows: Vec<Vec<String>> = [alert(), left].iter().map(|alert| alert.cells(out.now())).collect();
        insta::assert_snapshot!(table(AlertView::COLUMNS, &rows, &out));
    }
}
