//! `muster collections …`: what was asked, where it stands, and what came of it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use muster_wire::http::{Cancel, CollectionView, MAX_ATTEMPTS_ASKED, MAX_IN_FLIGHT, Pause, Rerun, TaskDetail, TaskView, Touched};
use muster_wire::{CollectionId, DeviceId, Reason, TaskId, TaskState};
use serde::Serialize;
use serde_json::json;

use crate::client::{Client, Query};
use crate::commands::collect::{finish, parse_attempt_span};
use crate::commands::prune;
use crate::failure::{Failure, exit};
use crate::follow::{Seen, Tell, exit_code, follow, follow_with_progress, summary};
use crate::moment::parse_span;
use crate::present::units::{bytes, counted, relative};
use crate::present::{Form, Listed as _, Out, Sheet, task_detail, task_word};
use crate::progress;
use crate::transfer::{TransferArgs, collection_bundles, download};

/// Rows of a table on a terminal unless `--limit` says otherwise; pipes get everything.
pub(crate) const TABLE_ROWS: u64 = 200;

/// Final states without success.
const UNSUCCESSFUL: [TaskState; 5] = [TaskState::Refused, TaskState::Failed, TaskState::Expired, TaskState::Cancelled, TaskState::Skipped];

const EXAMPLES: &str = "\
Examples:
  muster collections list
  muster collections watch col_01jd8k2m3n4p5q6r7s
  muster collections show col_01jd8k2m3n4p5q6r7s --tasks --not-verified
  muster collections rerun col_01jd8k2m3n4p5q6r7s --failed --reason no_answer
  muster collections download col_01jd8k2m3n4p5q6r7s --dir case-48213";
const LIST_EXAMPLES: &str = "\
Examples:
  muster collections list
  muster collections list --state running
  muster collections list --case 48213 --limit 10 -o json
  muster collections list -o name | head -1";
const SHOW_EXAMPLES: &str = "\
Examples:
  muster collections show col_01jd8k2m3n4p5q6r7s
  muster collections show col_01jd8k2m3n4p5q6r7s --tasks --not-verified
  muster collections show col_01jd8k2m3n4p5q6r7s --tasks --reason no_answer -o name
  muster collections show tsk_01jd8k2m3n4p5q6r7s-17    # one task, with its earlier attempts";
const WATCH_EXAMPLES: &str = "\
Examples:
  muster collections watch col_01jd8k2m3n4p5q6r7s
  muster collections watch col_01jd8k2m3n4p5q6r7s --exit-status
  muster collections watch col_01jd8k2m3n4p5q6r7s -o ndjson | jq .event";
const CANCEL_EXAMPLES: &str = "\
Examples:
  muster collections cancel col_01jd8k2m3n4p5q6r7s
  muster collections cancel col_01jd8k2m3n4p5q6r7s --queued-only    # what is with a device may end";
const PAUSE_EXAMPLES: &str = "\
Examples:
  muster collections pause col_01jd8k2m3n4p5q6r7s
  muster collections pause col_01jd8k2m3n4p5q6r7s --why 'wait for the night shift'";
const RESUME_EXAMPLES: &str = "\
Examples:
  muster collections resume col_01jd8k2m3n4p5q6r7s
  muster collections resume col_01jd8k2m3n4p5q6r7s -o json    # past the gate it stands at";
const RERUN_EXAMPLES: &str = "\
Examples:
  muster collections rerun col_01jd8k2m3n4p5q6r7s --failed
  muster collections rerun col_01jd8k2m3n4p5q6r7s --reason sas_expired --timeout 1h --in-flight 20
  muster collections rerun col_01jd8k2m3n4p5q6r7s --reason no_answer --reason task_lost --wait";
const DOWNLOAD_EXAMPLES: &str = "\
Examples:
  muster collections download col_01jd8k2m3n4p5q6r7s
  muster collections download col_01jd8k2m3n4p5q6r7s --dir case-48213 --parallel 8
  muster collections download col_01jd8k2m3n4p5q6r7s --dir case-48213   # again: the rest";

