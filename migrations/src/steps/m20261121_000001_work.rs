//! Collections, their tasks, ended attempts, and what was done to a collection.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[sea_orm_migration::async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        super::run(manager, POSTGRES, SQLITE).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        const DROP: &str = "DROP TABLE collection_event; DROP TABLE attempt; DROP TABLE task; DROP TABLE collection;";
        super::run(manager, DROP, DROP).await
    }
}

// A task is inserted once and updated about twice, most often many neighbours in one statement. The room left in each page keeps those
// updates within it (HOT), so that the primary key, the only index besides the one on the device, is not written again.
const POSTGRES: &str = r#"
CREATE TABLE collection (
    id uuid PRIMARY KEY,
    last_task uuid NOT NULL,
    kind text NOT NULL,
    request text NOT NULL,
    target text NOT NULL,
    attempt_timeout_ms bigint NOT NULL,
    max_attempts smallint NOT NULL,
    attempt_limit smallint NOT NULL,
    in_flight bigint NOT NULL,
    targeted bigint NOT NULL,
    reason text,
    case_id text,
    created_by text NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    idempotency_key text,
    body_sha256 text,
    cancelled_at bigint,
    closed_at bigint,
    outcome text
);
CREATE UNIQUE INDEX collection_idempotency ON collection (created_by, idempotency_key);
CREATE INDEX collection_open ON collection (id) WHERE closed_at IS NULL;

CREATE TABLE task (
    id uuid PRIMARY KEY,
    not_before bigint NOT NULL DEFAULT 0,
    lease_until bigint,
    dispatched_at bigint,
    accepted_at bigint,
    uploaded_at bigint,
    finished_at bigint,
    state smallint NOT NULL,
    attempt smallint NOT NULL DEFAULT 0,
    reason smallint,
    device_id text COLLATE "C" NOT NULL,
    owner text,
    correlation_id text,
    detail text
) WITH (fillfactor = 40, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 10000);
CREATE INDEX task_device ON task (device_id, id);

CREATE TABLE attempt (
    id uuid PRIMARY KEY,
    state smallint NOT NULL,
    reason smallint,
    detail text,
    correlation_id text,
    dispatched_at bigint,
    accepted_at bigint,
    uploaded_at bigint,
    ended_at bigint NOT NULL
);

CREATE TABLE collection_event (
    id uuid PRIMARY KEY,
    collection_id uuid NOT NULL,
    at bigint NOT NULL,
    who text NOT NULL,
    what text NOT NULL,
    detail text NOT NULL
);
CREATE INDEX collection_event_of ON collection_event (collection_id, id);
"#;

const SQLITE: &str = r#"
CREATE TABLE collection (
    id BLOB NOT NULL PRIMARY KEY,
    last_task BLOB NOT NULL,
    kind TEXT NOT NULL,
    request TEXT NOT NULL,
    target TEXT NOT NULL,
    attempt_timeout_ms INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    attempt_limit INTEGER NOT NULL,
    in_flight INTEGER NOT NULL,
    targeted INTEGER NOT NULL,
    reason TEXT,
    case_id TEXT,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    idempotency_key TEXT,
    body_sha256 TEXT,
    cancelled_at INTEGER,
    closed_at INTEGER,
    outcome TEXT
) STRICT;
CREATE UNIQUE INDEX collection_idempotency ON collection (created_by, idempotency_key);
CREATE INDEX collection_open ON collection (id) WHERE closed_at IS NULL;

CREATE TABLE task (
    id BLOB NOT NULL PRIMARY KEY,
    not_before INTEGER NOT NULL DEFAULT 0,
    lease_until INTEGER,
    dispatched_at INTEGER,
    accepted_at INTEGER,
    uploaded_at INTEGER,
    finished_at INTEGER,
    state INTEGER NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    reason INTEGER,
    device_id TEXT NOT NULL,
    owner TEXT,
    correlation_id TEXT,
    detail TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX task_device ON task (device_id, id);

CREATE TABLE attempt (
    id BLOB NOT NULL PRIMARY KEY,
    state INTEGER NOT NULL,
    reason INTEGER,
    detail TEXT,
    correlation_id TEXT,
    dispatched_at INTEGER,
    accepted_at INTEGER,
    uploaded_at INTEGER,
    ended_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE collection_event (
    id BLOB NOT NULL PRIMARY KEY,
    collection_id BLOB NOT NULL,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    what TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX collection_event_of ON collection_event (collection_id, id);
"#;
