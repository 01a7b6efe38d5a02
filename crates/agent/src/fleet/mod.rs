//! Thousands of devices in one process: the same session, table, methods and uploads as a real one, over synthetic logs and
//! bundles, some of them with a scripted [`Fault`].

pub(crate) mod synthetic;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use muster_wire::DeviceId;
use muster_wire::presence::ProactiveConsent;
use muster_wire::topic::Prefix;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::alert::{Raised, Raising};
use crate::consent::{Consent, ConsentShares, Word};
use crate::counters::{Counters, Stats};
use crate::device::{Device, Identity, Shared, Source};
use crate::fault::{Fault, FaultFigures, FaultRule, Who};
use crate::session;
use crate::session::broker::{Broker, BrokerError, SessionOptions, TlsFiles};
use crate::session::outbox::Outbox;
use crate::table::Table;
use crate::trace::{Trace, TraceError};
use crate::upload::{UploadOptions, Uploader};
use synthetic::Synthetic;

/// Connects at once: more overrun a broker's accept queue and take longer.
pub const MAX_CONNECTS_AT_ONCE: usize = 64;
/// Most devices of one fleet.
pub const MAX_DEVICES: usize = 100_000;
/// How long a soft stop may take.
pub const STOP_LIMIT: Duration = Duration::from_secs(10);

/// What fleet to run.
#[derive(Debug, Clone)]
pub struct FleetOptions {
    /// `mqtt://host:1883` or `mqtts://host:8883`.
    pub mqtt_url: String,
    /// Files for TLS.
    pub tls: TlsFiles,
    /// User name; `{device}` stands for the device's id.
    pub username: Option<String>,
    /// Password, the same for all.
    pub password: Option<String>,
    /// Client id; `{device}` stands for the device's id. Must be unique at the broker.
    pub client_id: String,
    /// What topics begin with.
    pub prefix: Prefix,
    /// Ids are `{name}-0001` and so on, with as many digits as the fleet needs, at least four.
    pub name: String,
    /// How many.
    pub devices: usize,
    /// What everything random follows from.
    pub seed: u64,
    /// Host name in object names.
    pub hub: String,
    /// Size of a bundle.
    pub bundle_kb: usize,
    /// Lines in each module's log.
    pub log_lines: usize,
    /// Who misbehaves, and how.
    pub faults: Vec<FaultRule>,
    /// Figures of the faults.
    pub figures: FaultFigures,
    /// Keep-alive of the sessions.
    pub keep_alive: Duration,
    /// How long the broker keeps a session.
    pub session_expiry: Duration,
    /// Will delay.
    pub will_delay: Duration,
    /// What the owners of the devices said about proactive collection.
    pub consent: ConsentShares,
    /// What the devices raise by themselves.
    pub raising: Raising,
    /// Uploads of all devices together.
    pub upload: UploadOptions,
    /// Trusted roots for https uploads, beside the system's.
    pub upload_ca: Option<PathBuf>,
    /// File to append a [`crate::trace::Line`] to for every request that arrives or is done.
    pub trace_file: Option<PathBuf>,
}

impl Default for FleetOptions {
    fn default() -> Self {
        Self {
            mqtt_url: "mqtt://127.0.0.1:1883".to_owned(),
            tls: TlsFiles::default(),
            username: None,
            password: None,
            client_id: "{device}".to_owned(),
            prefix: Prefix::default(),
            name: "sim".to_owned(),
            devices: 10,
            seed: 1,
            hub: "muster".to_owned(),
            bundle_kb: 64,
            log_lines: 200,
            faults: Vec::new(),
            figures: FaultFigures::default(),
            keep_alive: Duration::from_secs(300),
            session_expiry: Duration::from_secs(3600),
            will_delay: Duration::from_secs(5),
            consent: ConsentShares::default(),
            raising: Raising::default(),
            upload: UploadOptions::default(),
            upload_ca: None,
            trace_file: None,
        }
    }
}

