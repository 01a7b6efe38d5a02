//! `muster devices list|show|ping`; what writes the registry is beside it.

use std::time::Duration;

use clap::{Args, Subcommand};
use muster_wire::http::{
    CollectionOptions, CollectionRequest, DeviceDetail, DeviceView, NewCollection, Page, Priority, TaskView, TimelineEntry,
};
use muster_wire::{DeviceId, TaskState};
use serde::Serialize;
use time::OffsetDateTime;

use crate::client::{Client, Query};
use crate::commands::collect::create;
use crate::commands::collections::{ListArgs, list};
use crate::commands::logs::PATIENCE_SECONDS;
use crate::commands::registry;
use crate::failure::{Failure, exit};
use crate::follow::{exit_code, follow_with_progress};
use crate::moment::parse_span;
use crate::present::units::{duration, relative, rfc3339_seconds};
use crate::present::{Column, Form, Listed, Out, Sheet, clock_word, one_line, ping_word, task_detail, task_word};
use crate::target::{ChoiceArgs, TargetArgs, parse_condition};

/// Entries of its line shown with a device.
const RECENT_ENTRIES: u32 = 20;

const EXAMPLES: &str = "\
Examples:
  muster devices list
  muster devices show press-0042
  muster devices ping --device press-0042
  muster devices import fleet.csv --dry-run
  muster devices tag press-0042 site=oslo";
const LIST_EXAMPLES: &str = "\
Examples:
  muster devices list
  muster devices list -o name > fleet.txt
  muster devices list -t \"tags.site = 'oslo' AND NOT is_defined(tags.lab)\"
  muster devices list --presence offline --prefix press-";
const SHOW_EXAMPLES: &str = "\
Examples:
  muster devices show press-0042
  muster devices show press-0042 --timeline | jq 'select(.what == \"ended\")'
  muster devices show press-0042 -o json | jq .reported";
const PING_EXAMPLES: &str = "\
Examples:
  muster devices ping --device press-0042
  muster devices ping -t \"parent = 'gateway-7'\" --sample 10%
  muster devices ping --all --timeout 10s";

/// The registry: who is there, and who answers
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct DevicesArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the devices of the registry
    #[command(after_long_help = LIST_EXAMPLES)]
    List(DeviceListArgs),
    /// Show one device, and what happened on one line of time
    #[command(after_long_help = SHOW_EXAMPLES)]
    Show(DeviceShowArgs),
    /// Ask devices whether they are there, and measure how long the answer takes
    #[command(after_long_help = PING_EXAMPLES)]
    Ping(PingArgs),
    /// Enter devices from a CSV or NDJSON, with their tags and gateways
    #[command(after_long_help = registry::IMPORT_EXAMPLES)]
    Import(registry::ImportArgs),
    /// Set and remove tags
    #[command(after_long_help = registry::TAG_EXAMPLES)]
    Tag(registry::TagArgs),
    /// Take devices out of the registry; their tasks and bundles stay
    #[command(after_long_help = registry::FORGET_EXAMPLES)]
    Forget(registry::ForgetArgs),
}

#[derive(Debug, Args)]
struct DeviceListArgs {
    /// Only those that meet this condition, like tags.site = 'oslo' AND reported.firmware < '1.4'
    #[arg(short, long, value_name = "CONDITION", value_parser = parse_condition)]
    target: Option<String>,
    /// Only these: online, offline, or unknown (never heard of)
    #[arg(long, value_name = "PRESENCE", value_parser = ["online", "offline", "unknown"])]
    presence: Option<String>,
    /// Only ids that begin like this
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Args)]
struct DeviceShowArgs {
    /// Device
    #[arg(value_name = "DEVICE")]
    id: DeviceId,
    /// Only its line of time, all of it, newest first
    #[arg(long)]
    timeline: bool,
    /// Of the line at most so many; 0 for all (default: all in a pipe, 200 in a table)
    #[arg(long, value_name = "N", requires = "timeline")]
    limit: Option<u64>,
}

