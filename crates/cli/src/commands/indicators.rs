//! `muster indicators …`: the catalogue of what devices may raise, and what is collected for it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use muster_wire::http::{CatalogueView, IndicatorView, NewIndicator, span_in_words};
use reqwest::Method;

use crate::client::Client;
use crate::definition_file;
use crate::failure::{Failure, exit};
use crate::present::units::{bytes, relative, rfc3339_seconds};
use crate::present::{Form, Out, Sheet};

const EXAMPLES: &str = "\
Examples:
  muster indicators list
  muster indicators show IOTEdgeAgentNotRunningCondition
  muster indicators add -f indicator.yaml";
const LIST_EXAMPLES: &str = "\
Examples:
  muster indicators list
  muster indicators list -o json | jq .catalogue_version";
const SHOW_EXAMPLES: &str = "\
Examples:
  muster indicators show IOTEdgeAgentNotRunningCondition
  muster indicators show IOTEdgeAgentNotRunningCondition --definition > indicator.json    # to change it";
const ADD_EXAMPLES: &str = "\
The file holds one indicator, or several with --- between them, in YAML or JSON:
  name: DoorStuckCondition
  description: A door does not close.
  collect: {kind: upload_logs, items: [{id: doorControl, filter: {tail: 500}}]}
  lookback_seconds: 7200
  cooldown_seconds: 3600

Everybody may read the catalogue, under /indicators without a token. docs/RULES.md describes each member.

Examples:
  muster indicators add -f indicator.yaml
  muster indicators add --file - < indicator.json";
const CHANGE_EXAMPLES: &str = "\
What the file says takes the place of the whole definition. The name stays.

Examples:
  muster indicators change -f indicator.yaml";

/// The catalogue: what devices may raise, and what is collected for it
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct IndicatorsArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the catalogue, by name
    #[command(after_long_help = LIST_EXAMPLES)]
    List,
    /// Show one indicator, and what is collected for it in words
    #[command(after_long_help = SHOW_EXAMPLES)]
    Show(ShowArgs),
    /// Add indicators to the catalogue
    #[command(after_long_help = ADD_EXAMPLES)]
    Add(FileArgs),
    /// Change indicators
    #[command(after_long_help = CHANGE_EXAMPLES)]
    Change(FileArgs),
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// Indicator
    #[arg(value_name = "NAME")]
    name: String,
    /// Only its definition, in JSON, as `change` takes it
    #[arg(long)]
    definition: bool,
}

#[derive(Debug, Args)]
struct FileArgs {
    /// File with indicators, YAML or JSON; - reads standard input
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
}

pub(crate) async fn run(args: IndicatorsArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    match args.what {
        What::List => list(client, out).await,
        What::Show(args) => {
            let view: IndicatorView = client.get("show the indicator", &["indicators", &args.name], &[]).await?;
            if args.definition {
                out.json(&view.definition)?;
            } else {
                out.one(&view, &view.definition.name, |out| sheet(&view, out))?;
            }
            Ok(exit::DONE)
        }
        What::Add(args) => {
            for new in definition_file::read::<NewIndicator>(&args.file, "indicators")? {
                let view: IndicatorView = client.post("add the indicator", &["indicators"], &new, None).await?;
                out.one(&view, &view.definition.name, |out| sheet(&view, out))?;
            }
            Ok(exit::DONE)
        }
        What::Change(args) => {
            for new in definition_file::read::<NewIndicator>(&args.file, "indicators")? {
                let path = ["indicators", &new.name];
                let view: IndicatorView = client.change("change the indicator", Method::PUT, &path, Some(&new)).await?;
                out.one(&view, &view.definition.name, |out| sheet(&view, out))?;
            }
            Ok(exit::DONE)
        }
    }
}

async fn list(client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let catalogue: CatalogueView = client.get("list the catalogue", &["indicators"], &[]).await?;
    match out.form() {
        Form::Json => out.json(&catalogue)?,
        Form::Table if catalogue.indicators.is_empty() => out.note("the catalogue is empty; muster indicators add -f FILE adds to it"),
        Form::Table => {
            out.list(&catalogue.indicators)?;
            let version = catalogue.catalogue_version;
            out.note(&format!(
                "catalogue version {version}, of {}; published under {}/indicators",
                rfc3339_seconds(catalogue.changed_at),
                client.url()
            ));
        }
        Form::Ndjson | Form::Name => out.list(&catalogue.indicators)?,
    }
    Ok(exit::DONE)
}

fn sheet(view: &IndicatorView, out: &Out) -> Sheet {
    let new = &view.definition;
    let dated = |at, version: u32| format!("{} ({}), with version {version}", rfc3339_seconds(at), relative(at, out.now()));
    let changed = (view.changed_in_catalogue_version != view.since_catalogue_version).then(|| {
        let by = if view.changed_by.is_empty() { String::new() } else { format!(", by {}", view.changed_by) };
        format!("{}{by}", dated(view.changed_at, view.changed_in_catalogue_version))
    });
    Sheet::default()
        .line("indicator", new.name.clone())
        .line("means", new.description.clone())
        .line("enabled", if new.enabled { "yes" } else { "no" })
        .line("collects", new.in_words())
        .line("not again for", format!("{} after its collection ended", span_in_words(new.cooldown_seconds)))
        .maybe("at most", new.max_bytes.map(|most| format!("{} a day", bytes(most))))
        .line("added", dated(view.added_at, view.since_catalogue_version))
        .maybe("changed", changed)
}

#[cfg(test)]
mod tests {
    use muster_wire::http::{CollectionRequest, Priority};
    use time::macros::datetime;

    use super::*;

    #[test]
    fn an_indicator_says_what_is_collected() {
        let view = IndicatorView {
            definition: NewIndicator {
                name: "AcsUnhealthyCondition".to_owned(),
                description: "Its storage is not well.".to_owned(),
                enabled: true,
                collect: CollectionRequest::Bundle { since: None, edge_runtime_only: true },
                lookback_seconds: 14_400,
                lookahead_seconds: 0,
                cooldown_seconds: 3600,
                priority: Priority::Normal,
                max_bytes: Some(5_000_000_000),
            },
            since_catalogue_version: 1,
            changed_in_catalogue_version: 3,
            added_at: datetime!(2026-11-01 12:00 UTC),
            changed_at: datetime!(2026-11-21 11:00 UTC),
            changed_by: "ada".to_owned(),
        };
        let out = Out::for_test(Some(100));
        insta::assert_snapshot!(sheet(&view, &out).render(&out));
    }
}
