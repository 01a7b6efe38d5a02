//! `muster alerts …`: what devices raised, what was decided about it, and what came of it.

use clap::{Args, Subcommand};
use muster_wire::alert::{ALERT_TYPE, COMMON_ALERT_SCHEMA, Severity};
use muster_wire::http::{AlertAnswer, AlertCounts, AlertOutcome, AlertView};
use muster_wire::{AlertId, CollectionId, DeviceId, StormId};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::client::{Client, Query};
use crate::commands::collect::finish;
use crate::commands::collections::{ListArgs, list_or};
use crate::commands::line_of_time::{Followed, line_of_time};
use crate::commands::{parked, storms};
use crate::failure::{Failure, exit};
use crate::moment::{Moment, parse_moment};
use crate::present::units::{count, counted, relative, rfc3339_seconds};
use crate::present::{Form, Out, Sheet, spoken};
use crate::progress;

/// Content type of an event in one JSON document.
const STRUCTURED: &str = "application/cloudevents+json";
/// Source of events that are raised here by hand.
const SOURCE: &str = "urn:muster:cli";

const EXAMPLES: &str = "\
Examples:
  muster alerts list --outcome on_demand
  muster alerts show alt_01jd8k2m3n4p5q6r7s8t9v0w1x
  muster alerts raise press-0042 --indicator IOTEdgeAgentNotRunningCondition
  muster alerts storms list
  muster alerts parked list";
const LIST_EXAMPLES: &str = "\
Examples:
  muster alerts list --since 24h
  muster alerts list --device press-0042 --indicator IOTEdgeAgentNotRunningCondition
  muster alerts list --collection col_01jd8k2m3n4p5q6r7s    # all that one collection stands for
  muster alerts list --outcome on_demand -o name | xargs -n 1 muster alerts collect";
const SHOW_EXAMPLES: &str = "\
On a terminal it ends with one line of time: the alert, what was decided, the collection, each state of its task, the bundle.

Examples:
  muster alerts show alt_01jd8k2m3n4p5q6r7s8t9v0w1x
  muster alerts show alt_01jd8k2m3n4p5q6r7s8t9v0w1x -o json | jq .data";
const COUNTS_EXAMPLES: &str = "\
Examples:
  muster alerts counts --since 24h
  muster alerts counts -o json | jq .outcomes";
const RAISE_EXAMPLES: &str = "\
The event goes the way of every other: consent, cooldown, rules and storms are asked. With --wait the exit code says how the collection \
ended, as for muster collect; 4 when nothing was allowed.

Examples:
  muster alerts raise press-0042 --indicator IOTEdgeAgentNotRunningCondition --severity sev2
  muster alerts raise press-0042 --indicator AcsUnhealthyCondition --at '10 min ago' --wait
  muster alerts raise press-0042 --indicator AcsUnhealthyCondition --resolved --origin a-17";
const COLLECT_EXAMPLES: &str = "\
For an alert that was left on demand, deferred, counted with another or came too late. Consent is asked as always.

Examples:
  muster alerts collect alt_01jd8k2m3n4p5q6r7s8t9v0w1x
  muster alerts collect alt_01jd8k2m3n4p5q6r7s8t9v0w1x --wait";

/// What devices raised, and what was decided about it
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct AlertsArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List alerts, newest first
    #[command(after_long_help = LIST_EXAMPLES)]
    List(AlertListArgs),
    /// Show one alert, and what followed from it on one line of time
    #[command(after_long_help = SHOW_EXAMPLES)]
    Show(IdArgs),
    /// How many alerts came to what
    #[command(after_long_help = COUNTS_EXAMPLES)]
    Counts(CountsArgs),
    /// Say that something happened to a device
    #[command(after_long_help = RAISE_EXAMPLES)]
    Raise(RaiseArgs),
    /// Collect for an alert after all
    #[command(after_long_help = COLLECT_EXAMPLES)]
    Collect(CollectArgs),
    /// Messages that were no alert
    #[command(after_long_help = parked::EXAMPLES, arg_required_else_help = true)]
    Parked(parked::ParkedArgs),
    /// One indicator on many devices, of which a sample is collected
    #[command(after_long_help = storms::EXAMPLES, arg_required_else_help = true)]
    Storms(storms::StormsArgs),
}

