//! The broker inside this process: the default where nobody runs one, and the one of the tests. All that knows `mqtt5` stands in this file.
//!
//! Who may do what:
//! * the controller, by `mqtt.password` or, without one, by a password made anew at every start: everything below the prefix. With a password
//!   that is known, another program can look on, or ask devices, as the controller does;
//! * a device, known by its user name (or, without a password on loopback, by its client id): subscribe to its own requests, publish its own
//!   answers, status, alerts and presence. Nothing else, not even as a will.
//!
//! The database is the truth; what the broker keeps only saves time.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, Mac as _};
use mqtt5::broker::config::{BrokerConfig, StorageBackend, StorageConfig};
use mqtt5::broker::{AuthProvider, AuthResult, BrokerShutdownHandle, MqttBroker, ResourceLimits};
use mqtt5::packet::connect::ConnectPacket;
use mqtt5::protocol::v5::reason_codes::ReasonCode;
use muster_wire::DeviceId;
use muster_wire::topic::{Prefix, Topic};
use sha2::Sha256;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::settings::{BrokerStorage, Mqtt};

/// User name of the controller.
const CONTROLLER: &str = "muster-controller";
/// Messages kept for one client that does not take them, and their bytes. The controller must be able to fall this far behind: an answer the
/// broker drops costs an attempt.
const MAX_QUEUED_MESSAGES: usize = 200_000;
const MAX_QUEUED_BYTES: usize = 512 * 1024 * 1024;
/// Unacknowledged messages on the way to one client, when the client itself allows as many. The controller acknowledges after its commit, so
/// anything small here would be its speed limit; devices set their own, small, receive maximum.
const MAX_UNACKNOWLEDGED: u16 = u16::MAX;
/// Largest packet: a status of the largest size, with topic and properties.
pub(crate) const MAX_PACKET_BYTES: usize = muster_wire::properties::MAX_STATUS_BYTES + 64 * 1024;
/// Most filters one client may subscribe to.
const MAX_SUBSCRIPTIONS: usize = 64;
/// Longest life of the session of a client that is away.
const SESSION_EXPIRY: Duration = Duration::from_secs(24 * 3600);
/// How long the broker may take until it accepts connections, and to stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running broker.
pub(crate) struct Broker {
    address: SocketAddr,
    password: String,
    shutdown: BrokerShutdownHandle,
    task: JoinHandle<mqtt5::Result<()>>,
    ended: CancellationToken,
}

/// Why the broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The address is taken, or not ours.
    #[error(
        "the embedded broker cannot listen on {address}: {reason}\nNext: choose another with mqtt.embedded_listen (port 0 takes a free one), or use a broker of your own with mqtt.url"
    )]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// Its directory cannot be used.
    #[error("the embedded broker cannot use {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Anything else the library says.
    #[error("the embedded broker did not start: {0}")]
    Start(String),
}

