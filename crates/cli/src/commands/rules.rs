//! `muster rules …`: what is collected when an indicator is raised, where the catalogue alone does not say enough.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use muster_wire::alert::MAX_ALERT_BYTES;
use muster_wire::http::{MAX_PREVIEW_SECONDS, NewRule, RuleMode, RulePreview, RuleTest, RuleView, StormPolicy, span_in_words};
use reqwest::Method;

use crate::client::{Client, Query};
use crate::commands::collections::{ListArgs, list_or};
use crate::definition_file;
use crate::failure::{Failure, exit};
use crate::moment::parse_span;
use crate::present::units::{count, relative, rfc3339_seconds};
use crate::present::{Form, Out, Sheet, one_line, spoken};
use crate::progress;

const EXAMPLES: &str = "\
Examples:
  muster rules list
  muster rules add -f agent-down.yaml
  muster rules preview agent-down-in-oslo --last 7d
  muster rules enable agent-down-in-oslo";
const LIST_EXAMPLES: &str = "\
Examples:
  muster rules list
  muster rules list -o name";
const SHOW_EXAMPLES: &str = "\
Examples:
  muster rules show agent-down-in-oslo
  muster rules show agent-down-in-oslo --definition > rule.json    # to change it";
const ADD_EXAMPLES: &str = "\
The file holds one rule, or several with --- between them, in YAML or JSON. What a rule leaves out comes from the catalogue:
  name: agent-down-in-oslo
  indicator: IOTEdgeAgentNotRunningCondition
  mode: shadow
  devices: tags.site = 'oslo'
  per_site_per_day: 20

docs/RULES.md describes each member.

Examples:
  muster rules add -f agent-down.yaml
  muster rules add --file - < rule.json";
const EDIT_EXAMPLES: &str = "\
What the file says takes the place of the whole rule of its name.

Examples:
  muster rules edit -f agent-down.yaml";
const REMOVE_EXAMPLES: &str = "\
What it decided stays; from the next alert on the other rules and the catalogue decide.

Examples:
  muster rules remove agent-down-in-oslo";
const ENABLE_EXAMPLES: &str = "\
Examples:
  muster rules enable agent-down-in-oslo";
const DISABLE_EXAMPLES: &str = "\
Examples:
  muster rules disable agent-down-in-oslo";
const SHADOW_EXAMPLES: &str = "\
What it would have done stands with each alert (muster alerts show), and nothing follows from it.

Examples:
  muster rules shadow agent-down-in-oslo";
const TEST_EXAMPLES: &str = "\
Nothing is written and no device is asked. With --rule the exit code is 1 unless that rule would decide for every device of the event.

Examples:
  muster rules test -f event.json
  muster rules test -f event.json --rule agent-down-in-oslo
  muster rules test -f bare.json --content-type application/json -o json | jq '.devices[].request'";
const PREVIEW_EXAMPLES: &str = "\
Examples:
  muster rules preview agent-down-in-oslo --last 7d
  muster rules preview -f agent-down.yaml --last 24h    # before it is there";

/// What is collected when an indicator is raised, where the catalogue does not say enough
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct RulesArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List rules, in the order in which they are asked
    #[command(after_long_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Show one rule
    #[command(after_long_help = SHOW_EXAMPLES)]
    Show(ShowArgs),
    /// Make rules
    #[command(after_long_help = ADD_EXAMPLES)]
    Add(FileArgs),
    /// Change rules
    #[command(after_long_help = EDIT_EXAMPLES)]
    Edit(FileArgs),
    /// Remove a rule
    #[command(after_long_help = REMOVE_EXAMPLES)]
    Remove(NameArgs),
    /// Let a rule decide
    #[command(after_long_help = ENABLE_EXAMPLES)]
    Enable(NameArgs),
    /// Ask a rule no more, and keep it
    #[command(after_long_help = DISABLE_EXAMPLES)]
    Disable(NameArgs),
    /// Let a rule write down what it would have done, and do nothing
    #[command(after_long_help = SHADOW_EXAMPLES)]
    Shadow(NameArgs),
    /// What would be decided about an event now
    #[command(after_long_help = TEST_EXAMPLES)]
    Test(TestArgs),
    /// What a rule would have done with the alerts of the past
    #[command(after_long_help = PREVIEW_EXAMPLES)]
    Preview(PreviewArgs),
}

