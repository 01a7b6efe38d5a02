//! Fleets as processes, one at each broker, each with its part of the devices and a trace of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use muster_agent::fleet::device_ids;
use muster_tests::api::Api;
use muster_tests::program::{Program, built};
use muster_wire::DeviceId;

use crate::edges::Edges;

/// Between two looks at who is there: each reads the whole registry.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Some processes with devices.
pub(crate) struct Fleets {
    pub(crate) traces: Vec<PathBuf>,
    /// Devices of all of them.
    pub(crate) devices: Vec<DeviceId>,
    directory: PathBuf,
    /// Name and command of each.
    commands: Vec<(String, Command)>,
    programs: Vec<Program>,
}

/// What all devices of a group are like.
pub(crate) struct Group<'a> {
    /// First part of their ids, and of the files.
    pub(crate) name: &'a str,
    pub(crate) devices: usize,
    pub(crate) bundle_kb: usize,
    pub(crate) faults: &'a [&'a str],
    /// Their owners agreed to proactive collection.
    pub(crate) consent: bool,
    /// How late the slow ones are, in milliseconds.
    pub(crate) slow_ms: u64,
}

impl Fleets {
    /// Starts a group, evenly at all brokers.
    pub(crate) async fn start(directory: &Path, edges: &mut Edges, group: &Group<'_>) -> Self {
        let mut fleets =
            Self { traces: Vec::new(), devices: Vec::new(), directory: directory.to_owned(), commands: Vec::new(), programs: Vec::new() };
        let ports = edges.ports();
        for (place, port) in ports.iter().enumerate() {
            let left = group.devices - fleets.devices.len();
            let devices = left.div_ceil(ports.len() - place);
            if devices == 0 {
                continue;
            }
            let name = format!("{}-{}", group.name, place + 1);
            let ids = device_ids(&name, devices).expect("names of groups make ids");
            edges.serve(place, &ids).await;
            let trace = directory.join(format!("{name}.trace"));
            let mut command = Command::new(built("muster-agent"));
            command.args(["fleet", "--mqtt", &format!("mqtt://127.0.0.1:{port}"), "--name", &name, "--devices", &devices.to_string()]);
            command.args(["--bundle-kb", &group.bundle_kb.to_string(), "--log-lines", "20", "--uploads", "64"]);
            command.args(["--slow-delay", &format!("{}ms", group.slow_ms)]).arg("--trace-file").arg(&trace);
            if group.consent {
                command.args(["--consent", "enabled=100%"]);
            }
            for fault in group.faults {
                command.args(["--fault", fault]);
            }
            fleets.commands.push((name, command));
            fleets.traces.push(trace);
            fleets.devices.extend(ids);
        }
        fleets.start_all();
        fleets
    }

    fn start_all(&mut self) {
        let started = self.commands.iter_mut().map(|(name, command)| Program::start(name, &self.directory, command));
        self.programs = started.collect();
    }

    /// All of its devices lose power.
    pub(crate) fn kill(&mut self) {
        self.programs.iter_mut().for_each(Program::kill_9);
    }

    /// The same devices once more, after they were killed.
    pub(crate) fn start_again(&mut self) {
        self.start_all();
    }

    /// Most memory one of the processes had, in KiB.
    pub(crate) fn peak_rss_kib(&self) -> u64 {
        self.programs.iter().map(Program::peak_rss_kib).max().unwrap_or(0)
    }
}

/// Waits until so many devices are `online`, or `offline`.
pub(crate) async fn until(api: &Api, presence: &str, wanted: usize, patience: Duration) {
    let began = Instant::now();
    loop {
        let count = api.present(presence).await;
        eprintln!("{:>4} s: {count} devices of {wanted} are {presence}", began.elapsed().as_secs());
        if count >= wanted {
            return;
        }
        assert!(began.elapsed() < patience, "waited {patience:?} for {wanted} devices to be {presence}; last seen: {count}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
