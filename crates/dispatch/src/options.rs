//! How fast, how patient, how deep.

use std::path::PathBuf;
use std::time::Duration;

use muster_domain::backoff::Schedule;
use muster_wire::http::Priority;
use muster_wire::topic::Prefix;

/// Where the broker is and who we are there.
#[derive(Clone)]
pub struct MqttOptions {
    /// `mqtt://host:port` or `mqtts://host:port`.
    pub url: String,
    /// Client id and caller id. It must stay the same across restarts: answers that came meanwhile wait for it at the broker.
    pub client_id: String,
    /// User name, when the broker wants one.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// PEM file with the roots to trust instead of the system's (`mqtts` only).
    pub ca_file: Option<PathBuf>,
    /// What all topics begin with.
    pub prefix: Prefix,
}

impl std::fmt::Debug for MqttOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MqttOptions")
            .field("url", &self.url)
            .field("client_id", &self.client_id)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl Default for MqttOptions {
    fn default() -> Self {
        Self {
            url: "mqtt://127.0.0.1:1883".to_owned(),
            client_id: "muster".to_owned(),
            username: None,
            password: None,
            ca_file: None,
            prefix: Prefix::default(),
        }
    }
}

/// Settings of all loops. Every bound of the dispatcher stands here.
#[derive(Debug, Clone)]
pub struct DispatchOptions {
    /// The broker.
    pub mqtt: MqttOptions,
    /// Name of this controller in leases.
    pub owner: String,
    /// Most tasks this controller has sent and not seen answered, over all collections.
    pub in_flight: u32,
    /// Share of that window, in percent, that normal collections leave free for high ones, and low ones once more for normal ones.
    pub reserve_percent: u32,
    /// Most tasks claimed by one statement.
    pub claim_batch: u32,
    /// Most messages applied in one transaction.
    pub apply_batch: usize,
    /// Shortest time between two commits, and between two claims: what comes meanwhile is one batch.
    pub flush_every: Duration,
    /// How often the database is read for work that nothing poked us about.
    pub scan_every: Duration,
    /// First look at a request that was not answered, or at an upload that was not reported. Each later look waits twice as long.
    pub look_first: Duration,
    /// Longest wait between two looks.
    pub look_max: Duration,
    /// How long after the grant has ended an attempt is given up, so that no second attempt begins while the first can still write.
    pub grace: Duration,
    /// Waits before an attempt is repeated.
    pub schedule: Schedule,
    /// Bundles judged at the same time, of each priority.
    pub verify_parallel: usize,
    /// How long a judging may take before another controller may take it over.
    pub verify_lease: Duration,
    /// Inboxes opened at the same time.
    pub open_parallel: usize,
    /// Objects up to this size are read whole and every checksum inside is computed; beyond it only structure.
    pub full_read_limit_bytes: u64,
    /// Largest sum of the objects of one bundle.
    pub max_bundle_bytes: u64,
}

impl DispatchOptions {
    /// How much of the window requests of this priority may fill, together with all others; one at least.
    pub(crate) fn window_of(&self, priority: Priority) -> u32 {
        let levels_above = match priority {
            Priority::High => 0,
            Priority::Normal => 1,
            Priority::Low => 2,
        };
        let reserve = u64::from(self.in_flight) * u64::from(self.reserve_percent) / 100 * levels_above;
        self.in_flight.saturating_sub(u32::try_from(reserve).unwrap_or(u32::MAX)).max(1)
    }
}

impl Default for DispatchOptions {
    fn default() -> Self {
        Self {
            mqtt: MqttOptions::default(),
            owner: "muster".to_owned(),
            in_flight: 4000,
            reserve_percent: 10,
            claim_batch: 500,
            apply_batch: 1000,
            flush_every: Duration::from_millis(10),
            scan_every: Duration::from_secs(1),
            look_first: Duration::from_secs(15),
            look_max: Duration::from_secs(300),
            grace: Duration::from_secs(3),
            schedule: Schedule::default(),
            verify_parallel: 4,
            verify_lease: Duration::from_secs(600),
            open_parallel: 16,
            full_read_limit_bytes: 4 << 30,
            max_bundle_bytes: 16 << 30,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_priority_leaves_a_reserve_for_those_above() {
        let windows = |in_flight, reserve_percent| {
            let options = DispatchOptions { in_flight, reserve_percent, ..DispatchOptions::default() };
            [Priority::High, Priority::Normal, Priority::Low].map(|priority| options.window_of(priority))
        };
        assert_eq!(windows(4000, 10), [4000, 3600, 3200]);
        assert_eq!(windows(4000, 0), [4000, 4000, 4000]);
        assert_eq!(windows(5, 10), [5, 5, 5], "too small for a reserve");
        assert_eq!(windows(2, 50), [2, 1, 1], "one at least");
    }
}