/// What was asked, where it stands, what came of it
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct CollectionsArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List collections, newest first
    #[command(after_long_help = LIST_EXAMPLES)]
    List(CollectionListArgs),
    /// Show one collection, its tasks, or one task
    #[command(after_long_help = SHOW_EXAMPLES)]
    Show(ShowArgs),
    /// Follow a collection to its end; in a pipe, print its events as NDJSON
    #[command(after_long_help = WATCH_EXAMPLES)]
    Watch(WatchArgs),
    /// Ask no further device for now; what is out may end
    #[command(after_long_help = PAUSE_EXAMPLES)]
    Pause(PauseArgs),
    /// Let a paused collection go on, past the gate it stands at; abort rules and the byte budget count from then on
    #[command(after_long_help = RESUME_EXAMPLES)]
    Resume(IdArgs),
    /// Stop a collection: whatever is not done is cancelled
    #[command(after_long_help = CANCEL_EXAMPLES)]
    Cancel(CancelArgs),
    /// Ask again where it did not succeed, inside the same collection
    #[command(after_long_help = RERUN_EXAMPLES)]
    Rerun(RerunArgs),
    /// Delete old attempts that were followed by another, and old events of devices; tasks and bundles stay
    #[command(after_long_help = prune::PRUNE_EXAMPLES)]
    Prune(prune::PruneArgs),
    /// Download every bundle of a collection, one directory per device
    #[command(after_long_help = DOWNLOAD_EXAMPLES)]
    Download(DownloadArgs),
}

#[derive(Debug, Args)]
struct IdArgs {
    /// Collection
    #[arg(value_name = "COLLECTION")]
    id: CollectionId,
}

#[derive(Debug, Args)]
struct PauseArgs {
    #[command(flatten)]
    id: IdArgs,
    /// Why, in words; kept with the collection
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
}

#[derive(Debug, Args)]
struct CancelArgs {
    #[command(flatten)]
    id: IdArgs,
    /// Only what is queued: what is with a device may end, and is not tried again
    #[arg(long)]
    queued_only: bool,
}

#[derive(Debug, Args)]
struct CollectionListArgs {
    /// Only those that are running, finished or cancelled
    #[arg(long, value_name = "STATE", value_parser = ["running", "finished", "cancelled"])]
    state: Option<String>,
    /// Only for this support case
    #[arg(long, value_name = "CASE")]
    case: Option<String>,
    #[command(flatten)]
    list: ListArgs,
}

/// How much of a list.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct ListArgs {
    /// At most so many; 0 for all (default: all in a pipe, 200 in a table)
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
}

impl ListArgs {
    /// The bound for this form of output.
    pub(crate) fn bound(self, form: Form) -> Option<u64> {
        match self.limit {
            Some(0) => None,
            Some(limit) => Some(limit),
            None => (form == Form::Table).then_some(TABLE_ROWS),
        }
    }
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// Collection (col_…) or task (tsk_…)
    #[arg(value_name = "COLLECTION|TASK", value_parser = parse_either)]
    id: Either,
    /// List its tasks instead
    #[arg(long)]
    tasks: bool,
    /// Tasks in this state; repeatable
    #[arg(long, value_name = "STATE", requires = "tasks", value_delimiter = ',', value_parser = parse_state)]
    state: Vec<TaskState>,
    /// Tasks that ended, or whose last attempt ended, for this reason; repeatable
    #[arg(long, value_name = "REASON", requires = "tasks", value_delimiter = ',')]
    reason: Vec<Reason>,
    /// Task of this device
    #[arg(long, value_name = "ID", requires = "tasks")]
    device: Option<DeviceId>,
    /// Tasks that ended without success
    #[arg(long, requires = "tasks", conflicts_with = "state")]
    not_verified: bool,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Clone, Copy)]
enum Either {
    Collection(CollectionId),
    Task(TaskId),
}

fn parse_either(text: &str) -> Result<Either, String> {
    if text.starts_with("tsk_") {
        text.parse().map(Either::Task).map_err(|error: muster_wire::ids::InvalidId| error.to_string())
    } else {
        text.parse().map(Either::Collection).map_err(|error: muster_wire::ids::InvalidId| error.to_string())
    }
}

fn parse_state(text: &str) -> Result<TaskState, String> {
    let known = || TaskState::ALL.map(TaskState::as_str).join(", ");
    TaskState::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| format!("a state is one of {}", known()))
}

#[derive(Debug, Args)]
struct WatchArgs {
    #[command(flatten)]
    id: IdArgs,
    /// Exit with 0 only when every device was verified, as --wait does
    #[arg(long)]
    exit_status: bool,
}

