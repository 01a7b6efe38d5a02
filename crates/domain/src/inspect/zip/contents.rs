//! What a sound zip holds: its files, and the marks of a support bundle among them.

use std::collections::HashSet;

use serde::Deserialize;

use crate::inspect::{InspectLimits, MAX_MISSING, Missing, ZipContents, ZipEntry, shown};

use super::directory::{Directory, Entry};

/// Output of `iotedge check`, the mark of an IoT Edge bundle.
const CHECK: &[u8] = b"check.json";
/// The mark of our own agent's bundle.
pub(super) const AGENT_MANIFEST: &[u8] = b"manifest.json";
/// Where an IoT Edge bundle keeps what it collected.
const DIAGNOSTICS: [&[u8]; 3] = [b"logs/", b"inspect/", b"network/"];
/// Endings of entries that hold an error in place of what should be there, with the ending of what they stand for.
const ERROR_ENDINGS: [(&str, &str); 3] = [("_err_docker.txt", ".json"), ("_err.json", ".json"), ("_err.txt", ".txt")];

/// What we read of an agent's manifest; it has more members.
#[derive(Deserialize)]
struct AgentManifest {
    missing: Vec<MissingPart>,
}

#[derive(Deserialize)]
struct MissingPart {
    what: String,
    #[serde(default)]
    why: String,
}

/// Sums up. `manifest` is the content of the entry of that name, if there is one of a bearable size.
pub(super) fn summarise(directory: &Directory, entries: &[Entry], manifest: Option<&[u8]>, limits: &InspectLimits) -> ZipContents {
    let mut contents = ZipContents { failed: stand_ins(directory, entries), ..ZipContents::default() };
    for entry in entries {
        let name = directory.name(entry);
        if name.ends_with(b"/") {
            continue;
        }
        contents.files += 1;
        contents.expanded_bytes = contents.expanded_bytes.saturating_add(entry.expanded_size);
        contents.has_check |= name == CHECK && entry.expanded_size > 0;
        contents.has_diagnostics |= entry.expanded_size > 0 && DIAGNOSTICS.iter().any(|directory| name.starts_with(directory));
        if contents.listed.len() < limits.listed_entries {
            contents.listed.push(ZipEntry { name: String::from_utf8_lossy(name).into_owned(), size_bytes: entry.expanded_size });
        } else {
            contents.listing_cut = true;
        }
    }
    contents.agent_missing = manifest.and_then(read_manifest);
    contents
}

fn read_manifest(content: &[u8]) -> Option<Vec<Missing>> {
    let manifest: AgentManifest = serde_json::from_slice(content).ok()?;
    let missing = manifest.missing.iter().map(|part| Missing { what: shown(&part.what), why: shown(&part.why) });
    Some(bounded(missing))
}

/// At most [`MAX_MISSING`], the last of which says that there were more.
fn bounded(missing: impl Iterator<Item = Missing>) -> Vec<Missing> {
    let mut missing: Vec<Missing> = missing.take(MAX_MISSING + 1).collect();
    if missing.len() > MAX_MISSING {
        missing.truncate(MAX_MISSING - 1);
        missing.push(Missing { what: "…".into(), why: format!("more than {MAX_MISSING} things are missing") });
    }
    missing
}

/// What the entries with an error's ending stand in for. A module may itself be called `…_err`, so an entry counts only if what it would
/// stand for is not there, and if no log of a module of that very name is.
fn stand_ins(directory: &Directory, entries: &[Entry]) -> Vec<Missing> {
    let names: HashSet<&[u8]> = entries.iter().map(|entry| directory.name(entry)).collect();
    let mut seen = HashSet::new();
    let missing = entries.iter().filter_map(|entry| {
        let name = std::str::from_utf8(directory.name(entry)).ok()?;
        if !DIAGNOSTICS.iter().any(|directory| name.as_bytes().starts_with(directory)) {
            return None;
        }
        let (stem, ending) = ERROR_ENDINGS.iter().find_map(|(error, ending)| Some((name.strip_suffix(error)?, ending)))?;
        let what = format!("{stem}{ending}");
        let module = name.rsplit_once('/').map_or(name, |(_, file)| file);
        let own_log = module.strip_suffix(".json").map(|module| format!("logs/{module}_log.txt"));
        if stem.ends_with('/') || names.contains(what.as_bytes()) || own_log.is_some_and(|log| names.contains(log.as_bytes())) {
            return None;
        }
        seen.insert(what.clone())
            .then(|| Missing { what: shown(&what), why: format!("the device could not collect it: see {}", shown(name)) })
    });
    bounded(missing)
}
