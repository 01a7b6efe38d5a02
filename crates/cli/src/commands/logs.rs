//! `muster logs DEVICE`: lines straight to the terminal.
//!
//! It is a collection like any other (who asked, when and why is kept), of one device, with the small answer that travels over MQTT.

use std::time::Duration;

use clap::Args;
use muster_wire::http::{
    BundleManifest, CollectionOptions, CollectionRequest, MIN_ATTEMPT_TIMEOUT_SECONDS, NewCollection, Priority, Target, TaskView,
};
use muster_wire::method::ContentType;
use muster_wire::{DeviceId, Reason, TaskState};
use reqwest::header::HeaderMap;

use crate::client::{Client, Query};
use crate::commands::collect::{LineArgs, create};
use crate::failure::{Failure, exit};
use crate::follow::{Seen, Tell, follow};
use crate::moment::parse_span;
use crate::present::{Form, Out, one_line, plain};
use crate::progress;
use crate::signals::Signals;

const EXAMPLES: &str = "\
Examples:
  muster logs press-0042
  muster logs press-0042 --module edgeAgent --tail 200
  muster logs press-0042 --module edgeHub --since 10m --loglevel error
  muster logs press-0042 --regex '(?i)timeout' --since today | less
  muster logs press-0042 --since 5m -o ndjson | jq -r .text";

/// Print logs of one device, as it answers them now
///
/// The last 200 lines of each module, unless --tail, --since or --until say otherwise.
/// The answer travels over MQTT and is small: devices refuse when there is more than about 120 kB. For more, use `muster collect logs`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct LogsArgs {
    /// Device
    #[arg(value_name = "DEVICE")]
    device: DeviceId,
    #[command(flatten)]
    lines: LineArgs,
    /// Support case this is for
    #[arg(long, value_name = "CASE")]
    case: Option<String>,
    /// Why, in words; kept with the request
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// How long to wait for the answer
    #[arg(long, value_name = "SPAN", default_value = "30s", value_parser = parse_span)]
    timeout: Duration,
}

/// Lines of each module when nothing says how many: what fits a few screens, and the answer.
const DEFAULT_TAIL: i32 = 200;

/// How much longer than an attempt the whole request lives, so that a device that does not answer is told from one that is not there.
pub(crate) const PATIENCE_SECONDS: u64 = 5;

