//! The daemon, put together and taken apart.
//!
//! **Start**, in the order in which each part needs the ones before it: settings (checked already) → data directory → listener (so that a
//! taken port is the first thing one hears of) → database and schema → broker → landing zone → dispatcher → intake → HTTP.
//!
//! **Stop**: first softly. The listener closes, streams end, no alert is taken any more, the dispatcher begins nothing new, finishes what it
//! judges, commits and acknowledges; requests and uploads under way may end, for `server.stop_timeout` at most. Then hard: what is left is cut. The broker goes
//! after the dispatcher has said goodbye, the database last. Whatever was cut is brought back by its lease at the next start: a `kill -9`
//! at any point is the same, only less polite.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::serve::ListenerExt as _;
use muster_dispatch::{DeviceAlert, Dispatch, DispatchOptions, MqttOptions, SessionError};
use muster_intake::{FromDevice, Intake};
use muster_landing::endpoint::SmallReads;
use muster_landing::{AzureCredential as Credential, AzureOptions, DirectoryOptions, Landing, LandingError, LandingOptions, Limits};
use muster_store::{Store, StoreError, StoreOptions};
use secrecy::SecretString;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use crate::api::problem::Chain;
use crate::api::{self, Api, MAX_STREAMS};
use crate::broker::{Broker, BrokerError};
use crate::contents::Contents;
use crate::data_dir::{DataDir, DataDirError};
use crate::ready::Ready;
use crate::registry::MAX_IMPORTS;
use crate::settings::{AzureCredential, LandingKind, LandingSettings, Settings};
use crate::telemetry;
use crate::{retention, schedules};

