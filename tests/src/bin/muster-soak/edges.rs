//! Brokers for a fleet that is larger than one broker process has files: each takes some of the devices, and lanes carry their messages to
//! and from the broker of the controllers.

use std::path::Path;

use muster_tests::broker::{Mosquitto, Tuning};
use muster_tests::relay::{self, Lane};
use muster_wire::DeviceId;
use muster_wire::topic::Prefix;

/// Most devices of one broker: their connections are files, and most systems give a process 20,000.
const DEVICES_PER_EDGE: usize = 12_500;

/// Where devices connect: to the broker of the controllers, or to brokers in front of it.
pub(crate) struct Edges {
    core_port: u16,
    edges: Vec<Edge>,
}

/// Dropped in this order: a lane whose broker is gone would say so.
struct Edge {
    up: Lane,
    down: Vec<Lane>,
    broker: Mosquitto,
}

impl Edges {
    /// At least so many, and as many as so many devices need; none for a fleet that fits.
    pub(crate) async fn start(directory: &Path, core_port: u16, devices: usize, at_least: usize) -> Self {
        let needed = if devices <= DEVICES_PER_EDGE { 0 } else { devices.div_ceil(DEVICES_PER_EDGE) };
        let mut edges = Vec::new();
        for number in 1..=needed.max(at_least) {
            let own = directory.join(format!("edge-{number}"));
            std::fs::create_dir(&own).expect("a private directory can be written");
            let broker = Mosquitto::start(&own, Tuning::Shipped).await;
            let up = Lane::open(&format!("edge-{number}-up"), broker.port, core_port, relay::up(&Prefix::default())).await;
            edges.push(Edge { up, down: Vec::new(), broker });
        }
        Self { core_port, edges }
    }

    /// Ports devices may connect to.
    pub(crate) fn ports(&self) -> Vec<u16> {
        match self.edges.as_slice() {
            [] => vec![self.core_port],
            edges => edges.iter().map(|edge| edge.broker.port).collect(),
        }
    }

    /// From now on requests to these devices arrive at the broker with this place among the ports.
    pub(crate) async fn serve(&mut self, place: usize, devices: &[DeviceId]) {
        if let Some(edge) = self.edges.get_mut(place) {
            let name = format!("edge-{}-down-{}", place + 1, edge.down.len() + 1);
            edge.down.push(Lane::open(&name, self.core_port, edge.broker.port, relay::down(&Prefix::default(), devices)).await);
        }
    }

    /// The brokers between the devices and the core.
    pub(crate) fn count(&self) -> usize {
        self.edges.len()
    }

    /// Messages carried so far, to the core and to the devices.
    pub(crate) fn carried(&self) -> (u64, u64) {
        let up = self.edges.iter().map(|edge| edge.up.carried()).sum();
        let down = self.edges.iter().flat_map(|edge| &edge.down).map(Lane::carried).sum();
        (up, down)
    }

    /// Most memory one of the brokers had, in KiB.
    pub(crate) fn peak_rss_kib(&self) -> u64 {
        self.edges.iter().map(|edge| edge.broker.program.peak_rss_kib()).max().unwrap_or(0)
    }
}
