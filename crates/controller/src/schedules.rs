//! Schedules: making them, and the loop that makes their collections.
//!
//! Every controller looks; the one whose update takes a due run begins it. The collection is made under a key that names the schedule and
//! the time it was due, so a run that two controllers finish, because the first seemed dead, makes one collection.

use std::time::Duration;

use http::StatusCode;
use muster_domain::calendar::{Calendar, due};
use muster_store::{Schedule, ScheduleMade, StoreError, Take};
use muster_wire::http::{
    MAX_SCHEDULE_NAME_CHARS, MAX_SCHEDULES, NewCollection, NewSchedule, Origin, Overlap, RunOutcome, ScheduleRun, ScheduleView,
};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::api::Api;
use crate::api::problem::{ApiError, ApiResult, Chain};
use crate::collections;
use crate::settle::{Faults, add_calendar, settle};

/// Longest time between two looks: so late may a schedule run that was made on another controller.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(1);
/// Shortest time between two looks.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(200);

/// Makes a schedule.
pub(crate) async fn create(api: &Api, caller: &str, new: NewSchedule) -> ApiResult<(ScheduleView, Vec<String>)> {
    let now = OffsetDateTime::now_utc();
    let mut faults = Faults::default();
    check_name(&mut faults, &new.name);
    let calendar = match Calendar::parse(&new.cron, &new.time_zone) {
        Ok(calendar) => Some(calendar),
        Err(error) => {
            add_calendar(&mut faults, "", &error);
            None
        }
    };
    // What cannot be made now cannot be made at night.
    let warnings = match settle(&new.collection, &api.settings.dispatch, now) {
        Ok(settled) => settled.warnings,
        Err(problem) => {
            for error in problem.errors {
                faults.add(format!("collection.{}", error.field), error.message);
            }
            Vec::new()
        }
    };
    faults.into_problem("invalid_schedule", "The schedule cannot be made like this").map_err(|problem| ApiError::from(*problem))?;
    let schedule = Schedule {
        id: Uuid::now_v7(),
        next_due: calendar.and_then(|calendar| calendar.next_after(now)),
        new,
        created_by: caller.to_owned(),
        created_at: now,
        paused_at: None,
        paused_by: None,
    };
    match api.store.create_schedule(&schedule).await? {
        ScheduleMade::New => {
            tracing::info!(schedule = schedule.new.name, cron = schedule.new.cron, by = caller, "a schedule was made");
            Ok((view(schedule, None, now), warnings))
        }
        ScheduleMade::NameTaken => Err(ApiError::new(
            StatusCode::CONFLICT,
            "schedule_exists",
            "There is such a schedule",
            format!("there is a schedule {:?} already", schedule.new.name),
        )
        .next_step("take another name, or delete that schedule first")),
        ScheduleMade::TooMany => Err(ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "too_many_schedules",
            "Too many schedules",
            format!("there are {MAX_SCHEDULES} schedules, the most there can be"),
        )
        .next_step("delete one that is no longer needed")),
    }
}

fn check_name(faults: &mut Faults, name: &str) {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let length = name.chars().count();
    if !(1..=MAX_SCHEDULE_NAME_CHARS).contains(&length) {
        faults.add("name", format!("has {length} characters; a name has 1 to {MAX_SCHEDULE_NAME_CHARS}"));
    } else if !name.chars().all(legal) || name.starts_with('.') {
        faults.add("name", "is not a name: it has letters, digits, - and _, and dots inside");
    }
}

/// A schedule by its name.
pub(crate) async fn find(api: &Api, name: &str) -> ApiResult<Schedule> {
    api.store.schedule(name).await?.ok_or_else(|| {
        let shown: String = name.chars().take(MAX_SCHEDULE_NAME_CHARS).collect();
        ApiError::not_found("schedule_not_found", "No such schedule", format!("there is no schedule {shown:?}"))
            .next_step("muster schedules list shows those there are")
    })
}

/// A page of schedules, sorted by name, each with its last run.
pub(crate) async fn list(api: &Api, after: Option<&str>, limit: usize) -> ApiResult<Vec<ScheduleView>> {
    let all = api.store.schedules().await?;
    let mut last_runs = api.store.last_runs().await?;
    let now = OffsetDateTime::now_utc();
    let wanted = all.into_iter().filter(|schedule| after.is_none_or(|after| schedule.new.name.as_str() > after)).take(limit);
    Ok(wanted
        .map(|schedule| {
            let last_run = last_runs.remove(&schedule.id);
            view(schedule, last_run, now)
        })
        .collect())
}

/// A schedule as it is shown, with its last run.
pub(crate) async fn show(api: &Api, schedule: Schedule) -> ApiResult<ScheduleView> {
    let last = api.store.schedule_runs(schedule.id, None, 1).await?.pop();
    Ok(view(schedule, last, OffsetDateTime::now_utc()))
}