/// How often what interrupted uploads left behind is removed, and how old it has to be.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);
const SWEEP_OLDER_THAN: Duration = Duration::from_secs(24 * 3600);
/// Alerts of devices that wait for their batch. Small: what waits before it waits at the broker.
const DEVICE_ALERTS: usize = 1024;
/// How often the metrics library is asked to tidy up.
const METRICS_UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Why the controller did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The address is taken, or not ours.
    #[error(
        "cannot listen on {address}\nNext: choose another with server.listen (port 0 takes a free one), or stop the program that has it"
    )]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The database cannot be used.
    #[error("the database cannot be used\nNext: check database.url, then run muster doctor")]
    Database(#[source] StoreError),
    /// The embedded broker did not start.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The landing zone cannot be used.
    #[error("the landing zone cannot be used\nNext: check the section landing of the settings, then run muster doctor")]
    Landing(#[source] LandingError),
    /// Its address is not one.
    #[error("{setting} {url:?} is not a URL: {reason}")]
    Url {
        /// Which setting.
        setting: &'static str,
        /// As configured.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The broker's settings make no sense.
    #[error(transparent)]
    Mqtt(#[from] SessionError),
}

/// A part ended by itself: the program should end as well, and not with 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {part} ended: {reason}")]
pub struct PartEnded {
    /// Which.
    pub part: &'static str,
    /// Why.
    pub reason: String,
}

/// A running controller.
pub struct Controller {
    http_addr: SocketAddr,
    api_url: String,
    mqtt_url: String,
    stop_timeout: Duration,
    store: Store,
    dispatch: Dispatch,
    intake: Intake,
    broker: Option<Broker>,
    server: JoinHandle<()>,
    watchers: TaskTracker,
    soft_stop: CancellationToken,
    hard_stop: CancellationToken,
    ended: Arc<Ended>,
}

/// The first part that ended by itself.
#[derive(Default)]
struct Ended {
    part: OnceLock<PartEnded>,
    happened: CancellationToken,
}

impl Ended {
    fn note(&self, part: &'static str, reason: String) {
        tracing::error!(reason, "the {part} ended by itself");
        // Only the first one is the cause.
        let _later = self.part.set(PartEnded { part, reason });
        self.happened.cancel();
    }
}

impl Controller {
    /// Starts everything and returns once it serves. The broker or the storage account may be away: they are waited for, and `/readyz` says so.
    ///
    /// # Errors
    /// [`StartError`], naming what cannot be used and the setting to change.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        install_tls();
        telemetry::install_logs(&settings.telemetry);
        for warning in settings.warnings() {
            tracing::warn!("{warning}");
        }
        raise_open_files();
        let metrics = telemetry::metrics();
        let data_dir = DataDir::open(&settings.server.data_dir)?;
        let controller_id = match settings.mqtt.client_id.as_str() {
            "" => data_dir.controller_id()?,
            given => given.to_owned(),
        };
        let address = settings.server.listen;
        let listener = TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })?;
        let http_addr = listener.local_addr().map_err(|source| StartError::Listen { address, source })?;

        let store = open_store(&settings).await?;
        let applied = store.migrate().await.map_err(StartError::Database)?;
        if !applied.is_empty() {
            tracing::info!(steps = applied.len(), place = store.place(), "the database schema was brought up to date");
        }
        let ended = Arc::new(Ended::default());
        let (soft_stop, hard_stop, watchers) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let broker = match settings.broker_is_embedded() {
            true => Some(Broker::start(&settings.mqtt, data_dir.path(), settings.prefix()).await?),
            false => None,
        };
        if let Some(broker) = &broker {
            let (broker_ended, ended, soft_stop) = (broker.ended(), Arc::clone(&ended), soft_stop.clone());
            watchers.spawn(async move {
                tokio::select! {
                    () = broker_ended.cancelled() => ended.note("embedded broker", "it stopped".to_owned()),
                    () = soft_stop.cancelled() => {}
                }
            });
        }
        let api_url = match settings.server.public_url.trim_end_matches('/') {
            "" => format!("http://{}", reachable(http_addr)),
            given => given.to_owned(),
        };
        let landing = open_landing(&settings, &data_dir, &api_url).await?;
        let mqtt = mqtt_options(&settings, broker.as_ref(), &controller_id);
        let mqtt_url = mqtt.url.clone();
        let (raised, device_alerts) = mpsc::channel(DEVICE_ALERTS);
        let options = dispatch_options(&settings, mqtt, &controller_id);
        let dispatch = Dispatch::start(options, store.clone(), landing.clone(), Some(raised))?;
        let handle = dispatch.handle();
        let intake = Intake::start(settings.intake_options(&controller_id), store.clone(), Arc::new(move |made| handle.poke(made)));
        intake.take_from_devices(device_alerts, from_device);

        let ready = Ready::new();
        watchers.spawn(ready.clone().watch_landing(landing.clone(), soft_stop.clone()));
        watchers.spawn(keep_tidy(landing.clone(), soft_stop.clone()));
        let api = Arc::new(Api {
            controller_id,
            mqtt_url: mqtt_url.clone(),
            started_at: OffsetDateTime::now_utc(),
            store: store.clone(),
            contents: Contents::new(landing.clone()),
            landing,
            dispatch: dispatch.handle(),
            desk: intake.desk(),
            amqp: intake.amqp(),
            ready,
            metrics,
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            imports: Semaphore::new(MAX_IMPORTS),
            soft_stop: soft_stop.clone(),
            hard_stop: hard_stop.clone(),
            settings,
        });
        let stop_timeout = api.settings.server.stop_timeout.0;
        watchers.spawn(schedules::keep(Arc::clone(&api), soft_stop.clone()));
        watchers.spawn(retention::keep(Arc::clone(&api), soft_stop.clone()));
        let server = tokio::spawn(serve(listener, api, soft_stop.clone(), Arc::clone(&ended)));
        watchers.close();
        tracing::info!(api = api_url, mqtt = mqtt_url, database = store.place(), "muster {} serves", env!("CARGO_PKG_VERSION"));
        Ok(Self {
            http_addr,
            api_url,
            mqtt_url,
            stop_timeout,
            store,
            dispatch,
            intake,
            broker,
            server,
            watchers,
            soft_stop,
            hard_stop,
            ended,
        })
    }

    /// The address the HTTP API listens on.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Where the API is: `server.public_url`, or the address it listens on.
    pub fn api_url(&self) -> &str {
        &self.api_url
    }

    /// Where devices connect.
    pub fn mqtt_url(&self) -> String {
        self.mqtt_url.clone()
    }

    /// Waits until a part ends by itself, which none should.
    ///
    /// # Errors
    /// Always: [`PartEnded`] names the part.
    pub async fn wait(&self) -> Result<(), PartEnded> {
        self.ended.happened.cancelled().await;
        self.ended.part.get().cloned().map_or(Ok(()), Err)
    }

    /// Stops: softly for `server.stop_timeout`, then hard.
    pub async fn stop(self) {
        let Self { stop_timeout, store, dispatch, intake, broker, mut server, watchers, soft_stop, hard_stop, .. } = self;
        let deadline = tokio::time::Instant::now() + stop_timeout;
        soft_stop.cancel();
        intake.close_sources();
        let requests = async {
            if tokio::time::timeout_at(deadline, &mut server).await.is_err() {
                tracing::warn!("requests were still under way after {stop_timeout:?} and are cut");
                hard_stop.cancel();
                // Those that can say so still do; connections that do nothing are dropped with the runtime.
                let _cut = tokio::time::timeout(Duration::from_secs(1), &mut server).await;
                server.abort();
            }
        };
        tokio::join!(dispatch.stop(stop_timeout), requests);
        hard_stop.cancel();
        intake.stop(stop_timeout).await;
        watchers.wait().await;
        if let Some(broker) = broker {
            broker.stop().await;
        }
        store.close().await;
        tracing::info!("stopped");
    }
}

