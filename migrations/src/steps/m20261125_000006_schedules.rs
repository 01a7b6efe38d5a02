//! Schedules, and the record of their runs.

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
        const DROP: &str = "DROP TABLE schedule_run; DROP TABLE schedule;";
        super::run(manager, DROP, DROP).await
    }
}

// There are at most a thousand schedules, so what is due is found by reading all of them; no index is written when one runs.
const POSTGRES: &str = r#"
CREATE TABLE schedule (
    id uuid PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    cron text NOT NULL,
    time_zone text NOT NULL,
    template text NOT NULL,
    missed text NOT NULL,
    overlap text NOT NULL,
    created_by text NOT NULL,
    created_at bigint NOT NULL,
    paused_at bigint,
    paused_by text,
    next_due bigint
);
CREATE UNIQUE INDEX schedule_name ON schedule (name);

CREATE TABLE schedule_run (
    schedule_id uuid NOT NULL,
    due bigint NOT NULL,
    at bigint NOT NULL,
    outcome text NOT NULL,
    collection_id uuid,
    detail text,
    PRIMARY KEY (schedule_id, due)
);
"#;

const SQLITE: &str = r#"
CREATE TABLE schedule (
    id BLOB NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    cron TEXT NOT NULL,
    time_zone TEXT NOT NULL,
    template TEXT NOT NULL,
    missed TEXT NOT NULL,
    overlap TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    paused_at INTEGER,
    paused_by TEXT,
    next_due INTEGER
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX schedule_name ON schedule (name);

CREATE TABLE schedule_run (
    schedule_id BLOB NOT NULL,
    due INTEGER NOT NULL,
    at INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    collection_id BLOB,
    detail TEXT,
    PRIMARY KEY (schedule_id, due)
) STRICT, WITHOUT ROWID;
"#;
