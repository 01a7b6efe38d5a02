//! One real device, from its settings to its goodbye.

use std::path::PathBuf;
use std::sync::Arc;

use muster_wire::DeviceId;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::consent::{Consent, NOTICED_EVERY};
use crate::counters::{Counters, Stats};
use crate::device::{Device, Identity, Shared, Source};
use crate::fault::FaultFigures;
use crate::fleet::{self, FleetError};
use crate::journal::JournalError;
use crate::machine::Machine;
use crate::modules::docker::Docker;
use crate::modules::files::FileSource;
use crate::modules::journald::Journald;
use crate::modules::{Kind, Module, Modules};
use crate::recent::RecentLog;
use crate::session;
use crate::session::broker::{Broker, BrokerError, SessionOptions, TlsFiles};
use crate::session::outbox::Outbox;
use crate::settings::{Settings, SettingsError, Use};
use crate::table::Table;
use crate::upload::{UploadOptions, Uploader};

/// Uploads at once on one machine: a bundle beside some logs.
const UPLOADS_AT_ONCE: usize = 4;

/// Why an agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The way to the broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The task table.
    #[error("the task table: {0}")]
    Journal(#[from] JournalError),
    /// The HTTP client.
    #[error("the HTTP client: {0}")]
    Http(#[from] reqwest::Error),
    /// The certificates for uploads.
    #[error(transparent)]
    UploadCa(#[from] FleetError),
    /// A directory.
    #[error("{path} cannot be used: {source}; set device.state_dir, or create it for this user")]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A source that must be there.
    #[error("sources.docker is on, but there is no socket at {0}; set sources.docker_socket, or sources.docker = \"auto\"")]
    NoDocker(PathBuf),
}

/// A running device.
#[derive(Debug)]
pub struct Agent {
    shared: Arc<Shared>,
    sessions: TaskTracker,
}

fn given(path: &std::path::Path) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then(|| path.to_owned())
}

fn modules(settings: &Settings) -> Result<Modules, AgentError> {
    let journal = |units: &[String]| Kind::Journal(Journald { program: settings.sources.journalctl.clone(), units: units.to_vec() });
    let mut configured: Vec<Module> = settings
        .modules
        .iter()
        .filter_map(|(name, module)| {
            let kind = match (&module.files, &module.journal) {
                (Some(files), _) => Kind::Files(FileSource { paths: files.clone() }),
                (None, Some(units)) => journal(units),
                (None, None) => return None,
            };
            Some(Module { name: name.clone(), kind })
        })
        .collect();
    let socket = &settings.sources.docker_socket;
    let docker = match settings.sources.docker {
        Use::Off => None,
        Use::Auto if !socket.exists() => None,
        Use::On if !socket.exists() => return Err(AgentError::NoDocker(socket.clone())),
        Use::Auto | Use::On => Some(Docker::new(socket)?),
    };
    let nothing_else = configured.is_empty() && docker.is_none();
    if settings.sources.journal == Use::On || settings.sources.journal == Use::Auto && nothing_else {
        configured.push(Module { name: "journal".to_owned(), kind: journal(&[]) });
    }
    Ok(Modules { docker, configured })
}

/// How this device meets the broker.
pub(crate) fn session_options(settings: &Settings, id: &DeviceId) -> Result<SessionOptions, AgentError> {
    let tls = TlsFiles {
        ca: given(&settings.mqtt.ca_file),
        certificate: given(&settings.mqtt.certificate_file),
        key: given(&settings.mqtt.key_file),
    };
    Ok(SessionOptions {
        broker: Broker::new(&settings.mqtt.url, &tls)?,
        credentials: (!settings.mqtt.username.is_empty()).then(|| (settings.mqtt.username.clone(), settings.mqtt.password.clone())),
        client_id: settings.mqtt.client_id.replace("{device}", id.as_str()),
        prefix: settings.prefix()?,
        keep_alive: settings.mqtt.keep_alive.0,
        session_expiry: settings.mqtt.session_expiry.0,
        will_delay: settings.mqtt.will_delay.0,
    })
}

impl Agent {
    /// Starts a device from finished settings; it connects in the background.
    ///
    /// # Errors
    /// [`AgentError`], naming the setting or the file.
    pub async fn start(settings: &Settings, recent: RecentLog) -> Result<Self, AgentError> {
        for directory in [&settings.device.state_dir, &settings.device.temp_dir] {
            std::fs::create_dir_all(directory).map_err(|source| AgentError::Directory { path: directory.clone(), source })?;
        }
        let id = settings.device_id()?;
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        let table = Table::open(&settings.device.state_dir.join("tasks.jsonl"), now)?;
        let session_options = session_options(settings, &id)?;
        let upload = UploadOptions {
            tries: settings.upload.tries,
            call_timeout: settings.upload.call_timeout.0,
            connections: settings.upload.connections,
            ..UploadOptions::default()
        };
        let roots = match given(&settings.upload.ca_file) {
            Some(path) => fleet::certificates(&path)?,
            None => Vec::new(),
        };
        let machine = Machine {
            modules: modules(settings)?,
            iotedge: settings.sources.iotedge.clone(),
            state: settings.device.state_dir.clone(),
            settings_text: settings.masked(),
            recent,
            reported: reported(settings),
        };
        let shared = Arc::new(Shared {
            trace: None,
            prefix: session_options.prefix.clone(),
            wildcard: settings.mqtt.wildcard,
            hub: settings.device.hub.clone(),
            gateway: (!settings.device.gateway.is_empty()).then(|| settings.device.gateway.clone()),
            source: Source::Real(machine),
            uploader: Uploader::new(upload, roots)?,
            counters: Arc::new(Counters::default()),
            figures: FaultFigures::default(),
            uploads: Semaphore::new(UPLOADS_AT_ONCE),
            temp: settings.device.temp_dir.clone(),
            max_object_bytes: settings.upload.max_object_mb.saturating_mul(1024 * 1024),
            stop: CancellationToken::new(),
            work: TaskTracker::new(),
        });
        let (client, events) = session::client(session_options.to_mqtt(&id));
        let consent = Consent::kept(&settings.device.state_dir, settings.device.consent);
        let identity = Identity { id, ordinal: 0, fault: None, clock_offset_seconds: 0, consent };
        let device = Device::new(identity, Arc::clone(&shared), Outbox::new(client), table);
        device.resume();
        let sessions = TaskTracker::new();
        sessions.spawn(notice(Arc::clone(&device), shared.stop.child_token()));
        sessions.spawn(session::run(device, events, Arc::new(Semaphore::new(1)), shared.stop.child_token()));
        sessions.close();
        Ok(Self { shared, sessions })
    }

    /// What the device has done so far.
    pub fn stats(&self) -> Stats {
        self.shared.counters.stats()
    }

    /// Stops softly: what is queued is sent, the device says that it is offline. An upload that is under way is taken up again
    /// by the next start.
    pub async fn stop(self) -> Stats {
        self.shared.stop.cancel();
        self.shared.work.close();
        let done = async {
            self.sessions.wait().await;
            self.shared.work.wait().await;
        };
        if tokio::time::timeout(fleet::STOP_LIMIT, done).await.is_err() {
            tracing::warn!("the device did not stop in time and is cut off");
        }
        self.shared.counters.stats()
    }
}

/// Looks whether the owner has said something else, and says so.
async fn notice(device: Arc<Device>, stop: CancellationToken) {
    let mut said = device.consent().word();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(NOTICED_EVERY) => {}
        }
        device.consent().notice();
        let word = device.consent().word();
        // Compared with what was said: a request that was refused in between has read the file as well.
        if word != said {
            said = word;
            tracing::info!(word = word.proactive_consent.as_str(), "the owner decided about proactive collection");
            device.announce();
        }
    }
}

/// What the settings report, and what every machine knows about itself.
fn reported(settings: &Settings) -> serde_json::Value {
    let kernel =
        |name: &str| std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).map(|text| text.trim().to_owned()).unwrap_or_default();
    let os = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let os = os.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).map(|name| name.trim_matches('"').to_owned());
    let mut reported =
        serde_json::json!({ "os": os, "kernel": kernel("osrelease"), "hostname": kernel("hostname"), "arch": std::env::consts::ARCH });
    if let (Some(all), Ok(serde_json::Value::Object(own))) = (reported.as_object_mut(), serde_json::to_value(&settings.device.reported)) {
        all.extend(own);
    }
    reported
}
