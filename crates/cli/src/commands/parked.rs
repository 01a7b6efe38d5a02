//! `muster alerts parked …`: messages that were no alert, and what becomes of them.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use muster_wire::ParkedId;
use muster_wire::alert::{MAX_ALERT_BYTES, Poison};
use muster_wire::http::{AlertAnswer, ParkedState, ParkedView, Replay};
use serde_json::json;

use crate::client::{Client, Query};
use crate::commands::alerts::answer_sheet;
use crate::commands::collections::{ListArgs, list_or};
use crate::definition_file;
use crate::failure::{Failure, exit};
use crate::present::units::{bytes, relative, rfc3339_seconds};
use crate::present::{Form, Out, Sheet, plain};

pub(crate) const EXAMPLES: &str = "\
Examples:
  muster alerts parked list --reason not_json
  muster alerts parked show prk_01jd8k2m3n4p5q6r7s8t9v0w1x
  muster alerts parked replay prk_01jd8k2m3n4p5q6r7s8t9v0w1x --file mended.json
  muster alerts parked drop prk_01jd8k2m3n4p5q6r7s8t9v0w1x";
const LIST_EXAMPLES: &str = "\
Examples:
  muster alerts parked list
  muster alerts parked list --state parked --reason unknown_device -o name";
const SHOW_EXAMPLES: &str = "\
Examples:
  muster alerts parked show prk_01jd8k2m3n4p5q6r7s8t9v0w1x
  muster alerts parked show prk_01jd8k2m3n4p5q6r7s8t9v0w1x -o json | jq -r .body > mended.json";
const REPLAY_EXAMPLES: &str = "\
It comes in again as if it came now, from the same sender. What is still no alert stays parked.

Examples:
  muster alerts parked replay prk_01jd8k2m3n4p5q6r7s8t9v0w1x
  muster alerts parked replay prk_01jd8k2m3n4p5q6r7s8t9v0w1x --file mended.json";
const DROP_EXAMPLES: &str = "\
Examples:
  muster alerts parked drop prk_01jd8k2m3n4p5q6r7s8t9v0w1x
  muster alerts parked list --state parked --reason not_json -o name | xargs muster alerts parked drop";

#[derive(Debug, Args)]
pub(crate) struct ParkedArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List messages that were no alert, newest first
    #[command(after_long_help = LIST_EXAMPLES)]
    List(ParkedListArgs),
    /// Show one with its body, and why it was refused
    #[command(after_long_help = SHOW_EXAMPLES)]
    Show(IdArgs),
    /// Put one in again, as it was or mended
    #[command(after_long_help = REPLAY_EXAMPLES)]
    Replay(ReplayArgs),
    /// Say that messages are not wanted
    #[command(after_long_help = DROP_EXAMPLES)]
    Drop(DropArgs),
}

#[derive(Debug, Args)]
struct ParkedListArgs {
    /// Only those that stand like this: parked, replayed, dropped
    #[arg(long, value_name = "STATE")]
    state: Option<ParkedState>,
    /// Only those refused for this reason, like not_json or unknown_device
    #[arg(long, value_name = "REASON")]
    reason: Option<Poison>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Args)]
struct IdArgs {
    /// Message
    #[arg(value_name = "MESSAGE")]
    id: ParkedId,
}

#[derive(Debug, Args)]
struct ReplayArgs {
    #[command(flatten)]
    id: IdArgs,
    /// File with another body; - reads standard input
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Another content type
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
}

#[derive(Debug, Args)]
struct DropArgs {
    /// Messages
    #[arg(value_name = "MESSAGE", required = true)]
    ids: Vec<ParkedId>,
}

