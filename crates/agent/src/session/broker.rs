//! Where the broker is and how we prove who we are: URL, TLS, and the options of one client.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use muster_wire::DeviceId;
use muster_wire::presence::Presence;
use muster_wire::topic::{Prefix, Topic};
use rumqttc::v5::MqttOptions;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectProperties, LastWill, LastWillProperties};
use rumqttc::{NetworkOptions, TlsConfiguration, Transport};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use url::Url;

/// Largest packet we take: a request of 128 KiB with its properties, and room.
pub(crate) const MAX_PACKET_BYTES: u32 = 256 * 1024;
/// Requests the broker may send before we have acknowledged the first.
pub(crate) const RECEIVE_MAXIMUM: u16 = 16;
/// Publishes on their way at once. rumqttc allocates a table of this size for every client, near 300 bytes a place.
pub(crate) const IN_FLIGHT: u16 = 8;
/// Requests in the client's channel.
pub(crate) const CHANNEL: usize = 8;
/// Shortest keep-alive: rumqttc panics below 5 s.
pub(crate) const MIN_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What may be wrong with the way to the broker.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The URL does not say where the broker is.
    #[error("broker URL {url:?}: {reason}; write mqtt://host:1883 or mqtts://host:8883")]
    Url {
        /// As configured.
        url: String,
        /// What is missing.
        reason: String,
    },
    /// A certificate or key cannot be read.
    #[error("{what} {path}: {reason}")]
    Pem {
        /// Which of them.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// rustls does not accept the set.
    #[error("TLS set-up: {0}")]
    Tls(#[from] rustls::Error),
}

/// Files for TLS, all optional.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// Trusted roots in place of the system's.
    pub ca: Option<PathBuf>,
    /// Our certificate, when the broker asks for one.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// A broker, parsed once and shared by all devices of the process.
#[derive(Clone)]
pub(crate) struct Broker {
    host: String,
    port: u16,
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Broker({}://{}:{})", if self.tls.is_some() { "mqtts" } else { "mqtt" }, self.host, self.port)
    }
}

impl Broker {
    /// Reads `mqtt://host[:1883]` or `mqtts://host[:8883]`, and the TLS files when they are needed.
    ///
    /// # Errors
    /// [`BrokerError`], naming the URL or the file.
    pub(crate) fn new(url: &str, files: &TlsFiles) -> Result<Self, BrokerError> {
        let bad = |reason: &str| BrokerError::Url { url: without_password(url), reason: reason.to_owned() };
        let parsed = Url::parse(url).map_err(|e| bad(&e.to_string()))?;
        let (encrypted, default_port) = match parsed.scheme() {
            "mqtt" | "tcp" => (false, 1883),
            "mqtts" | "ssl" => (true, 8883),
            _ => return Err(bad("only the schemes mqtt and mqtts are known")),
        };
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(bad("credentials do not belong into the URL; use username and password_file"));
        }
        let host = match parsed.host_str() {
            Some(host) if !host.is_empty() => host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            _ => return Err(bad("there is no host")),
        };
        let tls = if encrypted { Some(Arc::new(client_tls(files)?)) } else { None };
        Ok(Self { host, port: parsed.port().unwrap_or(default_port), tls })
    }
}

fn without_password(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut parsed) if parsed.password().is_some() => {
            let _ = parsed.set_password(Some("***"));
            parsed.into()
        }
        _ => url.to_owned(),
    }
}

fn pem_error(what: &'static str, path: &Path, reason: impl ToString) -> BrokerError {
    BrokerError::Pem { what, path: path.to_owned(), reason: reason.to_string() }
}

/// Certificates of a PEM file; an empty list is an error.
pub(crate) fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, BrokerError> {
    let found =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(|e| pem_error(what, path, e))?;
    if found.is_empty() { Err(pem_error(what, path, "there is no certificate in it")) } else { Ok(found) }
}

/// The one TLS provider of the process; setting it twice changes nothing.
pub(crate) fn use_ring() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn client_tls(files: &TlsFiles) -> Result<rustls::ClientConfig, BrokerError> {
    let mut roots = rustls::RootCertStore::empty();
    match &files.ca {
        Some(path) => {
            for certificate in certificates("CA file", path)? {
                roots.add(certificate)?;
            }
        }
        None => {
            let system = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(system.certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?.with_root_certificates(roots);
    match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates("client certificate", certificate)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|e| pem_error("client key", key, e))?;
            Ok(builder.with_client_auth_cert(chain, key)?)
        }
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(path), None) => Err(pem_error("client certificate", path, "a key file is needed beside it")),
        (None, Some(path)) => Err(pem_error("client key", path, "a certificate file is needed beside it")),
    }
}

/// How one device meets the broker.
#[derive(Debug, Clone)]
pub(crate) struct SessionOptions {
    /// Where.
    pub broker: Broker,
    /// User name and password.
    pub credentials: Option<(String, String)>,
    /// MQTT client id, unique at the broker.
    pub client_id: String,
    /// What topics begin with.
    pub prefix: Prefix,
    /// Silence after which either side takes the connection for dead.
    pub keep_alive: Duration,
    /// How long the broker keeps our session while we are away.
    pub session_expiry: Duration,
    /// How long the broker waits before it tells others that we are gone.
    pub will_delay: Duration,
}

