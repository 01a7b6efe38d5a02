//! Alerts: the catalogue and the rules, what was taken in and decided, storms, and messages that were no alert.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[sea_orm_migration::async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        super::run(manager, &postgres(), &sqlite()).await?;
        let gate = format!("INSERT INTO alert_gate (one, catalogue_version, changed_at) VALUES (1, 1, {SHIPPED_MS})");
        super::run(manager, &gate, &gate).await?;
        for (name, definition) in SHIPPED {
            let insert = format!(
                "INSERT INTO alert_indicator (name_key, name, definition, since_version, changed_version, added_at, changed_at, changed_by) \
                 VALUES ('{}', '{name}', '{}', 1, 1, {SHIPPED_MS}, {SHIPPED_MS}, 'muster')",
                name.to_lowercase(),
                definition.replace('\'', "''")
            );
            super::run(manager, &insert, &insert).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        super::run(manager, DOWN, DOWN).await
    }
}

/// 2026-11-28 00:00 UTC.
const SHIPPED_MS: i64 = 1_795_824_000_000;

/// The indicators that come with the program, each with the least that serves: logs of named modules, and no dump of anything.
const SHIPPED: &[(&str, &str)] = &[
    (
        "AcsUnhealthyCondition",
        r#"{"name":"AcsUnhealthyCondition","description":"The object store of the device, or the storage below it, is unhealthy.","collect":{"kind":"upload_logs","items":[{"id":"edgeAgent"},{"id":"blob|storage"}]},"lookback_seconds":14400,"cooldown_seconds":3600}"#,
    ),
    (
        "IOTEdgeAgentNotRunningCondition",
        r#"{"name":"IOTEdgeAgentNotRunningCondition","description":"The agent of IoT Edge does not run, so that no module is started or watched.","collect":{"kind":"upload_logs","items":[{"id":"edgeAgent"},{"id":"edgeHub"}]},"lookback_seconds":7200,"cooldown_seconds":3600}"#,
    ),
    (
        "UpdateInstallFailedEvent",
        r#"{"name":"UpdateInstallFailedEvent","description":"An update of the device was not installed.","collect":{"kind":"upload_logs","items":[{"id":"edgeAgent"},{"id":"update|aziot|firmware"}]},"lookback_seconds":86400,"cooldown_seconds":21600}"#,
    ),
];

// One text for both databases; what differs is named in capitals. Where a column without a value would be part of a key, it is an empty
// text: nulls are equal to nothing.
//
// `alert_gate` is the row that every batch of alerts takes first, so that batches of several controllers go one after the other.
// `data` stands last: a list never reads as far as the body of an event.
const TABLES: &str = r#"
CREATE TABLE alert_gate (
    one SMALLINT NOT NULL PRIMARY KEY,
    catalogue_version BIGINT NOT NULL,
    changed_at BIGINT NOT NULL
) STRICT;

CREATE TABLE alert_indicator (
    name_key TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    definition TEXT NOT NULL,
    since_version BIGINT NOT NULL,
    changed_version BIGINT NOT NULL,
    added_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    changed_by TEXT NOT NULL
) STRICT;

CREATE TABLE alert_rule (
    name TEXT NOT NULL PRIMARY KEY,
    definition TEXT NOT NULL,
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    changed_by TEXT NOT NULL
) STRICT;

CREATE TABLE alert_change (
    id UUID NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    who TEXT NOT NULL,
    what TEXT NOT NULL,
    name TEXT NOT NULL,
    definition TEXT
) STRICT;