/// Why a fleet cannot start.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The way to the broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The trace.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The HTTP client.
    #[error("the HTTP client for uploads: {0}")]
    Http(#[from] reqwest::Error),
    /// An id that breaks the contract.
    #[error("the name {name:?} makes no device ids: {reason}")]
    Name {
        /// As given.
        name: String,
        /// Why not.
        reason: muster_wire::device_id::InvalidDeviceId,
    },
    /// Too many, or none.
    #[error("a fleet has 1 to {MAX_DEVICES} devices, not {0}")]
    Devices(usize),
    /// More devices than files.
    #[error(
        "{devices} devices need more than the {limit} open files this process may have; raise the limit (ulimit -n) or run several fleets"
    )]
    Files {
        /// How many devices.
        devices: usize,
        /// Files allowed.
        limit: u64,
    },
    /// A script that names a device that is not there.
    #[error("the fault {fault} names device {number}, but the fleet has {devices}")]
    Fault {
        /// Which fault.
        fault: Fault,
        /// Which device, from 1.
        number: usize,
        /// How many there are.
        devices: usize,
    },
    /// An alert of a device that is not there.
    #[error("the alert {indicator} is to be raised by device {number}, but the fleet has {devices}")]
    Raise {
        /// Which indicator.
        indicator: String,
        /// Which device, from 1.
        number: usize,
        /// How many there are.
        devices: usize,
    },
}

/// A running fleet.
#[derive(Debug)]
pub struct Fleet {
    devices: Vec<Arc<Device>>,
    shared: Arc<Shared>,
    sessions: TaskTracker,
}

/// Ids of a fleet, in order.
pub fn device_ids(name: &str, devices: usize) -> Result<Vec<DeviceId>, FleetError> {
    let digits = devices.to_string().len().max(4);
    (1..=devices)
        .map(|number| format!("{name}-{number:0digits$}").parse().map_err(|reason| FleetError::Name { name: name.to_owned(), reason }))
        .collect()
}

/// Who has which fault: named devices first, then each share in its order, picked by the seed from those still well.
fn assign(rules: &[FaultRule], devices: usize, seed: u64) -> Result<Vec<Option<Fault>>, FleetError> {
    let mut faults = vec![None; devices];
    for rule in rules {
        if let Who::Numbers(numbers) = &rule.who {
            for &number in numbers {
                let slot = number.checked_sub(1).and_then(|index| faults.get_mut(index));
                *slot.ok_or(FleetError::Fault { fault: rule.fault, number, devices })? = Some(rule.fault);
            }
        }
    }
    let mut order: Vec<usize> = (0..devices).filter(|&index| faults[index].is_none()).collect();
    order.shuffle(&mut SmallRng::seed_from_u64(seed));
    let mut rest = order.into_iter();
    for rule in rules {
        if let Who::Share(share) = rule.who {
            let count = (share * devices as f64).round() as usize;
            for index in rest.by_ref().take(count) {
                faults[index] = Some(rule.fault);
            }
        }
    }
    Ok(faults)
}