impl Broker {
    /// Starts it and waits until it accepts connections.
    pub(crate) async fn start(settings: &Mqtt, data_dir: &Path, prefix: Prefix) -> Result<Self, BrokerError> {
        let address = settings.embedded_listen;
        // Asked first, because the library's own error is a paragraph. The port can be taken in between; then its error is shown.
        match std::net::TcpListener::bind(address) {
            Ok(listener) => drop(listener),
            Err(error) => return Err(BrokerError::Listen { address, reason: error.to_string() }),
        }
        let password = settings.password.to_option().unwrap_or_else(made_anew);
        let gate = Gate {
            prefix,
            controller_password: password.clone(),
            anonymous: settings.embedded_anonymous,
            device_key: settings.embedded_device_key.to_option().map(String::into_bytes),
        };
        let config = broker_config(settings, data_dir)?;
        let starting = |error: mqtt5::MqttError| BrokerError::Start(error.to_string());
        let mut broker = MqttBroker::with_config(config).await.map_err(starting)?.with_auth_provider(Arc::new(gate));
        broker.resource_monitor().update_limits(limits(settings.embedded_connections));
        let address = broker.local_addr().ok_or_else(|| BrokerError::Start("it has no address".to_owned()))?;
        let (shutdown, mut ready) = (broker.shutdown_handle(), broker.ready_receiver());
        let ended = CancellationToken::new();
        let at_the_end = ended.clone().drop_guard();
        let mut task = tokio::spawn(async move {
            let _at_the_end = at_the_end;
            Box::pin(broker.run()).await
        });
        tokio::select! {
            ended = &mut task => {
                let reason = match ended {
                    Ok(Ok(())) => "it ended at once".to_owned(),
                    Ok(Err(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                };
                return Err(BrokerError::Start(reason));
            }
            ready = tokio::time::timeout(PATIENCE, ready.wait_for(|ready| *ready)) => {
                if !matches!(ready, Ok(Ok(_))) {
                    return Err(BrokerError::Start(format!("it was not ready after {PATIENCE:?}")));
                }
            }
        }
        Ok(Self { address, password, shutdown, task, ended })
    }

    /// Where devices connect.
    pub(crate) fn url(&self) -> String {
        format!("mqtt://{}", self.address)
    }

    /// User name and password of the controller.
    pub(crate) fn credentials(&self) -> (String, String) {
        (CONTROLLER.to_owned(), self.password.clone())
    }

    /// Cancelled when it no longer runs, whatever the reason.
    pub(crate) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Disconnects everybody and ends.
    pub(crate) async fn stop(mut self) {
        self.shutdown.shutdown();
        if tokio::time::timeout(PATIENCE, &mut self.task).await.is_err() {
            tracing::warn!("the embedded broker did not stop within {PATIENCE:?} and is cut");
            self.task.abort();
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.shutdown.shutdown();
    }
}

fn made_anew() -> String {
    uuid::Uuid::new_v4().simple().to_string() + &uuid::Uuid::new_v4().simple().to_string()
}

fn limits(connections: usize) -> ResourceLimits {
    ResourceLimits {
        max_connections: connections,
        // A simulated fleet, and a site behind one address translator, come from one address.
        max_connections_per_ip: connections,
        max_message_rate_per_client: 0,
        max_bandwidth_per_client: 0,
        max_connection_rate: u32::try_from(connections).unwrap_or(u32::MAX),
        rate_limit_window: Duration::from_secs(1),
    }
}

fn broker_config(settings: &Mqtt, data_dir: &Path) -> Result<BrokerConfig, BrokerError> {
    let directory = data_dir.join("broker");
    let backend = match settings.embedded_storage {
        BrokerStorage::Memory => StorageBackend::Memory,
        BrokerStorage::File => {
            std::fs::create_dir_all(&directory).map_err(|source| BrokerError::Directory { path: directory.clone(), source })?;
            StorageBackend::File
        }
    };
    let storage = StorageConfig::new()
        .with_backend(backend)
        .with_base_dir(directory)
        .with_max_queued_messages_per_client(MAX_QUEUED_MESSAGES)
        .with_max_queued_bytes_per_client(MAX_QUEUED_BYTES);
    let mut config = BrokerConfig::new()
        .with_bind_address(settings.embedded_listen)
        .with_max_clients(settings.embedded_connections)
        .with_session_expiry(SESSION_EXPIRY)
        .with_max_packet_size(MAX_PACKET_BYTES)
        .with_maximum_qos(1)
        .with_max_subscriptions_per_client(MAX_SUBSCRIPTIONS)
        .with_max_retained_message_size(muster_wire::properties::MAX_BIRTH_BYTES + 1024)
        .with_max_outbound_inflight(MAX_UNACKNOWLEDGED)
        .with_sys_topics_enabled(false)
        .with_storage(storage);
    // Its own limiter locks out an address after five wrong passwords, and behind one address stands a whole site.
    config.auth_config.rate_limit.enabled = false;
    Ok(config)
}

/// Who may come in, and what they may do.
struct Gate {
    prefix: Prefix,
    controller_password: String,
    anonymous: bool,
    device_key: Option<Vec<u8>>,
}

impl Gate {
    /// The name a client acts under, or `None` when it is refused.
    fn admit(&self, connect: &ConnectPacket) -> Option<String> {
        let username = connect.username.as_deref().unwrap_or_default();
        let password = connect.password.as_deref();
        if username == CONTROLLER {
            return password.filter(|given| same(given, self.controller_password.as_bytes())).map(|_| CONTROLLER.to_owned());
        }
        let name = if username.is_empty() { connect.client_id.as_str() } else { username };
        let device: DeviceId = name.parse().ok()?;
        if device.as_str() == CONTROLLER {
            return None;
        }
        // A session belongs to a client id: with another's id, a device would take over its session and what is queued there.
        if connect.client_id != device.as_str() {
            return None;
        }
        match &self.device_key {
            Some(key) if !self.anonymous || password.is_some() => {
                let expected = device_password(key, &device);
                password.filter(|given| same(given, expected.as_bytes())).map(|_| device.into())
            }
            _ => self.anonymous.then(|| device.into()),
        }
    }

    fn may_publish(&self, user: Option<&str>, topic: &str) -> bool {
        match user {
            Some(CONTROLLER) => Topic::parse(&self.prefix, topic).is_some(),
            Some(user) => Topic::parse(&self.prefix, topic).is_some_and(|topic| {
                let from_device = matches!(
                    topic,
                    Topic::Answer { .. } | Topic::TaskStatus { .. } | Topic::Alert { .. } | Topic::State { .. } | Topic::Answer311 { .. }
                );
                from_device && topic.device().as_str() == user
            }),
            None => false,
        }
    }

    fn may_subscribe(&self, user: Option<&str>, filter: &str) -> bool {
        match user {
            Some(CONTROLLER) => true,
            Some(user) => {
                let below = |branch: &str| {
                    let own = format!("{}/d/{user}/{branch}", self.prefix);
                    filter.strip_prefix(&own).is_some_and(|rest| rest.starts_with('/') && rest.len() > 1)
                };
                below("cmd") || below("c3")
            }
            None => false,
        }
    }
}

/// The password of a device, when there is a key for them.
fn device_password(key: &[u8], device: &DeviceId) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(device.as_str().as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares without telling by its time where the difference is.
pub(crate) fn same(given: &[u8], expected: &[u8]) -> bool {
    given.len() == expected.len() && given.iter().zip(expected).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl AuthProvider for Gate {
    fn authenticate<'a>(&'a self, connect: &'a ConnectPacket, _address: SocketAddr) -> Answer<'a, mqtt5::Result<AuthResult>> {
        let result = match self.admit(connect) {
            Some(user) => AuthResult::success_with_user(user),
            None => {
                metrics::counter!("muster_broker_refused_total").increment(1);
                tracing::warn!(client = %connect.client_id.escape_debug(), "a client was refused by the embedded broker: it is no device, uses another's client id, or its password is wrong");
                AuthResult::fail(ReasonCode::BadUsernameOrPassword)
            }
        };
        Box::pin(std::future::ready(Ok(result)))
    }

    fn authorize_publish<'a>(&'a self, _client: &str, user: Option<&'a str>, topic: &'a str) -> Answer<'a, bool> {
        Box::pin(std::future::ready(self.may_publish(user, topic)))
    }

    fn authorize_subscribe<'a>(&'a self, _client: &str, user: Option<&'a str>, filter: &'a str) -> Answer<'a, bool> {
        Box::pin(std::future::ready(self.may_subscribe(user, filter)))
    }
}

#[cfg(test)]
mod tests {
    use mqtt5::{ConnectOptions, MqttClient};

