//! What people did to devices of the registry.

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
        const DROP: &str = "DROP TABLE device_event;";
        super::run(manager, DROP, DROP).await
    }
}

// An id begins with the moment, so what is old enough to be deleted is the beginning of the primary key.
const POSTGRES: &str = r#"
CREATE TABLE device_event (
    id uuid PRIMARY KEY,
    device_id text COLLATE "C" NOT NULL,
    at bigint NOT NULL,
    who text NOT NULL,
    what text NOT NULL,
    detail text
);
CREATE INDEX device_event_of ON device_event (device_id, id);
"#;

const SQLITE: &str = r#"
CREATE TABLE device_event (
    id BLOB NOT NULL PRIMARY KEY,
    device_id TEXT NOT NULL,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    what TEXT NOT NULL,
    detail TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX device_event_of ON device_event (device_id, id);
"#;