impl Fleet {
    /// Starts the fleet: devices connect in the background, [`MAX_CONNECTS_AT_ONCE`] at a time.
    ///
    /// # Errors
    /// [`FleetError`], before any device exists.
    pub async fn start(options: FleetOptions) -> Result<Self, FleetError> {
        if options.devices == 0 || options.devices > MAX_DEVICES {
            return Err(FleetError::Devices(options.devices));
        }
        let (limit, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap_or((u64::MAX, u64::MAX));
        if limit < (options.devices + 2 * options.upload.connections + 32) as u64 {
            return Err(FleetError::Files { devices: options.devices, limit });
        }
        let ids = device_ids(&options.name, options.devices)?;
        let faults = assign(&options.faults, options.devices, options.seed)?;
        let words = options.consent.assign(options.devices, options.seed);
        let raised = options.raising.assign(options.devices, options.seed);
        let raised = raised.map_err(|(indicator, number)| FleetError::Raise { indicator, number, devices: options.devices })?;
        let broker = Broker::new(&options.mqtt_url, &options.tls)?;
        let roots = match &options.upload_ca {
            Some(path) => certificates(path)?,
            None => Vec::new(),
        };
        let uploads = options.upload.connections;
        let shared = Arc::new(Shared {
            prefix: options.prefix.clone(),
            wildcard: false,
            hub: options.hub.clone(),
            gateway: None,
            source: Source::Synthetic(Synthetic::new(options.seed, options.log_lines, options.bundle_kb)),
            uploader: Uploader::new(options.upload.clone(), roots)?,
            counters: Arc::new(Counters::default()),
            trace: options.trace_file.as_deref().map(Trace::append_to).transpose()?,
            figures: options.figures.clone(),
            uploads: Semaphore::new(uploads),
            temp: std::env::temp_dir(),
            max_object_bytes: 4 << 30,
            stop: CancellationToken::new(),
            work: TaskTracker::new(),
        });
        let connects = Arc::new(Semaphore::new(MAX_CONNECTS_AT_ONCE));
        let sessions = TaskTracker::new();
        let skew = i32::try_from(options.figures.clock_skew.as_secs()).unwrap_or(i32::MAX);
        let mut devices = Vec::with_capacity(ids.len());
        for (ordinal, (id, fault)) in ids.into_iter().zip(faults).enumerate() {
            let named = |template: &str| template.replace("{device}", id.as_str());
            let session_options = SessionOptions {
                broker: broker.clone(),
                credentials: options.username.as_deref().map(|user| (named(user), options.password.clone().unwrap_or_default())),
                client_id: named(&options.client_id),
                prefix: options.prefix.clone(),
                keep_alive: options.keep_alive,
                session_expiry: options.session_expiry,
                will_delay: options.will_delay,
            };
            let (client, events) = session::client(session_options.to_mqtt(&id));
            let clock_offset_seconds = match fault {
                Some(Fault::ClockSkew) if ordinal % 2 == 0 => skew,
                Some(Fault::ClockSkew) => -skew,
                _ => 0,
            };
            let consent = Consent::simulated(words[ordinal]);
            let identity =
                Identity { id, ordinal: u32::try_from(ordinal).expect("at most MAX_DEVICES"), fault, clock_offset_seconds, consent };
            let device = Device::new(identity, Arc::clone(&shared), Outbox::new(client), Table::in_memory());
            devices.push(Arc::clone(&device));
            let connects = Arc::clone(&connects);
            let stop = shared.stop.child_token();
            let late = (fault == Some(Fault::Offline) && ordinal % 2 == 0).then_some(options.figures.away);
            sessions.spawn(async move {
                if let Some(late) = late {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(late) => {}
                    }
                }
                session::run(device, events, connects, stop).await;
            });
        }
        if !raised.is_empty() {
            let raised = raised.into_iter().map(|(index, name)| (Arc::clone(&devices[index]), Raised::new(name))).collect();
            sessions.spawn(raise_all(raised, options.raising.after, options.raising.rate, shared.stop.child_token()));
        }
        sessions.close();
        Ok(Self { devices, shared, sessions })
    }

    /// Has a device raise an alert; the event's id, or `None` when there is no such device.
    pub fn raise(&self, id: &DeviceId, raised: &Raised) -> Option<uuid::Uuid> {
        self.devices.iter().find(|device| device.id() == id).map(|device| device.raise(raised))
    }

    /// Every device with its fault, in order.
    pub fn devices(&self) -> Vec<(DeviceId, Option<Fault>)> {
        self.devices.iter().map(|device| (device.id().clone(), device.fault())).collect()
    }

    /// Every device with what its owner said about proactive collection, in order.
    pub fn consents(&self) -> Vec<(DeviceId, ProactiveConsent)> {
        self.devices.iter().map(|device| (device.id().clone(), device.consent().word().proactive_consent)).collect()
    }

    /// Has the owner of a device say something else; false when there is no such device.
    pub fn say_consent(&self, id: &DeviceId, word: ProactiveConsent) -> bool {
        let Some(device) = self.devices.iter().find(|device| device.id() == id) else { return false };
        device.consent().say(Word { proactive_consent: word, at: Some(device.clock()) });
        device.announce();
        true
    }

