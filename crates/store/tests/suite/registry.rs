//! What people say of devices, on both databases.

use muster_domain::tags::MAX_TAGS_BYTES;
use muster_store::{DeviceEntry, Entered, Forgotten, MAX_ENTRIES};
use muster_wire::{Reason, TaskState};
use serde_json::{Value, json};

use crate::harness::*;

fn entry(n: usize, tags: Value) -> DeviceEntry {
    DeviceEntry { device: device(n), tags: Some(tags), parent: None }
}

on_both! {
    /// New, changed, unchanged and refused are told apart, and a preview says the same and writes nothing.
    async fn entries_are_laid_over_what_is_there(db) {
        db.store.record_births(&[muster_store::Birth { device: device(0), presence: birth(), at: NOW, retained: false }]).await.expect("born");
        let first = [entry(1, json!({"site": "oslo", "line": {"no": 4, "old": true}})), entry(0, json!({"site": "bergen"})), DeviceEntry { device: device(2), tags: None, parent: Some(Some(device(0))) }];
        assert_eq!(db.store.preview_devices(&first).await.expect("a look"), [Entered::New, Entered::Changed, Entered::New]);
        assert!(db.store.device(&device(1)).await.expect("a read").is_none(), "a preview writes nothing");
        assert_eq!(db.store.enter_devices(&first, "ada", NOW).await.expect("entered"), [Entered::New, Entered::Changed, Entered::New]);
        assert_eq!(db.store.enter_devices(&first, "ada", NOW).await.expect("entered"), vec![Entered::Unchanged; 3]);
        let seen = async |n| db.store.device(&device(n)).await.expect("a read").expect("there");
        assert_eq!(seen(0).await.reported, json!({"os": "linux"}), "what the device says is its own");
        assert_eq!(seen(2).await.parent, Some(device(0)));
        assert_eq!(db.store.children(&device(0), 10).await.expect("read"), [device(2)]);

        let patch = [
            entry(1, json!({"line": {"old": null, "no": 5}, "ж'\"": "a'b\"c"})),
            DeviceEntry { device: device(2), tags: None, parent: Some(None) },
            entry(9, json!({"site": "x"})),
        ];
        assert_eq!(db.store.change_devices(&patch, "ada", NOW).await.expect("changed"), [Entered::Changed, Entered::Changed, Entered::Unknown]);
        assert_eq!(seen(1).await.tags, json!({"site": "oslo", "line": {"no": 5}, "ж'\"": "a'b\"c"}));
        assert_eq!(seen(2).await.parent, None);
        assert!(db.store.device(&device(9)).await.expect("a read").is_none());
        // A birth leaves what people said alone.
        db.store.record_births(&[muster_store::Birth { device: device(1), presence: birth(), at: NOW, retained: false }]).await.expect("born");
        assert_eq!(seen(1).await.tags["line"]["no"], 5);
    }

    /// Each change fits and both together do not: it is the sum that is bounded.
    async fn tags_do_not_grow_without_end(db) {
        let half = "x".repeat(MAX_TAGS_BYTES / 2);
        assert_eq!(db.store.enter_devices(&[entry(0, json!({"a": half}))], "ada", NOW).await.expect("entered"), [Entered::New]);
        let more = [entry(1, json!({"c": 1})), entry(0, json!({"b": half}))];
        let refused = db.store.enter_all_devices(&more, "ada", NOW).await.expect("judged");
        assert!(matches!(refused[1], Entered::Refused(_)), "{refused:?}");
        assert!(db.store.device(&device(1)).await.expect("a read").is_none(), "all or none");
        let entered = db.store.enter_devices(&more, "ada", NOW).await.expect("entered");
        assert_eq!((&entered[0], matches!(entered[1], Entered::Refused(_))), (&Entered::New, true));
    }

    /// Two people tag the same devices, in opposite orders: both are heard.
    async fn two_writers_lose_nothing(db) {
        let writers: Vec<_> = (0..2)
            .map(|n: usize| {
                let store = db.store.clone();
                tokio::spawn(async move {
                    for round in 0..10 {
                        let mut entries: Vec<_> = (0..MAX_ENTRIES / 4).map(|i| entry(i, json!({format!("w{n}"): round}))).collect();
                        if n == 1 {
                            entries.reverse();
                        }
                        store.enter_devices(&entries, "ada", NOW).await.expect("entered");
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.expect("no panic");
        }
        for n in [0, MAX_ENTRIES / 4 - 1] {
            assert_eq!(db.store.device(&device(n)).await.expect("a read").expect("there").tags, json!({"w0": 9, "w1": 9}));
        }
    }

    /// Answered pings say how long it took, unanswered ones count up, and presence stays what it was.
    async fn pings_are_measured_apart_from_presence(db) {
        db.store.enter_devices(&[entry(0, json!({})), entry(1, json!({}))], "ada", NOW).await.expect("entered");
        let ping = async |to: TaskState, reason, after| {
            let collection = db.collection(2).await;
            let claimed = db.claim(collection, 2).await;
            let steps: Vec<_> = claimed.iter().map(|task| muster_store::Step::new(task.attempt, to, NOW + after).because(reason)).collect();
            db.store.apply(&steps).await.expect("applied");
            let tasks: Vec<_> = claimed.iter().map(|task| task.attempt.task()).collect();
            db.store.record_pings(&tasks).await.expect("recorded");
            db.store.device(&device(1)).await.expect("a read").expect("there")
        };
        let millis = std::time::Duration::from_millis;
        let view = ping(TaskState::Verified, Reason::Answered, millis(120)).await;
        let measured = view.ping.expect("pinged");
        assert_eq!((measured.round_trip_ms, measured.failed_in_a_row, measured.at), (Some(120), 0, NOW + millis(120)));
        assert_eq!(view.presence, muster_wire::http::PresenceState::Unknown, "a note beside presence");
        ping(TaskState::Failed, Reason::NoAnswer, millis(10_000)).await;
        let measured = ping(TaskState::Failed, Reason::NoAnswer, millis(20_000)).await.ping.expect("pinged");
        assert_eq!((measured.round_trip_ms, measured.failed_in_a_row), (None, 2));
        let measured = ping(TaskState::Verified, Reason::Answered, millis(30_000)).await.ping.expect("pinged");
        assert_eq!((measured.round_trip_ms, measured.failed_in_a_row), (Some(30_000), 0));
    }

    /// Only who has nothing to do is forgotten.
    async fn a_device_is_forgotten_when_nothing_is_open(db) {
        assert_eq!(db.store.forget_device(&device(0), "ada", NOW).await.expect("asked"), Forgotten::Unknown);
        db.store.enter_devices(&[entry(0, json!({}))], "ada", NOW).await.expect("entered");
        let collection = db.collection(1).await;
        let busy = db.store.forget_device(&device(0), "ada", NOW).await.expect("asked");
        assert!(matches!(busy, Forgotten::Busy(task) if task.collection() == collection), "{busy:?}");
        db.store.cancel_collection(collection, muster_store::Cancel::All, "ada", NOW).await.expect("cancelled");
        assert_eq!(db.store.forget_device(&device(0), "ada", NOW).await.expect("asked"), Forgotten::Done);
        assert!(db.store.device(&device(0)).await.expect("a read").is_none());
        assert_eq!(db.store.device_tasks(&device(0), 10).await.expect("read").len(), 1, "what it did stays");
    }
}
