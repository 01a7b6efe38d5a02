//! `muster collect bundle|logs`: make a collection, and follow it when asked to.

use std::time::Duration;

use clap::{Args, Subcommand};
use muster_wire::http::{
    CollectionAnswer, CollectionCreated, CollectionOptions, CollectionRequest, MAX_ATTEMPT_TIMEOUT_SECONDS, MAX_ATTEMPTS_ASKED,
    MAX_EXPIRY_SECONDS, MAX_WINDOW_SECONDS, MIN_ATTEMPT_TIMEOUT_SECONDS, MIN_WINDOW_SECONDS, NewCollection, Preview, Retry, Window,
};
use muster_wire::method::{ContentType, Encoding, LogFilter, LogItem};
use muster_wire::{CollectionId, Reason};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::client::Client;
use crate::failure::{Failure, exit};
use crate::follow::{exit_code, follow_with_progress, needs_somebody, summary};
use crate::moment::{Moment, parse_moment, parse_span};
use crate::present::units::{bytes, counted, duration};
use crate::present::{Form, Out, Sheet, one_line};
use crate::progress;
use crate::rollout::RolloutArgs;
use crate::target::{ChoiceArgs, TargetArgs};

const EXAMPLES: &str = "\
Deeper steps, for devices whose answer gives reason to, are asked for through the API (docs/SCHEDULES.md).

Examples:
  muster collect bundle --device press-0042 --since 2h --case 48213 --wait
  muster collect logs --devices oslo.txt --module edgeAgent --since 2h --text";

const BUNDLE_EXAMPLES: &str = "\
Examples:
  muster collect bundle --device press-0042 --since 2h --case 48213 --wait
  muster collect bundle --device press-0042 press-0043 --reason 'line 4 stands still'
  muster collect bundle -t \"tags.site = 'oslo' AND NOT reported.firmware IN ['1.4.2']\" --since 2h
  muster collect bundle -t 'tags.lab = true' --since 2h --dry-run
  muster collect bundle --all --yes --since 2h
  muster collect bundle --all --sample 2% --exclude press-0042 --in-flight 200 --expires 12h
  muster collect bundle --all --canary 10 --rate 50/min --ramp 2x/100 --abort-at 5% --priority low
  muster collect bundle --all --window '0 1 * * *' --window-length 3h --time-zone Europe/Oslo
  muster collect bundle --all --standing --expires 30days --retry 1m,5m,30m
  muster devices list -o name | muster collect bundle --devices - --wait -o json
  muster collect bundle --all --since yesterday --idempotency-key nightly-2026-01-31 --wait";

const LOGS_EXAMPLES: &str = "\
Examples:
  muster collect logs --device press-0042 --since 2h
  muster collect logs -t \"STARTSWITH(tags.line, 'press')\" --limit 20 --since 2h
  muster collect logs --devices oslo.txt --module edgeAgent --module 'opc.*' --tail 5000 --wait
  muster collect logs --all --since '2026-01-31 14:00' --until '2026-01-31 14:30' --json
  muster collect logs --device press-0042 --module edgeHub --regex '(?i)retry' --text --case 48213";

/// Ask devices for support bundles or logs
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct CollectArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Ask each device for a support bundle: system facts and the logs of every module, as one zip
    #[command(after_long_help = BUNDLE_EXAMPLES)]
    Bundle(BundleArgs),
    /// Ask each device to upload the logs of some or all modules
    #[command(after_long_help = LOGS_EXAMPLES)]
    Logs(CollectLogsArgs),
}

#[derive(Debug, Args)]
struct BundleArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    choice: ChoiceArgs,
    /// Logs since then: 2h, yesterday, "2026-01-31 14:05" (UTC), RFC 3339; everything the device has unless given
    #[arg(long, value_name = "TIME", value_parser = parse_moment, help_heading = "Which logs")]
    since: Option<Moment>,
    /// Leave out all modules but edgeAgent and edgeHub
    #[arg(long, help_heading = "Which logs")]
    edge_runtime_only: bool,
    #[command(flatten)]
    case: CaseArgs,
    #[command(flatten)]
    pace: PaceArgs,
    #[command(flatten)]
    rollout: RolloutArgs,
    #[command(flatten)]
    when: WhenArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, Args)]