    /// What the devices have done so far, all together.
    pub fn stats(&self) -> Stats {
        self.shared.counters.stats()
    }

    /// Waits until so many devices are connected; false when that did not happen in time.
    pub async fn connected(&self, devices: usize, within: Duration) -> bool {
        let wait = async {
            while (self.stats().connected as usize) < devices {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(within, wait).await.is_ok()
    }

    /// Stops softly: what is queued is sent, every device says that it is offline, then the connections are closed. What takes
    /// longer than [`STOP_LIMIT`] is cut.
    pub async fn stop(self) -> Stats {
        self.shared.stop.cancel();
        self.shared.work.close();
        let done = async {
            self.sessions.wait().await;
            self.shared.work.wait().await;
        };
        if tokio::time::timeout(STOP_LIMIT, done).await.is_err() {
            tracing::warn!("some devices did not stop in time and are cut off");
        }
        self.shared.counters.stats()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

/// Has each device say its alert when it is its turn: so many a second, or all at once.
async fn raise_all(all: Vec<(Arc<Device>, Raised)>, after: Duration, rate: f64, stop: CancellationToken) {
    let began = tokio::time::Instant::now() + after;
    for (place, (device, raised)) in all.into_iter().enumerate() {
        let due = if rate > 0.0 { began + Duration::from_secs_f64(place as f64 / rate) } else { began };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(due) => {}
        }
        device.raise(&raised);
    }
}

pub(crate) fn certificates(path: &std::path::Path) -> Result<Vec<reqwest::Certificate>, FleetError> {
    let found = session::broker::certificates("CA file", path)?;
    Ok(found.iter().map(|der| reqwest::Certificate::from_der(der)).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Vec<FaultRule> {
        texts.iter().map(|text| text.parse().expect("a rule")).collect()
    }

    #[test]
    fn faults_are_exact_and_follow_from_the_seed() {
        let rules = rules(&["liar=3,7", "deaf=2%", "slow=10%"]);
        let faults = assign(&rules, 200, 5).expect("assigned");
        let count = |fault| faults.iter().filter(|f| **f == Some(fault)).count();
        assert_eq!((count(Fault::Liar), count(Fault::Deaf), count(Fault::Slow)), (2, 4, 20));
        assert_eq!((faults[2], faults[6]), (Some(Fault::Liar), Some(Fault::Liar)));
        assert_eq!(assign(&rules, 200, 5).expect("assigned"), faults);
        assert_ne!(assign(&rules, 200, 6).expect("assigned"), faults);
        assert!(matches!(assign(&rules, 5, 5), Err(FleetError::Fault { number: 7, .. })));
        assert_eq!(assign(&rules[1..2], 200, 5).expect("assigned").iter().flatten().count(), 4);
    }

    #[test]
    fn ids_are_numbered_evenly() {
        let ids = device_ids("press", 3).expect("ids");
        assert_eq!(ids.iter().map(DeviceId::as_str).collect::<Vec<_>>(), ["press-0001", "press-0002", "press-0003"]);
        assert_eq!(device_ids("press", 18_000).expect("ids")[0].as_str(), "press-00001");
        assert!(device_ids("a b", 1).is_err());
    }

    #[tokio::test]
    async fn impossible_fleets_are_refused_with_the_reason() {
        for (change, expected) in [
            (Box::new(|o: &mut FleetOptions| o.devices = 0) as Box<dyn Fn(&mut FleetOptions)>, "1 to 100000"),
            (Box::new(|o: &mut FleetOptions| o.mqtt_url = "nowhere".to_owned()), "broker URL"),
            (Box::new(|o: &mut FleetOptions| o.name = "a/b".to_owned()), "makes no device ids"),
            (Box::new(|o: &mut FleetOptions| o.upload_ca = Some("/nowhere/ca.pem".into())), "/nowhere/ca.pem"),
        ] {
            let mut options = FleetOptions::default();
            change(&mut options);
            let error = Fleet::start(options).await.expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