#[derive(Debug, Args)]
struct RerunArgs {
    #[command(flatten)]
    id: IdArgs,
    /// Every task that failed, was refused or expired
    #[arg(long, required_unless_present = "reason")]
    failed: bool,
    /// Only those that ended for this reason; repeatable
    #[arg(long, value_name = "REASON")]
    reason: Vec<Reason>,
    /// New life of the collection, from now on
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    expires: Option<Duration>,
    /// Another time for one attempt at a device, upload included
    #[arg(long, value_name = "SPAN", value_parser = parse_attempt_span)]
    timeout: Option<Duration>,
    /// Another number of attempts per device, counted anew
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_ATTEMPTS_ASKED)))]
    attempts: Option<u8>,
    /// Another number of devices asked at the same time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_IN_FLIGHT)))]
    in_flight: Option<u32>,
    /// Wait until every device is done; the exit code says how it ended
    #[arg(long, visible_alias = "exit-status", overrides_with = "wait")]
    wait: bool,
}

#[derive(Debug, Args)]
struct DownloadArgs {
    #[command(flatten)]
    id: IdArgs,
    /// Directory to download into; made if missing (default: the id of the collection)
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    transfer: TransferArgs,
}

pub(crate) async fn run(args: CollectionsArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    match args.what {
        What::List(args) => {
            let mut query = Query::new();
            query.extend(args.state.map(|state| ("state", state)));
            query.extend(args.case.map(|case| ("case", case)));
            list::<CollectionView>(client, out, "list the collections", &["collections"], &query, args.list).await
        }
        What::Show(args) => show(args, client, out).await,
        What::Watch(args) => watch(&args, client, out).await,
        What::Pause(args) => pause(args, client, out).await,
        What::Resume(args) => resume(&args, client, out).await,
        What::Cancel(args) => cancel(&args, client, out).await,
        What::Rerun(args) => rerun(args, client, out).await,
        What::Prune(args) => prune::prune(&args, client, out).await,
        What::Download(args) => {
            let dir = args.dir.unwrap_or_else(|| PathBuf::from(args.id.id.to_string()));
            let bundles = collection_bundles(client, args.id.id).await?;
            if bundles.is_empty() {
                return Err(Failure::local(format!("download {}", args.id.id), "it has no bundle")
                    .with_next(format!("muster collections show {} --tasks says how each device ended", args.id.id)));
            }
            download(client, out, bundles, &dir, true, &args.transfer).await
        }
    }
}

/// Prints a paged list: page by page where the form allows it, whole where it does not.
pub(crate) async fn list<T: crate::present::Listed + serde::de::DeserializeOwned>(
    client: &Client,
    out: &mut Out,
    intent: &str,
    path: &[&str],
    query: &Query,
    args: ListArgs,
) -> Result<u8, Failure> {
    list_or::<T>(client, out, intent, path, query, args, "nothing there").await
}

/// The same, with what a person is told at a terminal when there is nothing.
pub(crate) async fn list_or<T: crate::present::Listed + serde::de::DeserializeOwned>(
    client: &Client,
    out: &mut Out,
    intent: &str,
    path: &[&str],
    query: &Query,
    args: ListArgs,
    nothing: &str,
) -> Result<u8, Failure> {
    let form = out.form();
    let mut all: Vec<T> = Vec::new();
    let more = client
        .pages(intent, path, query, args.bound(form), |items: Vec<T>| match form {
            Form::Ndjson | Form::Name => out.list(&items),
            Form::Table | Form::Json => {
                all.extend(items);
                Ok(())
            }
        })
        .await?;
    match form {
        Form::Table if all.is_empty() => out.note(nothing),
        Form::Table | Form::Json => out.list(&all)?,
        Form::Ndjson | Form::Name => {}
    }
    if more && args.limit.is_none() {
        out.note(&format!("the first {}; --limit 0 shows all", crate::present::units::count(TABLE_ROWS)));
    }
    Ok(exit::DONE)
}

async fn show(args: ShowArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let id = match args.id {
        Either::Task(task) => return show_task(task, client, out).await,
        Either::Collection(id) => id,
    };
    if args.tasks {
        let mut query = Query::new();
        let states: Vec<&str> = if args.not_verified {
            UNSUCCESSFUL.map(TaskState::as_str).to_vec()
        } else {
            args.state.iter().map(|state| state.as_str()).collect()
        };
        let reasons: Vec<&str> = args.reason.iter().map(|reason| reason.as_str()).collect();
        query.extend((!states.is_empty()).then(|| ("state", states.join(","))));
        query.extend((!reasons.is_empty()).then(|| ("reason", reasons.join(","))));
        query.extend(args.device.map(|device| ("device", device.to_string())));
        return list::<TaskView>(client, out, "list the tasks", &["collections", &id.to_string(), "tasks"], &query, args.list).await;
    }
    let view: CollectionView = client.get("show the collection", &["collections", &id.to_string()], &[]).await?;
    if out.form() == Form::Table {
        let text = summary(&view, out);
        out.text(&text)?;
    } else {
        out.one(&view, &view.name(), |_| Sheet::default())?;
    }
    Ok(exit::DONE)
}

