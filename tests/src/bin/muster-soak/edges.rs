//! Brokers for a fleet that is larger than one broker process has files: each takes some of the devices and passes their messages to and
//! from the broker of the controllers.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use muster_tests::program::{Program, built};
use muster_tests::{free_port, wait};

/// Most devices of one broker, and of one simulating process: their connections are files, and most systems give 20,000.
pub(crate) const DEVICES_PER_PROCESS: usize = 12_500;

/// Where devices connect: to the broker of the controllers, or to brokers in front of it.
pub(crate) struct Edges {
    urls: Vec<String>,
    brokers: Vec<Program>,
}

impl Edges {
    /// As many as so many devices need; none for a fleet that fits.
    pub(crate) async fn start(directory: &Path, core_port: u16, devices: usize) -> Self {
        if devices <= DEVICES_PER_PROCESS {
            return Self { urls: vec![format!("mqtt://127.0.0.1:{core_port}")], brokers: Vec::new() };
        }
        let (mut urls, mut brokers) = (Vec::new(), Vec::new());
        for number in 1..=devices.div_ceil(DEVICES_PER_PROCESS) {
            // An address of its own: connections from one machine to one address and port run out at 28,000.
            let address = format!("127.0.0.{}:{}", number + 1, free_port());
            let name = format!("edge-{number}");
            let mut command = Command::new(built("examples/edge_broker"));
            command.args([&name, &address, &format!("127.0.0.1:{core_port}")]);
            brokers.push(Program::start(&name, directory, &mut command));
            urls.push(format!("mqtt://{address}"));
        }
        for (url, broker) in urls.iter().zip(&brokers) {
            let address = url.trim_start_matches("mqtt://").to_owned();
            let listens = || async { tokio::net::TcpStream::connect(&address).await.is_ok() };
            wait::until(&format!("{address} to listen ({})", broker.tail()), Duration::from_secs(10), listens, |listens| *listens).await;
        }
        Self { urls, brokers }
    }

    /// The brokers between the devices and the core.
    pub(crate) fn count(&self) -> usize {
        self.brokers.len()
    }

    /// For the process with this number.
    pub(crate) fn url(&self, process: usize) -> &str {
        &self.urls[process % self.urls.len()]
    }
}