#[derive(Debug, Args)]
struct IdArgs {
    /// Alert
    #[arg(value_name = "ALERT")]
    id: AlertId,
}

#[derive(Debug, Args)]
struct AlertListArgs {
    /// Only of this device
    #[arg(long, value_name = "ID")]
    device: Option<DeviceId>,
    /// Only of this indicator
    #[arg(long, value_name = "NAME")]
    indicator: Option<String>,
    /// Only those that came to this: collected, coalesced, on_demand, deferred, no_consent, unknown_indicator, stale, noted …
    #[arg(long, value_name = "OUTCOME")]
    outcome: Option<AlertOutcome>,
    /// Only of this storm
    #[arg(long, value_name = "STORM")]
    storm: Option<StormId>,
    /// Only those that made this collection or were counted with it
    #[arg(long, value_name = "COLLECTION")]
    collection: Option<CollectionId>,
    /// Only of devices of this tenant
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Only those that came since then, like 2h, today or 2026-01-31
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    since: Option<Moment>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Args)]
struct CountsArgs {
    /// Count from then on, like 24h, today or 2026-01-31 (default: all there are)
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    since: Option<Moment>,
}

#[derive(Debug, Args)]
struct RaiseArgs {
    /// Device
    #[arg(value_name = "DEVICE")]
    device: DeviceId,
    /// What happened; a name of the catalogue (muster indicators list)
    #[arg(long, value_name = "NAME")]
    indicator: String,
    /// How bad, for display and order: sev0 (critical) to sev4
    #[arg(long, value_name = "SEVERITY", default_value = "sev2")]
    severity: Severity,
    /// It ended
    #[arg(long)]
    resolved: bool,
    /// When, like "5 min ago" or RFC 3339 (default: now)
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    at: Option<Moment>,
    /// Joins what fired with what resolved
    #[arg(long, value_name = "ID")]
    origin: Option<String>,
    /// A sentence for people
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Id of the event; raised again with the same id it is known as a repetition (default: a new one)
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Wait for the collection that follows; the exit code says how it ended
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Args)]
struct CollectArgs {
    #[command(flatten)]
    id: IdArgs,
    /// Wait until it is done; the exit code says how it ended
    #[arg(long)]
    wait: bool,
}

pub(crate) async fn run(args: AlertsArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    match args.what {
        What::List(args) => list(args, client, out).await,
        What::Show(args) => show(args.id, client, out).await,
        What::Counts(args) => counts(&args, client, out).await,
        What::Raise(args) => raise(&args, client, out).await,
        What::Collect(args) => collect(&args, client, out).await,
        What::Parked(args) => parked::run(args, client, out).await,
        What::Storms(args) => storms::run(args, client, out).await,
    }
}

async fn list(args: AlertListArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let mut query = Query::new();
    query.extend(args.device.map(|device| ("device", device.to_string())));
    query.extend(args.indicator.map(|indicator| ("indicator", indicator)));
    query.extend(args.outcome.map(|outcome| ("outcome", outcome.to_string())));
    query.extend(args.storm.map(|storm| ("storm", storm.to_string())));
    query.extend(args.collection.map(|collection| ("collection", collection.to_string())));
    query.extend(args.tenant.map(|tenant| ("tenant", tenant)));
    query.extend(args.since.map(|since| ("since", rfc3339_seconds(since.instant(out.now())))));
    let nothing = if query.is_empty() {
        "no alert has come; muster alerts raise DEVICE --indicator NAME raises one, docs/ALERTS.md says how devices do"
    } else {
        "no alert is like that; muster alerts counts says what came to what, muster alerts parked list shows what was no alert"
    };
    list_or::<AlertView>(client, out, "list the alerts", &["alerts"], &query, args.list, nothing).await
}

