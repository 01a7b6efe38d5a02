//! `muster collect bundle|logs`: make a collection, and follow it when asked to.

use std::time::Duration;

use clap::{Args, Subcommand};
use muster_wire::CollectionId;
use muster_wire::http::{
    CollectionAnswer, CollectionOptions, CollectionRequest, MAX_ATTEMPT_TIMEOUT_SECONDS, MAX_ATTEMPTS_ASKED, MAX_EXPIRY_SECONDS,
    MAX_IN_FLIGHT, MIN_ATTEMPT_TIMEOUT_SECONDS, NewCollection,
};
use muster_wire::method::{ContentType, Encoding, LogFilter, LogItem};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::client::Client;
use crate::failure::{Failure, exit};
use crate::follow::{exit_code, follow_with_progress, summary};
use crate::moment::{Moment, parse_moment, parse_span};
use crate::present::units::counted;
use crate::present::{Form, Out, Sheet, one_line};
use crate::progress;
use crate::target::TargetArgs;

const EXAMPLES: &str = "\
Examples:
  muster collect bundle --device press-0042 --since 2h --case 48213 --wait
  muster collect logs --devices oslo.txt --module edgeAgent --since 2h --text";

const BUNDLE_EXAMPLES: &str = "\
Examples:
  muster collect bundle --device press-0042 --since 2h --case 48213 --wait
  muster collect bundle --device press-0042 press-0043 --reason 'line 4 stands still'
  muster collect bundle --all --in-flight 200 --expires 12h
  muster devices list -o name | muster collect bundle --devices - --wait -o json
  muster collect bundle --all --since yesterday --idempotency-key nightly-2026-01-31 --wait";

const LOGS_EXAMPLES: &str = "\
Examples:
  muster collect logs --device press-0042 --since 2h
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
    wait: WaitArgs,
}

#[derive(Debug, Args)]
struct CollectLogsArgs {
    #[command(flatten)]
    target: TargetArgs,
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
#[command(next_help_heading = "How long, how fast")]
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
    /// Most devices asked at the same time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_IN_FLIGHT)))]
    in_flight: Option<u32>,
    /// The same key with the same request makes one collection, however often it is sent
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
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
            in_flight: self.in_flight,
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
    let (target, request, case, pace, wait) = match args.what {
        What::Bundle(args) => {
            let since = args.since.map(|since| since.request(out.now()));
            let request = CollectionRequest::Bundle { since, edge_runtime_only: args.edge_runtime_only };
            (args.target, request, args.case, args.pace, args.wait)
        }
        What::Logs(args) => {
            let content_type = if args.text { ContentType::Text } else { ContentType::Json };
            let request = CollectionRequest::UploadLogs { items: args.lines.items(out.now()), encoding: Encoding::Gzip, content_type };
            (args.target, request, args.case, args.pace, args.wait)
        }
    };
    let new =
        NewCollection { reason: case.reason, case: case.case, options: pace.options(), ..NewCollection::new(request, target.target()?) };
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
    out.one(&answer, &name, |_| {
        Sheet::default()
            .line("collection", created.id.to_string())
            .line("devices", created.targeted.to_string())
            .maybe("note", created.repeated.then_some("made by an earlier request with this key"))
            .line("next", format!("muster collections watch {}", created.id))
    })?;
    Ok(exit::DONE)
}

/// Follows a collection to its end, prints where it stands then, and turns it into an exit code.
pub(crate) async fn finish(client: &Client, id: CollectionId, out: &mut Out) -> Result<u8, Failure> {
    let view = follow_with_progress(client, id, out).await?;
    match out.form() {
        Form::Table => {
            let mut text = summary(&view, out);
            let code = exit_code(&view);
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
    use time::macros::datetime;

    fn lines(words: &[&str]) -> LineArgs {
        let words = ["muster", "collect", "logs", "--all"].iter().chain(words);
        match Cli::parse_from_words(words).expect("parses").command {
            Command::Collect(CollectArgs { what: What::Logs(args) }) => args.lines,
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
    fn levels() {
        for (text, level) in [("error", 3), ("ERR", 3), ("0", 0), ("7", 7), ("Info", 6)] {
            assert_eq!(parse_level(text), Ok(level), "{text}");
        }
        assert!(parse_level("8").is_err() && parse_level("loud").is_err() && parse_level("-1").is_err());
    }

    #[test]
    fn options_come_from_flags_and_are_bounded() {
        let parse = |words: &[&str]| {
            Cli::parse_from_words(["muster", "collect", "bundle", "--all"].iter().chain(words)).map(|cli| match cli.command {
                Command::Collect(CollectArgs { what: What::Bundle(args) }) => (args.pace.options(), args.wait.wait),
                other => panic!("{other:?}"),
            })
        };
        let (options, wait) =
            parse(&["--timeout", "90s", "--attempts", "2", "--expires", "2h", "--in-flight", "50", "--wait", "--exit-status"])
                .expect("parses");
        let expected = CollectionOptions {
            attempt_timeout_seconds: Some(90),
            max_attempts: Some(2),
            expires_in_seconds: Some(7200),
            in_flight: Some(50),
            ..CollectionOptions::default()
        };
        assert_eq!((options, wait), (expected, true));
        for words in [["--timeout", "1s"], ["--timeout", "25h"], ["--attempts", "51"], ["--expires", "91days"], ["--in-flight", "0"]] {
            assert!(parse(&words).is_err(), "{words:?}");
        }
    }
}
