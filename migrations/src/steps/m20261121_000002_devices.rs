//! The registry of devices, and which device is at work on which bundle.

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
        const DROP: &str = "DROP TABLE device_slot; DROP TABLE device;";
        super::run(manager, DROP, DROP).await
    }
}

const POSTGRES: &str = r#"
CREATE TABLE device (
    id text COLLATE "C" PRIMARY KEY,
    presence smallint NOT NULL DEFAULT 0,
    presence_at bigint NOT NULL DEFAULT 0,
    last_seen bigint,
    first_seen bigint NOT NULL,
    started_at bigint,
    clock_skew_ms bigint,
    proto text NOT NULL DEFAULT '[]',
    methods text,
    agent_name text,
    agent_version text,
    consent text,
    tags jsonb NOT NULL DEFAULT '{}',
    reported jsonb NOT NULL DEFAULT '{}'
) WITH (fillfactor = 80);

CREATE TABLE device_slot (
    device_id text COLLATE "C" PRIMARY KEY,
    task_id uuid NOT NULL,
    attempt smallint NOT NULL,
    until bigint NOT NULL
);
"#;

const SQLITE: &str = r#"
CREATE TABLE device (
    id TEXT NOT NULL PRIMARY KEY,
    presence INTEGER NOT NULL DEFAULT 0,
    presence_at INTEGER NOT NULL DEFAULT 0,
    last_seen INTEGER,
    first_seen INTEGER NOT NULL,
    started_at INTEGER,
    clock_skew_ms INTEGER,
    proto TEXT NOT NULL DEFAULT '[]',
    methods TEXT,
    agent_name TEXT,
    agent_version TEXT,
    consent TEXT,
    tags TEXT NOT NULL DEFAULT '{}',
    reported TEXT NOT NULL DEFAULT '{}'
) STRICT;

CREATE TABLE device_slot (
    device_id TEXT NOT NULL PRIMARY KEY,
    task_id BLOB NOT NULL,
    attempt INTEGER NOT NULL,
    until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"#;
