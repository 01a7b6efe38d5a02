//! Fleets as processes, each with its part of the devices and a trace of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use muster_tests::program::{Program, built};

use crate::edges::{DEVICES_PER_PROCESS, Edges};

/// Some processes with devices.
pub(crate) struct Fleets {
    pub(crate) traces: Vec<PathBuf>,
    /// Devices in all of them.
    pub(crate) devices: usize,
    programs: Vec<Program>,
}

/// What all devices of a group are like.
pub(crate) struct Group<'a> {
    /// First part of their ids, and of the files.
    pub(crate) name: &'a str,
    pub(crate) devices: usize,
    pub(crate) bundle_kb: usize,
    pub(crate) faults: &'a [&'a str],
    /// How late the slow ones are, in milliseconds.
    pub(crate) slow_ms: u64,
}

impl Fleets {
    /// Starts a group, its processes at the brokers from `first` on; the same group again is the same devices.
    pub(crate) fn start(directory: &Path, edges: &Edges, first: usize, group: &Group<'_>) -> Self {
        let mut fleets = Self { traces: Vec::new(), devices: group.devices, programs: Vec::new() };
        let mut left = group.devices;
        while left > 0 {
            let devices = left.min(DEVICES_PER_PROCESS);
            let name = format!("{}-{}", group.name, fleets.programs.len() + 1);
            let trace = directory.join(format!("{name}.trace"));
            let mqtt = edges.url(first + fleets.programs.len());
            let mut command = Command::new(built("muster-agent"));
            command.args(["fleet", "--mqtt", mqtt, "--name", &name, "--devices", &devices.to_string()]);
            command.args(["--bundle-kb", &group.bundle_kb.to_string(), "--log-lines", "20", "--uploads", "64"]);
            command.args(["--slow-delay", &format!("{}ms", group.slow_ms)]).arg("--trace-file").arg(&trace);
            for fault in group.faults {
                command.args(["--fault", fault]);
            }
            fleets.programs.push(Program::start(&name, directory, &mut command));
            fleets.traces.push(trace);
            left -= devices;
        }
        fleets
    }

    /// All of its devices lose power.
    pub(crate) fn kill(&mut self) {
        for program in &mut self.programs {
            program.kill_9();
        }
    }
}
