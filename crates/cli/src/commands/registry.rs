//! `muster devices import|tag|forget`: writing the registry.

use std::path::PathBuf;

use clap::Args;
use muster_wire::DeviceId;
use muster_wire::http::{CSV, DevicePatch, DeviceView, DevicesPatch, DevicesPatched, Imported, NDJSON, Refusal};
use reqwest::Method;
use serde_json::{Map, Value};

use crate::client::Client;
use crate::failure::{Failure, exit};
use crate::present::units::counted;
use crate::present::{Form, Out, Sheet, one_line};
use crate::progress;
use crate::target::listed;

pub(crate) const IMPORT_EXAMPLES: &str = "\
Examples:
  muster devices import fleet.csv --dry-run
  muster devices import fleet.csv --all-or-nothing
  muster devices import - --format ndjson < fleet.ndjson

A CSV begins with a header: id, parent (the gateway), and tags.NAME or tags.A.B. Cells are text;
tags.line:number and tags.lab:boolean say otherwise. An empty cell says nothing:
  id,parent,tags.site,tags.line:number
  press-0042,gateway-7,oslo,4
NDJSON has one object per line; null removes a tag:
  {\"id\":\"press-0042\",\"parent\":\"gateway-7\",\"tags\":{\"site\":\"oslo\",\"lab\":null}}";
pub(crate) const TAG_EXAMPLES: &str = "\
Examples:
  muster devices tag press-0042 site=oslo line.no=4 lab-
  muster devices tag press-0042 press-0043 firmware=1.4 --string
  muster devices tag press-0042 --parent gateway-7
  muster devices list -o name --prefix press- | muster devices tag --devices - site=oslo";
pub(crate) const FORGET_EXAMPLES: &str = "\
Examples:
  muster devices forget press-0042";

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// CSV or NDJSON; - reads standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What the list is; by the end of the file's name unless given
    #[arg(long, value_name = "FORMAT", value_parser = ["csv", "ndjson"])]
    format: Option<String>,
    /// Say what would be done, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Enter nothing when one row is refused
    #[arg(long, conflicts_with = "dry_run")]
    all_or_nothing: bool,
}