#[derive(Debug, Args)]
struct NameArgs {
    /// Rule
    #[arg(value_name = "NAME")]
    name: String,
}

#[derive(Debug, Args)]
struct ShowArgs {
    #[command(flatten)]
    rule: NameArgs,
    /// Only its definition, in JSON, as `edit` takes it
    #[arg(long)]
    definition: bool,
}

#[derive(Debug, Args)]
struct FileArgs {
    /// File with rules, YAML or JSON; - reads standard input
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, Args)]
struct TestArgs {
    /// File with an event; - reads standard input
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// The rule that should decide
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
    /// What the file is
    #[arg(long, value_name = "TYPE", default_value = "application/cloudevents+json",
        value_parser = ["application/cloudevents+json", "application/json"])]
    content_type: String,
}

#[derive(Debug, Args)]
struct PreviewArgs {
    /// A rule that is there
    #[arg(value_name = "NAME", required_unless_present = "file", conflicts_with = "file")]
    name: Option<String>,
    /// File with a rule, YAML or JSON; - reads standard input
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// With the alerts of the last so long, up to 31d
    #[arg(long, value_name = "SPAN", default_value = "7d", value_parser = parse_last)]
    last: Duration,
}

fn parse_last(text: &str) -> Result<Duration, String> {
    let span = parse_span(text)?;
    if span.as_secs() > MAX_PREVIEW_SECONDS {
        return Err(format!("a preview looks back at most {}", span_in_words(MAX_PREVIEW_SECONDS)));
    }
    Ok(span)
}

pub(crate) async fn run(args: RulesArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    match args.what {
        What::List(args) => {
            let nothing = "there is no rule: the catalogue alone decides (muster indicators list); muster rules add --help shows one";
            list_or::<RuleView>(client, out, "list the rules", &["rules"], &Query::new(), args, nothing).await
        }
        What::Show(args) => {
            let view = get(&args.rule.name, client).await?;
            if args.definition {
                out.json(&view.definition)?;
            } else {
                out.one(&view, &view.definition.name, |out| sheet(&view, out))?;
            }
            Ok(exit::DONE)
        }
        What::Add(args) => {
            for new in definition_file::read::<NewRule>(&args.file, "rules")? {
                let view: RuleView = client.post(&format!("add the rule {}", one_line(&new.name)), &["rules"], &new, None).await?;
                out.one(&view, &view.definition.name, |out| sheet(&view, out))?;
            }
            Ok(exit::DONE)
        }
        What::Edit(args) => {
            for new in definition_file::read::<NewRule>(&args.file, "rules")? {
                put(&new, client, out).await?;
            }
            Ok(exit::DONE)
        }
        What::Remove(args) => {
            client.delete("remove the rule", &["rules", &args.name]).await?;
            out.note(&format!("{} is removed; what it decided stays", one_line(&args.name)));
            Ok(exit::DONE)
        }
        What::Enable(args) => set_mode(&args.name, RuleMode::Active, client, out).await,
        What::Disable(args) => set_mode(&args.name, RuleMode::Off, client, out).await,
        What::Shadow(args) => set_mode(&args.name, RuleMode::Shadow, client, out).await,
        What::Test(args) => test(&args, client, out).await,
        What::Preview(args) => preview(&args, client, out).await,
    }
}

async fn get(name: &str, client: &Client) -> Result<RuleView, Failure> {
    client.get("show the rule", &["rules", name], &[]).await
}

async fn put(new: &NewRule, client: &Client, out: &mut Out) -> Result<(), Failure> {
    let intent = format!("change the rule {}", one_line(&new.name));
    let view: RuleView = client.change(&intent, Method::PUT, &["rules", &new.name], Some(new)).await?;
    out.one(&view, &view.definition.name, |out| sheet(&view, out))
}

