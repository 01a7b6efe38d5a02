//! Expiry, cancellation, closing, running again.

use muster_store::{Cancel, Cancelled, Reran, Rerun, RerunLimits, StepOutcome};
use muster_wire::http::CollectionState;
use muster_wire::{CollectionId, Reason, TaskState};

use crate::harness::*;

on_both! {
    /// Time is over: what is not uploaded expires, and says whether the device was away.
    async fn expiry_says_why(db) {
        let collection = db.collection(8).await;
        let other = db.collection(1).await;
        db.store.record_offline(&[(device(0), NOW), (device(2), NOW)]).await.expect("recorded");
        for (n, state) in [TaskState::Queued, TaskState::Queued, TaskState::Dispatched, TaskState::Accepted, TaskState::Uploaded, TaskState::Verified, TaskState::Failed, TaskState::Skipped]
            .into_iter()
            .enumerate()
        {
            db.force(collection.task(n as u32), state).await;
        }
        assert_eq!(db.store.expire(&[collection], NOW + 60 * MINUTE).await.expect("expired"), 4);
        let reason = async |n: u32| {
            let task = db.store.task(collection.task(n)).await.expect("a read").expect("there").task;
            (task.state, task.reason)
        };
        assert_eq!(reason(0).await, (TaskState::Expired, Some(Reason::DeviceOffline)));
        assert_eq!(reason(1).await, (TaskState::Expired, Some(Reason::DeadlinePassed)));
        assert_eq!(reason(2).await, (TaskState::Expired, Some(Reason::DeadlinePassed)), "it was sent");
        assert_eq!(reason(3).await, (TaskState::Expired, Some(Reason::DeadlinePassed)));
        assert_eq!(reason(4).await.0, TaskState::Uploaded, "left to be judged");
        assert_eq!(db.state(other.task(0)).await, TaskState::Queued, "nobody else's");
        assert_eq!(db.store.expire(&[collection], NOW + 60 * MINUTE).await.expect("again"), 0);
    }

    /// Cancelled is cancelled: nothing can be claimed, answered or sealed afterwards.
    async fn cancelling_ends_everything_open(db) {
        let collection = db.collection(4).await;
        let claimed = db.claim(collection, 2).await;
        db.store.apply(&[step(claimed[0].attempt, TaskState::Verified)]).await.expect("applied");
        assert_eq!(db.store.cancel_collection(collection, Cancel::All, "ada", NOW).await.expect("cancelled"), Cancelled::Done { tasks: 3 });
        assert_eq!(db.store.cancel_collection(collection, Cancel::All, "ada", NOW).await.expect("answered"), Cancelled::Already);
        assert_eq!(db.store.cancel_collection(CollectionId::new(), Cancel::All, "ada", NOW).await.expect("answered"), Cancelled::Unknown);
        assert!(db.claim(collection, 9).await.is_empty());
        let late = db.store.apply(&[step(claimed[1].attempt, TaskState::Accepted)]).await.expect("answered");
        assert_eq!(late, [StepOutcome::Superseded { state: TaskState::Cancelled, attempt: 1 }]);
        let view = db.store.collection_view(collection).await.expect("a read").expect("there");
        assert_eq!((view.state, view.counters.cancelled, view.counters.verified), (CollectionState::Cancelled, 3, 1));
        assert_eq!(view.reasons.get(&Reason::CancelledByUser), Some(&3));
        let done = db.collection(0).await;
        db.store.close_finished(NOW).await.expect("closed");
        assert_eq!(db.store.cancel_collection(done, Cancel::All, "ada", NOW).await.expect("answered"), Cancelled::Finished);
    }

    /// Many at once: each keeps its own numbers, and what of them may still have an open inbox is known.
    async fn many_collections_close_together(db) {
        let mut ids = Vec::new();
        for n in 0..20_usize {
            ids.push(db.collection(n % 4).await);
        }
        let open = db.collection(1).await;
        let states = [TaskState::Verified, TaskState::Failed, TaskState::Expired];
        for (n, id) in ids.iter().enumerate() {
            for place in 0..n % 4 {
                db.force(id.task(place as u32), states[(n + place) % 3]).await;
            }
        }
        let mut abandoned = db.store.abandoned_attempts(&ids).await.expect("read");
        abandoned.sort_unstable();
        let expected = ids.iter().enumerate().flat_map(|(n, id)| (0..n % 4).filter(move |place| !(n + place).is_multiple_of(3)).map(|place| id.task(place as u32).attempt(1)));
        let mut expected: Vec<_> = expected.collect();
        expected.sort_unstable();
        assert_eq!(abandoned, expected);

        let mut closed = db.store.close_finished(NOW).await.expect("closed");
        closed.sort_unstable();
        let mut all = ids.clone();
        all.sort_unstable();
        assert_eq!(closed, all);
        assert_eq!(db.store.open_collections().await.expect("a read").iter().map(|c| c.id).collect::<Vec<_>>(), [open]);
        for (n, id) in ids.iter().enumerate() {
            let counters = db.store.counters(*id).await.expect("counted").expect("there");
            let count = |state| (0..n % 4).filter(|place| states[(n + place) % 3] == state).count() as u64;
            assert_eq!((counters.targeted, counters.verified), (n as u64 % 4, count(TaskState::Verified)), "{n}");
            assert_eq!((counters.failed, counters.expired), (count(TaskState::Failed), count(TaskState::Expired)), "{n}");
        }
    }

    /// What is open is listed with what can have changed; the rest is read by id.
    async fn what_changed_of_an_open_collection_shows_in_its_stamp(db) {
        let (first, second, done) = (db.collection(1).await, db.collection(2).await, db.collection(0).await);
        db.store.close_finished(NOW).await.expect("closed");
        let stamps = async || db.store.open_stamps().await.expect("listed").into_iter().collect::<std::collections::BTreeMap<_, _>>();
        let read = async || {
            let rows = db.store.open_collections_of(&[first, second, done, CollectionId::new()]).await.expect("read");
            rows.iter().map(|row| (row.id, row.stamp())).collect::<std::collections::BTreeMap<_, _>>()
        };
        let before = stamps().await;
        assert_eq!(before.len(), 2);
        assert_eq!(before, read().await, "a row and its stamp agree");
        db.store.pause(first, "ada", "wait", NOW).await.expect("paused");
        let paused = stamps().await;
        assert_eq!((paused[&first] == before[&first], paused[&second] == before[&second]), (false, true));
        db.store.resume(first, "ada", NOW).await.expect("resumed");
        assert_eq!(stamps().await, before);
        db.store.cancel_collection(second, Cancel::All, "ada", NOW).await.expect("cancelled");
        let cancelled = stamps().await;
        assert!(cancelled[&second] != before[&second]);
        let limits = RerunLimits { max_attempts: Some(9), ..RerunLimits::default() };
        let rerun = Rerun { collection: second, who: "ada", reasons: &[Reason::CancelledByUser], expires_at: NOW + 99 * MINUTE, limits, now: NOW };
        db.store.rerun(&rerun).await.expect("run again");
        assert!(stamps().await[&second] != before[&second]);
        assert_eq!(stamps().await, read().await);
    }

    /// A collection closes when its last task is final, once, and keeps its numbers.
    async fn a_collection_closes_with_its_last_task(db) {
        let open = db.collection(2).await;
        let collection = db.collection(2).await;
        let claimed = db.claim(collection, 2).await;
        db.store.apply(&[step(claimed[0].attempt, TaskState::Verified)]).await.expect("applied");
        assert!(db.store.close_finished(NOW).await.expect("looked").is_empty());
        db.store.apply(&[step(claimed[1].attempt, TaskState::Failed).because(Reason::NoAnswer)]).await.expect("applied");
        assert_eq!(db.store.close_finished(NOW + MINUTE).await.expect("closed"), [collection]);
        assert!(db.store.close_finished(NOW + MINUTE).await.expect("looked").is_empty());
        assert_eq!(db.store.open_collections().await.expect("a read").iter().map(|c| c.id).collect::<Vec<_>>(), [open]);
        let view = db.store.collection_view(collection).await.expect("a read").expect("there");
        assert_eq!((view.state, view.finished_at), (CollectionState::Finished, Some(NOW + MINUTE)));
        assert_eq!((view.counters.verified, view.counters.failed, view.counters.sum()), (1, 1, 2));
        assert_eq!(view.reasons.into_iter().collect::<Vec<_>>(), [(Reason::Collected, 1), (Reason::NoAnswer, 1)]);
    }

    /// Run again: what failed is queued, its attempts stay as history, the collection is open and allows as many attempts again.
    async fn failed_tasks_run_again(db) {
        let mut new = new_collection(&devices(6));
        new.tasks[5].skip = Some(Reason::DeviceUnknown);
        db.store.create_collection(&new).await.expect("made");
        let claimed = db.claim(new.id, 4).await;
        let end = |n: usize, to, reason| step(claimed[n].attempt, to).because(reason);
        db.store
            .apply(&[
                end(0, TaskState::Verified, Reason::Collected),
                end(1, TaskState::Failed, Reason::UploadDamaged),
                end(2, TaskState::Refused, Reason::RequestRefused),
                end(3, TaskState::Failed, Reason::NoAnswer),
            ])
            .await
            .expect("applied");
        db.store.expire(&[new.id], NOW).await.expect("expired");
        db.store.close_finished(NOW).await.expect("closed");

        let rerun = |reasons: &'static [Reason]| Rerun { collection: new.id, who: "bob", reasons, expires_at: NOW + 120 * MINUTE, limits: RerunLimits::default(), now: NOW + MINUTE };
        assert_eq!(db.store.rerun(&rerun(&[Reason::SasExpired])).await.expect("answered"), Reran::Done { tasks: 0 });
        assert!(db.store.open_collections().await.expect("a read").is_empty(), "nothing to run, nothing changed");
        assert_eq!(db.store.rerun(&rerun(&[Reason::NoAnswer])).await.expect("rerun"), Reran::Done { tasks: 1 });
        assert_eq!(db.store.rerun(&rerun(&[])).await.expect("rerun"), Reran::Done { tasks: 3 });
        assert_eq!(db.store.rerun(&rerun(&[Reason::DeviceUnknown])).await.expect("rerun"), Reran::Done { tasks: 1 });
        let gone = Rerun { collection: CollectionId::new(), ..rerun(&[]) };
        assert_eq!(db.store.rerun(&gone).await.expect("answered"), Reran::Unknown);

        let read = db.store.collection(new.id).await.expect("a read").expect("there");
        assert_eq!((read.state(), read.expires_at, read.attempt_limit), (CollectionState::Running, NOW + 120 * MINUTE, 4));
        let counters = db.store.counters(new.id).await.expect("counted").expect("there");
        assert_eq!((counters.queued, counters.verified, counters.sum()), (5, 1, 6));
        let failed = db.store.task(new.id.task(1)).await.expect("a read").expect("there");
        assert_eq!((failed.task.state, failed.task.reason, failed.task.finished_at), (TaskState::Queued, Some(Reason::UploadDamaged), None));
        assert_eq!((failed.attempts.len(), failed.attempts[0].state, failed.attempts[0].id), (1, TaskState::Failed, claimed[1].attempt));
        let never_sent = db.store.task(new.id.task(4)).await.expect("a read").expect("there");
        assert!(never_sent.attempts.is_empty());
        let numbers: Vec<u8> = db.claim(new.id, 10).await.iter().map(|task| task.attempt.number()).collect();
        assert_eq!(numbers, [2, 2, 2, 1, 1]);
        let what: Vec<String> = db.store.collection_events(new.id).await.expect("a read").into_iter().map(|event| event.what).collect();
        assert_eq!(what, ["created", "rerun", "rerun", "rerun"]);
    }

    /// The request stays what it was; limits may change, and hold from then on.
    async fn a_rerun_may_change_limits(db) {
        let collection = db.collection(2).await;
        let claimed = db.claim(collection, 2).await;
        let steps: Vec<_> = claimed.iter().map(|task| step(task.attempt, TaskState::Failed).because(Reason::NoAnswer)).collect();
        db.store.apply(&steps).await.expect("applied");
        let before = db.store.collection(collection).await.expect("a read").expect("there");
        let limits = RerunLimits { attempt_timeout: Some(30 * MINUTE), max_attempts: Some(7), in_flight: Some(5) };
        let rerun = Rerun { collection, who: "bob", reasons: &[], expires_at: NOW, limits, now: NOW };
        let nothing = Rerun { reasons: &[Reason::SasExpired], ..rerun.clone() };
        assert_eq!(db.store.rerun(&nothing).await.expect("answered"), Reran::Done { tasks: 0 });
        assert_eq!(db.store.collection(collection).await.expect("a read").expect("there").attempt_timeout, MINUTE, "nothing to run, nothing changed");
        assert_eq!(db.store.rerun(&rerun).await.expect("rerun"), Reran::Done { tasks: 2 });
        let after = db.store.collection(collection).await.expect("a read").expect("there");
        assert_eq!((after.attempt_timeout, after.attempt_limit, after.in_flight), (30 * MINUTE, 8, Some(5)));
        assert_eq!((after.request, after.expires_at), (before.request, before.expires_at));
    }

    /// Closing and running again at the same moment never leaves queued tasks in a closed collection.
    async fn closing_never_overtakes_a_rerun(db) {
        for _ in 0..15 {
            let collection = db.collection(3).await;
            let claimed = db.claim(collection, 3).await;
            let steps: Vec<_> = claimed.iter().map(|task| step(task.attempt, TaskState::Failed)).collect();
            db.store.apply(&steps).await.expect("applied");
            let (closer, rerunner) = (db.store.clone(), db.store.clone());
            let closing = tokio::spawn(async move { closer.close_finished(NOW).await.expect("closed") });
            let rerunning = tokio::spawn(async move {
                let rerun = Rerun { collection, who: "bob", reasons: &[], expires_at: NOW, limits: RerunLimits::default(), now: NOW };
                rerunner.rerun(&rerun).await.expect("rerun")
            });
            closing.await.expect("no panic");
            assert_eq!(rerunning.await.expect("no panic"), Reran::Done { tasks: 3 });
            assert!(db.store.open_collections().await.expect("a read").iter().any(|open| open.id == collection));
        }
    }
}

