//! The registry as targets ask for it: indexes over tags and reported properties, the gateway a device is behind, and what pings measured.

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

// Tags and reported properties change rarely and are asked for often, unlike anything of a task: here an index pays. `fastupdate` off: a
// condition must not wait for somebody else's pending list.
const POSTGRES: &str = r#"
ALTER TABLE device
    ADD COLUMN parent text COLLATE "C",
    ADD COLUMN pinged_at bigint,
    ADD COLUMN ping_ms bigint,
    ADD COLUMN ping_failed smallint;
CREATE INDEX device_tags ON device USING gin (tags jsonb_path_ops) WITH (fastupdate = off);
CREATE INDEX device_reported ON device USING gin (reported jsonb_path_ops) WITH (fastupdate = off);
CREATE INDEX device_parent ON device (parent) WHERE parent IS NOT NULL;
"#;

const SQLITE: &str = r#"
ALTER TABLE device ADD COLUMN parent TEXT;
ALTER TABLE device ADD COLUMN pinged_at INTEGER;
ALTER TABLE device ADD COLUMN ping_ms INTEGER;
ALTER TABLE device ADD COLUMN ping_failed INTEGER;
CREATE INDEX device_parent ON device (parent) WHERE parent IS NOT NULL;
"#;

const POSTGRES_DOWN: &str = r#"
DROP INDEX device_parent;
DROP INDEX device_reported;
DROP INDEX device_tags;
ALTER TABLE device DROP COLUMN parent, DROP COLUMN pinged_at, DROP COLUMN ping_ms, DROP COLUMN ping_failed;
"#;

const SQLITE_DOWN: &str = r#"
DROP INDEX device_parent;
ALTER TABLE device DROP COLUMN parent;
ALTER TABLE device DROP COLUMN pinged_at;
ALTER TABLE device DROP COLUMN ping_ms;
ALTER TABLE device DROP COLUMN ping_failed;
"#;