async fn set_mode(name: &str, mode: RuleMode, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let view = get(name, client).await?;
    put(&NewRule { mode, ..view.definition }, client, out).await?;
    Ok(exit::DONE)
}

async fn test(args: &TestArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let event = definition_file::bytes(&args.file, MAX_ALERT_BYTES)?;
    let content_type = if args.content_type == "application/json" { "application/json" } else { "application/cloudevents+json" };
    let tested: RuleTest = client.upload("test the event", &["rules", "test"], &[], content_type, event.into()).await?;
    match out.form() {
        Form::Json => out.json(&tested)?,
        _ => out.list(&tested.devices)?,
    }
    let decides = |rule: &String| tested.devices.iter().all(|device| device.rule.as_ref() == Some(rule));
    Ok(if args.rule.as_ref().is_none_or(decides) { exit::DONE } else { exit::SOME_NOT })
}

async fn preview(args: &PreviewArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let seconds = args.last.as_secs().to_string();
    let (name, seen) = match (&args.name, &args.file) {
        (Some(name), _) => {
            let path = ["rules", name, "preview"];
            let query = [("since_seconds", seconds)];
            (name.clone(), progress::waiting("looking back", client.get("preview the rule", &path, &query)).await?)
        }
        (None, file) => {
            let new: NewRule = definition_file::read_one(file.as_deref().unwrap_or(Path::new("-")), "rules")?;
            let body = serde_json::to_vec(&new).expect("a rule is JSON");
            let query = [("since_seconds", seconds)];
            let posted = client.upload("preview the rule", &["rules", "preview"], &query, "application/json", body.into());
            (new.name, progress::waiting("looking back", posted).await?)
        }
    };
    let seen: RulePreview = seen;
    for warning in &seen.warnings {
        out.note(&format!("note: {}", one_line(warning)));
    }
    out.one(&seen, &name, |_| preview_sheet(&name, &seen))?;
    Ok(exit::DONE)
}

fn preview_sheet(name: &str, seen: &RulePreview) -> Sheet {
    let told = |counts: &std::collections::BTreeMap<String, u64>| {
        let words: Vec<String> = counts.iter().map(|(outcome, n)| format!("{} {}", count(*n), spoken(outcome))).collect();
        if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
    };
    Sheet::default()
        .line("rule", name)
        .line("alerts", format!("{} since {}", count(seen.alerts), rfc3339_seconds(seen.since)))
        .line("fitting", format!("{}, of devices that meet its condition now", count(seen.fitting)))
        .line("would have been", told(&seen.outcomes))
        .line("was", told(&seen.decided))
        .maybe("busiest day", seen.busiest_day.as_ref().map(|day| format!("{}: {} collections", day.day, count(day.collections))))
}

fn storm_words(policy: &StormPolicy) -> String {
    let twin = if policy.control_twin { ", and a healthy twin of each kind" } else { "" };
    format!(
        "more than {} devices within {}; then {} of each kind, {} in all{twin}",
        count(u64::from(policy.devices)),
        span_in_words(policy.within_seconds),
        count(u64::from(policy.per_stratum)),
        count(u64::from(policy.at_most))
    )
}

