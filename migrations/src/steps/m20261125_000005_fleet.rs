//! Fleet control: how collections are paced, paused, repeated, timed, and which steps they have.

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
        super::run(manager, POSTGRES_DOWN, SQLITE_DOWN).await
    }
}

// `pace` is one row per collection whose limits hold over all controllers: a claim takes it first, so that three controllers together are no
// faster than one. It is written once per claim, and it is small, so it stays within its page.
const POSTGRES: &str = r#"
ALTER TABLE collection
    ADD COLUMN priority smallint NOT NULL DEFAULT 0,
    ADD COLUMN rollout text,
    ADD COLUMN retry text,
    ADD COLUMN time_window text,
    ADD COLUMN standing smallint NOT NULL DEFAULT 0,
    ADD COLUMN steps text,
    ADD COLUMN step_of uuid,
    ADD COLUMN step smallint NOT NULL DEFAULT 1,
    ADD COLUMN when_matches text,
    ADD COLUMN paused_at bigint,
    ADD COLUMN paused_by text,
    ADD COLUMN paused_why text;
CREATE INDEX collection_step_of ON collection (step_of) WHERE step_of IS NOT NULL;
ALTER TABLE task ADD COLUMN matched smallint;
CREATE TABLE pace (
    collection_id uuid PRIMARY KEY,
    due_us bigint NOT NULL DEFAULT 0,
    in_flight bigint NOT NULL DEFAULT 0,
    counted_at bigint NOT NULL DEFAULT 0,
    verified bigint NOT NULL DEFAULT 0,
    stage smallint NOT NULL DEFAULT 0,
    passed_at bigint,
    steered_at bigint NOT NULL DEFAULT 0,
    counted_from text
) WITH (fillfactor = 50);
"#;

const SQLITE: &str = r#"
ALTER TABLE collection ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
ALTER TABLE collection ADD COLUMN rollout TEXT;
ALTER TABLE collection ADD COLUMN retry TEXT;
ALTER TABLE collection ADD COLUMN time_window TEXT;
ALTER TABLE collection ADD COLUMN standing INTEGER NOT NULL DEFAULT 0;
ALTER TABLE collection ADD COLUMN steps TEXT;
ALTER TABLE collection ADD COLUMN step_of BLOB;
ALTER TABLE collection ADD COLUMN step INTEGER NOT NULL DEFAULT 1;
ALTER TABLE collection ADD COLUMN when_matches TEXT;
ALTER TABLE collection ADD COLUMN paused_at INTEGER;
ALTER TABLE collection ADD COLUMN paused_by TEXT;
ALTER TABLE collection ADD COLUMN paused_why TEXT;
CREATE INDEX collection_step_of ON collection (step_of) WHERE step_of IS NOT NULL;
ALTER TABLE task ADD COLUMN matched INTEGER;
CREATE TABLE pace (
    collection_id BLOB NOT NULL PRIMARY KEY,
    due_us INTEGER NOT NULL DEFAULT 0,
    in_flight INTEGER NOT NULL DEFAULT 0,
    counted_at INTEGER NOT NULL DEFAULT 0,
    verified INTEGER NOT NULL DEFAULT 0,
    stage INTEGER NOT NULL DEFAULT 0,
    passed_at INTEGER,
    steered_at INTEGER NOT NULL DEFAULT 0,
    counted_from TEXT
) STRICT, WITHOUT ROWID;
"#;

const POSTGRES_DOWN: &str = r#"
DROP TABLE pace;
ALTER TABLE task DROP COLUMN matched;
DROP INDEX collection_step_of;
ALTER TABLE collection DROP COLUMN priority, DROP COLUMN rollout, DROP COLUMN retry, DROP COLUMN time_window, DROP COLUMN standing,
    DROP COLUMN steps, DROP COLUMN step_of, DROP COLUMN step, DROP COLUMN when_matches, DROP COLUMN paused_at, DROP COLUMN paused_by,
    DROP COLUMN paused_why;
"#;

const SQLITE_DOWN: &str = r#"
DROP TABLE pace;
ALTER TABLE task DROP COLUMN matched;
DROP INDEX collection_step_of;
ALTER TABLE collection DROP COLUMN priority;
ALTER TABLE collection DROP COLUMN rollout;
ALTER TABLE collection DROP COLUMN retry;
ALTER TABLE collection DROP COLUMN time_window;
ALTER TABLE collection DROP COLUMN standing;
ALTER TABLE collection DROP COLUMN steps;
ALTER TABLE collection DROP COLUMN step_of;
ALTER TABLE collection DROP COLUMN step;
ALTER TABLE collection DROP COLUMN when_matches;
ALTER TABLE collection DROP COLUMN paused_at;
ALTER TABLE collection DROP COLUMN paused_by;
ALTER TABLE collection DROP COLUMN paused_why;
"#;
