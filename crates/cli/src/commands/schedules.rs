//! `muster schedules …`: collections that are made again and again.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use muster_wire::http::{MissedPolicy, NewCollection, NewSchedule, Overlap, RunOutcome, ScheduleCreated, ScheduleRun, ScheduleView};
use serde_json::json;

use crate::client::{Client, Query};
use crate::collection_file;
use crate::commands::collections::{ListArgs, list};
use crate::failure::{Failure, exit};
use crate::present::units::{relative, rfc3339_seconds};
use crate::present::{Out, Sheet, one_line};
use crate::progress;

const EXAMPLES: &str = "\
Examples:
  muster schedules create nightly --cron '0 1 * * *' --time-zone Europe/Oslo -f nightly.yaml
  muster schedules list
  muster schedules runs nightly";
const CREATE_EXAMPLES: &str = "\
The file holds a collection as `muster apply` takes it, in YAML or JSON. Times like 24h count back from each run:
  request: {kind: bundle, since: 24h}
  target: {kind: all}

A cron expression has five fields: minute, hour, day, month, weekday; six with seconds first. @hourly, @daily and @weekly are words for it.

Examples:
  muster schedules create nightly --cron '0 1 * * *' --time-zone Europe/Oslo -f nightly.yaml
  muster schedules create hourly-ping --cron @hourly --missed skip --overlap allow --file - < ping.json";
const LIST_EXAMPLES: &str = "\
Examples:
  muster schedules list
  muster schedules list -o name";
const SHOW_EXAMPLES: &str = "\
Examples:
  muster schedules show nightly";
const PAUSE_EXAMPLES: &str = "\
Examples:
  muster schedules pause nightly";
const RESUME_EXAMPLES: &str = "\
Examples:
  muster schedules resume nightly";
const DELETE_EXAMPLES: &str = "\
Examples:
  muster schedules delete nightly";
const RUN_EXAMPLES: &str = "\
Examples:
  muster schedules run-now nightly
  muster schedules run-now nightly -o name    # the collection, for muster collections watch";
const RUNS_EXAMPLES: &str = "\
Examples:
  muster schedules runs nightly
  muster schedules runs nightly -o ndjson | jq 'select(.outcome == \"missed\")'";

/// Collections that are made again and again
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct SchedulesArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make a schedule
    #[command(after_long_help = CREATE_EXAMPLES)]
    Create(CreateArgs),
    /// List schedules, by name
    #[command(after_long_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Show one schedule: when it runs next, and what became of the last run
    #[command(after_long_help = SHOW_EXAMPLES)]
    Show(NameArgs),
    /// Pause a schedule; runs that come due meanwhile are on record
    #[command(after_long_help = PAUSE_EXAMPLES)]
    Pause(NameArgs),
    /// Go on with a schedule
    #[command(after_long_help = RESUME_EXAMPLES)]
    Resume(NameArgs),
    /// Remove a schedule and the record of its runs; the collections it made stay
    #[command(after_long_help = DELETE_EXAMPLES)]
    Delete(NameArgs),
    /// Run a schedule now, beside its times
    #[command(after_long_help = RUN_EXAMPLES)]
    RunNow(NameArgs),
    /// The runs of a schedule, newest first: made, missed, left out
    #[command(after_long_help = RUNS_EXAMPLES)]
    Runs(RunsArgs),
}

#[derive(Debug, Args)]
struct NameArgs {
    /// Schedule
    #[arg(value_name = "NAME")]
    name: String,
}

#[derive(Debug, Args)]
struct RunsArgs {
    #[command(flatten)]
    schedule: NameArgs,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Args)]
