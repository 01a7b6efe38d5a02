//! Opening and migrating.

use std::time::Duration;

use muster_store::{SchemaState, Store, StoreError, StoreOptions};

on_both! {
    /// Migrated once, by however many programs at once.
    async fn migrating_is_idempotent_and_may_race(db) {
        assert_eq!(db.store.schema_state().await.expect("read"), SchemaState::Current);
        let racers: Vec<_> = (0..4)
            .map(|_| {
                let store = db.store.clone();
                tokio::spawn(async move { store.migrate().await.expect("nothing to do") })
            })
            .collect();
        for racer in racers {
            assert!(racer.await.expect("no panic").is_empty());
        }
        db.store.ping().await.expect("an answer");
    }

    /// A database of a later version is left alone, and says so.
    async fn a_newer_schema_is_refused(db) {
        db.sql("INSERT INTO seaql_migrations (version, applied_at) VALUES ('m29991231_000001_later', 0)").await;
        assert_eq!(db.store.schema_state().await.expect("read"), SchemaState::Newer { unknown: vec!["m29991231_000001_later".to_owned()] });
        let error = db.store.migrate().await.expect_err("refused");
        assert!(matches!(&error, StoreError::SchemaNewer { .. }) && !error.is_transient());
        assert_eq!(error.to_string(), "the database schema is newer than this program: it has m29991231_000001_later; upgrade this program");
    }

    /// What is missing is named before it is applied.
    async fn a_missing_step_is_pending(db) {
        db.sql("DROP TABLE bundle").await;
        db.sql("DELETE FROM seaql_migrations WHERE version LIKE '%bundles'").await;
        let pending = vec!["m20261121_000003_bundles".to_owned()];
        assert_eq!(db.store.schema_state().await.expect("read"), SchemaState::Behind { pending: pending.clone() });
        assert_eq!(db.store.migrate().await.expect("migrated"), pending);
        assert_eq!(db.store.schema_state().await.expect("read"), SchemaState::Current);
    }
}

/// Steps of the schema.
const STEPS: usize = 9;

#[tokio::test]
async fn a_fresh_database_is_migrated_by_one_of_many() {
    let directory = tempfile::tempdir().expect("a private directory");
    let options = StoreOptions::new(format!("sqlite://{}", directory.path().join("fresh.db").display()));
    let first = Store::connect(&options).await.expect("made");
    assert!(matches!(first.schema_state().await.expect("read"), SchemaState::Behind { pending } if pending.len() == STEPS));
    let second = Store::connect(&options).await.expect("opened");
    let (a, b) = tokio::join!(first.migrate(), second.migrate());
    assert_eq!(a.expect("migrated").len() + b.expect("migrated").len(), STEPS);
}

#[tokio::test]
async fn nobody_there_is_told_with_place_and_next_step_and_without_password() {
    let mut options = StoreOptions::new("postgres://eve:tops3cret@127.0.0.1:1/muster");
    options.connect_timeout = Duration::from_secs(5);
    let error = Store::connect(&options).await.expect_err("nobody listens on port 1");
    assert!(error.is_transient());
    let text = format!("{error} {error:?} {options:?}");
    assert!(text.contains("127.0.0.1:1/muster") && text.contains("check that PostgreSQL runs"), "{text}");
    assert!(!text.contains("tops3cret"), "{text}");

    let server = std::env::var("MUSTER_TEST_POSTGRES").unwrap_or_else(|_| "postgres://root@127.0.0.1:5432/postgres".to_owned());
    let (stem, _) = server.rsplit_once('/').expect("postgres://…/database");
    let error = Store::connect(&StoreOptions::new(format!("{stem}/no_such_database"))).await.expect_err("no such database");
    assert!(error.to_string().contains("does not exist"), "{error}");

    let error = Store::connect(&StoreOptions::new("sqlite:///no/such/directory/muster.db")).await.expect_err("no directory");
    assert!(error.to_string().contains("/no/such/directory/muster.db; check that its directory exists"), "{error}");
    for misuse in ["mysql://u:tops3cret@h/d", "muster.db", "", "sqlite::memory:", "postgres://[:tops3cret"] {
        let error = Store::connect(&StoreOptions::new(misuse)).await.expect_err("refused");
        assert!(matches!(error, StoreError::Misuse(_)), "{misuse}: {error}");
        assert!(!format!("{error:?}").contains("tops3cret"));
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_told() {
    let directory = tempfile::tempdir().expect("a private directory");
    let path = directory.path().join("notes.txt");
    std::fs::write(&path, "buy milk\n".repeat(1000)).expect("written");
    let error = Store::connect(&StoreOptions::new(format!("sqlite://{}", path.display()))).await.expect_err("not a database");
    assert!(error.to_string().contains("notes.txt"), "{error}");
}