pub(crate) async fn run(mut args: LogsArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    // Lines go to pipes as lines: JSON only when it is asked for.
    let structured = matches!(out.chosen_form(), Some(Form::Json | Form::Ndjson));
    let content_type = if structured { ContentType::Json } else { ContentType::Text };
    if args.lines.tail.is_none() && args.lines.since.is_none() && args.lines.until.is_none() {
        args.lines.tail = Some(DEFAULT_TAIL);
    }
    let seconds = args.timeout.as_secs().max(MIN_ATTEMPT_TIMEOUT_SECONDS);
    let new = NewCollection {
        reason: args.reason,
        case: args.case,
        options: CollectionOptions {
            attempt_timeout_seconds: Some(seconds),
            max_attempts: Some(1),
            expires_in_seconds: Some(seconds + PATIENCE_SECONDS),
            // Somebody waits at a terminal.
            priority: Some(Priority::High),
            ..CollectionOptions::default()
        },
        ..NewCollection::new(
            CollectionRequest::Logs { items: args.lines.items(out.now()), content_type },
            Target::Devices { devices: vec![args.device.clone()] },
        )
    };
    let answer = create(client, &new, None).await?;
    let created = &answer.created;
    for warning in &answer.warnings {
        out.note(&format!("note: {}", one_line(warning)));
    }
    let mut signals = Signals::listen()?;
    let what = format!("asking {}", args.device);
    tokio::select! {
        followed = progress::waiting(&what, follow(client, created.id, Tell::Views, |_: Seen<'_>| Ok(()))) => { followed?; }
        _ = signals.next() => return Err(Failure::Interrupted),
    }
    let mut task: Option<TaskView> = None;
    client
        .pages("read the answer", &["collections", &created.id.to_string(), "tasks"], &Query::new(), Some(1), |tasks: Vec<TaskView>| {
            task = tasks.into_iter().next();
            Ok(())
        })
        .await?;
    let task = task.ok_or_else(|| client.strange("read the answer", "a collection without its task"))?;
    match (task.state, task.reason) {
        (TaskState::Verified, _) if task.bundle.is_some() => print_answer(client, &task, structured, out).await,
        (TaskState::Verified, _) | (_, Some(Reason::UploadEmpty | Reason::UploadMissing)) => {
            out.note(&format!("{} answered: no module and no line fits", task.device));
            Ok(exit::DONE)
        }
        _ => Err(why_not(&task)),
    }
}

/// Why there are no lines, and what to try. What a device says is shown and never interpreted: the words differ between versions.
fn why_not(task: &TaskView) -> Failure {
    let device = &task.device;
    let sentence = task.reason.map_or("It did not end well.", Reason::sentence);
    let said = task.detail.as_deref().map(|detail| format!(" {detail}")).unwrap_or_default();
    let code = task.reason.map(|reason| format!(" [{reason}]")).unwrap_or_default();
    let failure = Failure::local(format!("print the logs of {device}"), format!("{sentence}{said}{code}"));
    match task.reason {
        Some(Reason::RequestRefused | Reason::DeviceError | Reason::AnswerMalformed | Reason::NoAnswer) => failure.with_next(format!(
            "if the answer may have been too large, ask for less (--module, --tail, --since), or for all of it as an upload:\nmuster collect logs --device {device} --wait"
        )),
        Some(Reason::DeviceOffline | Reason::DeadlinePassed) => failure
            .with_next(format!("muster devices show {device} says when it was last seen; to wait for it: muster collect logs --device {device} --expires 1day")),
        Some(Reason::DeviceUnknown) => failure.with_next("muster devices list shows the registry"),
        _ => failure.with_next(format!("muster collections show {} tells the whole story", task.id)),
    }
}

async fn print_answer(client: &Client, task: &TaskView, structured: bool, out: &mut Out) -> Result<u8, Failure> {
    let id = task.id.to_string();
    let mut manifest: BundleManifest = client.get("read the answer", &["bundles", &id], &[]).await?;
    manifest.objects.sort_by(|a, b| a.name.cmp(&b.name));
    let several = manifest.objects.len() > 1;
    for object in &manifest.objects {
        let path: Vec<&str> = ["bundles", &id, "objects"].into_iter().chain(object.name.split('/')).collect();
        let response = client.open("read the answer", &path, &[], HeaderMap::new()).await?;
        let text = String::from_utf8_lossy(&client.body("read the answer", response).await?).into_owned();
        let module = module_of(&object.name);
        if out.chosen_form() == Some(Form::Name) {
            out.text(&format!("{}\n", one_line(module)))?;
        } else if structured {
            let entries: Vec<serde_json::Value> = serde_json::from_str(&text).map_err(|error| {
                Failure::local(format!("print the logs of {}", task.device), format!("{module} did not answer with JSON: {error}"))
            })?;
            entries.iter().try_for_each(|entry| out.json(entry))?;
        } else {
            print_lines(&text, several.then_some(module), out)?;
        }
    }
    for missing in &manifest.missing {
        out.note(&plain(&format!("missing: {}: {}", missing.what, missing.why)));
    }
    Ok(exit::DONE)
}

/// The name of an object without what the controller put behind it.
fn module_of(object: &str) -> &str {
    object.strip_suffix(".log").or_else(|| object.strip_suffix(".json")).unwrap_or(object)
}

fn print_lines(text: &str, module: Option<&str>, out: &mut Out) -> Result<(), Failure> {
    let prefix = module.map(|module| out.dim(&format!("{} | ", one_line(module)))).unwrap_or_default();
    for line in text.lines() {
        // What a module logged may drive a terminal; a pipe gets it as it is.
        let line = if out.is_terminal() { plain(line) } else { line.to_owned() };
        out.text(&format!("{prefix}{line}\n"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::present::SharedBuffer;

    #[test]
    fn several_modules_get_a_prefix_and_one_does_not() {
        let (mut out, buffer) = SharedBuffer::out(Form::Table);
        print_lines("a\nb\n", Some("edgeAgent"), &mut out).expect("printed");
        print_lines("c\n\nd", None, &mut out).expect("printed");
        assert_eq!(buffer.text(), "edgeAgent | a\nedgeAgent | b\nc\n\nd\n");
        assert_eq!(["edgeHub.log", "a.json", "x"].map(module_of), ["edgeHub", "a", "x"]);
    }
}
