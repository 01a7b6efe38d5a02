//! One module per step.

pub(crate) mod m20261121_000001_work;
pub(crate) mod m20261121_000002_devices;
pub(crate) mod m20261121_000003_bundles;
pub(crate) mod m20261125_000004_registry;
pub(crate) mod m20261125_000005_fleet;
pub(crate) mod m20261125_000006_schedules;
pub(crate) mod m20261125_000007_device_event;
pub(crate) mod m20261128_000008_consent;
pub(crate) mod m20261128_000009_alerts;

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::{ConnectionTrait, DbBackend};

/// Runs the text written for the database at hand.
async fn run(manager: &SchemaManager<'_>, postgres: &str, sqlite: &str) -> Result<(), DbErr> {
    let sql = match manager.get_database_backend() {
        DbBackend::Postgres => postgres,
        DbBackend::Sqlite => sqlite,
        other => return Err(DbErr::Custom(format!("Muster keeps its data in Postgres or SQLite, not in {other:?}"))),
    };
    manager.get_connection().execute_unprepared(sql).await.map(|_| ())
}
