//! `muster alerts storms …`: one indicator on many devices, of which a sample is collected.

use clap::{Args, Subcommand};
use muster_wire::StormId;
use muster_wire::http::{StormCollected, StormView};
use serde_json::json;

use crate::client::{Client, Query};
use crate::commands::collect::finish;
use crate::commands::collections::{ListArgs, list_or};
use crate::failure::{Failure, exit};
use crate::present::units::{count, counted, relative, rfc3339_seconds};
use crate::present::{Form, Out, Sheet};
use crate::progress;

pub(crate) const EXAMPLES: &str = "\
Examples:
  muster alerts storms list --open
  muster alerts storms show stm_01jd8k2m3n4p5q6r7s8t9v0w1x
  muster alerts storms collect stm_01jd8k2m3n4p5q6r7s8t9v0w1x    # the devices that were not in the sample";
const LIST_EXAMPLES: &str = "\
Examples:
  muster alerts storms list
  muster alerts storms list --open -o name";
const SHOW_EXAMPLES: &str = "\
Examples:
  muster alerts storms show stm_01jd8k2m3n4p5q6r7s8t9v0w1x
  muster alerts storms show stm_01jd8k2m3n4p5q6r7s8t9v0w1x -o json | jq .strata";
const COLLECT_EXAMPLES: &str = "\
One collection for all devices that were left on demand. Consent is asked as always; with --wait, 4 when nothing was allowed.

Examples:
  muster alerts storms collect stm_01jd8k2m3n4p5q6r7s8t9v0w1x
  muster alerts storms collect stm_01jd8k2m3n4p5q6r7s8t9v0w1x --wait";

#[derive(Debug, Args)]
pub(crate) struct StormsArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List storms, newest first
    #[command(after_long_help = LIST_EXAMPLES)]
    List(StormListArgs),
    /// Show one storm: which devices are alike, and what was collected of each kind
    #[command(after_long_help = SHOW_EXAMPLES)]
    Show(IdArgs),
    /// Collect from the devices that were not in the sample
    #[command(after_long_help = COLLECT_EXAMPLES)]
    Collect(CollectArgs),
}

#[derive(Debug, Args)]
struct IdArgs {
    /// Storm
    #[arg(value_name = "STORM")]
    id: StormId,
}

#[derive(Debug, Args)]
struct StormListArgs {
    /// Only those that are not over
    #[arg(long)]
    open: bool,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Args)]
struct CollectArgs {
    #[command(flatten)]
    id: IdArgs,
    /// Wait until every device is done; the exit code says how it ended
    #[arg(long)]
    wait: bool,
}

pub(crate) async fn run(args: StormsArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    match args.what {
        What::List(args) => {
            let query: Query = args.open.then(|| ("open", "true".to_owned())).into_iter().collect();
            let nothing = "there is no storm; muster alerts list shows single alerts";
            list_or::<StormView>(client, out, "list the storms", &["storms"], &query, args.list, nothing).await
        }
        What::Show(args) => show(args.id, client, out).await,
        What::Collect(args) => collect(&args, client, out).await,
    }
}

async fn show(id: StormId, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let view: StormView = client.get("show the storm", &["storms", &id.to_string()], &[]).await?;
    out.one(&view, &id.to_string(), |out| sheet(&view, out))?;
    if out.form() == Form::Table && !view.strata.is_empty() {
        out.text("\n")?;
        out.list(&view.strata)?;
    }
    Ok(exit::DONE)
}

fn sheet(view: &StormView, out: &Out) -> Sheet {
    let over =
        view.closed_at.map_or_else(|| format!("not yet: the last alert came {}", relative(view.last_at, out.now())), rfc3339_seconds);
    Sheet::default()
        .line("storm", view.id.to_string())
        .line("indicator", view.indicator.clone())
        .line("tenant", view.tenant.clone().unwrap_or_else(|| "none".to_owned()))
        .line("because", view.why.clone())
        .line("began", format!("{} ({})", rfc3339_seconds(view.opened_at), relative(view.opened_at, out.now())))
        .line("over", over)
        .line("devices", count(view.devices))
        .line("collected", format!("{}, and {}", count(view.collected), counted(view.twins, "healthy twin")))
        .line("on demand", count(view.on_demand))
        .maybe("the rest", view.rest.map(|id| id.to_string()))
        .maybe(
            "next",
            (view.on_demand > 0).then(|| format!("muster alerts storms collect {} asks {}", view.id, counted(view.on_demand, "device"))),
        )
}

async fn collect(args: &CollectArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let id = args.id.id;
    let path = ["storms", &id.to_string(), "collect"];
    let made: StormCollected = progress::waiting("asking", client.post("collect the rest of the storm", &path, &json!({}), None)).await?;
    match made.collection {
        Some(collection) if args.wait => finish(client, collection, out).await,
        None if args.wait => {
            out.note("nobody was left to be asked");
            Ok(exit::DONE)
        }
        _ => {
            let name = made.collection.map(|id| id.to_string()).unwrap_or_default();
            out.one(&made, &name, |_| made_sheet(&made))?;
            Ok(exit::DONE)
        }
    }
}

fn made_sheet(made: &StormCollected) -> Sheet {
    let Some(collection) = made.collection else { return Sheet::default().line("collection", "none: nobody was left to be asked") };
    Sheet::default()
        .line("collection", collection.to_string())
        .line("devices", count(made.devices))
        .maybe("skipped", (made.skipped > 0).then(|| format!("{}: their consent ended meanwhile", count(made.skipped))))
        .line("next", format!("muster collections watch {collection}"))
}

#[cfg(test)]
mod tests {
    use muster_wire::http::StratumView;
    use time::macros::datetime;

    use super::*;
    use crate::present::{Listed as _, table};

    #[test]
    fn a_storm_says_why_it_is_one_and_who_is_left() {
        let stratum = StratumView {
            version: Some("1.4.2".to_owned()),
            site: Some("oslo".to_owned()),
            model: None,
            devices: 19,
            collected: 2,
            twin: Some("press-0099".parse().expect("an id")),
            twin_collection: Some("col_01jd8k2m3n4p5q6r7s".parse().expect("an id")),
            no_twin: None,
        };
        let alone = StratumView {
            twin: None,
            twin_collection: None,
            no_twin: Some("no healthy device has consented".to_owned()),
            devices: 2,
            ..stratum.clone()
        };
        let view = StormView {
            id: "stm_01jd8k2m3n4p5q6r7s8t9v0w1x".parse().expect("an id"),
            indicator: "AcsUnhealthyCondition".to_owned(),
            tenant: None,
            opened_at: datetime!(2026-11-21 11:30:00 UTC),
            last_at: datetime!(2026-11-21 11:58:00 UTC),
            closed_at: None,
            devices: 21,
            collected: 4,
            on_demand: 17,
            twins: 1,
            why: "21 devices in 10m, of 20".to_owned(),
            rest: None,
            strata: vec![stratum, alone],
        };
        let out = Out::for_test(Some(120));
        let rows: Vec<Vec<String>> = view.strata.iter().map(|stratum| stratum.cells(out.now())).collect();
        insta::assert_snapshot!(format!("{}\n{}", sheet(&view, &out).render(&out), table(StratumView::COLUMNS, &rows, &out)));
        let none = StormCollected { collection: None, devices: 0, skipped: 0 };
        assert!(made_sheet(&none).render(&out).contains("nobody was left"));
    }
}