fn view(schedule: Schedule, last_run: Option<ScheduleRun>, now: OffsetDateTime) -> ScheduleView {
    let coming = match Calendar::parse(&schedule.new.cron, &schedule.new.time_zone) {
        Ok(calendar) if schedule.paused_at.is_none() => calendar.coming_words(now),
        _ => String::new(),
    };
    ScheduleView {
        name: schedule.new.name,
        cron: schedule.new.cron,
        time_zone: schedule.new.time_zone,
        collection: schedule.new.collection,
        missed: schedule.new.missed,
        overlap: schedule.new.overlap,
        created_by: schedule.created_by,
        created_at: schedule.created_at,
        paused_at: schedule.paused_at,
        paused_by: schedule.paused_by,
        next_due: schedule.next_due,
        coming,
        last_run,
    }
}

/// Runs a schedule now, beside its times, also one that is paused.
pub(crate) async fn run_now(api: &Api, caller: &str, name: &str) -> ApiResult<ScheduleRun> {
    let schedule = find(api, name).await?;
    let now = OffsetDateTime::now_utc();
    // To the millisecond, as the database keeps it: the time is part of the key.
    let now = now.replace_nanosecond(now.nanosecond() / 1_000_000 * 1_000_000).unwrap_or(now);
    let begun = begun(now, now, Some(format!("asked for by {caller}")));
    if !api.store.record_run(schedule.id, &begun).await? {
        return Err(ApiError::new(StatusCode::CONFLICT, "schedule_is_running", "It runs", "the schedule was started in this very moment")
            .next_step("muster schedules runs shows it"));
    }
    let ended = make(api, &schedule, &begun).await?;
    api.store.finish_run(schedule.id, &ended).await?;
    Ok(ended)
}

fn begun(due: OffsetDateTime, now: OffsetDateTime, detail: Option<String>) -> ScheduleRun {
    ScheduleRun { due, at: now, outcome: RunOutcome::Begun, collection: None, detail }
}

/// Makes the collection of a run. What is refused is an outcome; what failed on our side is an error, and is tried again.
async fn make(api: &Api, schedule: &Schedule, begun: &ScheduleRun) -> ApiResult<ScheduleRun> {
    let now = OffsetDateTime::now_utc();
    if schedule.new.overlap == Overlap::Skip
        && let Some(open) = api.store.open_run(schedule.id).await?
    {
        let detail = Some(format!("{open}, the collection of the run before, is still open"));
        return Ok(ScheduleRun { at: now, outcome: RunOutcome::Overlapped, detail, ..begun.clone() });
    }
    let key = format!("schedule:{}:{}", schedule.id.simple(), begun.due.unix_timestamp_nanos() / 1_000_000);
    let who = format!("schedule {}", schedule.new.name);
    // Whoever made the schedule meant what it says; at night nobody is there to confirm it.
    let new = NewCollection { confirmed: true, ..schedule.new.collection.clone() };
    match collections::create(api, &who, Some(key), Origin::Schedule, new).await {
        Ok((_, answer)) => {
            let collection = Some(answer.created.id);
            Ok(ScheduleRun { at: now, outcome: RunOutcome::Made, collection, ..begun.clone() })
        }
        Err(error) if error.problem().status >= 500 => Err(error),
        Err(error) => {
            let problem = error.problem();
            let fields = problem.errors.iter().map(|error| format!("; {} {}", error.field, error.message)).collect::<String>();
            let detail = Some(format!("{}{fields}", problem.detail));
            Ok(ScheduleRun { at: now, outcome: RunOutcome::Refused, detail, ..begun.clone() })
        }
    }
}