async fn counts(args: &CountsArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let query: Query = args.since.map(|since| ("since", rfc3339_seconds(since.instant(out.now())))).into_iter().collect();
    let counts: AlertCounts = client.get("count the alerts", &["alerts", "counts"], &query).await?;
    out.one(&counts, &counts.outcomes.values().sum::<u64>().to_string(), |_| counts_sheet(&counts))?;
    if out.form() == Form::Table && counts.parked > 0 {
        out.note(&format!(
            "{} no alert; muster alerts parked list shows why",
            if counts.parked == 1 { "1 message was".to_owned() } else { format!("{} messages were", count(counts.parked)) }
        ));
    }
    Ok(exit::DONE)
}

fn counts_sheet(counts: &AlertCounts) -> Sheet {
    let all: u64 = counts.outcomes.values().sum();
    let sheet = Sheet::default().line("alerts", count(all));
    let sheet = counts.outcomes.iter().fold(sheet, |sheet, (outcome, n)| sheet.line(&format!("  {}", spoken(outcome)), count(*n)));
    let sheet = counts
        .indicators
        .iter()
        .fold(sheet, |sheet, (indicator, n)| sheet.line(&format!("of {}", crate::present::one_line(indicator)), count(*n)));
    sheet.line("repetitions", count(counts.duplicates)).line("parked", count(counts.parked))
}

/// The event: a common alert schema in a structured envelope.
fn event(args: &RaiseArgs, id: &str, now: OffsetDateTime) -> Value {
    let at = rfc3339_seconds(args.at.map_or(now, |at| at.instant(now)));
    let severity = args.severity.as_str().replacen('s', "S", 1);
    let mut essentials = json!({
        "alertId": args.origin.as_deref().unwrap_or(id),
        "alertRule": args.indicator,
        "severity": severity,
        "signalType": "Log",
        "monitorCondition": if args.resolved { "Resolved" } else { "Fired" },
        "monitoringService": "Muster",
        "alertTargetIDs": [],
        "configurationItems": [args.device],
        "essentialsVersion": "1.0",
        "alertContextVersion": "1.0",
    });
    essentials[if args.resolved { "resolvedDateTime" } else { "firedDateTime" }] = json!(at);
    if let Some(origin) = &args.origin {
        essentials["originAlertId"] = json!(origin);
    }
    if let Some(description) = &args.description {
        essentials["description"] = json!(description);
    }
    json!({
        "specversion": "1.0",
        "type": ALERT_TYPE,
        "source": SOURCE,
        "id": id,
        "time": at,
        "subject": args.indicator,
        "datacontenttype": "application/json",
        "data": {
            "schemaId": COMMON_ALERT_SCHEMA,
            "data": { "essentials": essentials, "alertContext": { "properties": { "alertType": args.indicator } }, "customProperties": {} },
        },
    })
}

async fn raise(args: &RaiseArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let id = args.id.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let event = event(args, &id, out.now()).to_string();
    let answer: AlertAnswer = client.upload("raise the alert", &["alerts"], &[], STRUCTURED, event.into()).await?;
    let raised = answer.alerts.first();
    if args.wait {
        if let Some(collection) = raised.and_then(|alert| alert.collection) {
            return finish(client, collection, out).await;
        }
        if let Some(alert) = raised {
            out.note(&format!("{}: {}, {}", alert.id, spoken(alert.outcome.as_str()), crate::present::one_line(&alert.why)));
            return Ok(if alert.outcome == AlertOutcome::NoConsent { exit::NOTHING_ALLOWED } else { exit::SOME_NOT });
        }
    }
    let name = raised.map(|alert| alert.id.to_string()).unwrap_or_default();
    out.one(&answer, &name, |_| answer_sheet(&answer))?;
    Ok(exit::DONE)
}