struct CollectLogsArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    choice: ChoiceArgs,
    #[command(flatten)]
    lines: LineArgs,
    /// Lines as they were printed
    #[arg(long, conflicts_with = "json", help_heading = "Which lines")]
    text: bool,
    /// One JSON object per line, with time, level and stream (default)
    #[arg(long, help_heading = "Which lines")]
    json: bool,
    #[command(flatten)]
    case: CaseArgs,
    #[command(flatten)]
    pace: PaceArgs,
    #[command(flatten)]
    rollout: RolloutArgs,
    #[command(flatten)]
    when: WhenArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Which lines of which modules.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Which lines")]
pub(crate) struct LineArgs {
    /// Module name or .NET pattern, matched anywhere and without regard to case; repeatable; every module unless given
    #[arg(long, value_name = "NAME")]
    pub(crate) module: Vec<String>,
    /// The last N lines. Devices count them before --loglevel and --regex choose among them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub(crate) tail: Option<i32>,
    /// Not older than: 2h, yesterday, "2026-01-31 14:05" (UTC) or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    pub(crate) since: Option<Moment>,
    /// Not newer than
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    pub(crate) until: Option<Moment>,
    /// Lines of exactly this level: a number 0-7, or emerg, alert, crit, error, warning, notice, info, debug
    #[arg(long, value_name = "LEVEL", value_parser = parse_level)]
    pub(crate) loglevel: Option<i32>,
    /// Lines whose text matches this .NET pattern
    #[arg(long, value_name = "PATTERN")]
    pub(crate) regex: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Why")]
struct CaseArgs {
    /// Support case this is for
    #[arg(long, value_name = "CASE")]
    case: Option<String>,
    /// Why, in words; kept with the collection
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "How long")]
struct PaceArgs {
    /// Time for one attempt at a device, upload included
    #[arg(long, value_name = "SPAN", value_parser = parse_attempt_span)]
    timeout: Option<Duration>,
    /// Attempts per device
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_ATTEMPTS_ASKED)))]
    attempts: Option<u8>,
    /// Life of the collection: devices that are offline are waited for until then
    #[arg(long, value_name = "SPAN", value_parser = parse_expiry_span)]
    expires: Option<Duration>,
    /// Show whom it would ask, who would wait and what the first device would get, and make nothing
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Confirm it: it begins at once, however many devices it targets. Otherwise one for more devices than the controller's setting
    /// dispatch.confirm_above is made paused
    #[arg(long)]
    yes: bool,
    /// The same key with the same request makes one collection, however often it is sent
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "When")]
struct WhenArgs {
    /// Ask devices only in a window that opens at these times: a cron expression
    #[arg(long, value_name = "CRON", requires = "window_length")]
    window: Option<String>,
    /// How long the window stays open
    #[arg(long, value_name = "SPAN", value_parser = parse_window_span, requires = "window")]
    window_length: Option<Duration>,
    /// Time zone of the window
    #[arg(long, value_name = "ZONE", default_value = "UTC", requires = "window")]
    time_zone: String,
    /// Waits before a failed attempt is repeated: a list of spans. One more attempt than there are spans, unless --attempts says otherwise;
    /// the last span repeats
    #[arg(long, value_name = "SPANS", value_delimiter = ',', value_parser = parse_span)]
    retry: Vec<Duration>,
    /// Repeat only attempts that ended for this reason; repeatable
    #[arg(long, value_name = "REASON", value_delimiter = ',')]
    retry_reason: Vec<Reason>,
    /// Also take devices that meet the target later, until the collection expires; --wait waits as long
    #[arg(long, conflicts_with_all = ["device", "devices"])]
    standing: bool,
}

impl WhenArgs {
    fn window(&self) -> Option<Window> {
        let length = self.window_length?;
        Some(Window { cron: self.window.clone()?, length_seconds: length.as_secs(), time_zone: self.time_zone.clone() })
    }

    fn retry(&self) -> Option<Retry> {
        let waits_seconds = self.retry.iter().map(Duration::as_secs).collect();
        let retry = Retry { reasons: self.retry_reason.clone(), waits_seconds };
        (retry != Retry::default()).then_some(retry)
    }
}

#[derive(Debug, Args)]
struct WaitArgs {
    /// Wait until every device is done; the exit code says how it ended. Ctrl-C leaves the collection running
    #[arg(long, visible_alias = "exit-status", overrides_with = "wait")]
    wait: bool,
}

/// The highest level a line can have: debug.
const MAX_LEVEL: usize = 7;

