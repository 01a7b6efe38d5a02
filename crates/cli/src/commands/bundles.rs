//! `muster bundles …`: what arrived.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use futures_util::StreamExt as _;
use muster_wire::http::{BundleCheck, BundleFile, BundleManifest, BundleView, ObjectCheck};
use muster_wire::{CollectionId, DeviceId, TaskId};
use reqwest::header::HeaderMap;
use serde_json::json;

use crate::client::{Client, Query};
use crate::commands::collections::{ListArgs, list};
use crate::failure::{Failure, exit};
use crate::present::units::{bytes, counted, relative, rfc3339_seconds};
use crate::present::{Form, Out, Sheet, plain};
use crate::progress;
use crate::transfer::{TransferArgs, Wanted, collection_bundles, download, verify_local};

/// Bytes looked at to tell text from something else.
const SNIFF_BYTES: usize = 4096;

const EXAMPLES: &str = "\
Examples:
  muster bundles list --device press-0042
  muster bundles files tsk_01jd8k2m3n4p5q6r7s-17
  muster bundles cat tsk_01jd8k2m3n4p5q6r7s-17 'support-bundle.zip!logs/edgeAgent_log.txt'
  muster bundles verify tsk_01jd8k2m3n4p5q6r7s-17";
const LIST_EXAMPLES: &str = "\
Examples:
  muster bundles list
  muster bundles list --device press-0042 --limit 10
  muster bundles list --collection col_01jd8k2m3n4p5q6r7s -o name";
const SHOW_EXAMPLES: &str = "\
Examples:
  muster bundles show tsk_01jd8k2m3n4p5q6r7s-17
  muster bundles show tsk_01jd8k2m3n4p5q6r7s-17 -o json | jq -r '.objects[].sha256'";
const FILES_EXAMPLES: &str = "\
Examples:
  muster bundles files tsk_01jd8k2m3n4p5q6r7s-17
  muster bundles files tsk_01jd8k2m3n4p5q6r7s-17 -o name | grep edgeHub";
const CAT_EXAMPLES: &str = "\
Examples:
  muster bundles cat tsk_01jd8k2m3n4p5q6r7s-17 'support-bundle.zip!check.json' | jq .
  muster bundles cat tsk_01jd8k2m3n4p5q6r7s-17 edgeAgent.log | less
  muster bundles cat tsk_01jd8k2m3n4p5q6r7s-17 > bundle.zip    # the only object of the bundle";
const DOWNLOAD_EXAMPLES: &str = "\
Examples:
  muster bundles download tsk_01jd8k2m3n4p5q6r7s-17
  muster bundles download tsk_01jd8k2m3n4p5q6r7s-17 tsk_01jd8k2m3n4p5q6r7s-18 --dir case-48213";
const VERIFY_EXAMPLES: &str = "\
Examples:
  muster bundles verify tsk_01jd8k2m3n4p5q6r7s-17
  muster bundles verify --collection col_01jd8k2m3n4p5q6r7s
  muster bundles verify --local case-48213      # files against the manifests beside them
  muster bundles verify --local case-48213 tsk_01jd8k2m3n4p5q6r7s-17";

/// What arrived: look into bundles, download them, check them
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct BundlesArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List bundles, newest first
    #[command(after_long_help = LIST_EXAMPLES)]
    List(BundleListArgs),
    /// Show the manifest of a bundle
    #[command(after_long_help = SHOW_EXAMPLES)]
    Show(TaskArg),
    /// List the files in a bundle, entries of its archives included
    #[command(after_long_help = FILES_EXAMPLES)]
    Files(TaskArg),
    /// Print one file of a bundle
    #[command(after_long_help = CAT_EXAMPLES)]
    Cat(CatArgs),
    /// Download bundles and check them against their manifests
    #[command(after_long_help = DOWNLOAD_EXAMPLES)]
    Download(DownloadArgs),
    /// Read sealed bundles again and compare them with their manifests
    #[command(after_long_help = VERIFY_EXAMPLES)]
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
struct BundleListArgs {
    /// Of this collection
    #[arg(long, value_name = "COLLECTION")]
    collection: Option<CollectionId>,
    /// Of this device
    #[arg(long, value_name = "ID")]
    device: Option<DeviceId>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Args)]
struct TaskArg {
    /// Task whose bundle it is
    #[arg(value_name = "TASK")]
    task: TaskId,
}