/// What became of an event.
pub(crate) fn answer_sheet(answer: &AlertAnswer) -> Sheet {
    if answer.duplicate {
        return Sheet::default().line("repetition", "the same event came before; nothing was done again");
    }
    answer.alerts.iter().fold(Sheet::default(), |sheet, alert| {
        sheet
            .line("alert", alert.id.to_string())
            .line("device", alert.device.clone())
            .line("outcome", spoken(alert.outcome.as_str()))
            .line("because", alert.why.clone())
            .maybe("collection", alert.collection.map(|id| id.to_string()))
            .line("next", next_step(alert.id, alert.outcome, alert.collection, &alert.device))
    })
}

/// What somebody who wants logs would do now.
fn next_step(id: AlertId, outcome: AlertOutcome, collection: Option<CollectionId>, device: &str) -> String {
    match (outcome, collection) {
        (_, Some(collection)) => format!("muster collections watch {collection}"),
        (AlertOutcome::OnDemand | AlertOutcome::Deferred | AlertOutcome::Stale, None) => format!("muster alerts collect {id}"),
        (AlertOutcome::NoConsent, None) => format!("muster consent show {device}"),
        (AlertOutcome::UnknownIndicator, None) => "muster indicators list".to_owned(),
        _ => format!("muster alerts show {id}"),
    }
}

async fn collect(args: &CollectArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let id = args.id.id;
    let path = ["alerts", &id.to_string(), "collect"];
    let view: AlertView = progress::waiting("asking", client.post("collect for the alert", &path, &json!({}), None)).await?;
    match view.collection {
        Some(collection) if args.wait => finish(client, collection, out).await,
        collection => {
            let name = collection.map(|id| id.to_string()).unwrap_or_default();
            out.one(&view, &name, |_| {
                Sheet::default()
                    .line("alert", view.id.to_string())
                    .line("collection", name.clone())
                    .line("next", format!("muster collections watch {name}"))
            })?;
            Ok(exit::DONE)
        }
    }
}

async fn show(id: AlertId, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let view: AlertView = client.get("show the alert", &["alerts", &id.to_string()], &[]).await?;
    out.one(&view, &id.to_string(), |out| sheet(&view, out))?;
    if out.form() == Form::Table {
        let followed = Followed::read(&view, client).await?;
        out.text("\n")?;
        out.list(&line_of_time(&view, &followed))?;
    }
    Ok(exit::DONE)
}

