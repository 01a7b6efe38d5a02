//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use muster_agent::{ConsentShare, FaultRule, RaiseRule};
use muster_wire::alert::Severity;

/// A Muster device: answers the direct methods of IoT Edge over MQTT 5.
#[derive(Debug, Parser)]
#[command(name = "muster-agent", version, propagate_version = true, after_help = "Exit codes: 0 done, 1 failed, 2 usage or settings.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Be a device, until SIGTERM or Ctrl-C
    #[command(after_help = "Examples:
  muster-agent run --config /etc/muster-agent.toml
  muster-agent run --device press-0042 --mqtt mqtts://broker:8883 --username press-0042 --password-file pw \\
      --files 'dpkg=/var/log/dpkg.log' --journal sshd=ssh.service")]
    Run(RunArguments),
    /// Activate the device, with what its owner says about proactive log collection
    #[command(
        after_help = "Proactive: when the device raises one of the published alerts, logs about it are collected without anybody asking at that
moment. The choice is kept in the state directory; a running agent notices it within seconds, and refuses such requests unless
the answer was yes. Without --proactive-logs the owner leaves it to what the terms say of silence.

Examples:
  muster-agent activate --proactive-logs yes --config /etc/muster-agent.toml
  muster-agent activate --proactive-logs no --device press-0042 --state-dir /var/lib/muster-agent"
    )]
    Activate(ActivateArguments),
    /// Raise an alert of this device, beside its running agent, and wait until the broker has it
    #[command(
        after_help = "What a device raises, whose owner agreed to proactive collection, has the controller collect what the alert's indicator is about.
The names are published: GET /api/v1/indicators, or the page /indicators of the controller. Standard output is the event's id.

Exit codes: 0 the broker has it, 1 it has not or nobody takes alerts, 2 usage or settings.

Examples:
  muster-agent raise IOTEdgeAgentNotRunningCondition --config /etc/muster-agent.toml
  muster-agent raise UpdateInstallFailedEvent --severity sev1 --device press-0042 --mqtt mqtt://broker:1883
  muster-agent raise IOTEdgeAgentNotRunningCondition --resolved --origin 83eccd0b-134b-40b0-ad62-b5f124d03790"
    )]
    Raise(RaiseArguments),
    /// Check the settings and print them, secrets masked
    #[command(after_help = "Example:\n  muster-agent check-config --config /etc/muster-agent.toml")]
    CheckConfig(RunArguments),
    /// Print every setting with its default, as a file to start from
    #[command(after_help = "Example:\n  muster-agent config > muster-agent.toml")]
    Config,
    /// Be many simulated devices, some of them with scripted faults
    #[command(after_help = "Examples:
  muster-agent fleet --devices 200 --fault deaf=2% --fault liar=3,7,9
  muster-agent fleet --devices 18000 --name bench --for 60s --stats-file stats.ndjson
  muster-agent fleet --devices 1000 --script faults.toml
  muster-agent fleet --devices 500 --consent enabled=80% --raise IOTEdgeAgentNotRunningCondition=10% --raise-rate 5

A script has lines like these, and the figures of the faults if they are to differ:
  slow_delay = \"3s\"
  [[fault]]
  name = \"deaf\"
  share = \"2%\"
  [[fault]]
  name = \"liar\"
  devices = [3, 7, 9]")]
    Fleet(Box<FleetArguments>),
    /// List the faults a fleet can have, and what a controller is expected to report for each
    #[command(after_help = "Example:\n  muster-agent faults")]
    Faults,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Settings file; `muster-agent config` prints one
    #[arg(long, short, value_name = "FILE", env = "MUSTER_AGENT_CONFIG")]
    pub config: Option<PathBuf>,
    /// Device id
    #[arg(long, visible_alias = "device-id", value_name = "ID", env = "MUSTER_AGENT_DEVICE")]
    pub device: Option<String>,
    /// Broker: mqtt://host:1883 or mqtts://host:8883
    #[arg(long, value_name = "URL", env = "MUSTER_AGENT_MQTT")]
    pub mqtt: Option<String>,
    /// User name at the broker
    #[arg(long, value_name = "NAME", env = "MUSTER_AGENT_USERNAME")]
    pub username: Option<String>,
    /// File with the password
    #[arg(long, value_name = "FILE", env = "MUSTER_AGENT_PASSWORD_FILE")]
    pub password_file: Option<PathBuf>,
    /// Roots that are trusted for mqtts, in place of the system's
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// What topics begin with
    #[arg(long, value_name = "PREFIX", env = "MUSTER_AGENT_PREFIX")]
    pub prefix: Option<String>,
    /// Directory of the task table
    #[arg(long, value_name = "DIR", env = "MUSTER_AGENT_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// A module made of log files; may be repeated, also for one module
    #[arg(long = "files", value_name = "MODULE=PATTERN", value_parser = pair)]
    pub files: Vec<(String, String)>,
    /// A module made of a journal unit; may be repeated, also for one module
    #[arg(long = "journal", value_name = "MODULE=UNIT", value_parser = pair)]
    pub journal: Vec<(String, String)>,
    /// Socket of the container engine
    #[arg(long, value_name = "SOCKET")]
    pub docker_socket: Option<PathBuf>,
    /// error, warn, info, debug, trace, or a filter
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ActivateArguments {
    /// Whether logs may be collected when the device raises an alert
    #[arg(long, value_enum, value_name = "ANSWER")]
    pub proactive_logs: Option<YesNo>,
    #[command(flatten)]
    pub run: RunArguments,
}