impl ImportArgs {
    fn content_type(&self) -> Result<&'static str, Failure> {
        let end = self.file.extension().and_then(|end| end.to_str()).map(str::to_ascii_lowercase);
        match self.format.as_deref().or(end.as_deref()) {
            Some("csv") => Ok(CSV),
            Some("ndjson" | "jsonl") => Ok(NDJSON),
            _ => {
                let why = "the name does not say whether it is CSV or NDJSON";
                Err(Failure::usage(self.file.display().to_string(), why).with_next("add --format csv or --format ndjson"))
            }
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// Devices, then changes: NAME=VALUE sets, NAME- removes; A.B is B inside A
    #[arg(value_name = "DEVICE|NAME=VALUE|NAME-", required = true)]
    words: Vec<String>,
    /// More devices from a file, one id per line, # for comments; - reads standard input
    #[arg(long, value_name = "FILE")]
    devices: Option<PathBuf>,
    /// Take every value as text; otherwise what is JSON (4, true, "x") is taken as that
    #[arg(long)]
    string: bool,
    /// Name the gateway they are behind
    #[arg(long, value_name = "ID", conflicts_with = "no_parent")]
    parent: Option<DeviceId>,
    /// Behind no gateway
    #[arg(long)]
    no_parent: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ForgetArgs {
    /// Devices
    #[arg(value_name = "DEVICE", required = true)]
    devices: Vec<DeviceId>,
}

/// Devices and the change, as words say them. A device id has no `=`; one that ends in `-` has to come from a file.
fn understood(args: &TagArgs) -> Result<DevicesPatch, Failure> {
    let mut devices: Vec<DeviceId> = Vec::new();
    let mut tags = Map::new();
    for word in &args.words {
        if let Some((name, text)) = word.split_once('=') {
            let json = if args.string { None } else { serde_json::from_str(text).ok().filter(|value: &Value| !value.is_null()) };
            put(&mut tags, name, json.unwrap_or_else(|| Value::from(text)), word)?;
        } else if let Some(name) = word.strip_suffix('-') {
            put(&mut tags, name, Value::Null, word)?;
        } else {
            let id = word.parse().map_err(|error| {
                Failure::usage(format!("{word:?}"), format!("{error}")).with_next("a device, or a change like site=oslo or lab-")
            })?;
            devices.push(id);
        }
    }
    if let Some(path) = &args.devices {
        devices.extend(listed("--devices", path)?);
    }
    let parent = if args.no_parent { Some(None) } else { args.parent.clone().map(Some) };
    if devices.is_empty() {
        return Err(Failure::usage("DEVICE", "no device is named").with_next("muster devices tag press-0042 site=oslo"));
    }
    if tags.is_empty() && parent.is_none() {
        return Err(Failure::usage("NAME=VALUE", "no change is named").with_next("muster devices tag press-0042 site=oslo"));
    }
    let tags = (!tags.is_empty()).then_some(Value::Object(tags));
    Ok(DevicesPatch { devices, patch: DevicePatch { tags, parent } })
}

fn put(tags: &mut Map<String, Value>, place: &str, value: Value, word: &str) -> Result<(), Failure> {
    let place = place.strip_prefix("tags.").unwrap_or(place);
    let twice = || Failure::usage(format!("{word:?}"), "another change stands at this place").with_next("name every place once");
    let mut members = tags;
    let mut names = place.split('.').peekable();
    while let Some(name) = names.next() {
        if name.is_empty() {
            return Err(Failure::usage(format!("{word:?}"), "a tag has a name between its dots").with_next("site=oslo, line.no=4, lab-"));
        }
        if names.peek().is_none() {
            return if members.insert(name.to_owned(), value).is_some() { Err(twice()) } else { Ok(()) };
        }
        let inner = members.entry(name.to_owned()).or_insert_with(|| Value::Object(Map::new()));
        members = inner.as_object_mut().ok_or_else(twice)?;
    }
    Ok(())
}

fn tell(refusals: &[Refusal], refused: u64, out: &Out) {
    for refusal in refusals {
        let line = refusal.line.map(|line| format!("line {line}: ")).unwrap_or_default();
        let device = refusal.device.as_ref().filter(|_| refusal.line.is_none()).map(|device| format!("{device}: ")).unwrap_or_default();
        let column = refusal.column.as_ref().map(|column| format!("{column}: ")).unwrap_or_default();
        out.note(&one_line(&format!("{line}{device}{column}{}; {}", refusal.reason, refusal.next_step)));
    }
    let untold = refused.saturating_sub(refusals.len() as u64);
    if untold > 0 {
        out.note(&format!("and {} more", counted(untold, "refusal")));
    }
}

pub(crate) async fn import(args: ImportArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let content_type = args.content_type()?;
    let body = if args.file.as_os_str() == "-" {
        reqwest::Body::wrap_stream(pieces(tokio::io::stdin()))
    } else {
        let file = tokio::fs::File::open(&args.file).await;
        reqwest::Body::wrap_stream(pieces(file.map_err(|error| Failure::usage(args.file.display().to_string(), error.to_string()))?))
    };
    let mut query = Vec::new();
    query.extend(args.dry_run.then(|| ("dry_run", "true".to_owned())));
    query.extend(args.all_or_nothing.then(|| ("all_or_nothing", "true".to_owned())));
    let sent = client.upload("import the devices", &["devices", "import"], &query, content_type, body);
    let imported: Imported = progress::waiting("importing", sent).await?;
    if out.form() == Form::Table {
        tell(&imported.refusals, imported.refused, out);
    }
    out.one(&imported, "", |_| report(&imported, args.dry_run))?;
    Ok(if imported.refused == 0 { exit::DONE } else { exit::SOME_NOT })
}

fn report(imported: &Imported, dry_run: bool) -> Sheet {
    let sheet = Sheet::default()
        .line("rows", imported.rows.to_string())
        .line("new", imported.new.to_string())
        .line("changed", imported.changed.to_string())
        .line("unchanged", imported.unchanged.to_string())
        .line("refused", imported.refused.to_string());
    let nothing = if dry_run { "nothing was written: a dry run" } else { "nothing was written: a row was refused" };
    sheet.maybe("note", (!imported.written).then_some(nothing))
}

/// A file as a stream of pieces.
fn pieces(input: impl tokio::io::AsyncRead + Unpin + Send + 'static) -> impl futures_util::Stream<Item = std::io::Result<bytes::Bytes>> {
    use tokio::io::AsyncReadExt as _;
    const PIECE_BYTES: usize = 64 * 1024;
    futures_util::stream::try_unfold(input, |mut input| async move {
        let mut piece = bytes::BytesMut::with_capacity(PIECE_BYTES);
        let count = input.read_buf(&mut piece).await?;
        Ok((count > 0).then(|| (piece.freeze(), input)))
    })
}

pub(crate) async fn tag(args: TagArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    let body = understood(&args)?;
    let sent = client.post("tag the devices", &["devices", "tags"], &body, None);
    let patched: DevicesPatched = progress::waiting("tagging", sent).await?;
    if out.form() == Form::Table {
        tell(&patched.refusals, patched.refused, out);
    }
    out.one(&patched, "", |_| {
        Sheet::default()
            .line("changed", counted(patched.changed, "device"))
            .line("unchanged", patched.unchanged.to_string())
            .maybe("refused", (patched.refused > 0).then(|| patched.refused.to_string()))
    })?;
    Ok(if patched.refused == 0 { exit::DONE } else { exit::SOME_NOT })
}

pub(crate) async fn forget(args: &ForgetArgs, client: &Client, out: &mut Out) -> Result<u8, Failure> {
    for device in &args.devices {
        let gone: DeviceView = client.change("forget the device", Method::DELETE, &["devices", device.as_str()], None::<&()>).await?;
        out.one(&gone, device.as_str(), |_| Sheet::default().line("forgotten", device.to_string()))?;
    }
    Ok(exit::DONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn args(words: &[&str]) -> TagArgs {
        TagArgs {
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            devices: None,
            string: false,
            parent: None,
            no_parent: false,
        }
    }

    #[test]
    fn words_are_devices_and_changes() {
        let understood_as = |words: &[&str]| understood(&args(words)).expect("a change");
        let patch = understood_as(&["press-1", "site=oslo", "line.no=4", "line.name=a=b", "lab-", "press-2", "tags.x=[1,true]", "n=null"]);
        assert_eq!(patch.devices.iter().map(DeviceId::as_str).collect::<Vec<_>>(), ["press-1", "press-2"]);
        let tags = json!({"site": "oslo", "line": {"no": 4, "name": "a=b"}, "lab": null, "x": [1, true], "n": "null"});
        assert_eq!(patch.patch.tags, Some(tags));
        let text = understood(&TagArgs { string: true, ..args(&["press-1", "v=1.4"]) }).expect("a change");
        assert_eq!(text.patch.tags, Some(json!({"v": "1.4"})));
        let out = understood(&TagArgs { no_parent: true, ..args(&["press-1"]) }).expect("a change");
        assert_eq!(out.patch, DevicePatch { tags: None, parent: Some(None) });
    }

    #[test]
    fn what_makes_no_change_is_a_usage_error() {
        for words in [
            &["site=oslo"][..],
            &["press-1"],
            &["press-1", "a=1", "a=2"],
            &["press-1", "a=1", "a.b=2"],
            &["press-1", "a..b=1"],
            &["press-1", "-"],
            &["a/b", "x=1"],
        ] {
            let failure = understood(&args(words)).expect_err(&words.join(" "));
            assert_eq!(failure.exit_code(), exit::USAGE, "{failure}");
        }
    }

    #[test]
    fn the_name_says_what_the_list_is() {
        let args = |file: &str, format: Option<&str>| ImportArgs {
            file: file.into(),
            format: format.map(str::to_owned),
            dry_run: false,
            all_or_nothing: false,
        };
        assert_eq!(args("a.CSV", None).content_type().expect("known"), CSV);
        assert_eq!(args("a.jsonl", None).content_type().expect("known"), NDJSON);
        assert_eq!(args("-", Some("csv")).content_type().expect("known"), CSV);
        assert!(args("-", None).content_type().is_err() && args("a.txt", None).content_type().is_err());
    }
}
