//! Schedules and the record of their runs.

use muster_store::{Cancel, RUN_LEASE, Schedule, ScheduleMade, Take};
use muster_wire::http::{
    CollectionRequest, MAX_RUNS_KEPT, MAX_SCHEDULES, MissedPolicy, NewCollection, NewSchedule, Overlap, RunOutcome, ScheduleRun, Target,
};
use time::OffsetDateTime;

use crate::harness::*;

fn nightly(name: &str) -> Schedule {
    Schedule {
        id: uuid::Uuid::now_v7(),
        new: NewSchedule {
            name: name.to_owned(),
            cron: "0 1 * * *".to_owned(),
            time_zone: "Europe/Oslo".to_owned(),
            collection: NewCollection::new(CollectionRequest::Ping {}, Target::All {}),
            missed: MissedPolicy::RunLatest,
            overlap: Overlap::Skip,
        },
        created_by: "ada".to_owned(),
        created_at: NOW,
        paused_at: None,
        paused_by: None,
        next_due: Some(NOW),
    }
}

fn at(minutes: u32) -> OffsetDateTime {
    NOW + minutes * MINUTE
}

fn run(due: OffsetDateTime, outcome: RunOutcome) -> ScheduleRun {
    ScheduleRun { due, at: NOW, outcome, collection: None, detail: None }
}