async fn show_task(id: TaskId, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let detail: TaskDetail = client.get("show the task", &["tasks", &id.to_string()], &[]).await?;
    out.one(&detail, &id.to_string(), |out| task_sheet(&detail, out))?;
    Ok(exit::DONE)
}

fn task_sheet(detail: &TaskDetail, out: &Out) -> Sheet {
    let task = &detail.task;
    let when = |instant: Option<time::OffsetDateTime>| instant.map(|instant| relative(instant, out.now()));
    let said = task_detail(task);
    let mut sheet = Sheet::default()
        .line("task", task.id.to_string())
        .line("device", task.device.to_string())
        .line("state", task_word(task))
        .maybe("reason", task.reason.map(|reason| format!("{reason}: {}", reason.sentence())))
        .maybe("detail", (!said.is_empty()).then_some(said))
        .line("attempt", task.attempt.to_string())
        .maybe("device's id", task.correlation_id.clone())
        .maybe("sent", when(task.dispatched_at))
        .maybe("accepted", when(task.accepted_at))
        .maybe("uploaded", when(task.uploaded_at))
        .maybe("finished", when(task.finished_at))
        .maybe("not before", when(task.not_before));
    if let Some(bundle) = &task.bundle {
        sheet = sheet.line(
            "bundle",
            format!("{}, {}, {}", bundle.verdict.as_str(), counted(u64::from(bundle.objects), "object"), bytes(bundle.size_bytes)),
        );
    }
    for attempt in &detail.attempts {
        let reason = attempt.reason.map_or_else(|| attempt.state.as_str().to_owned(), |reason| reason.to_string());
        let detail = attempt.detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
        sheet =
            sheet.line(&format!("attempt {}", attempt.id.number()), format!("{reason} {}{detail}", relative(attempt.ended_at, out.now())));
    }
    sheet
}

async fn watch(args: &WatchArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let id = args.id.id;
    let view = match out.form() {
        Form::Table => {
            let view = follow_with_progress(client, id, out).await?;
            let text = summary(&view, out);
            out.text(&text)?;
            view
        }
        Form::Ndjson => watch_events(client, id, out).await?,
        Form::Json | Form::Name => {
            let view = follow_with_progress(client, id, out).await?;
            out.one(&view, &id.to_string(), |_| Sheet::default())?;
            view
        }
    };
    Ok(if args.exit_status { exit_code(&view) } else { exit::DONE })
}

/// A line of `watch` in a pipe.
#[derive(Serialize)]
struct Told<'a, T> {
    event: &'a str,
    data: T,
}

/// One line per event, and one with the whole collection at the end.
async fn watch_events(client: &Client, id: CollectionId, out: &mut Out) -> Result<CollectionView, Failure> {
    let view = follow(client, id, Tell::Everything, |seen| match seen {
        Seen::Event(event) => {
            // Data that is not JSON is passed on as text rather than lost.
            let data: serde_json::Value = serde_json::from_str(&event.data).unwrap_or_else(|_| json!(event.data));
            out.json(&Told { event: &event.name, data })?;
            out.flush()
        }
        Seen::Away(failure) => {
            out.note(&format!("muster: {failure}; trying again"));
            Ok(())
        }
        Seen::View(_) => Ok(()),
    })
    .await?;
    out.json(&Told { event: "end", data: &view })?;
    Ok(view)
}

async fn pause(args: PauseArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let id = args.id.id;
    let path = ["collections", &id.to_string(), "pause"];
    let view: CollectionView =
        progress::waiting("pausing", client.post("pause the collection", &path, &Pause { why: args.why }, None)).await?;
    let out_now = view.counters.dispatched + view.counters.accepted + view.counters.uploaded;
    out.one(&view, &id.to_string(), |_| {
        Sheet::default()
            .line("collection", id.to_string())
            .maybe("paused", view.paused.as_ref().map(|paused| format!("by {}: {}", paused.by, paused.why)))
            .line("still out", counted(out_now, "device"))
            .line("go on", format!("muster collections resume {id}"))
    })?;
    Ok(exit::DONE)
}