impl SessionOptions {
    /// A way to the broker that is used once: no session stays, nobody is told that it ended.
    pub(crate) fn to_mqtt_once(&self, client_id: String) -> MqttOptions {
        let mut options = MqttOptions::new(client_id, self.broker.host.clone(), self.broker.port);
        options.set_keep_alive(self.keep_alive.max(MIN_KEEP_ALIVE));
        options.set_clean_start(true);
        options.set_connection_timeout(10);
        if let Some((user, password)) = &self.credentials {
            options.set_credentials(user.clone(), password.clone());
        }
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(10);
        options.set_network_options(network);
        if let Some(tls) = &self.broker.tls {
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::clone(tls))));
        }
        options
    }

    /// Options for the client library, with its traps closed.
    pub(crate) fn to_mqtt(&self, device: &DeviceId) -> MqttOptions {
        let mut options = self.to_mqtt_once(self.client_id.clone());
        options.set_clean_start(false);
        options.set_manual_acks(true);
        options.set_outgoing_inflight_upper_limit(IN_FLIGHT);
        options.set_connect_properties(ConnectProperties {
            session_expiry_interval: Some(seconds(self.session_expiry)),
            receive_maximum: Some(RECEIVE_MAXIMUM),
            max_packet_size: Some(MAX_PACKET_BYTES),
            topic_alias_max: None,
            request_response_info: None,
            request_problem_info: None,
            user_properties: Vec::new(),
            authentication_method: None,
            authentication_data: None,
        });
        // The connect properties carry the limit for packets; setting it again keeps the two in step if one is edited.
        options.set_max_packet_size(Some(MAX_PACKET_BYTES));
        let topic = Topic::State { device: device.clone() }.render(&self.prefix);
        let delay = LastWillProperties {
            delay_interval: Some(seconds(self.will_delay)),
            payload_format_indicator: Some(1),
            message_expiry_interval: None,
            content_type: None,
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
        };
        options.set_last_will(LastWill::new(topic, Presence::will().to_json(), QoS::AtLeastOnce, true, Some(delay)));
        options
    }
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_or_refused_with_a_reason() {
        let none = TlsFiles::default();
        let broker = Broker::new("mqtt://localhost", &none).expect("a plain URL");
        assert_eq!((broker.host.as_str(), broker.port, broker.tls.is_some()), ("localhost", 1883, false));
        let broker = Broker::new("mqtt://[::1]:1999", &none).expect("an IPv6 URL");
        assert_eq!((broker.host.as_str(), broker.port), ("::1", 1999));
        for (url, reason) in [
            ("http://x", "schemes"),
            ("mqtt://", "host"),
            ("localhost:1883", "schemes"),
            ("mqtt://u:secret@h", "credentials"),
            ("", "relative"),
        ] {
            let error = Broker::new(url, &none).expect_err(url).to_string();
            assert!(error.contains(reason) && error.contains("mqtt://host:1883"), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_certificate_needs_its_key() {
        let files = TlsFiles { certificate: Some("/nowhere/cert.pem".into()), ..TlsFiles::default() };
        let error = Broker::new("mqtts://localhost", &files).expect_err("half a pair").to_string();
        assert!(error.contains("key file is needed"), "{error}");
        let files = TlsFiles { ca: Some("/nowhere/ca.pem".into()), ..TlsFiles::default() };
        let error = Broker::new("mqtts://localhost", &files).expect_err("no such file").to_string();
        assert!(error.contains("/nowhere/ca.pem"), "{error}");
    }

    #[test]
    fn the_client_is_persistent_small_and_takes_what_the_contract_allows() {
        let options = SessionOptions {
            broker: Broker::new("mqtt://localhost", &TlsFiles::default()).expect("a plain URL"),
            credentials: None,
            client_id: "d".to_owned(),
            prefix: Prefix::default(),
            keep_alive: Duration::from_secs(1),
            session_expiry: Duration::from_secs(3600),
            will_delay: Duration::from_secs(5),
        };
        let mqtt = options.to_mqtt(&"d".parse().expect("an id"));
        assert!(!mqtt.clean_start() && mqtt.manual_acks());
        assert_eq!(mqtt.session_expiry_interval(), Some(3600));
        assert_eq!(mqtt.receive_maximum(), Some(RECEIVE_MAXIMUM));
        assert_eq!(mqtt.max_packet_size(), Some(MAX_PACKET_BYTES));
        assert!(mqtt.get_outgoing_inflight_upper_limit().is_some_and(|n| n <= 20));
        assert_eq!(mqtt.keep_alive(), MIN_KEEP_ALIVE, "shorter ones would panic inside the client");
        assert!(MAX_PACKET_BYTES as usize > muster_wire::properties::MAX_REQUEST_BYTES + 64 * 1024);
        let will = mqtt.last_will().expect("a will");
        assert_eq!(
            (will.topic.as_ref(), will.message.as_ref(), will.retain),
            (&b"muster/v1/d/d/state"[..], &b"{\"online\":false}"[..], true)
        );
        assert_eq!(will.properties.and_then(|p| p.delay_interval), Some(5));
    }
}