#[derive(Debug, Args)]
struct PingArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    choice: ChoiceArgs,
    /// How long to wait for an answer
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = parse_span)]
    timeout: Duration,
}

pub(crate) async fn run(args: DevicesArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    match args.what {
        What::List(args) => {
            let mut query = Query::new();
            query.extend(args.target.map(|condition| ("condition", condition)));
            query.extend(args.presence.map(|presence| ("presence", presence)));
            query.extend(args.prefix.map(|prefix| ("prefix", prefix)));
            list::<DeviceView>(client, out, "list the devices", &["devices"], &query, args.list).await
        }
        What::Show(args) => show(args, client, out).await,
        What::Ping(args) => ping(args, client, out).await,
        What::Import(args) => registry::import(args, client, out).await,
        What::Tag(args) => registry::tag(args, client, out).await,
        What::Forget(args) => registry::forget(&args, client, out).await,
    }
}

async fn show(args: DeviceShowArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let line = ["devices", args.id.as_str(), "timeline"];
    if args.timeline {
        let bound = ListArgs { limit: args.limit };
        return list::<TimelineEntry>(client, out, "show the line of the device", &line, &Query::new(), bound).await;
    }
    let detail: DeviceDetail = client.get("show the device", &line[..2], &[]).await?;
    out.one(&detail, args.id.as_str(), |out| sheet(&detail, out))?;
    if out.form() == Form::Table {
        let query = [("limit", RECENT_ENTRIES.to_string())];
        let page: Page<TimelineEntry> = client.get("show the line of the device", &line, &query).await?;
        out.text("\n")?;
        out.list(&page.items)?;
        if page.next.is_some() {
            out.note(&format!("the last {RECENT_ENTRIES}; muster devices show {} --timeline shows all", args.id));
        }
    }
    Ok(exit::DONE)
}

fn sheet(detail: &DeviceDetail, out: &Out) -> Sheet {
    let device = &detail.device;
    // Each line says whose word it is: presence is the broker's, most else the device's own.
    let sheet = Sheet::default()
        .line("device", device.id.to_string())
        .line("presence", device.presence.as_str())
        .maybe("last seen", device.last_seen.map(|seen| format!("{} ({})", relative(seen, out.now()), rfc3339_seconds(seen))))
        .line("first seen", relative(device.first_seen, out.now()))
        .maybe("device says: agent", device.agent.as_ref().map(|agent| format!("{} {}", agent.name, agent.version)))
        .maybe("device says: started", device.started.map(|started| relative(started, out.now())))
        .line("device says: methods", if device.methods.is_empty() { "nothing yet".to_owned() } else { device.methods.join(", ") });
    let sheet = sheet
        .maybe("last ping", device.ping.map(|ping| format!("{}, {}", ping_word(&ping), relative(ping.at, out.now()))))
        .maybe("behind", device.parent.as_ref().map(DeviceId::to_string));
    let sheet = sheet.maybe("its clock, when it said so", device.clock_skew_ms.map(clock_word));
    let children = (!detail.children.is_empty()).then(|| detail.children.iter().map(DeviceId::as_str).collect::<Vec<_>>().join(", "));
    let sheet = sheet.maybe("behind it", children);
    let shown = |value: &serde_json::Value| value.as_object().is_some_and(|members| !members.is_empty()).then(|| value.to_string());
    sheet.maybe("device says: properties", shown(&device.reported)).maybe("tags", shown(&device.tags))
}

/// What came of asking one device.
#[derive(Debug, Serialize)]
struct Pong {
    device: DeviceId,
    answered: bool,
    state: TaskState,
    reason: Option<muster_wire::Reason>,
    /// From sending to the answer, as the controller measured it.
    round_trip_seconds: Option<f64>,
    detail: String,
    #[serde(skip)]
    word: &'static str,
}

