//! Which devices: `--target CONDITION`, `--device`, `--devices FILE|-`, `--all`; and which of them: `--sample`, `--limit`, `--exclude`.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use muster_domain::condition::{Condition, ConditionError};
use muster_wire::DeviceId;
use muster_wire::http::{Choice, MAX_TARGET_DEVICES, Target};

use crate::failure::Failure;

/// Largest list of devices: every id at full length with its newline.
const MAX_LIST_BYTES: u64 = (MAX_TARGET_DEVICES * (muster_wire::device_id::MAX_DEVICE_ID_BYTES + 2)) as u64;

/// Which devices are asked.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Which devices")]
#[group(required = true, multiple = true)]
pub(crate) struct TargetArgs {
    /// Devices that meet this condition: tags.site = 'oslo' AND NOT reported.firmware IN ['1.4.2']; among those named, if any are
    #[arg(short, long, value_name = "CONDITION", value_parser = parse_condition, conflicts_with = "all")]
    pub(crate) target: Option<String>,
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

/// Which of the targeted devices are taken.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Which devices")]
pub(crate) struct ChoiceArgs {
    /// Never these; several ids, or the flag several times
    #[arg(long, value_name = "ID", num_args = 1.., value_delimiter = ',')]
    exclude: Vec<DeviceId>,
    /// Never those of this file, one id per line, # for comments
    #[arg(long, value_name = "FILE")]
    exclude_file: Option<PathBuf>,
    /// A random share of the devices, one at least: 2%
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    sample: Option<f64>,
    /// At most so many devices, after sampling
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
}

impl ChoiceArgs {
    /// The choice, with the file read.
    pub(crate) fn choice(self) -> Result<Choice, Failure> {
        let mut exclude = self.exclude;
        if let Some(path) = &self.exclude_file {
            exclude.extend(listed("--exclude-file", path)?);
        }
        if exclude.len() > MAX_TARGET_DEVICES {
            let why = format!("{} devices are excluded by name, at most {MAX_TARGET_DEVICES} can be", exclude.len());
            return Err(Failure::usage("--exclude-file", why).with_next("exclude them by a condition: -t 'NOT tags.… = …'"));
        }
        Ok(Choice { exclude, sample_percent: self.sample, limit: self.limit })
    }
}

/// A condition, read here already, so that what is wrong with it is pointed at where it was typed.
pub(crate) fn parse_condition(text: &str) -> Result<String, String> {
    text.parse::<Condition>().map(|_| text.to_owned()).map_err(|error: ConditionError| format!("{error}\n\n{}", error.pointed(text)))
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    let percent = number.parse::<f64>().ok().filter(|percent| *percent > 0.0 && *percent <= 100.0);
    percent.ok_or_else(|| "a share is a percentage above 0 and at most 100, like 2% or 0.5%".to_owned())
}

impl TargetArgs {
    /// The target, with the file read.
    pub(crate) fn target(self) -> Result<Target, Failure> {
        if self.all {
            return Ok(Target::All {});
        }
        let mut devices = self.device;
        if let Some(path) = self.devices {
            let listed = listed("--devices", &path)?;
            if listed.is_empty() && devices.is_empty() {
                return Err(Failure::usage(format!("--devices {}", path.display()), "it names no device"));
            }
            devices.extend(listed);
        }
        // Order is kept: it is the order in which the devices are asked. Repeated names are the controller's to merge and to count.
        if devices.len() > MAX_TARGET_DEVICES {
            let why = format!("{} devices are named, at most {MAX_TARGET_DEVICES} fit into one collection", devices.len());
            return Err(Failure::usage("--devices", why).with_next("split the list, or use --all"));
        }
        Ok(match self.target {
            Some(condition) => Target::Condition { condition, devices },
            None => Target::Devices { devices },
        })
    }
}

/// Ids from a file, or from standard input when it is `-`; `flag` is how they were asked for.
pub(crate) fn listed(flag: &str, path: &Path) -> Result<Vec<DeviceId>, Failure> {
    if path.as_os_str() == "-" {
        return read_list(flag, "standard input", std::io::stdin().lock());
    }
    let file = std::fs::File::open(path).map_err(|error| Failure::usage(format!("{flag} {}", path.display()), error.to_string()))?;
    read_list(flag, &path.display().to_string(), file)
}

fn read_list(flag: &str, name: &str, input: impl Read) -> Result<Vec<DeviceId>, Failure> {
    let mut text = String::new();
    let read = input
        .take(MAX_LIST_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| Failure::usage(format!("{flag} {name}"), error.to_string()))?;
    if read as u64 > MAX_LIST_BYTES {
        return Err(Failure::usage(format!("{flag} {name}"), "it is larger than any list of devices; is it the right file?"));
    }
    let mut devices = Vec::new();
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let id = line.split('#').next().unwrap_or_default().trim();
        if id.is_empty() {
            continue;
        }
        devices.push(id.parse().map_err(|error| {
            Failure::usage(format!("{flag} {name}, line {}", number + 1), format!("{id:?}: {error}"))
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
        let listed = read_list("--devices", "x", "\u{feff}# fleet\na-1\r\n\n  b-2  # the second\n".as_bytes()).expect("a list");
        assert_eq!(listed.iter().map(DeviceId::as_str).collect::<Vec<_>>(), ["a-1", "b-2"]);
    }

    #[test]
    fn a_bad_line_is_named() {
        let failure = read_list("--devices", "fleet.txt", "a\nb c\n".as_bytes()).expect_err("a blank inside");
        assert!(failure.to_string().contains("fleet.txt, line 2"), "{failure}");
    }

    #[test]
    fn a_list_beyond_all_bounds_is_refused() {
        let failure = read_list("--devices", "x", std::io::repeat(b'#')).expect_err("endless");
        assert!(failure.to_string().contains("larger"), "{failure}");
    }

    #[test]
    fn a_list_keeps_its_order_and_its_repeated_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("list");
        std::fs::write(&file, "b\na\nc\n").expect("written");
        let id = |text: &str| text.parse::<DeviceId>().expect("an id");
        let args = TargetArgs { target: None, device: vec![id("a"), id("b")], devices: Some(file), all: false };
        let devices = vec![id("a"), id("b"), id("b"), id("a"), id("c")];
        assert_eq!(args.target().expect("a target"), Target::Devices { devices: devices.clone() });
        let condition = "tags.site = 'oslo'".to_owned();
        let among = TargetArgs { target: Some(condition.clone()), device: devices.clone(), devices: None, all: false };
        assert_eq!(among.target().expect("a target"), Target::Condition { condition, devices });
    }

    #[test]
    fn a_condition_is_pointed_into() {
        assert!(parse_condition("tags.site = 'oslo'").is_ok());
        let message = parse_condition("tags.site == 'oslo'").expect_err("no such operator");
        assert!(message.contains("column 12: found `=`") && message.ends_with("tags.site == 'oslo'\n           ^"), "{message}");
    }

    #[test]
    fn a_sample_is_a_percentage() {
        for (text, percent) in [("2%", 2.0), ("0.5 %", 0.5), ("100", 100.0)] {
            assert_eq!(parse_percent(text), Ok(percent), "{text}");
        }
        for text in ["0%", "-1%", "101%", "NaN", "inf", "%", "some"] {
            assert!(parse_percent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_excluded_come_from_flags_and_a_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("list");
        std::fs::write(&file, "b # the second\n").expect("written");
        let id = |text: &str| text.parse::<DeviceId>().expect("an id");
        let args = ChoiceArgs { exclude: vec![id("a")], exclude_file: Some(file), sample: Some(2.0), limit: Some(5) };
        let choice = args.choice().expect("a choice");
        assert_eq!(choice, Choice { exclude: vec![id("a"), id("b")], sample_percent: Some(2.0), limit: Some(5) });
        let missing = ChoiceArgs { exclude: vec![], exclude_file: Some(dir.path().join("none")), sample: None, limit: None };
        assert!(missing.choice().expect_err("no such file").to_string().contains("--exclude-file"));
    }

    #[test]
    fn an_empty_list_is_a_usage_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("list");
        std::fs::write(&file, "# nothing\n").expect("written");
        assert!(TargetArgs { target: None, device: vec![], devices: Some(file), all: false }.target().is_err());
    }
}