on_both! {
    /// What was asked for comes back, once per name.
    async fn a_schedule_is_kept_under_its_name(db) {
        let made = nightly("nightly");
        assert_eq!(db.store.create_schedule(&made).await.expect("made"), ScheduleMade::New);
        assert_eq!(db.store.create_schedule(&nightly("nightly")).await.expect("answered"), ScheduleMade::NameTaken);
        assert_eq!(db.store.create_schedule(&nightly("a-first")).await.expect("made"), ScheduleMade::New);
        assert_eq!(db.store.schedule("nightly").await.expect("a read"), Some(made.clone()));
        assert_eq!(db.store.schedule("Nightly").await.expect("a read"), None);
        let names: Vec<_> = db.store.schedules().await.expect("a read").into_iter().map(|schedule| schedule.new.name).collect();
        assert_eq!(names, ["a-first", "nightly"]);

        assert!(db.store.pause_schedule(made.id, Some((NOW, "bob"))).await.expect("paused"));
        assert!(!db.store.pause_schedule(made.id, Some((NOW, "eve"))).await.expect("answered"), "it was");
        let paused = db.store.schedule("nightly").await.expect("a read").expect("there");
        assert_eq!((paused.paused_at, paused.paused_by.as_deref()), (Some(NOW), Some("bob")));
        assert!(db.store.pause_schedule(made.id, None).await.expect("resumed"));
        assert!(!db.store.pause_schedule(made.id, None).await.expect("answered"));

        assert!(db.store.delete_schedule(made.id).await.expect("removed"));
        assert!(!db.store.delete_schedule(made.id).await.expect("answered"));
        assert_eq!(db.store.schedule("nightly").await.expect("a read"), None);
    }

    /// Of many controllers one takes a run.
    async fn a_due_run_is_taken_once(db) {
        let made = nightly("nightly");
        db.store.create_schedule(&made).await.expect("made");
        let runs = [run(NOW, RunOutcome::Begun)];
        let take = Take { schedule: made.id, due: NOW, next: Some(at(60)), runs: &runs, now: NOW };
        let (a, b, c) = tokio::join!(db.store.take_due(&take), db.store.take_due(&take), db.store.take_due(&take));
        let taken = [a, b, c].map(|taken| taken.expect("answered"));
        assert_eq!(taken.iter().filter(|taken| **taken).count(), 1, "{taken:?}");
        assert_eq!(db.store.schedule("nightly").await.expect("a read").expect("there").next_due, Some(at(60)));
        assert_eq!(db.store.schedule_runs(made.id, None, 10).await.expect("a read"), runs);
        let gone = Take { schedule: uuid::Uuid::now_v7(), ..take.clone() };
        assert!(!db.store.take_due(&gone).await.expect("answered"));
    }

    /// What a controller began and did not end is ended by another, and what has an end keeps it.
    async fn a_begun_run_is_taken_over(db) {
        let made = nightly("nightly");
        db.store.create_schedule(&made).await.expect("made");
        let runs = [run(NOW, RunOutcome::Begun), run(at(1), RunOutcome::Missed)];
        db.store.take_due(&Take { schedule: made.id, due: NOW, next: Some(at(60)), runs: &runs, now: NOW }).await.expect("taken");
        assert!(db.store.take_begun(NOW + RUN_LEASE - MINUTE / 60).await.expect("a read").is_empty(), "its controller has its time");
        let taken = db.store.take_begun(NOW + RUN_LEASE).await.expect("taken over");
        assert_eq!(taken.iter().map(|(schedule, run)| (schedule.id, run.due)).collect::<Vec<_>>(), [(made.id, NOW)]);
        assert!(db.store.take_begun(NOW + RUN_LEASE).await.expect("a read").is_empty(), "by one");

        let collection = db.collection(1).await;
        let ended = ScheduleRun { at: at(2), outcome: RunOutcome::Made, collection: Some(collection), ..run(NOW, RunOutcome::Made) };
        assert!(db.store.finish_run(made.id, &ended).await.expect("ended"));
        let again = ScheduleRun { outcome: RunOutcome::Refused, ..ended.clone() };
        assert!(!db.store.finish_run(made.id, &again).await.expect("answered"));
        assert_eq!(db.store.schedule_runs(made.id, None, 10).await.expect("a read"), [runs[1].clone(), ended]);
        assert_eq!(db.store.open_run(made.id).await.expect("a read"), Some(collection));
        db.store.cancel_collection(collection, Cancel::All, "ada", NOW).await.expect("cancelled");
        db.store.close_finished(NOW).await.expect("closed");
        assert_eq!(db.store.open_run(made.id).await.expect("a read"), None);
    }

    /// The record is paged, and bounded.
    async fn old_runs_are_forgotten(db) {
        let made = nightly("nightly");
        db.store.create_schedule(&made).await.expect("made");
        let kept = MAX_RUNS_KEPT;
        let runs: Vec<_> = (0..kept).map(|n| run(at(n), RunOutcome::Missed)).collect();
        db.store.take_due(&Take { schedule: made.id, due: NOW, next: None, runs: &runs, now: NOW }).await.expect("taken");
        let all = db.store.schedule_runs(made.id, None, kept).await.expect("a read");
        assert_eq!((all.len() as u32, all.last().map(|run| run.due)), (kept, Some(NOW)), "at the limit all are there");
        assert!(db.store.record_run(made.id, &run(at(kept), RunOutcome::Begun)).await.expect("recorded"));
        assert!(!db.store.record_run(made.id, &run(at(kept), RunOutcome::Begun)).await.expect("answered"), "one of each time");
        let all = db.store.schedule_runs(made.id, None, kept).await.expect("a read");
        assert_eq!((all.first().map(|run| run.due), all.last().map(|run| run.due)), (Some(at(kept)), Some(at(1))), "the oldest is gone");
        db.store.create_schedule(&nightly("never-ran")).await.expect("made");
        let last = db.store.last_runs().await.expect("a read");
        assert_eq!(last.into_iter().map(|(id, run)| (id, run.due)).collect::<Vec<_>>(), [(made.id, at(kept))]);
        let page = db.store.schedule_runs(made.id, Some(at(3)), 10).await.expect("a read");
        assert_eq!(page.iter().map(|run| run.due).collect::<Vec<_>>(), [at(2), at(1)]);
        assert!(!db.store.record_run(uuid::Uuid::now_v7(), &run(NOW, RunOutcome::Begun)).await.expect("answered"), "no such schedule");
    }

    async fn there_is_a_most_of_schedules(db) {
        for n in 0..MAX_SCHEDULES {
            assert_eq!(db.store.create_schedule(&nightly(&format!("n-{n}"))).await.expect("made"), ScheduleMade::New);
        }
        assert_eq!(db.store.create_schedule(&nightly("one-more")).await.expect("answered"), ScheduleMade::TooMany);
    }
}