async fn resume(args: &IdArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let id = args.id;
    let path = ["collections", &id.to_string(), "resume"];
    let view: CollectionView = progress::waiting("resuming", client.post("resume the collection", &path, &json!({}), None)).await?;
    out.one(&view, &id.to_string(), |_| {
        Sheet::default().line("collection", id.to_string()).line("next", format!("muster collections watch {id}"))
    })?;
    Ok(exit::DONE)
}

async fn cancel(args: &CancelArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let id = args.id.id;
    let path = ["collections", &id.to_string(), "cancel"];
    let body = Cancel { queued_only: args.queued_only };
    let touched: Touched = progress::waiting("cancelling", client.post("cancel the collection", &path, &body, None)).await?;
    out.one(&touched, &id.to_string(), |_| {
        Sheet::default().line("collection", id.to_string()).line("cancelled", counted(touched.tasks, "task"))
    })?;
    Ok(exit::DONE)
}

async fn rerun(args: RerunArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let id = args.id.id;
    let body = Rerun {
        reasons: args.reason,
        expires_in_seconds: args.expires.map(|span| span.as_secs()),
        attempt_timeout_seconds: args.timeout.map(|span| span.as_secs()),
        max_attempts: args.attempts,
        in_flight: args.in_flight,
    };
    let touched: Touched =
        progress::waiting("queueing", client.post("rerun the collection", &["collections", &id.to_string(), "rerun"], &body, None)).await?;
    if args.wait && touched.tasks > 0 {
        out.note(&format!("{id}: {} again", counted(touched.tasks, "device")));
        return finish(client, id, out).await;
    }
    out.one(&touched, &id.to_string(), |_| {
        let sheet = Sheet::default().line("collection", id.to_string()).line("queued again", counted(touched.tasks, "task"));
        sheet.maybe("next", (touched.tasks > 0).then(|| format!("muster collections watch {id}")))
    })?;
    Ok(exit::DONE)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use muster_wire::http::{AttemptView, TaskBundle, Verdict};
    use time::macros::datetime;

    pub(crate) fn task() -> TaskView {
        let id: TaskId = "tsk_01jd8k2m3n4p5q6r7s-17".parse().expect("an id");
        TaskView {
            id,
            collection: id.collection(),
            device: "press-0042".parse().expect("an id"),
            state: TaskState::Verified,
            waiting: false,
            reason: Some(Reason::CollectedPartial),
            detail: None,
            attempt: 2,
            consent: None,
            correlation_id: Some("0e4b2a7c".into()),
            dispatched_at: Some(datetime!(2026-11-21 11:59:00 UTC)),
            accepted_at: Some(datetime!(2026-11-21 11:59:01 UTC)),
            uploaded_at: None,
            finished_at: Some(datetime!(2026-11-21 11:59:30 UTC)),
            not_before: None,
            bundle: Some(TaskBundle {
                verdict: Verdict::Partial,
                size_bytes: 123_456,
                objects: 1,
                missing: vec![muster_wire::http::Missing { what: "check.json".into(), why: "not in the archive".into() }],
            }),
        }
    }

    #[test]
    fn a_task_with_its_earlier_attempts() {
        let task = task();
        let detail = TaskDetail {
            attempts: vec![AttemptView {
                id: task.id.attempt(1),
                state: TaskState::Failed,
                reason: Some(Reason::NoAnswer),
                detail: None,
                correlation_id: None,
                dispatched_at: None,
                ended_at: datetime!(2026-11-21 11:58:00 UTC),
            }],
            task,
        };
        let out = Out::for_test(Some(100));
        insta::assert_snapshot!(task_sheet(&detail, &out).render(&out));
    }

    #[test]
    fn every_final_state_is_success_or_not() {
        let is_listed = |state: &TaskState| UNSUCCESSFUL.contains(state);
        assert!(TaskState::ALL.iter().all(|state| is_listed(state) == (state.is_final() && *state != TaskState::Verified)));
    }

    #[test]
    fn limits_depend_on_the_form() {
        let bound = |limit, form| ListArgs { limit }.bound(form);
        assert_eq!(bound(None, Form::Table), Some(TABLE_ROWS));
        assert_eq!(bound(None, Form::Ndjson), None);
        assert_eq!(bound(Some(0), Form::Table), None);
        assert_eq!(bound(Some(7), Form::Json), Some(7));
    }
}
