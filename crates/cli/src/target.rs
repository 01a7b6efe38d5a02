//! Which devices: `--device`, `--devices FILE|-`, `--all`.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use muster_wire::DeviceId;
use muster_wire::http::{MAX_TARGET_DEVICES, Target};

use crate::failure::Failure;

/// Largest list of devices: every id at full length with its newline.
const MAX_LIST_BYTES: u64 = (MAX_TARGET_DEVICES * (muster_wire::device_id::MAX_DEVICE_ID_BYTES + 2)) as u64;

/// Which devices are asked.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Which devices")]
#[group(required = true, multiple = true)]
pub(crate) struct TargetArgs {
    /// These devices; several ids, or the flag several times
    #[arg(long, value_name = "ID", num_args = 1.., value_delimiter = ',', conflicts_with = "all")]
    pub(crate) device: Vec<DeviceId>,
    /// Ids from a file, one per line, # for comments; - reads standard input
    #[arg(long, value_name = "FILE", conflicts_with = "all")]
    pub(crate) devices: Option<PathBuf>,
    /// Every device of the registry
    #[arg(long)]
    pub(crate) all: bool,
}

impl TargetArgs {
    /// The target, with the file read.
    pub(crate) fn target(self) -> Result<Target, Failure> {
        if self.all {
            return Ok(Target::All {});
        }
        let mut devices = self.device;
        if let Some(path) = self.devices {
            let listed = listed(&path)?;
            if listed.is_empty() && devices.is_empty() {
                return Err(Failure::usage(format!("--devices {}", path.display()), "it names no device"));
            }
            devices.extend(listed);
        }
        // Order is kept: it is the order in which the devices are asked.
        let mut seen = std::collections::HashSet::new();
        devices.retain(|device| seen.insert(device.clone()));
        if devices.len() > MAX_TARGET_DEVICES {
            let why = format!("{} devices are named, at most {MAX_TARGET_DEVICES} fit into one collection", devices.len());
            return Err(Failure::usage("--devices", why).with_next("split the list, or use --all"));
        }
        Ok(Target::Devices { devices })
    }
}

/// Ids from a file, or from standard input when it is `-`.
pub(crate) fn listed(path: &Path) -> Result<Vec<DeviceId>, Failure> {
    if path.as_os_str() == "-" {
        return read_list("standard input", std::io::stdin().lock());
    }
    let file = std::fs::File::open(path).map_err(|error| Failure::usage(format!("--devices {}", path.display()), error.to_string()))?;
    read_list(&path.display().to_string(), file)
}

fn read_list(name: &str, input: impl Read) -> Result<Vec<DeviceId>, Failure> {
    let mut text = String::new();
    let read = input
        .take(MAX_LIST_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| Failure::usage(format!("--devices {name}"), error.to_string()))?;
    if read as u64 > MAX_LIST_BYTES {
        return Err(Failure::usage(format!("--devices {name}"), "it is larger than any list of devices; is it the right file?"));
    }
    let mut devices = Vec::new();
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let id = line.split('#').next().unwrap_or_default().trim();
        if id.is_empty() {
            continue;
        }
        devices.push(id.parse().map_err(|error| {
            Failure::usage(format!("--devices {name}, line {}", number + 1), format!("{id:?}: {error}"))
                .with_next("one device id per line, # for comments")
        })?);
    }
    Ok(devices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_comments_and_blank_lines() {
        let listed = read_list("x", "\u{feff}# fleet\na-1\r\n\n  b-2  # the second\n".as_bytes()).expect("a list");
        assert_eq!(listed.iter().map(DeviceId::as_str).collect::<Vec<_>>(), ["a-1", "b-2"]);
    }

    #[test]
    fn a_bad_line_is_named() {
        let failure = read_list("fleet.txt", "a\nb c\n".as_bytes()).expect_err("a blank inside");
        assert!(failure.to_string().contains("fleet.txt, line 2"), "{failure}");
    }

    #[test]
    fn a_list_beyond_all_bounds_is_refused() {
        let failure = read_list("x", std::io::repeat(b'#')).expect_err("endless");
        assert!(failure.to_string().contains("larger"), "{failure}");
    }

    #[test]
    fn duplicates_are_merged_in_order() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("list");
        std::fs::write(&file, "b\na\nc\n").expect("written");
        let id = |text: &str| text.parse::<DeviceId>().expect("an id");
        let args = TargetArgs { device: vec![id("a"), id("b")], devices: Some(file), all: false };
        assert_eq!(args.target().expect("a target"), Target::Devices { devices: vec![id("a"), id("b"), id("c")] });
    }

    #[test]
    fn an_empty_list_is_a_usage_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("list");
        std::fs::write(&file, "# nothing\n").expect("written");
        assert!(TargetArgs { device: vec![], devices: Some(file), all: false }.target().is_err());
    }
}
