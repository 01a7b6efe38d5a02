//! What a device or a client may put into a text, and what it must not break.

use muster_store::{Birth, MAX_CORRELATION_ID_CHARS, MAX_DETAIL_CHARS, StepOutcome};
use muster_wire::TaskState;
use muster_wire::presence::{AgentName, Presence};

use crate::harness::*;

on_both! {
    /// One device with a NUL byte in its words does not fail the batch it shares with others.
    async fn a_nul_byte_spoils_nobody(db) {
        let collection = db.collection(2).await;
        let claimed = db.claim(collection, 2).await;
        let mut bad = step(claimed[0].attempt, TaskState::Failed);
        bad.detail = Some("before\0after".to_owned());
        bad.correlation_id = Some("c\0".to_owned());
        let good = step(claimed[1].attempt, TaskState::Verified);
        assert_eq!(db.store.apply(&[bad, good]).await.expect("applied"), [StepOutcome::Applied, StepOutcome::Applied]);
        let task = db.store.task(collection.task(0)).await.expect("a read").expect("there").task;
        assert_eq!((task.detail.as_deref(), task.correlation_id.as_deref()), (Some("before\u{fffd}after"), Some("c\u{fffd}")));

        let mut presence = birth();
        presence.reported = serde_json::json!({ "a\0b": ["\0", { "c": 1e300 }] });
        presence.agent = Some(AgentName { name: "\0".to_owned(), version: "1\0".to_owned() });
        presence.methods = vec!["\0".to_owned()];
        let births = [
            Birth { device: device(0), presence, at: NOW, retained: false },
            Birth { device: device(1), presence: birth(), at: NOW, retained: false },
        ];
        db.store.record_births(&births).await.expect("recorded");
        let view = db.store.device(&device(0)).await.expect("a read").expect("there");
        assert_eq!(view.reported["a\u{fffd}b"][0], "\u{fffd}");
        assert!(db.store.device(&device(1)).await.expect("a read").is_some());

        let mut new = new_collection(&devices(1));
        new.reason = Some("why\0".to_owned());
        new.created_by = "eve\0".to_owned();
        db.store.create_collection(&new).await.expect("made");
        assert_eq!(db.store.collection(new.id).await.expect("a read").expect("there").reason.as_deref(), Some("why\u{fffd}"));
    }

    /// Texts have an end, and quotes are only quotes.
    async fn long_and_quoted_texts_are_kept_within_bounds(db) {
        let collection = db.collection(1).await;
        let claimed = db.claim(collection, 1).await;
        let mut bad = step(claimed[0].attempt, TaskState::Failed);
        bad.detail = Some(format!("'); DROP TABLE task; -- \"\\ {}", "ä".repeat(10_000)));
        bad.correlation_id = Some("x".repeat(10_000));
        db.store.apply(&[bad.clone()]).await.expect("applied");
        let task = db.store.task(collection.task(0)).await.expect("a read").expect("there").task;
        let detail = task.detail.expect("a detail");
        assert_eq!(detail.chars().count(), MAX_DETAIL_CHARS);
        assert!(bad.detail.expect("ours").starts_with(&detail));
        assert_eq!(task.correlation_id.expect("an id").len(), MAX_CORRELATION_ID_CHARS);
    }

    /// A birth at the edge of every number.
    async fn clocks_from_nowhere_are_numbers(db) {
        let mut presence: Presence = birth();
        presence.clock = Some(time::macros::datetime!(1970-01-01 00:00:00 UTC));
        presence.started = Some(time::macros::datetime!(9999-12-31 23:59:59 UTC));
        db.store.record_births(&[Birth { device: device(0), presence, at: NOW, retained: false }]).await.expect("recorded");
        let view = db.store.device(&device(0)).await.expect("a read").expect("there");
        assert!(view.clock_skew_ms.expect("a skew") < -1_700_000_000_000);
        assert_eq!(view.started.map(|at| at.year()), Some(9999));
    }

    /// What the schema refuses is told from a database that is away: the rows beside it are written without it.
    async fn a_refused_row_is_told_from_a_refusing_database(db) {
        db.sql(match db.store.dialect() {
            muster_store::Dialect::Postgres => "ALTER TABLE device ADD CHECK (id <> 'press-00001')",
            muster_store::Dialect::Sqlite => {
                "CREATE TRIGGER refuse BEFORE INSERT ON device WHEN NEW.id = 'press-00001' BEGIN SELECT RAISE(ABORT, 'refused'); END"
            }
        })
        .await;
        let births: Vec<Birth> = devices(3).into_iter().map(|device| Birth { device, presence: birth(), at: NOW, retained: false }).collect();
        let error = db.store.record_births(&births).await.expect_err("refused by the schema");
        assert!(error.is_about_a_row() && !error.is_transient(), "{error:?}");
        assert!(db.store.device(&device(0)).await.expect("a read").is_none(), "nothing of a refused batch is written");
        for (place, birth) in births.iter().enumerate() {
            assert_eq!(db.store.record_births(std::slice::from_ref(birth)).await.is_ok(), place != 1);
        }

        db.sql("DROP TABLE device_slot").await;
        let collection = db.collection(1).await;
        let mut failed = step(collection.task(0).attempt(1), TaskState::Failed);
        failed.releases_slot = true;
        db.force(collection.task(0), TaskState::Accepted).await;
        let error = db.store.apply(&[failed]).await.expect_err("no such table");
        assert!(!error.is_about_a_row(), "the database is at fault, and no row may be dropped for it: {error:?}");
    }

    /// A row from nowhere is named, not guessed at.
    async fn a_row_that_makes_no_sense_is_an_error(db) {
        let collection = db.collection(2).await;
        db.sql("UPDATE task SET state = 77 WHERE device_id = 'press-00001'").await;
        for error in [
            db.store.task(collection.task(1)).await.expect_err("no such state"),
            db.store.counters(collection).await.expect_err("no such state"),
        ] {
            assert!(matches!(error, muster_store::StoreError::Inconsistent(_)) && error.to_string().contains("77"), "{error}");
        }
    }
}
