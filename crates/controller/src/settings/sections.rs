//! The sections, one struct each. What the members mean stands in `default.toml`, which a test holds to these structs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Secret;

/// A duration written like `15m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text)
            .map(Self)
            .map_err(|error| serde::de::Error::custom(format!("{text:?} is not a duration like \"15m\" or \"2h 30m\": {error}")))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

/// `server`: the HTTP API.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in default.toml")]
pub struct Server {
    pub listen: SocketAddr,
    pub public_url: String,
    pub data_dir: PathBuf,
    pub stop_timeout: Span,
}

/// `database`: the truth about work.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in default.toml")]
pub struct Database {
    pub url: Secret,
    pub url_file: PathBuf,
}

/// Where the embedded broker keeps its sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BrokerStorage {
    /// In memory.
    Memory,
    /// In files below the data directory.
    File,
}

/// `mqtt`: the broker of the devices.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in default.toml")]
pub struct Mqtt {
    pub url: String,
    pub prefix: String,
    pub client_id: String,
    pub username: String,
    pub password: Secret,
    pub password_file: PathBuf,
    pub ca_file: PathBuf,
    pub embedded_listen: SocketAddr,
    pub embedded_anonymous: bool,
    pub embedded_device_key: Secret,
    pub embedded_device_key_file: PathBuf,
    #[serde(deserialize_with = "word")]
    pub embedded_storage: BrokerStorage,
    pub embedded_connections: usize,
}

/// `amqp`: the queue of alerts.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in default.toml")]
pub struct Amqp {
    pub url: Secret,
    pub url_file: PathBuf,
    pub ca_file: PathBuf,
    pub queue: String,
    pub dead_letter_exchange: String,
    pub dead_letter_queue: String,
    pub prefetch: u16,
    pub delivery_limit: u16,
    pub tenant: String,
    pub bare: String,
}

/// `intake`: what is an alert, and how much may follow from it.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in default.toml")]
pub struct IntakeSettings {
    #[serde(deserialize_with = "texts")]
    pub types: Vec<String>,
    pub bare: String,
    pub max_age: Span,
    pub expires_after: Span,
    pub per_day: u32,
    pub per_tenant_per_day: u32,
    pub storm_devices: u32,
    pub storm_within: Span,
    pub storm_per_stratum: u32,
    pub storm_at_most: u32,
    pub control_twin: bool,
}

/// Which landing zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LandingKind {
    /// A directory, written through this server.
    Directory,
    /// Azure Blob Storage.
    Azure,
}

impl LandingKind {
    /// The word in settings and status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Azure => "azure",
        }
    }
}

/// Who we are to Azure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AzureCredential {
    /// The account's key.
    Key,
    /// Managed identity of the machine.
    ManagedIdentity,
    /// Workload identity of the pod.
    WorkloadIdentity,
    /// An application of an Entra tenant.
    ClientSecret,
}

/// `landing`: where bundles land.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in default.toml")]
pub struct LandingSettings {
    #[serde(deserialize_with = "word")]
    pub kind: LandingKind,
    pub path: PathBuf,
    pub endpoint: String,
    pub account: String,
    pub key: Secret,
    pub key_file: PathBuf,
    pub connection_string: Secret,
    pub connection_string_file: PathBuf,
    #[serde(deserialize_with = "word")]
    pub credential: AzureCredential,
    pub client_id: String,
    pub tenant_id: String,
    pub client_secret: Secret,
    pub client_secret_file: PathBuf,
    pub container_prefix: String,
    pub fsync: bool,
}

/// `dispatch`: how fast, how patient, how deep.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in default.toml")]
pub struct DispatchSettings {
    pub attempt_timeout: Span,
    pub answer_timeout: Span,
    pub attempts: u8,
    pub expiry: Span,
    pub in_flight: u32,
    pub reserve_percent: u32,
    pub confirm_above: u64,
    pub claim_batch: u32,
    pub apply_batch: usize,
    pub flush_every: Span,
    pub scan_every: Span,
    pub look_first: Span,
    pub look_max: Span,
    pub grace: Span,
    pub backoff_first: Span,
    pub backoff_factor: f64,
    pub backoff_max: Span,
    pub backoff_jitter: f64,
    pub verify_parallel: usize,
    pub verify_lease: Span,
    pub open_parallel: usize,
    pub full_read_limit_bytes: u64,
    pub max_bundle_bytes: u64,
}

/// `retention`: how long history is kept.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in default.toml")]
pub struct Retention {
    pub attempts: Span,
}

/// `auth`: who may use the API.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in default.toml")]
pub struct Auth {
    #[serde(deserialize_with = "tokens")]
    pub tokens: Vec<Token>,
}

/// A bearer token and the name it acts under.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Who; stands as `created_by` in what is made with it.
    pub name: String,
    /// The token.
    #[serde(default)]
    pub token: Secret,
    /// File to read it from.
    #[serde(default, skip_serializing_if = "is_empty_path")]
    pub token_file: PathBuf,
}

fn is_empty_path(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// `telemetry`: logs.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in default.toml")]
pub struct Telemetry {
    pub log: String,
    #[serde(deserialize_with = "word")]
    pub format: LogFormat,
}

/// One of a list of words; an error names them all, which the layering library's own does not.
fn word<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    T::deserialize(StrDeserializer::<D::Error>::new(&text))
}

/// A list of texts in a file; `one,two` where only a text can be given.
fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Texts;

    impl<'de> Visitor<'de> for Texts {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list of texts, or a text like one,two")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut texts = Vec::new();
            while let Some(text) = list.next_element()? {
                texts.push(text);
            }
            Ok(texts)
        }
    }

    deserializer.deserialize_any(Texts)
}

/// A list of tables in a file; `name=token,name=token` where only a text can be given.
fn tokens<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Token>, D::Error> {
    struct Tokens;

    impl<'de> Visitor<'de> for Tokens {
        type Value = Vec<Token>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list of { name, token } or { name, token_file }, or a text like name=token,name=token")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
            let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
            pairs
                .map(|pair| {
                    let (name, token) = pair.split_once('=').ok_or_else(|| E::custom("each token needs a name: name=token,name=token"))?;
                    Ok(Token { name: name.trim().to_owned(), token: Secret::new(token.trim()), token_file: PathBuf::new() })
                })
                .collect()
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut tokens = Vec::new();
            while let Some(token) = list.next_element()? {
                tokens.push(token);
            }
            Ok(tokens)
        }
    }

    deserializer.deserialize_any(Tokens)
}