impl From<&TaskView> for Pong {
    fn from(task: &TaskView) -> Self {
        let answered = task.state == TaskState::Verified;
        let end = task.accepted_at.or(task.finished_at);
        let round_trip = task.dispatched_at.zip(end).map(|(sent, end)| (end - sent).as_seconds_f64()).filter(|_| answered);
        Self {
            device: task.device.clone(),
            answered,
            state: task.state,
            reason: task.reason,
            round_trip_seconds: round_trip,
            detail: task_detail(task),
            word: task_word(task),
        }
    }
}

impl Listed for Pong {
    const COLUMNS: &'static [Column] =
        &[Column::id("DEVICE"), Column::text("ANSWER"), Column::number("ROUND TRIP"), Column::text("REASON"), Column::text("DETAIL")];

    fn cells(&self, _now: OffsetDateTime) -> Vec<String> {
        let round_trip =
            self.round_trip_seconds.map(|seconds| if seconds < 1.0 { format!("{:.0} ms", seconds * 1000.0) } else { duration(seconds) });
        vec![
            self.device.to_string(),
            if self.answered { "ok".to_owned() } else { self.word.to_owned() },
            round_trip.unwrap_or_default(),
            self.reason.filter(|_| !self.answered).map(|reason| reason.to_string()).unwrap_or_default(),
            self.detail.clone(),
        ]
    }

    fn name(&self) -> String {
        self.device.to_string()
    }
}

async fn ping(args: PingArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let seconds = args.timeout.as_secs().max(muster_wire::http::MIN_ATTEMPT_TIMEOUT_SECONDS);
    let options = CollectionOptions {
        attempt_timeout_seconds: Some(seconds),
        max_attempts: Some(1),
        expires_in_seconds: Some(seconds + PATIENCE_SECONDS),
        // Somebody waits at a terminal.
        priority: Some(Priority::High),
        ..CollectionOptions::default()
    };
    let choice = args.choice.choice()?;
    let new = NewCollection { options, choice, ..NewCollection::new(CollectionRequest::Ping {}, args.target.target()?) };
    let answer = create(client, &new, None).await?;
    for warning in &answer.warnings {
        out.note(&format!("note: {}", one_line(warning)));
    }
    let created = answer.created;
    let view = follow_with_progress(client, created.id, out).await?;
    let mut pongs: Vec<Pong> = Vec::new();
    client
        .pages("read the answers", &["collections", &created.id.to_string(), "tasks"], &Query::new(), None, |tasks: Vec<TaskView>| {
            pongs.extend(tasks.iter().map(Pong::from));
            Ok(())
        })
        .await?;
    out.list(&pongs)?;
    Ok(exit_code(&view))
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_wire::http::{PingView, PresenceState};
    use muster_wire::presence::AgentName;
    use time::macros::datetime;

    #[test]
    fn a_device_as_a_sheet_says_whose_word_it_is() {
        let device = DeviceView {
            id: "press-0042".parse().expect("an id"),
            presence: PresenceState::Online,
            last_seen: Some(datetime!(2026-11-21 11:59:30 UTC)),
            first_seen: datetime!(2026-11-01 12:00 UTC),
            methods: vec!["ping".into(), "UploadSupportBundle".into()],
            agent: Some(AgentName { name: "muster-agent".into(), version: "0.1.0".into() }),
            started: None,
            clock_skew_ms: Some(-3_600_000),
            parent: Some("gateway-7".parse().expect("an id")),
            ping: Some(PingView { at: datetime!(2026-11-21 11:58:00 UTC), round_trip_ms: Some(48), failed_in_a_row: 0 }),
            reported: serde_json::json!({"firmware": "1.4.2", "note": "\u{1b}[2J"}),
            tags: serde_json::json!({}),
        };
        let out = Out::for_test(Some(100));
        insta::assert_snapshot!(
            sheet(&DeviceDetail { device, children: vec!["press-0043".parse().expect("an id")], tasks: vec![] }, &out).render(&out)
        );
    }
}