/// What it costs to end many collections together is a few looks at each, also when the server planned it while the tables were empty.
#[tokio::test]
async fn ending_many_collections_reads_each_a_fixed_number_of_times() {
    const COLLECTIONS: usize = 600;
    for (what, table) in [("closing", "collection"), ("closing", "task"), ("expiring", "task"), ("abandoned", "task")] {
        on_postgres(move |db| async move {
            let end = async |ids: Vec<CollectionId>| match what {
                "closing" => db.store.close_finished(NOW).await.expect("closed").len(),
                "expiring" => usize::try_from(db.store.expire(&ids, NOW).await.expect("expired")).expect("small"),
                _ => db.store.abandoned_attempts(&ids).await.expect("read").len(),
            };
            end(vec![db.collection(0).await]).await;
            let mut ids = Vec::new();
            for n in 0..COLLECTIONS {
                let new = new_collection(&[device(n)]);
                db.store.create_collection(&new).await.expect("a collection");
                ids.push(new.id);
            }
            let state = if what == "expiring" { TaskState::Dispatched } else { TaskState::Failed };
            db.sql(&format!("UPDATE task SET state = {}, attempt = 1", state.code())).await;
            let reads = format!("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = '{table}'");
            assert_eq!(end(ids).await, COLLECTIONS);
            let read = usize::try_from(db.statistic(&reads).await).expect("a count");
            assert!(read < 8 * COLLECTIONS, "{what}: {read} rows of {table} were read for {COLLECTIONS} collections");
        })
        .await;
    }
}
