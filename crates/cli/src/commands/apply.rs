//! `muster apply`: collections out of a file, for programs, and for people who keep what they ask under version control.

use std::path::PathBuf;

use clap::Args;
use muster_wire::http::NewCollection;

use crate::client::Client;
use crate::collection_file;
use crate::commands::collect::{create, created_sheet, finish, preview};
use crate::failure::{Failure, exit};
use crate::present::units::counted;
use crate::present::{Out, one_line};

const EXAMPLES: &str = "\
Each document of the file is the body of POST /api/v1/collections, with an idempotency_key where it shall be safe to apply it twice:
  kind: collection
  idempotency_key: nightly-2026-01-31
  request: {kind: bundle, since: 24h}
  target: {kind: condition, condition: \"tags.site = 'oslo'\"}
  options: {in_flight: 200, expires_in_seconds: 14400}

All documents are read before the first collection is made. docs/BATCH.md shows a nightly job.

Examples:
  muster apply -f nightly.yaml
  muster apply -f nightly.yaml --dry-run
  muster apply -f nightly.yaml --wait --exit-status -o ndjson
  sed \"s/DAY/$(date -I)/\" nightly.yaml | muster apply -f - --yes --wait
  muster apply --schema > collection.schema.json";

/// Make the collections that a file describes
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct ApplyArgs {
    /// YAML (one document or several) or JSON; - reads standard input
    #[arg(short, long, value_name = "FILE", required_unless_present = "schema")]
    file: Option<PathBuf>,
    /// Wait until every device of every collection is done; the exit code is that of the worst. Ctrl-C leaves them running
    #[arg(long, visible_alias = "exit-status", overrides_with = "wait")]
    wait: bool,
    /// Show whom each would ask, who would wait and what the first device would get, and make nothing
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Confirm them all: they begin at once, however many devices they target
    #[arg(long)]
    yes: bool,
    /// Print the JSON Schema of a document, for editors and for checks before a merge
    #[arg(long, conflicts_with_all = ["file", "wait", "dry_run", "yes"])]
    schema: bool,
}

impl ApplyArgs {
    /// Whether only the schema is wanted; that needs no controller.
    pub(crate) fn wants_schema(&self) -> bool {
        self.schema
    }
}

/// Prints the schema.
pub(crate) fn schema(out: &mut Out) -> Result<u8, Failure> {
    out.text(&muster_controller::collection_schema_json())?;
    Ok(exit::DONE)
}

pub(crate) async fn run(args: ApplyArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let path = args.file.ok_or_else(|| Failure::usage("--file", "it is missing"))?;
    let wanted = collection_file::read(&path)?.into_iter().map(|document| {
        let (key, new) = document.into_request();
        let confirmed = new.confirmed || args.yes;
        (key, NewCollection { confirmed, ..new })
    });
    if args.dry_run {
        for (_, new) in wanted {
            preview(client, &new, out).await?;
        }
        return Ok(exit::DONE);
    }
    let mut made = Vec::with_capacity(wanted.len());
    let count = wanted.len();
    for (index, (key, new)) in wanted.enumerate() {
        let answer = create(client, &new, key).await.inspect_err(|_| {
            if count > 1 {
                out.note(&format!("document {} of {count} was refused; {index} before it were made, none after it", index + 1));
            }
        })?;
        for warning in &answer.warnings {
            out.note(&format!("note: {}", one_line(warning)));
        }
        let created = &answer.created;
        if args.wait {
            let again = if created.repeated { ", made by an earlier request with this key" } else { "" };
            out.note(&format!("{}: {}{again}", created.id, counted(created.targeted, "device")));
        } else {
            out.one(&answer, &created.id.to_string(), |_| created_sheet(created))?;
        }
        made.push(created.id);
    }
    if !args.wait {
        return Ok(exit::DONE);
    }
    let mut codes = Vec::with_capacity(made.len());
    for id in made {
        codes.push(finish(client, id, out).await?);
        // Each line as soon as it is true: the next may take hours.
        out.flush()?;
    }
    Ok(worst(codes))
}

/// The code of several collections: what stopped outweighs what failed, that outweighs what was not allowed, and that outweighs success.
fn worst(codes: Vec<u8>) -> u8 {
    let weight = |code: &u8| match *code {
        exit::DONE => 0,
        exit::NOTHING_ALLOWED => 1,
        exit::SOME_NOT => 2,
        _ => 3,
    };
    codes.into_iter().max_by_key(weight).unwrap_or(exit::DONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_collection_decides() {
        assert_eq!(worst(vec![exit::DONE, exit::NOTHING_ALLOWED, exit::DONE]), exit::NOTHING_ALLOWED);
        assert_eq!(worst(vec![exit::DONE, exit::SOME_NOT, exit::NOTHING_ALLOWED]), exit::SOME_NOT);
        assert_eq!(worst(vec![exit::SOME_NOT, exit::ABORTED, exit::DONE]), exit::ABORTED);
    }
}
