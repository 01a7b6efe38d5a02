//! The schema of Muster, step by step, for Postgres and SQLite.
//!
//! Rules for a new step: add a file, never edit one that was released; only add (tables, columns with a default, indexes), because the
//! program of the version before is still running while the step is applied; write the SQL of both databases here and import no entity.
//!
//! Shared choices of all tables:
//! * Times are whole milliseconds since 1970 in UTC (`bigint`): the same number in both databases, ordered, without time zones.
//! * Ids of collections, tasks and attempts are one 16-byte value (`uuid`, a blob in SQLite); a collection is a range of task ids, so
//!   nothing needs a second index to find the tasks of a collection.
//! * JSON that SQL never looks into is text. What conditions may look into later (`reported`, `tags`) is `jsonb` in Postgres.

pub use sea_orm_migration::MigratorTrait;
use sea_orm_migration::prelude::*;

mod steps;

/// All steps, oldest first.
pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(steps::m20261121_000001_work::Migration),
            Box::new(steps::m20261121_000002_devices::Migration),
            Box::new(steps::m20261121_000003_bundles::Migration),
            Box::new(steps::m20261125_000004_registry::Migration),
            Box::new(steps::m20261125_000005_fleet::Migration),
            Box::new(steps::m20261125_000006_schedules::Migration),
            Box::new(steps::m20261125_000007_device_event::Migration),
            Box::new(steps::m20261128_000008_consent::Migration),
            Box::new(steps::m20261128_000009_alerts::Migration),
        ]
    }
}

/// Names of all steps, oldest first, as the database records them.
pub fn names() -> Vec<String> {
    Migrator::migrations().iter().map(|step| step.name().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_sorted() {
        let names = names();
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "{names:?}");
    }
}