#[derive(Debug, Args)]
pub(crate) struct RaiseArguments {
    /// What happened: the name of an indicator
    #[arg(value_name = "INDICATOR")]
    pub indicator: String,
    /// How bad it is, from sev0 to sev4; for display and order
    #[arg(long, default_value = "sev2", value_name = "SEVERITY")]
    pub severity: Severity,
    /// It ended, rather than began
    #[arg(long)]
    pub resolved: bool,
    /// Joins what fired with what resolved: the id that the first one printed
    #[arg(long, value_name = "ID")]
    pub origin: Option<String>,
    /// A sentence for people
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    #[command(flatten)]
    pub run: RunArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum YesNo {
    /// Agreed, until withdrawn
    Yes,
    /// Not agreed, or withdrawn
    No,
}

#[derive(Debug, Args)]
pub(crate) struct FleetArguments {
    /// How many devices
    #[arg(long, short = 'n', default_value_t = 10, value_name = "N")]
    pub devices: usize,
    /// Ids are NAME-0001 and so on
    #[arg(long, default_value = "sim")]
    pub name: String,
    /// What everything random follows from
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Broker: mqtt://host:1883 or mqtts://host:8883
    #[arg(long, value_name = "URL", default_value = "mqtt://127.0.0.1:1883", env = "MUSTER_AGENT_MQTT")]
    pub mqtt: String,
    /// User name at the broker; {device} stands for the device's id
    #[arg(long, value_name = "NAME")]
    pub username: Option<String>,
    /// File with the password of all devices
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// MQTT client id; {device} stands for the device's id
    #[arg(long, value_name = "TEMPLATE", default_value = "{device}")]
    pub client_id: String,
    /// Roots that are trusted for mqtts, in place of the system's
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Roots that are trusted for https uploads, beside the system's
    #[arg(long, value_name = "FILE")]
    pub upload_ca_file: Option<PathBuf>,
    /// What topics begin with
    #[arg(long, default_value = "muster/v1", env = "MUSTER_AGENT_PREFIX")]
    pub prefix: String,
    /// First part of object names
    #[arg(long, default_value = "muster")]
    pub hub: String,
    /// Size of a support bundle
    #[arg(long, default_value_t = 64, value_name = "KB")]
    pub bundle_kb: usize,
    /// Lines in each module's log
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub log_lines: usize,
    /// Uploads at once, of all devices together
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub uploads: usize,
    /// A fault and who has it: deaf=2% or liar=3,7,9; may be repeated. `muster-agent faults` lists them
    #[arg(long = "fault", value_name = "NAME=WHO")]
    pub faults: Vec<FaultRule>,
    /// What owners said about proactive collection: enabled=80%, disabled=10%, default=5%; may be repeated, the rest is unknown
    #[arg(long = "consent", value_name = "WORD=SHARE")]
    pub consent: Vec<ConsentShare>,
    /// An indicator and who raises it, once each: IOTEdgeAgentNotRunningCondition=10% or AcsUnhealthyCondition=3,7; may be repeated
    #[arg(long = "raise", value_name = "INDICATOR=WHO")]
    pub raise: Vec<RaiseRule>,
    /// When the first alert is raised
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    pub raise_after: Duration,
    /// Alerts a second of all devices together; 0 is all at once
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    pub raise_rate: f64,
    /// Faults and their figures from a TOML file
    #[arg(long, value_name = "FILE")]
    pub script: Option<PathBuf>,
    /// How late slow devices are
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub slow_delay: Option<Duration>,
    /// How long devices stay away that leave
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub away: Option<Duration>,
    /// How wrong skewed clocks are
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub clock_skew: Option<Duration>,
    /// Keep-alive of the sessions
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    pub keep_alive: Duration,
    /// Stop after this time; without it, at Ctrl-C
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub duration: Option<Duration>,
    /// Append one JSON line per second, and the last figures, to this file
    #[arg(long, value_name = "FILE")]
    pub stats_file: Option<PathBuf>,
    /// Append one JSON line to this file for every request that arrives at a device or is done there
    #[arg(long, value_name = "FILE")]
    pub trace_file: Option<PathBuf>,
    /// error, warn, info, debug, trace, or a filter
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    pub log: String,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((module, what)) if !module.is_empty() => Ok((module.to_owned(), what.to_owned())),
        _ => Err("write MODULE=WHAT, like dpkg=/var/log/dpkg.log".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound_and_every_command_has_an_example() {
        let command = Arguments::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("muster-agent "), "{} has no example", sub.get_name());
        }
    }

    #[test]
    fn modules_are_given_as_pairs() {
        assert_eq!(pair("a=/x=y"), Ok(("a".to_owned(), "/x=y".to_owned())));
        assert!(pair("a").is_err() && pair("=x").is_err());
    }
}