async fn serve(listener: TcpListener, api: Arc<Api>, soft_stop: CancellationToken, ended: Arc<Ended>) {
    // Small reads: a stalled upload holds a small buffer, and a thousand of them do too.
    let listener = SmallReads(listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
    }));
    let stopping = soft_stop.clone();
    let served = axum::serve(listener, api::router(api)).with_graceful_shutdown(async move { stopping.cancelled().await }).await;
    if !soft_stop.is_cancelled() {
        ended.note("HTTP server", served.err().map_or_else(|| "it stopped".to_owned(), |error| error.to_string()));
    }
}

/// Removes what interrupted uploads left behind, and lets the metrics library tidy up.
async fn keep_tidy(landing: Landing, stop: CancellationToken) {
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    let mut upkeep = tokio::time::interval(METRICS_UPKEEP_EVERY);
    loop {
        tokio::select! {
            _ = sweep.tick() => match landing.sweep(SWEEP_OLDER_THAN).await {
                Ok(report) if report.removed > 0 => tracing::info!(removed = report.removed, bytes = report.removed_bytes, "leftovers of interrupted uploads were removed"),
                Ok(_) => {}
                Err(error) => tracing::warn!(error = %Chain(&error), "leftovers of interrupted uploads could not be removed"),
            },
            _ = upkeep.tick() => {
                if let Some(handle) = telemetry::metrics() {
                    handle.run_upkeep();
                }
            }
            () = stop.cancelled() => return,
        }
    }
}

/// The one TLS provider of the process. A second installation is refused and harmless.
pub(crate) fn install_tls() {
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
}

/// Every connection takes a descriptor; many systems allow more than they give by default.
fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < hard => {
            if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
                tracing::debug!(%error, soft, hard, "the limit of open files could not be raised");
            }
        }
        _ => {}
    }
}

/// An address that can be called: "every interface" is not one.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        std::net::IpAddr::V4(ip) if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        other => other,
    };
    SocketAddr::new(ip, address.port())
}

/// The database URL in force.
pub(crate) fn database_url(settings: &Settings) -> String {
    match settings.database.url.to_option() {
        Some(url) => url,
        None => sqlite_url(&settings.server.data_dir.join("muster.db")),
    }
}

/// A file as a URL: what would end or escape its path there is encoded.
fn sqlite_url(path: &std::path::Path) -> String {
    format!("sqlite://{}", path.display().to_string().replace('%', "%25").replace('?', "%3F").replace('#', "%23"))
}

pub(crate) async fn open_store(settings: &Settings) -> Result<Store, StartError> {
    Store::connect(&StoreOptions::new(database_url(settings))).await.map_err(StartError::Database)
}

pub(crate) async fn open_landing(settings: &Settings, data_dir: &DataDir, api_url: &str) -> Result<Landing, StartError> {
    let landing = &settings.landing;
    let limits = Limits { max_inbox_bytes: settings.dispatch.max_bundle_bytes, ..Limits::default() };
    let limits = Limits { max_object_bytes: limits.max_object_bytes.min(limits.max_inbox_bytes), ..limits };
    let options = match landing.kind {
        LandingKind::Directory => LandingOptions::Directory(DirectoryOptions {
            path: if landing.path.as_os_str().is_empty() { data_dir.path().join("landing") } else { landing.path.clone() },
            public_url: url("server.public_url", api_url)?,
            signing_key: data_dir.signing_key()?,
            fsync: landing.fsync,
            limits,
        }),
        LandingKind::Azure => LandingOptions::Azure(AzureOptions {
            endpoint: optional(&landing.endpoint).map(|text| url("landing.endpoint", &text)).transpose()?,
            account: optional(&landing.account),
            credential: credential(landing),
            container_prefix: landing.container_prefix.clone(),
            limits,
        }),
    };
    Landing::open(options).await.map_err(StartError::Landing)
}