/// Syslog's words and numbers.
fn parse_level(text: &str) -> Result<i32, String> {
    const WORDS: [&[&str]; 8] = [
        &["emerg", "emergency"],
        &["alert"],
        &["crit", "critical", "fatal"],
        &["err", "error"],
        &["warn", "warning"],
        &["notice"],
        &["info", "informational"],
        &["debug"],
    ];
    let word = text.trim().to_ascii_lowercase();
    let by_word = WORDS.iter().position(|words| words.contains(&word.as_str()));
    let level = by_word.or_else(|| word.parse::<usize>().ok().filter(|level| *level <= MAX_LEVEL));
    level
        .and_then(|level| i32::try_from(level).ok())
        .ok_or_else(|| "a level is 0 to 7, or emerg, alert, crit, error, warning, notice, info, debug".to_owned())
}

pub(crate) fn parse_attempt_span(text: &str) -> Result<Duration, String> {
    within(text, MIN_ATTEMPT_TIMEOUT_SECONDS, MAX_ATTEMPT_TIMEOUT_SECONDS)
}

fn parse_window_span(text: &str) -> Result<Duration, String> {
    within(text, MIN_WINDOW_SECONDS, MAX_WINDOW_SECONDS)
}

fn parse_expiry_span(text: &str) -> Result<Duration, String> {
    within(text, 1, MAX_EXPIRY_SECONDS)
}

fn within(text: &str, least: u64, most: u64) -> Result<Duration, String> {
    let span = parse_span(text)?;
    if (least..=most).contains(&span.as_secs()) {
        return Ok(span);
    }
    let words = |seconds| humantime::format_duration(Duration::from_secs(seconds)).to_string();
    Err(format!("it has to be between {} and {}", words(least), words(most)))
}

impl LineArgs {
    /// One item per module, each with the same filter.
    pub(crate) fn items(&self, now: OffsetDateTime) -> Vec<LogItem> {
        let text = |moment: Option<Moment>| moment.map(|moment| moment.request(now));
        let filter = LogFilter {
            tail: self.tail,
            since: text(self.since),
            until: text(self.until),
            loglevel: self.loglevel,
            regex: self.regex.clone(),
        };
        let all = ["all".to_owned()];
        let modules = if self.module.is_empty() { &all[..] } else { &self.module };
        modules.iter().map(|id| LogItem { id: id.clone(), filter: filter.clone() }).collect()
    }
}

impl PaceArgs {
    fn options(&self) -> CollectionOptions {
        CollectionOptions {
            attempt_timeout_seconds: self.timeout.map(|span| span.as_secs()),
            max_attempts: self.attempts,
            expires_in_seconds: self.expires.map(|span| span.as_secs()),
            ..CollectionOptions::default()
        }
    }
}

/// Makes a collection; a key is made up when none is given, so that a connection that breaks never makes two.
pub(crate) async fn create(client: &Client, new: &NewCollection, key: Option<String>) -> Result<CollectionAnswer, Failure> {
    let key = key.unwrap_or_else(|| Uuid::new_v4().to_string());
    progress::waiting("creating the collection", client.post("create the collection", &["collections"], new, Some(&key))).await
}

pub(crate) async fn run(args: CollectArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let (target, choice, request, case, pace, rollout, when, wait) = match args.what {
        What::Bundle(args) => {
            let since = args.since.map(|since| since.request(out.now()));
            let request = CollectionRequest::Bundle { since, edge_runtime_only: args.edge_runtime_only };
            (args.target, args.choice, request, args.case, args.pace, args.rollout, args.when, args.wait)
        }
        What::Logs(args) => {
            let content_type = if args.text { ContentType::Text } else { ContentType::Json };
            let request = CollectionRequest::UploadLogs { items: args.lines.items(out.now()), encoding: Encoding::Gzip, content_type };
            (args.target, args.choice, request, args.case, args.pace, args.rollout, args.when, args.wait)
        }
    };
    let target = target.target()?;
    let options =
        CollectionOptions { in_flight: rollout.in_flight(), priority: rollout.priority(&target), retry: when.retry(), ..pace.options() };
    let new = NewCollection {
        reason: case.reason,
        case: case.case,
        choice: choice.choice()?,
        options,
        rollout: rollout.rollout(),
        window: when.window(),
        standing: when.standing,
        confirmed: pace.yes,
        ..NewCollection::new(request, target)
    };
    if pace.dry_run {
        return preview(client, &new, out).await;
    }
    let answer = create(client, &new, pace.idempotency_key).await?;
    let created = &answer.created;
    for warning in &answer.warnings {
        out.note(&format!("note: {}", one_line(warning)));
    }
    if wait.wait {
        let again = if created.repeated { ", made by an earlier request with this key" } else { "" };
        out.note(&format!("{}: {}{again}", created.id, counted(created.targeted, "device")));
        return finish(client, created.id, out).await;
    }
    let name = created.id.to_string();
    out.one(&answer, &name, |_| created_sheet(created))?;
    Ok(exit::DONE)
}