pub(crate) async fn run(args: ParkedArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    match args.what {
        What::List(args) => {
            let mut query = Query::new();
            query.extend(args.state.map(|state| ("state", state.to_string())));
            query.extend(args.reason.map(|reason| ("reason", reason.to_string())));
            let nothing = "nothing is parked: every message was an alert, or none came; muster alerts list shows those";
            list_or::<ParkedView>(client, out, "list the parked messages", &["alerts", "parked"], &query, args.list, nothing).await
        }
        What::Show(args) => show(args.id, client, out).await,
        What::Replay(args) => replay(args, client, out).await,
        What::Drop(args) => {
            for id in args.ids {
                let path = ["alerts", "parked", &id.to_string(), "drop"];
                let view: ParkedView = client.post("drop the message", &path, &json!({}), None).await?;
                out.one(&view, &id.to_string(), |_| Sheet::default().line("message", id.to_string()).line("state", view.state.as_str()))?;
            }
            Ok(exit::DONE)
        }
    }
}

async fn show(id: ParkedId, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let view: ParkedView = client.get("show the message", &["alerts", "parked", &id.to_string()], &[]).await?;
    out.one(&view, &id.to_string(), |out| sheet(&view, out))?;
    if out.form() == Form::Table
        && let Some(body) = &view.body
    {
        // A stranger wrote it.
        out.text(&format!("\n{}\n", plain(body)))?;
    }
    Ok(exit::DONE)
}

fn sheet(view: &ParkedView, out: &Out) -> Sheet {
    let size = format!("{}{}", bytes(view.bytes), if view.cut { ", of which the beginning was kept" } else { "" });
    let changed = view.changed_by.as_ref().zip(view.changed_at).map(|(by, at)| format!("by {by}, {}", relative(at, out.now())));
    let sheet = Sheet::default()
        .line("message", view.id.to_string())
        .line("state", view.state.as_str())
        .maybe("changed", changed)
        .line("reason", view.reason.as_str())
        .line("detail", view.detail.clone())
        .line("came", format!("{} ({})", rfc3339_seconds(view.received_at), relative(view.received_at, out.now())))
        .line("from", format!("{}, {}", view.via, view.from))
        .line("size", size)
        .maybe("content type", view.content_type.clone());
    let sheet = view.attributes.iter().fold(sheet, |sheet, (name, value)| sheet.line("attribute", format!("{name}: {value}")));
    let no_text = view.body.is_none() && view.body_base64.is_some();
    sheet
        .maybe("body", no_text.then_some("no text; -o json shows it in base64"))
        .maybe("next", (view.state == ParkedState::Parked).then(|| format!("muster alerts parked replay {} --file FILE, or drop", view.id)))
}

async fn replay(args: ReplayArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let body = args.file.as_deref().map(|path| {
        let bytes = definition_file::bytes(path, MAX_ALERT_BYTES)?;
        String::from_utf8(bytes).map_err(|_| Failure::usage(format!("--file {}", path.display()), "it is not UTF-8"))
    });
    let replay = Replay { body: body.transpose()?, content_type: args.content_type };
    let id = args.id.id.to_string();
    let answer: AlertAnswer = client.post("replay the message", &["alerts", "parked", &id, "replay"], &replay, None).await?;
    let name = answer.alerts.first().map(|alert| alert.id.to_string()).unwrap_or_default();
    out.one(&answer, &name, |_| answer_sheet(&answer))?;
    Ok(exit::DONE)
}

#[cfg(test)]
mod tests {
    use muster_wire::alert::AlertVia;
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_message_says_why_it_waits() {
        let view = ParkedView {
            id: "prk_01jd8k2m3n4p5q6r7s8t9v0w1x".parse().expect("an id"),
            received_at: datetime!(2026-11-21 11:58:00 UTC),
            via: AlertVia::Amqp,
            from: "muster.alerts".to_owned(),
            reason: Poison::NotJson,
            detail: "expected `,` at line 1, \u{1b}[2Jcolumn 7".to_owned(),
            state: ParkedState::Parked,
            changed_by: None,
            changed_at: None,
            bytes: 2_000_000,
            body: None,
            body_base64: Some("//4=".to_owned()),
            cut: true,
            content_type: Some("application/json".to_owned()),
            attributes: [("ce-id".to_owned(), "7".to_owned())].into(),
        };
        let out = Out::for_test(Some(100));
        insta::assert_snapshot!(sheet(&view, &out).render(&out));
    }
}