/// Looks after all schedules until `stop`.
pub(crate) async fn keep(api: std::sync::Arc<Api>, stop: CancellationToken) {
    loop {
        let wait = match look(&api).await {
            Ok(next) => {
                let until = next.map(|next| Duration::try_from(next - OffsetDateTime::now_utc()).unwrap_or_default());
                until.unwrap_or(LOOK_AT_LEAST_EVERY).clamp(LOOK_AT_MOST_EVERY, LOOK_AT_LEAST_EVERY)
            }
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "schedules could not be read; trying again");
                LOOK_AT_LEAST_EVERY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// One round; says when the next schedule is due.
async fn look(api: &Api) -> Result<Option<OffsetDateTime>, StoreError> {
    let mut next = None;
    for schedule in api.store.schedules().await? {
        let now = OffsetDateTime::now_utc();
        let Some(due_at) = schedule.next_due else { continue };
        let Ok(calendar) = Calendar::parse(&schedule.new.cron, &schedule.new.time_zone) else {
            tracing::error!(schedule = schedule.new.name, "the times of a schedule cannot be read; it does not run");
            continue;
        };
        let Some(due) = due(&calendar, due_at, now, schedule.new.missed) else {
            next = Some(next.map_or(due_at, |next: OffsetDateTime| next.min(due_at)));
            continue;
        };
        let (runs, begun) = record(&schedule, &due, now);
        let take = Take { schedule: schedule.id, due: due_at, next: due.next, runs: &runs, now };
        if api.store.take_due(&take).await? {
            let missed = due.missed.len() as u64 + due.missed_before;
            if missed > 0 {
                tracing::warn!(schedule = schedule.new.name, missed, "runs of a schedule were missed");
            }
            if let Some(begun) = begun {
                finish(api, &schedule, &begun).await?;
            }
        }
        next = due.next.map_or(next, |at| Some(next.map_or(at, |next: OffsetDateTime| next.min(at))));
    }
    for (schedule, begun) in api.store.take_begun(OffsetDateTime::now_utc()).await? {
        finish(api, &schedule, &begun).await?;
    }
    Ok(next)
}

/// What goes on record for what is due, oldest first, and the run to be made, if any.
fn record(schedule: &Schedule, due: &muster_domain::calendar::Due, now: OffsetDateTime) -> (Vec<ScheduleRun>, Option<ScheduleRun>) {
    let paused = schedule.paused_at.is_some();
    let outcome = if paused { RunOutcome::Paused } else { RunOutcome::Missed };
    let mut runs: Vec<ScheduleRun> =
        due.missed.iter().map(|at| ScheduleRun { due: *at, at: now, outcome, collection: None, detail: None }).collect();
    if let Some(oldest) = runs.first_mut().filter(|_| due.missed_before > 0) {
        oldest.detail = Some(format!("and {} runs before this one", due.missed_before));
    }
    let begun = due.run.map(|at| begun(at, now, None)).map(|run| if paused { ScheduleRun { outcome, ..run } } else { run });
    runs.extend(begun.clone());
    (runs, begun.filter(|_| !paused))
}

async fn finish(api: &Api, schedule: &Schedule, begun: &ScheduleRun) -> Result<(), StoreError> {
    match make(api, schedule, begun).await {
        Ok(ended) => {
            let detail = ended.detail.as_deref().unwrap_or_default();
            match ended.outcome {
                RunOutcome::Made => tracing::info!(schedule = schedule.new.name, due = %ended.due, "a schedule ran"),
                outcome => {
                    tracing::warn!(schedule = schedule.new.name, due = %ended.due, outcome = outcome.as_str(), detail, "a schedule did not run")
                }
            }
            api.store.finish_run(schedule.id, &ended).await.map(|_| ())
        }
        Err(error) => {
            let detail = error.problem().detail.as_str();
            tracing::warn!(schedule = schedule.new.name, detail, "a run of a schedule could not be made; it is tried again");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use muster_wire::http::{CollectionRequest, MissedPolicy, NewCollection, Target};
    use time::macros::datetime;

    use super::*;

    fn nightly(paused_at: Option<OffsetDateTime>) -> Schedule {
        Schedule {
            id: Uuid::now_v7(),
            new: NewSchedule {
                name: "nightly".to_owned(),
                cron: "0 1 * * *".to_owned(),
                time_zone: "Europe/Oslo".to_owned(),
                collection: NewCollection::new(CollectionRequest::Ping {}, Target::All {}),
                missed: MissedPolicy::RunLatest,
                overlap: Overlap::Skip,
            },
            created_by: "ada".to_owned(),
            created_at: datetime!(2026-11-20 12:00 UTC),
            paused_at,
            paused_by: None,
            next_due: None,
        }
    }

    #[test]
    fn what_was_due_goes_on_record() {
        let (early, late, now) = (datetime!(2026-11-24 00:00 UTC), datetime!(2026-11-25 00:00 UTC), datetime!(2026-11-25 09:00 UTC));
        let due = muster_domain::calendar::Due { run: Some(late), missed: vec![early], missed_before: 4, next: None };
        let outcomes = |runs: &[ScheduleRun]| runs.iter().map(|run| (run.due, run.outcome)).collect::<Vec<_>>();
        let (runs, begun) = record(&nightly(None), &due, now);
        assert_eq!(outcomes(&runs), [(early, RunOutcome::Missed), (late, RunOutcome::Begun)]);
        assert_eq!(runs[0].detail.as_deref(), Some("and 4 runs before this one"));
        assert_eq!(begun.map(|run| run.due), Some(late));
        let (runs, begun) = record(&nightly(Some(early)), &due, now);
        assert_eq!(outcomes(&runs), [(early, RunOutcome::Paused), (late, RunOutcome::Paused)]);
        assert_eq!(begun, None, "paused is paused");
    }

    #[test]
    fn names_are_short_and_plain() {
        let refused = |name: &str| {
            let mut faults = Faults::default();
            check_name(&mut faults, name);
            faults.into_problem("x", "x").is_err()
        };
        for name in ["nightly", "a", "Site-3.logs_2", &"x".repeat(MAX_SCHEDULE_NAME_CHARS)] {
            assert!(!refused(name), "{name}");
        }
        for name in ["", "a b", "a/b", "..", ".a", "ä", "a\n", &"x".repeat(MAX_SCHEDULE_NAME_CHARS + 1)] {
            assert!(refused(name), "{name}");
        }
    }

    #[test]
    fn a_paused_schedule_announces_no_run() {
        let now = datetime!(2026-11-25 12:00 UTC);
        assert_eq!(view(nightly(None), None, now).coming, "2026-11-26 01:00, 2026-11-27 01:00, 2026-11-28 01:00 Europe/Oslo");
        assert_eq!(view(nightly(Some(now)), None, now).coming, "");
    }
}