/// What was made, and what to do next.
pub(crate) fn created_sheet(created: &CollectionCreated) -> Sheet {
    Sheet::default()
        .line("collection", created.id.to_string())
        .line("devices", created.targeted.to_string())
        .maybe("note", created.repeated.then_some("made by an earlier request with this key"))
        .line("next", format!("muster collections {} {}", if created.paused { "resume" } else { "watch" }, created.id))
}

/// Shows what a collection would do.
pub(crate) async fn preview(client: &Client, new: &NewCollection, out: &mut Out) -> Result<u8, Failure> {
    let asked = client.post("preview the collection", &["collections", "preview"], new, None);
    let preview: Preview = progress::waiting("previewing the collection", asked).await?;
    for warning in &preview.warnings {
        out.note(&format!("note: {}", one_line(warning)));
    }
    let name = preview.targeted.to_string();
    out.one(&preview, &name, |_| preview_sheet(&preview))?;
    Ok(exit::DONE)
}

fn preview_sheet(preview: &Preview) -> Sheet {
    let some = |count: u64, why: &str| (count > 0).then(|| format!("{count} ({why})"));
    let estimate = match &preview.estimate {
        Some(estimate) => format!(
            "{} in about {}, from {} {}",
            bytes(estimate.bytes),
            duration(estimate.seconds as f64),
            counted(estimate.from_bundles, "past bundle"),
            match estimate.same_model_and_window {
                0 => "of this kind, none of them of the same model and window".to_owned(),
                own if own + preview.skipped >= preview.targeted => "of the same model and window".to_owned(),
                own => format!("(of the same model and window for {own} devices, of this kind for the others)"),
            }
        ),
        None => "no past bundles of this kind to estimate from".to_owned(),
    };
    let example = preview.example.as_ref();
    Sheet::default()
        .line("devices", preview.targeted.to_string())
        .maybe("skipped", some(preview.skipped, "the device lacks the method"))
        .maybe("waiting", some(preview.offline, "offline"))
        .maybe("busy", some(preview.busy, "at work on another bundle"))
        .maybe("unknown", some(preview.presence_unknown, "asked, though nobody knows whether they are connected"))
        .line("estimate", estimate)
        .maybe("first device", example.map(|example| example.device.to_string()))
        .maybe("its request", example.map(|example| format!("{} {}", example.method, example.payload)))
        .line("made", "nothing: this was a dry run")
}