    use super::*;
    use crate::settings::Settings;

    fn gate(anonymous: bool, key: Option<&str>) -> Gate {
        Gate {
            prefix: Prefix::default(),
            controller_password: "secret".to_owned(),
            anonymous,
            device_key: key.map(|key| key.as_bytes().to_vec()),
        }
    }

    fn connect(client: &str, user: Option<&str>, password: Option<&str>) -> ConnectPacket {
        let mut packet = ConnectPacket::new(mqtt5::ConnectOptions::new(client).protocol_options);
        packet.username = user.map(str::to_owned);
        packet.password = password.map(|text| text.as_bytes().to_vec());
        packet
    }

    #[test]
    fn only_devices_under_their_own_name_and_the_controller_come_in() {
        let open = gate(true, None);
        assert_eq!(open.admit(&connect("press-1", None, None)).as_deref(), Some("press-1"));
        assert_eq!(open.admit(&connect("press-1", Some("press-1"), None)).as_deref(), Some("press-1"));
        assert_eq!(open.admit(&connect("press-2", Some("press-1"), None)), None, "another's client id");
        assert_eq!(open.admit(&connect("a/b", None, None)), None);
        assert_eq!(open.admit(&connect(CONTROLLER, None, None)), None);
        assert_eq!(open.admit(&connect(CONTROLLER, Some(CONTROLLER), Some("wrong"))), None);
        assert_eq!(open.admit(&connect("ctl-1", Some(CONTROLLER), None)), None);
        assert_eq!(open.admit(&connect("ctl-1", Some(CONTROLLER), Some("secret"))).as_deref(), Some(CONTROLLER));

        let keyed = gate(false, Some("a key of some length"));
        let password = device_password(b"a key of some length", &"press-1".parse().expect("an id"));
        assert_eq!(keyed.admit(&connect("press-1", Some("press-1"), Some(&password))).as_deref(), Some("press-1"));
        assert_eq!(keyed.admit(&connect("press-2", Some("press-2"), Some(&password))), None);
        assert_eq!(keyed.admit(&connect("press-1", Some("press-1"), None)), None);
        assert_eq!(
            gate(true, Some("a key of some length")).admit(&connect("press-1", None, Some("wrong"))),
            None,
            "a wrong password is not no password"
        );
    }