CREATE TABLE alert (
    id UUID NOT NULL PRIMARY KEY,
    digest UUID NOT NULL,
    source TEXT NOT NULL,
    event_id TEXT NOT NULL,
    device_id KEYTEXT NOT NULL,
    indicator TEXT NOT NULL,
    indicator_key KEYTEXT NOT NULL,
    condition TEXT NOT NULL,
    severity TEXT,
    shape TEXT NOT NULL,
    via TEXT NOT NULL,
    tenant TEXT,
    site TEXT,
    model TEXT,
    version TEXT,
    fired_at BIGINT NOT NULL,
    time_inferred SMALLINT NOT NULL,
    received_at BIGINT NOT NULL,
    resolved_at BIGINT,
    origin_alert_id TEXT,
    outcome TEXT NOT NULL,
    why TEXT NOT NULL,
    decided_at BIGINT NOT NULL,
    due_at BIGINT,
    deferred_for TEXT,
    rule TEXT,
    catalogue_version BIGINT NOT NULL,
    consent_id UUID,
    collection_id UUID,
    storm_id UUID,
    in_sample SMALLINT NOT NULL,
    shadow TEXT,
    description TEXT,
    traceparent TEXT,
    extensions TEXT,
    data TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX alert_digest ON alert (digest);
CREATE INDEX alert_device ON alert (device_id, indicator_key, id);
CREATE INDEX alert_of ON alert (indicator_key, id);
CREATE INDEX alert_due ON alert (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX alert_storm_of ON alert (storm_id, outcome, device_id) WHERE storm_id IS NOT NULL;
CREATE INDEX alert_collection ON alert (collection_id) WHERE collection_id IS NOT NULL;

CREATE TABLE alert_job (
    device_id KEYTEXT NOT NULL,
    indicator_key KEYTEXT NOT NULL,
    task_id UUID NOT NULL,
    occurrences BIGINT NOT NULL,
    made_at BIGINT NOT NULL,
    PRIMARY KEY (device_id, indicator_key, task_id)
) STRICT;
CREATE INDEX alert_job_of ON alert_job (indicator_key, made_at);

CREATE TABLE alert_use (
    scope KEYTEXT NOT NULL,
    day BIGINT NOT NULL,
    used BIGINT NOT NULL,
    PRIMARY KEY (scope, day)
) STRICT;

CREATE TABLE alert_recent (
    indicator_key KEYTEXT NOT NULL,
    tenant KEYTEXT NOT NULL,
    device_id KEYTEXT NOT NULL,
    last_at BIGINT NOT NULL,
    PRIMARY KEY (device_id, indicator_key, tenant)
) STRICT;
CREATE INDEX alert_recent_at ON alert_recent (indicator_key, tenant, last_at);

CREATE TABLE alert_storm (
    id UUID NOT NULL PRIMARY KEY,
    indicator TEXT NOT NULL,
    indicator_key KEYTEXT NOT NULL,
    tenant KEYTEXT NOT NULL,
    opened_at BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    ends_at BIGINT NOT NULL,
    closed_at BIGINT,
    sampled BIGINT NOT NULL,
    plan TEXT NOT NULL,
    first_fired_at BIGINT NOT NULL,
    why TEXT NOT NULL,
    rest_collection UUID
) STRICT;
CREATE UNIQUE INDEX alert_storm_open ON alert_storm (indicator_key, tenant) WHERE closed_at IS NULL;

CREATE TABLE alert_stratum (
    storm_id UUID NOT NULL,
    version KEYTEXT NOT NULL,
    site KEYTEXT NOT NULL,
    model KEYTEXT NOT NULL,
    sampled BIGINT NOT NULL,
    twin_from BIGINT,
    twin KEYTEXT,
    twin_collection UUID,
    no_twin TEXT,
    PRIMARY KEY (storm_id, version, site, model)
) STRICT;
CREATE INDEX alert_stratum_twin ON alert_stratum (twin_from) WHERE twin_from IS NOT NULL;

CREATE TABLE parked_alert (
    id UUID NOT NULL PRIMARY KEY,
    digest TEXT NOT NULL,
    received_at BIGINT NOT NULL,
    via TEXT NOT NULL,
    sender TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    state TEXT NOT NULL,
    changed_by TEXT,
    changed_at BIGINT,
    bytes BIGINT NOT NULL,
    cut SMALLINT NOT NULL,
    in_base64 SMALLINT NOT NULL,
    content_type TEXT,
    attributes TEXT,
    body TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX parked_alert_digest ON parked_alert (digest) WHERE state = 'parked';
CREATE INDEX parked_alert_state ON parked_alert (state, id);

CREATE INDEX device_lower ON device (lower(id));
"#;

fn postgres() -> String {
    TABLES.replace(") STRICT;", ");").replace("KEYTEXT", "TEXT COLLATE \"C\"")
}

fn sqlite() -> String {
    TABLES.replace("KEYTEXT", "TEXT").replace("UUID", "BLOB").replace("BIGINT", "INTEGER").replace("SMALLINT", "INTEGER")
}

const DOWN: &str = "DROP INDEX device_lower; DROP TABLE parked_alert; DROP TABLE alert_stratum; DROP TABLE alert_storm; DROP TABLE alert_recent; \
    DROP TABLE alert_use; DROP TABLE alert_job; DROP TABLE alert; DROP TABLE alert_change; DROP TABLE alert_rule; DROP TABLE alert_indicator; \
    DROP TABLE alert_gate;";