#[derive(Debug, Args)]
struct CatArgs {
    #[command(flatten)]
    task: TaskArg,
    /// An object, or `object!entry` for an entry of a zip, as `files` lists them; may be left out when there is one object
    #[arg(value_name = "PATH")]
    path: Option<String>,
}

#[derive(Debug, Args)]
struct DownloadArgs {
    /// Tasks whose bundles to download
    #[arg(value_name = "TASK", required = true)]
    tasks: Vec<TaskId>,
    /// Directory to download into; made if missing (default: the id of the task; several tasks get a directory per device in the current one)
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    transfer: TransferArgs,
}

#[derive(Debug, Args)]
#[group(id = "which", required = true, multiple = true, args = ["tasks", "collection", "local"])]
struct VerifyArgs {
    /// Tasks whose bundles to check
    #[arg(value_name = "TASK")]
    tasks: Vec<TaskId>,
    /// Every bundle of this collection
    #[arg(long, value_name = "COLLECTION", conflicts_with_all = ["tasks", "local"])]
    collection: Option<CollectionId>,
    /// Check files on this disk instead, as `download` left them
    #[arg(long, value_name = "DIR")]
    local: Option<PathBuf>,
}

pub(crate) async fn run(args: BundlesArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    match args.what {
        What::List(args) => {
            let mut query = Query::new();
            query.extend(args.collection.map(|id| ("collection", id.to_string())));
            query.extend(args.device.map(|id| ("device", id.to_string())));
            list::<BundleView>(client, out, "list the bundles", &["bundles"], &query, args.list).await
        }
        What::Show(TaskArg { task }) => {
            let manifest = manifest(client, task).await?;
            if out.form() == Form::Table {
                let text = render(&manifest, out);
                out.text(&text)?;
            } else {
                out.one(&manifest, &task.to_string(), |_| Sheet::default())?;
            }
            Ok(exit::DONE)
        }
        What::Files(TaskArg { task }) => {
            let files: Vec<BundleFile> = files(client, task).await?;
            out.list(&files)?;
            Ok(exit::DONE)
        }
        What::Cat(args) => cat(args, client, out).await,
        What::Download(args) => {
            let several = args.tasks.len() > 1;
            let default = || if several { PathBuf::from(".") } else { PathBuf::from(args.tasks[0].to_string()) };
            let dir = args.dir.clone().unwrap_or_else(default);
            let mut wanted = Vec::new();
            for task in &args.tasks {
                let manifest = manifest(client, *task).await?;
                let size_bytes = manifest.objects.iter().map(|object| object.size_bytes).fold(0, u64::saturating_add);
                wanted.push(Wanted { task: *task, device: Some(manifest.device), size_bytes });
            }
            download(client, out, wanted, &dir, several, &args.transfer).await
        }
        What::Verify(args) => verify(args, client, out).await,
    }
}

async fn manifest(client: &Client, task: TaskId) -> Result<BundleManifest, Failure> {
    client.get("show the bundle", &["bundles", &task.to_string()], &[]).await
}

/// The files of a bundle, as the controller lists them.
pub(crate) async fn files(client: &Client, task: TaskId) -> Result<Vec<BundleFile>, Failure> {
    progress::waiting("reading the archive", client.get("list the files", &["bundles", &task.to_string(), "files"], &[])).await
}

fn render(manifest: &BundleManifest, out: &Out) -> String {
    let total = manifest.objects.iter().map(|object| object.size_bytes).fold(0, u64::saturating_add);
    let mut sheet = Sheet::default()
        .line("task", manifest.task.to_string())
        .line("collection", manifest.collection.to_string())
        .line("device", manifest.device.to_string())
        .maybe("case", manifest.case.clone())
        .line("verdict", manifest.verdict.as_str())
        .line("sealed", format!("{} ({})", rfc3339_seconds(manifest.sealed_at), relative(manifest.sealed_at, out.now())))
        .line("size", format!("{} in {}", bytes(total), counted(manifest.objects.len() as u64, "object")));
    for missing in &manifest.missing {
        sheet = sheet.line("missing", format!("{}: {}", missing.what, missing.why));
    }
    for object in &manifest.objects {
        sheet =
            sheet.line("object", object.name.as_str()).line("  size", bytes(object.size_bytes)).line("  sha256", object.sha256.as_str());
        let kind = serde_json::to_value(object.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned)).unwrap_or_default();
        let entries = object.entries.map(|entries| format!(", {}", counted(u64::from(entries), "file"))).unwrap_or_default();
        sheet = sheet.line("  kind", format!("{kind}{entries}"));
    }
    sheet.render(out)
}