/// Follows a collection to its end, prints where it stands then, and turns it into an exit code.
pub(crate) async fn finish(client: &Client, id: CollectionId, out: &mut Out) -> Result<u8, Failure> {
    let view = follow_with_progress(client, id, out).await?;
    match out.form() {
        Form::Table => {
            let mut text = summary(&view, out);
            let code = exit_code(&view);
            if needs_somebody(&view) && view.finished_at.is_none() {
                text.push_str(&format!("go on       muster collections resume {id}\nend it      muster collections cancel {id}\n"));
            }
            if code != exit::DONE {
                text.push_str(&format!("next        muster collections show {} --tasks --not-verified\n", view.id));
            }
            if view.bundle_bytes > 0 {
                text.push_str(&format!("download    muster collections download {}\n", view.id));
            }
            out.text(&text)?;
        }
        Form::Json | Form::Ndjson => out.json(&view)?,
        Form::Name => out.text(&format!("{}\n", view.id))?,
    }
    Ok(exit_code(&view))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use muster_wire::http::{Estimate, PreviewedRequest};
    use time::macros::datetime;

    fn lines(words: &[&str]) -> LineArgs {
        let words = ["muster", "collect", "logs", "--all"].iter().chain(words);
        match Cli::parse_from_words(words).expect("parses").command {
            Command::Collect(args) => match args.what {
                What::Logs(args) => args.lines,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn items_carry_absolute_times_and_the_same_filter() {
        let args =
            lines(&["--module", "edgeAgent", "--module", "opc.*", "--since", "2h", "--tail", "5", "--loglevel", "warn", "--regex", "x y"]);
        let items = args.items(datetime!(2026-01-01 12:00:00.7 UTC));
        insta::assert_json_snapshot!(items);
    }

    #[test]
    fn no_module_means_every_module() {
        let items = lines(&[]).items(datetime!(2026-01-01 12:00 UTC));
        assert_eq!(items, [LogItem { id: "all".into(), filter: LogFilter::default() }]);
    }

    #[test]
    fn a_preview_says_who_waits_and_what_it_costs() {
        let preview = Preview {
            targeted: 1_250,
            skipped: 12,
            offline: 30,
            busy: 4,
            presence_unknown: 1,
            estimate: Some(Estimate { from_bundles: 812, same_model_and_window: 1_200, bytes: 61 * 1024 * 1024 * 1024, seconds: 5_400 }),
            example: Some(PreviewedRequest {
                device: "press-0042".parse().expect("an id"),
                method: "UploadSupportBundle".to_owned(),
                payload: serde_json::json!({"schemaVersion": "1.0", "since": "2h"}),
            }),
            warnings: vec![],
        };
        let out = Out::for_test(Some(120));
        insta::assert_snapshot!(preview_sheet(&preview).render(&out));
        // Nobody waits, nothing is known of the past, nobody is asked: no line is there for nothing.
        let none = Preview { skipped: 0, offline: 0, busy: 0, presence_unknown: 0, estimate: None, example: None, ..preview };
        insta::assert_snapshot!("a_preview_without_a_past", preview_sheet(&none).render(&out));
    }

    #[test]
    fn levels() {
        for (text, level) in [("error", 3), ("ERR", 3), ("0", 0), ("7", 7), ("Info", 6)] {
            assert_eq!(parse_level(text), Ok(level), "{text}");
        }
        assert!(parse_level("8").is_err() && parse_level("loud").is_err() && parse_level("-1").is_err());
    }

    #[test]
    fn windows_and_retries_come_from_flags() {
        let parse = |words: &[&str]| {
            Cli::parse_from_words(["muster", "collect", "bundle"].iter().chain(words)).map(|cli| match cli.command {
                Command::Collect(args) => match args.what {
                    What::Bundle(args) => args.when,
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            })
        };
        let when = parse(&["--all", "--window", "0 1 * * *", "--window-length", "3h", "--time-zone", "Europe/Oslo"]).expect("parses");
        let window = Window { cron: "0 1 * * *".to_owned(), length_seconds: 10_800, time_zone: "Europe/Oslo".to_owned() };
        assert_eq!((when.window(), when.retry()), (Some(window), None));
        let when = parse(&["--all", "--retry", "1m,5m,30m", "--retry-reason", "no_answer,device_error", "--standing"]).expect("parses");
        let retry = Retry { reasons: vec![Reason::NoAnswer, Reason::DeviceError], waits_seconds: vec![60, 300, 1800] };
        assert_eq!((when.window(), when.retry(), when.standing), (None, Some(retry), true));
        for words in [
            &["--all", "--window", "@daily"][..],
            &["--all", "--window-length", "1h"],
            &["--all", "--time-zone", "UTC"],
            &["--all", "--window", "@daily", "--window-length", "59s"],
            &["--all", "--window", "@daily", "--window-length", "8days"],
            &["--all", "--retry", "0s"],
            &["--all", "--retry-reason", "bad_luck"],
            &["--device", "a", "--standing"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn options_come_from_flags_and_are_bounded() {
        let parse = |words: &[&str]| {
            Cli::parse_from_words(["muster", "collect", "bundle", "--all"].iter().chain(words)).map(|cli| match cli.command {
                Command::Collect(args) => match args.what {
                    What::Bundle(args) => (args.pace.options(), args.wait.wait),
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            })
        };
        let (options, wait) =
            parse(&["--timeout", "90s", "--attempts", "2", "--expires", "2h", "--wait", "--exit-status"]).expect("parses");
        let expected = CollectionOptions {
            attempt_timeout_seconds: Some(90),
            max_attempts: Some(2),
            expires_in_seconds: Some(7200),
            ..CollectionOptions::default()
        };
        assert_eq!((options, wait), (expected, true));
        for words in [["--timeout", "1s"], ["--timeout", "25h"], ["--attempts", "51"], ["--expires", "91days"], ["--in-flight", "0"]] {
            assert!(parse(&words).is_err(), "{words:?}");
        }
    }
}