struct CreateArgs {
    #[command(flatten)]
    schedule: NameArgs,
    /// When it runs: a cron expression
    #[arg(long, value_name = "CRON")]
    cron: String,
    /// Time zone the expression is read in
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    time_zone: String,
    /// File with the collection, YAML or JSON; - reads standard input
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// What becomes of runs that nobody began in time, because no controller ran
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = Missed::RunLatest)]
    missed: Missed,
    /// What becomes of a run while the collection of the one before is still open
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = WhileOpen::Skip)]
    overlap: WhileOpen,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Missed {
    /// The latest is begun late; those before are on record as missed
    RunLatest,
    /// All are on record as missed
    Skip,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum WhileOpen {
    /// It is left out, and on record
    Skip,
    /// It is begun all the same
    Allow,
}

pub(crate) async fn run(args: SchedulesArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    match args.what {
        What::Create(args) => create(args, client, out).await,
        What::List(args) => list::<ScheduleView>(client, out, "list the schedules", &["schedules"], &Query::new(), args).await,
        What::Show(args) => {
            let view: ScheduleView = client.get("show the schedule", &["schedules", &args.name], &[]).await?;
            out.one(&view, &view.name, |out| sheet(&view, out))?;
            Ok(exit::DONE)
        }
        What::Pause(args) => change(&args.name, "pause", client, out).await,
        What::Resume(args) => change(&args.name, "resume", client, out).await,
        What::Delete(args) => {
            client.delete("delete the schedule", &["schedules", &args.name]).await?;
            out.note(&format!("{} is deleted; the collections it made stay", one_line(&args.name)));
            Ok(exit::DONE)
        }
        What::RunNow(args) => run_now(&args.name, client, out).await,
        What::Runs(args) => {
            let path = ["schedules", &args.schedule.name, "runs"];
            list::<ScheduleRun>(client, out, "list the runs", &path, &Query::new(), args.list).await
        }
    }
}

async fn create(args: CreateArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let new = NewSchedule {
        name: args.schedule.name,
        cron: args.cron,
        time_zone: args.time_zone,
        collection: collection(&args.file)?,
        missed: match args.missed {
            Missed::RunLatest => MissedPolicy::RunLatest,
            Missed::Skip => MissedPolicy::Skip,
        },
        overlap: match args.overlap {
            WhileOpen::Skip => Overlap::Skip,
            WhileOpen::Allow => Overlap::Allow,
        },
    };
    let made: ScheduleCreated =
        progress::waiting("creating the schedule", client.post("create the schedule", &["schedules"], &new, None)).await?;
    for warning in &made.warnings {
        out.note(&format!("note: {}", one_line(warning)));
    }
    out.one(&made, &made.schedule.name, |out| sheet(&made.schedule, out))?;
    Ok(exit::DONE)
}

/// The collection in a file. A run has a key of its own, so the file has none.
fn collection(path: &Path) -> Result<NewCollection, Failure> {
    let wrong = |why: String| Failure::usage(format!("--file {}", path.display()), why);
    let mut documents = collection_file::read(path)?;
    let (key, new) = match documents.pop() {
        Some(document) if documents.is_empty() => document.into_request(),
        _ => return Err(wrong(format!("it holds {} collections; a schedule makes one", documents.len() + 1))),
    };
    if key.is_some() {
        return Err(wrong("it holds an idempotency_key; each run of a schedule gets its own".to_owned()).with_next("leave that line out"));
    }
    Ok(new)
}

async fn change(name: &str, verb: &str, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let view: ScheduleView = client.post(&format!("{verb} the schedule"), &["schedules", name, verb], &json!({}), None).await?;
    out.one(&view, &view.name, |out| sheet(&view, out))?;
    Ok(exit::DONE)
}

async fn run_now(name: &str, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let path = ["schedules", name, "run"];
    let run: ScheduleRun = progress::waiting("running the schedule", client.post("run the schedule", &path, &json!({}), None)).await?;
    let id = run.collection.map(|id| id.to_string()).unwrap_or_default();
    if run.outcome != RunOutcome::Made {
        let why = run.detail.unwrap_or_default();
        return Err(Failure::local(format!("run {name}"), format!("{}: {why}", run.outcome.as_str()))
            .with_next(format!("muster schedules runs {name} shows what became of the runs before")));
    }
    out.one(&run, &id, |_| Sheet::default().line("collection", id.clone()).line("next", format!("muster collections watch {id}")))?;
    Ok(exit::DONE)
}

fn sheet(view: &ScheduleView, out: &Out) -> Sheet {
    let last = view.last_run.as_ref().map(|run| {
        let what = run.collection.map(|id| id.to_string()).or_else(|| run.detail.clone()).unwrap_or_default();
        format!("{} ({}): {} {what}", rfc3339_seconds(run.due), relative(run.due, out.now()), run.outcome.as_str())
    });
    let paused =
        view.paused_at.map(|at| format!("since {} by {}", rfc3339_seconds(at), view.paused_by.as_deref().unwrap_or("nobody known")));
    Sheet::default()
        .line("schedule", view.name.clone())
        .line("runs", format!("{} {}", view.cron, view.time_zone))
        .maybe("next", (!view.coming.is_empty()).then(|| view.coming.clone()))
        .maybe("paused", paused)
        .maybe("last", last)
        .line("makes", view.collection.request.kind())
        .maybe("case", view.collection.case.clone())
        .line("missed runs", view.missed.as_str())
        .line("overlap", view.overlap.as_str())
        .line("created by", view.created_by.clone())
        .line("created", format!("{} ({})", rfc3339_seconds(view.created_at), relative(view.created_at, out.now())))
}

#[cfg(test)]
mod tests {
    use muster_wire::http::{CollectionRequest, Target};
    use time::macros::datetime;

    use super::*;

    fn nightly() -> ScheduleView {
        let request = CollectionRequest::Bundle { since: Some("24h".to_owned()), edge_runtime_only: false };
        ScheduleView {
            name: "nightly".to_owned(),
            cron: "0 1 * * *".to_owned(),
            time_zone: "Europe/Oslo".to_owned(),
            collection: NewCollection::new(request, Target::All {}),
            missed: MissedPolicy::RunLatest,
            overlap: Overlap::Skip,
            created_by: "ops".to_owned(),
            created_at: datetime!(2026-11-20 11:58:00 UTC),
            paused_at: None,
            paused_by: None,
            next_due: Some(datetime!(2026-11-22 00:00:00 UTC)),
            coming: "2026-11-22 01:00, 2026-11-23 01:00, 2026-11-24 01:00 Europe/Oslo".to_owned(),
            last_run: Some(ScheduleRun {
                due: datetime!(2026-11-21 00:00:00 UTC),
                at: datetime!(2026-11-21 00:00:01 UTC),
                outcome: RunOutcome::Made,
                collection: Some("col_01jd8k2m3n4p5q6r7s".parse().expect("an id")),
                detail: None,
            }),
        }
    }

    #[test]
    fn a_schedule_is_a_sheet() {
        let out = Out::for_test(Some(100));
        insta::assert_snapshot!("schedule", sheet(&nightly(), &out).render(&out));
        let paused = ScheduleView {
            paused_at: Some(datetime!(2026-11-21 09:00:00 UTC)),
            paused_by: Some("ada".to_owned()),
            coming: String::new(),
            last_run: None,
            ..nightly()
        };
        insta::assert_snapshot!("schedule_paused", sheet(&paused, &out).render(&out));
    }

    #[test]
    fn a_file_that_is_no_collection_is_a_usage_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("collection.json");
        std::fs::write(&path, r#"{ "request": { "kind": "ping" }, "target": { "kind": "all" } }"#).expect("written");
        assert_eq!(collection(&path).expect("a collection"), NewCollection::new(CollectionRequest::Ping {}, Target::All {}));
        std::fs::write(&path, "kind: collection\nrequest: {kind: ping}\ntarget: {kind: all}\n").expect("written");
        assert_eq!(collection(&path).expect("YAML"), NewCollection::new(CollectionRequest::Ping {}, Target::All {}));
        for bad in [
            "",
            "{",
            r#"{ "request": { "kind": "ping" } }"#,
            r#"{ "request": { "kind": "ping" }, "target": { "kind": "all" }, "x": 1 }"#,
            "idempotency_key: a\nrequest: {kind: ping}\ntarget: {kind: all}\n",
            "request: {kind: ping}\ntarget: {kind: all}\n---\nrequest: {kind: ping}\ntarget: {kind: all}\n",
        ] {
            std::fs::write(&path, bad).expect("written");
            let failure = collection(&path).expect_err(bad);
            assert!(failure.to_string().contains("collection.json"), "{failure}");
            assert_eq!(failure.exit_code(), 2);
        }
        assert!(collection(&dir.path().join("absent")).is_err());
    }
}