async fn cat(args: CatArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let task = args.task.task;
    let path = match args.path {
        Some(path) => path,
        None => {
            let manifest = manifest(client, task).await?;
            match manifest.objects.as_slice() {
                [only] => only.name.clone(),
                _ => {
                    return Err(Failure::usage("PATH", format!("the bundle has {}", counted(manifest.objects.len() as u64, "object")))
                        .with_next(format!("muster bundles files {task} lists them")));
                }
            }
        }
    };
    let response =
        client.open("print the file", &["bundles", &task.to_string(), "cat"], &[("path", path.clone())], HeaderMap::new()).await?;
    let mut pieces = response.bytes_stream();
    let mut first = true;
    // A character may be cut between two pieces; for a terminal it waits for its end.
    let mut held: Vec<u8> = Vec::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| client.transport("print the file", error))?;
        if !out.is_terminal() {
            out.raw(&piece)?;
            continue;
        }
        if std::mem::take(&mut first) && piece.iter().take(SNIFF_BYTES).any(|&byte| byte == 0) {
            return Err(Failure::local(format!("print {}", plain(&path)), "it is not text")
                .with_next(format!("send it into a file: muster bundles cat {task} '{}' > FILE", plain(&path))));
        }
        held.extend_from_slice(&piece);
        let text = take_whole_characters(&mut held);
        out.text(&plain(&text.replace("\r\n", "\n")))?;
    }
    if !held.is_empty() {
        out.text(&plain(&String::from_utf8_lossy(&held)))?;
    }
    Ok(exit::DONE)
}

/// The text up to the last whole character; up to three bytes of a cut one stay.
fn take_whole_characters(held: &mut Vec<u8>) -> String {
    let whole = match std::str::from_utf8(held) {
        // Only an end that is cut off waits; a wrong byte inside is shown as such.
        Err(error) if error.error_len().is_none() && held.len() - error.valid_up_to() < 4 => error.valid_up_to(),
        _ => held.len(),
    };
    let rest = held.split_off(whole);
    String::from_utf8_lossy(&std::mem::replace(held, rest)).into_owned()
}

async fn verify(args: VerifyArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let mut checks: Vec<BundleCheck> = Vec::new();
    if let Some(dir) = &args.local {
        checks = verify_local(client, dir, &args.tasks).await?;
    } else {
        let tasks = match args.collection {
            Some(id) => collection_bundles(client, id).await?.into_iter().map(|bundle| bundle.task).collect(),
            None => args.tasks,
        };
        for (number, task) in tasks.iter().enumerate() {
            let what = format!("reading {task} again ({} of {})", number + 1, tasks.len());
            let path = ["bundles", &task.to_string(), "verify"];
            checks.push(progress::waiting(&what, client.post("verify the bundle", &path, &json!({}), None)).await?);
        }
    }
    let damaged = checks.iter().filter(|check| !check.intact).count();
    match out.form() {
        Form::Table => {
            let bad: Vec<ObjectCheck> =
                checks.iter().flat_map(|check| &check.objects).filter(|object| object.problem.is_some()).cloned().collect();
            if !bad.is_empty() {
                out.list(&bad)?;
            }
            let objects: usize = checks.iter().map(|check| check.objects.len()).sum();
            let text = format!(
                "{}, {}: {}",
                counted(checks.len() as u64, "bundle"),
                counted(objects as u64, "object"),
                match damaged {
                    0 => "intact".to_owned(),
                    number => format!("{number} damaged"),
                }
            );
            out.text(&format!("{text}\n"))?;
        }
        Form::Json => out.json(&checks)?,
        Form::Ndjson => checks.iter().try_for_each(|check| out.json(check))?,
        Form::Name => checks.iter().filter(|check| !check.intact).try_for_each(|check| out.text(&format!("{}\n", check.task)))?,
    }
    Ok(if damaged == 0 { exit::DONE } else { exit::SOME_NOT })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_cut_between_pieces_come_out_whole() {
        let text = "größe 日本 \u{1f600} end";
        for cut in 0..=text.len() {
            let (a, b) = text.as_bytes().split_at(cut);
            let mut held = a.to_vec();
            let mut shown = take_whole_characters(&mut held);
            assert!(!shown.contains('\u{fffd}'), "cut at {cut}");
            held.extend_from_slice(b);
            shown.push_str(&take_whole_characters(&mut held));
            assert_eq!(shown, text, "cut at {cut}");
        }
        assert_eq!(take_whole_characters(&mut b"a\xffb".to_vec()), "a\u{fffd}b");
    }
}