fn sheet(view: &AlertView, out: &Out) -> Sheet {
    let fired = if view.time_inferred { "when it came: it says no time".to_owned() } else { relative(view.fired_at, out.now()) };
    let came = format!("{} as {}, {}", rfc3339_seconds(view.received_at), view.shape, view.via);
    let of_device = [("tenant", &view.tenant), ("site", &view.site), ("model", &view.model), ("version", &view.version)];
    let sheet = Sheet::default()
        .line("alert", view.id.to_string())
        .line("device", view.device.clone())
        .line("indicator", view.indicator.clone())
        .line("condition", view.condition.as_str())
        .maybe("severity", view.severity.map(|severity| severity.to_string()))
        .line("at", format!("{} ({fired})", rfc3339_seconds(view.fired_at)))
        .line("came", came)
        .line("outcome", spoken(view.outcome.as_str()))
        .line("because", view.why.clone())
        .line(
            "decided by",
            format!(
                "{}, catalogue version {}",
                view.rule.as_ref().map_or_else(|| "the catalogue".to_owned(), |rule| format!("rule {rule}")),
                view.catalogue_version
            ),
        )
        .maybe("consent", view.consent.map(|id| id.to_string()))
        .maybe("again at", view.due_at.map(|at| format!("{} ({})", rfc3339_seconds(at), relative(at, out.now()))))
        .maybe("collection", view.collection.map(|id| id.to_string()))
        .maybe("stands for", (view.occurrences > 1).then(|| counted(view.occurrences, "alert")))
        .maybe("storm", view.storm.map(|id| id.to_string()));
    let sheet = of_device.into_iter().fold(sheet, |sheet, (name, value)| sheet.maybe(name, value.clone()));
    let sheet = view.shadow.iter().fold(sheet, |sheet, shadow| {
        sheet.line("in shadow", format!("rule {}: {}, {}", shadow.rule, spoken(shadow.outcome.as_str()), shadow.why))
    });
    sheet
        .maybe("says", view.description.clone())
        .line("event", format!("{} of {}", view.event_id, view.source))
        .maybe("joins", view.origin_alert_id.clone())
        .maybe("trace", view.traceparent.clone())
        .maybe("next", view.collection.is_none().then(|| next_step(view.id, view.outcome, None, &view.device)))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::present::an_alert;

    fn raise_args() -> RaiseArgs {
        RaiseArgs {
            device: "press-0042".parse().expect("an id"),
            indicator: "AcsUnhealthyCondition".to_owned(),
            severity: Severity::Sev2,
            resolved: false,
            at: None,
            origin: None,
            description: None,
            id: None,
            wait: false,
        }
    }

    #[test]
    fn the_event_is_a_common_alert_in_an_envelope() {
        let now = datetime!(2026-11-21 12:00:00.4 UTC);
        let fired = event(&raise_args(), "7", now);
        assert_eq!((&fired["specversion"], &fired["type"], &fired["id"]), (&json!("1.0"), &json!(ALERT_TYPE), &json!("7")));
        let essentials = &fired["data"]["data"]["essentials"];
        assert_eq!(essentials["monitorCondition"], "Fired");
        assert_eq!(essentials["severity"], "Sev2");
        assert_eq!(essentials["firedDateTime"], "2026-11-21T12:00:00Z");
        assert_eq!(essentials["configurationItems"], json!(["press-0042"]));
        assert_eq!(fired["data"]["data"]["alertContext"]["properties"]["alertType"], "AcsUnhealthyCondition");

        let args = RaiseArgs {
            resolved: true,
            at: Some(parse_moment("10 min ago").expect("a time")),
            origin: Some("a-17".to_owned()),
            description: Some("it hums".to_owned()),
            ..raise_args()
        };
        let ended = event(&args, "8", now);
        let essentials = &ended["data"]["data"]["essentials"];
        assert_eq!((&essentials["monitorCondition"], &essentials["originAlertId"]), (&json!("Resolved"), &json!("a-17")));
        assert_eq!((&essentials["resolvedDateTime"], &ended["time"]), (&json!("2026-11-21T11:50:00Z"), &json!("2026-11-21T11:50:00Z")));
        assert_eq!((&essentials["firedDateTime"], &essentials["description"]), (&Value::Null, &json!("it hums")));
    }

    #[test]
    fn an_alert_as_a_sheet() {
        let out = Out::for_test(Some(100));
        let shadow = muster_wire::http::ShadowView {
            rule: "quiet-oslo".to_owned(),
            outcome: AlertOutcome::Deferred,
            why: "quiet until 06:00 Europe/Oslo".to_owned(),
        };
        insta::assert_snapshot!(sheet(&AlertView { shadow: vec![shadow], ..an_alert() }, &out).render(&out));
    }

    #[test]
    fn every_outcome_has_a_next_step() {
        let id: AlertId = "alt_01jd8k2m3n4p5q6r7s8t9v0w1x".parse().expect("an id");
        for outcome in AlertOutcome::ALL {
            assert!(next_step(id, *outcome, None, "press-1").starts_with("muster "), "{outcome}");
        }
        assert_eq!(next_step(id, AlertOutcome::NoConsent, None, "press-1"), "muster consent show press-1");
        assert_eq!(next_step(id, AlertOutcome::OnDemand, None, "press-1"), format!("muster alerts collect {id}"));
    }

    #[test]
    fn counts_add_up() {
        let out = Out::for_test(Some(100));
        let counts = AlertCounts {
            outcomes: [("collected".to_owned(), 3), ("no_consent".to_owned(), 1200)].into(),
            indicators: [("AcsUnhealthyCondition".to_owned(), 1203)].into(),
            parked: 2,
            duplicates: 7,
        };
        insta::assert_snapshot!(counts_sheet(&counts).render(&out));
    }
}