fn sheet(view: &RuleView, out: &Out) -> Sheet {
    let rule = &view.definition;
    let collects = match (&rule.collect, rule.ignore) {
        (_, true) => "nothing: alerts that fit are counted, and that is all".to_owned(),
        (Some(request), false) => request.in_words(),
        (None, false) => "what the catalogue says".to_owned(),
    };
    let mode = match rule.mode {
        RuleMode::Active => "active: it decides",
        RuleMode::Shadow => "shadow: it writes down what it would have done",
        RuleMode::Off => "off: it is not asked",
    };
    let a_day = |most: Option<u32>| most.map(|most| format!("{} collections a day", count(u64::from(most))));
    let sheet = Sheet::default()
        .line("rule", rule.name.clone())
        .line("mode", mode)
        .line("order", rule.order.to_string())
        .line("indicator", rule.indicator.clone())
        .line("devices", rule.devices.clone().unwrap_or_else(|| "all".to_owned()))
        .line("collects", collects)
        .maybe("from", rule.lookback_seconds.map(|seconds| format!("{} before the alert", span_in_words(seconds))))
        .maybe("until", rule.lookahead_seconds.map(|seconds| format!("{} after it", span_in_words(seconds))))
        .maybe("not again for", rule.cooldown_seconds.map(span_in_words))
        .maybe("priority", rule.priority.map(|priority| format!("{priority:?}").to_lowercase()));
    let quiet = rule.quiet.as_ref().map(|quiet| format!("{} {}, for {}", quiet.cron, quiet.time_zone, span_in_words(quiet.length_seconds)));
    sheet
        .maybe("quiet", quiet)
        .maybe("of one device", a_day(rule.per_device_per_day))
        .maybe("of one site", a_day(rule.per_site_per_day))
        .maybe("in all", a_day(rule.per_day))
        .maybe("a storm is", rule.storm.as_ref().map(storm_words))
        .line("changed", format!("{} by {}, version {}", relative(view.changed_at, out.now()), view.changed_by, view.version))
}

#[cfg(test)]
mod tests {
    use muster_wire::http::{BusiestDay, Window};
    use time::macros::datetime;

    use super::*;

    fn rule() -> RuleView {
        RuleView {
            definition: NewRule {
                name: "agent-down-in-oslo".to_owned(),
                indicator: "IOTEdgeAgentNotRunningCondition".to_owned(),
                mode: RuleMode::Shadow,
                order: 50,
                devices: Some("tags.site = 'oslo'".to_owned()),
                ignore: false,
                collect: None,
                lookback_seconds: Some(7200),
                lookahead_seconds: None,
                cooldown_seconds: Some(0),
                priority: None,
                quiet: Some(Window { cron: "0 22 * * *".to_owned(), length_seconds: 28_800, time_zone: "Europe/Oslo".to_owned() }),
                per_device_per_day: Some(2),
                per_site_per_day: None,
                per_day: Some(1000),
                storm: Some(StormPolicy::default()),
            },
            version: 3,
            created_at: datetime!(2026-11-01 12:00 UTC),
            changed_at: datetime!(2026-11-21 11:00 UTC),
            changed_by: "ada".to_owned(),
        }
    }

    #[test]
    fn a_rule_as_a_sheet() {
        let out = Out::for_test(Some(100));
        insta::assert_snapshot!(sheet(&rule(), &out).render(&out));
    }

    #[test]
    fn a_preview_compares() {
        let out = Out::for_test(Some(100));
        let seen = RulePreview {
            since: datetime!(2026-11-14 12:00 UTC),
            alerts: 1200,
            fitting: 40,
            outcomes: [("collected".to_owned(), 30), ("no_consent".to_owned(), 10)].into(),
            decided: [("collected".to_owned(), 40)].into(),
            busiest_day: Some(BusiestDay { day: "2026-11-18".to_owned(), collections: 12 }),
            warnings: vec![],
        };
        insta::assert_snapshot!(preview_sheet("agent-down-in-oslo", &seen).render(&out));
    }

    #[test]
    fn a_preview_looks_back_as_far_as_the_controller_does() {
        assert_eq!(parse_last("31d").map(|span| span.as_secs()), Ok(MAX_PREVIEW_SECONDS));
        assert!(parse_last("32d").expect_err("too far").contains("31 days"));
    }

    /// What `show --definition` prints is what `edit` reads.
    #[test]
    fn a_definition_comes_back() {
        let rule = rule();
        let text = serde_json::to_string(&rule.definition).expect("JSON");
        assert_eq!(serde_json::from_str::<NewRule>(&text).expect("a rule"), rule.definition);
    }
}
