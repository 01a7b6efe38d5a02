//! Sealed bundles: at most one per task.

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
        const DROP: &str = "DROP TABLE bundle;";
        super::run(manager, DROP, DROP).await
    }
}

const POSTGRES: &str = r#"
CREATE TABLE bundle (
    task_id uuid PRIMARY KEY,
    attempt smallint NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    verdict text NOT NULL,
    size_bytes bigint NOT NULL,
    objects bigint NOT NULL,
    manifest_sha256 text NOT NULL,
    manifest text NOT NULL,
    location text NOT NULL,
    sealed_at bigint NOT NULL
);
CREATE INDEX bundle_device ON bundle (device_id, task_id);
"#;

const SQLITE: &str = r#"
CREATE TABLE bundle (
    task_id BLOB NOT NULL PRIMARY KEY,
    attempt INTEGER NOT NULL,
    device_id TEXT NOT NULL,
    verdict TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    objects INTEGER NOT NULL,
    manifest_sha256 TEXT NOT NULL,
    manifest TEXT NOT NULL,
    location TEXT NOT NULL,
    sealed_at INTEGER NOT NULL
) STRICT;
CREATE INDEX bundle_device ON bundle (device_id, task_id);
"#;