    #[test]
    fn the_password_of_a_device_is_what_openssl_makes_of_it() {
        // printf %s press-1 | openssl dgst -sha256 -hmac 0123456789abcdef
        let made = device_password(b"0123456789abcdef", &"press-1".parse().expect("an id"));
        assert_eq!(made, "51c5e9ad1b6d98e9e2b8c6ec5a5822254c24a1e4080d4d3e04f9f1c46013da6d");
    }

    #[test]
    fn a_device_is_bound_to_its_own_topics() {
        let gate = gate(true, None);
        let device = Some("press-1");
        for own in ["rsp/ctl", "task", "alert", "state", "r3/0193b0a81f2e7cc29a3b000000000001/200"] {
            assert!(gate.may_publish(device, &format!("muster/v1/d/press-1/{own}")), "{own}");
            assert!(!gate.may_publish(device, &format!("muster/v1/d/press-2/{own}")), "{own}");
            assert!(!gate.may_publish(None, &format!("muster/v1/d/press-1/{own}")), "{own}");
        }
        for other in [
            "muster/v1/d/press-1/cmd/ping",
            "muster/v1/d/press-1",
            "muster/v1/x",
            "$SYS/x",
            "other/d/press-1/state",
            "muster/v1/d/press-1/state/x",
        ] {
            assert!(!gate.may_publish(device, other), "{other}");
        }
        for own in ["muster/v1/d/press-1/cmd/#", "muster/v1/d/press-1/cmd/+", "muster/v1/d/press-1/cmd/ping", "muster/v1/d/press-1/c3/#"] {
            assert!(gate.may_subscribe(device, own), "{own}");
        }
        for other in [
            "#",
            "muster/v1/d/press-1/#",
            "muster/v1/d/+/cmd/#",
            "muster/v1/d/press-2/cmd/#",
            "muster/v1/d/press-1/cmd",
            "muster/v1/d/press-1/cmdx/#",
            "$share/g/muster/v1/d/press-1/cmd/#",
            "muster/v1/d/press-1/rsp/#",
            "muster/v1/d/press-1/cmd/",
        ] {
            assert!(!gate.may_subscribe(device, other), "{other}");
        }
        assert!(gate.may_publish(Some(CONTROLLER), "muster/v1/d/press-1/cmd/ping"));
        assert!(gate.may_subscribe(Some(CONTROLLER), "$share/muster/muster/v1/d/+/task"));
    }

    #[tokio::test]
    async fn it_takes_a_free_port_and_keeps_strangers_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let flags = [("mqtt.embedded_listen".to_owned(), "127.0.0.1:0".to_owned())];
        let mut settings = Settings::load_from(None, [], &flags).expect("good settings").mqtt;
        let broker = Broker::start(&settings, dir.path(), Prefix::default()).await.expect("started");
        assert!(!broker.ended().is_cancelled());

        let device = MqttClient::new("press-1");
        device.connect(&broker.url()).await.expect("a device on loopback comes in");
        let stranger =
            MqttClient::with_options(ConnectOptions::new("ctl").with_credentials(CONTROLLER, b"guess").with_automatic_reconnect(false));
        assert!(stranger.connect(&broker.url()).await.is_err());
        device.disconnect().await.expect("disconnected");

        settings.embedded_listen = broker.address;
        let taken = Broker::start(&settings, dir.path(), Prefix::default()).await.err().expect("the port is taken").to_string();
        assert!(taken.contains(&broker.address.to_string()) && taken.contains("Next: choose another with mqtt.embedded_listen"), "{taken}");
        broker.stop().await;
    }

    #[tokio::test]
    async fn with_a_password_that_is_known_another_program_looks_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let flags = [("mqtt.embedded_listen", "127.0.0.1:0"), ("mqtt.password", "sixteen-letters!")];
        let flags = flags.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let settings = Settings::load_from(None, [], &flags).expect("good settings").mqtt;
        let broker = Broker::start(&settings, dir.path(), Prefix::default()).await.expect("started");
        assert_eq!(broker.credentials(), (CONTROLLER.to_owned(), "sixteen-letters!".to_owned()));
        let options = ConnectOptions::new("onlooker").with_credentials(CONTROLLER, b"sixteen-letters!").with_automatic_reconnect(false);
        let onlooker = MqttClient::with_options(options);
        onlooker.connect(&broker.url()).await.expect("the password opens");
        onlooker.disconnect().await.expect("disconnected");
        broker.stop().await;
    }

    #[test]
    fn a_whole_fleet_may_come_from_one_address() {
        assert_eq!(limits(20_000).max_connections_per_ip, 20_000);
        let settings = Settings::load_from(None, [], &[]).expect("the defaults").mqtt;
        let config = broker_config(&settings, Path::new("unused")).expect("a configuration");
        assert!(config.max_clients >= 20_000 && config.max_outbound_inflight == 65_535 && !config.auth_config.rate_limit.enabled);
    }
}