fn url(setting: &'static str, text: &str) -> Result<Url, StartError> {
    Url::parse(text).map_err(|error| StartError::Url { setting, url: text.to_owned(), reason: error.to_string() })
}

fn optional(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn credential(landing: &LandingSettings) -> Credential {
    let secret = |text: &str| SecretString::from(text.to_owned());
    if !landing.connection_string.is_empty() {
        return Credential::ConnectionString(secret(landing.connection_string.expose()));
    }
    match landing.credential {
        AzureCredential::Key => Credential::SharedKey(secret(landing.key.expose())),
        AzureCredential::ManagedIdentity => Credential::ManagedIdentity { client_id: optional(&landing.client_id) },
        AzureCredential::WorkloadIdentity => Credential::WorkloadIdentity {
            tenant_id: optional(&landing.tenant_id),
            client_id: optional(&landing.client_id),
            token_file: None,
        },
        AzureCredential::ClientSecret => Credential::ClientSecret {
            tenant_id: landing.tenant_id.clone(),
            client_id: landing.client_id.clone(),
            secret: secret(landing.client_secret.expose()),
        },
    }
}

fn mqtt_options(settings: &Settings, broker: Option<&Broker>, client_id: &str) -> MqttOptions {
    let mqtt = &settings.mqtt;
    let (url, username, password) = match broker {
        Some(broker) => {
            let (username, password) = broker.credentials();
            (broker.url(), Some(username), Some(password))
        }
        None => (mqtt.url.clone(), optional(&mqtt.username), mqtt.password.to_option()),
    };
    let ca_file = (!mqtt.ca_file.as_os_str().is_empty()).then(|| mqtt.ca_file.clone());
    MqttOptions { url, client_id: client_id.to_owned(), username, password, ca_file, prefix: settings.prefix() }
}

/// What a device raised, as the intake takes it.
fn from_device(alert: DeviceAlert) -> FromDevice {
    let DeviceAlert { device, content_type, properties, payload, ack } = alert;
    FromDevice { device, content_type, properties, payload, committed: Box::new(move || ack.done()) }
}

fn dispatch_options(settings: &Settings, mqtt: MqttOptions, owner: &str) -> DispatchOptions {
    let dispatch = &settings.dispatch;
    DispatchOptions {
        mqtt,
        owner: owner.to_owned(),
        in_flight: dispatch.in_flight,
        reserve_percent: dispatch.reserve_percent,
        claim_batch: dispatch.claim_batch,
        apply_batch: dispatch.apply_batch,
        flush_every: dispatch.flush_every.0,
        scan_every: dispatch.scan_every.0,
        look_first: dispatch.look_first.0,
        look_max: dispatch.look_max.0,
        grace: dispatch.grace.0,
        schedule: settings.schedule(),
        verify_parallel: dispatch.verify_parallel,
        verify_lease: dispatch.verify_lease.0,
        open_parallel: dispatch.open_parallel,
        full_read_limit_bytes: dispatch.full_read_limit_bytes,
        max_bundle_bytes: dispatch.max_bundle_bytes,
    }
}

/// Brings the schema of the configured database up to date and tells which steps were applied.
///
/// # Errors
/// [`StartError`], when the database cannot be used.
pub async fn migrate(settings: &Settings) -> Result<Vec<String>, StartError> {
    install_tls();
    DataDir::open(&settings.server.data_dir)?;
    let store = open_store(settings).await?;
    let applied = store.migrate().await.map_err(StartError::Database)?;
    store.close().await;
    Ok(applied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interface_is_called_by_loopback() {
        assert_eq!(reachable("0.0.0.0:7300".parse().expect("an address")).to_string(), "127.0.0.1:7300");
        assert_eq!(reachable("[::]:7300".parse().expect("an address")).to_string(), "[::1]:7300");
        assert_eq!(sqlite_url(std::path::Path::new("/a b/50%?#/x.db")), "sqlite:///a b/50%25%3F%23/x.db");
        assert_eq!(reachable("10.0.0.1:7300".parse().expect("an address")).to_string(), "10.0.0.1:7300");
    }
}
