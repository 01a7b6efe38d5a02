//! Which storage account, and how we prove to be allowed into it.

use std::fmt;
use std::path::PathBuf;

use azure_core::http::Url;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use secrecy::{ExposeSecret as _, SecretString};

use crate::error::LandingError;
use crate::limits::Limits;
use crate::sas::SigningKey;

/// Longest prefix of container names: a container's name has 63 characters and an inbox's own part up to 39.
pub const MAX_CONTAINER_PREFIX_CHARS: usize = 24;
/// What Azurite and every documentation of it use.
const DEVELOPMENT_ACCOUNT: &str = "devstoreaccount1";
const DEVELOPMENT_ENDPOINT: &str = "http://127.0.0.1:10000/devstoreaccount1";
const DEFAULT_SUFFIX: &str = "core.windows.net";

/// How to keep bundles in Azure Blob Storage.
#[derive(Debug, Clone)]
pub struct AzureOptions {
    /// The blob endpoint, `https://{account}.blob.core.windows.net` or Azurite's `http://host:10000/{account}`. May be left out
    /// when the connection string has it, or when `account` is in the public cloud.
    pub endpoint: Option<Url>,
    /// Name of the account. May be left out when the connection string or the endpoint has it.
    pub account: Option<String>,
    /// How we prove to be allowed.
    pub credential: AzureCredential,
    /// Put before the name of every container, so that several installations can share an account.
    pub container_prefix: String,
    /// What is read and sealed.
    pub limits: Limits,
}

/// How we prove to be allowed into the account.
#[derive(Clone)]
pub enum AzureCredential {
    /// The account's key, base64. Signs requests and grants.
    SharedKey(SecretString),
    /// A connection string with the account's key.
    ConnectionString(SecretString),
    /// The identity of the machine or app we run on; grants are signed with a user delegation key. The client id is that of a
    /// user-assigned identity.
    ManagedIdentity {
        /// Of a user-assigned identity.
        client_id: Option<String>,
    },
    /// The identity a Kubernetes cluster projects into a file. What is left out comes from the variables the cluster sets.
    WorkloadIdentity {
        /// Entra tenant.
        tenant_id: Option<String>,
        /// Of the application.
        client_id: Option<String>,
        /// Where the token is.
        token_file: Option<PathBuf>,
    },
    /// An application of an Entra tenant.
    ClientSecret {
        /// Entra tenant.
        tenant_id: String,
        /// Of the application.
        client_id: String,
        /// Its secret.
        secret: SecretString,
    },
}

impl fmt::Debug for AzureCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SharedKey(_) => "SharedKey",
            Self::ConnectionString(_) => "ConnectionString",
            Self::ManagedIdentity { .. } => "ManagedIdentity",
            Self::WorkloadIdentity { .. } => "WorkloadIdentity",
            Self::ClientSecret { .. } => "ClientSecret",
        })
    }
}

/// Endpoint, account and, if we have it, key.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) endpoint: Url,
    pub(crate) name: String,
    pub(crate) key: Option<SigningKey>,
}

impl Account {
    pub(crate) fn from_options(options: &AzureOptions) -> Result<Self, LandingError> {
        let mut account = options.account.clone();
        let mut endpoint = options.endpoint.clone();
        let key = match &options.credential {
            AzureCredential::SharedKey(key) => Some(decode_key(key.expose_secret(), "shared_key")?),
            AzureCredential::ConnectionString(text) => {
                let parsed = ConnectionString::parse(text.expose_secret())?;
                account = account.or(Some(parsed.account));
                endpoint = endpoint.or(Some(parsed.endpoint));
                Some(decode_key(&parsed.key, "connection_string")?)
            }
            _ => None,
        };
        let (endpoint, name) = match (endpoint, account) {
            (Some(endpoint), Some(name)) => (endpoint, name),
            (None, Some(name)) => (endpoint_of("https", &name, DEFAULT_SUFFIX)?, name),
            (Some(endpoint), None) => {
                let name = endpoint.domain().and_then(|host| host.split_once(".blob.")).map(|(name, _)| name.to_owned());
                let name = name.ok_or_else(|| settings("account", "it is needed with this endpoint, whose host does not name it"))?;
                (endpoint, name)
            }
            (None, None) => return Err(settings("endpoint", "an endpoint, an account or a connection string is needed")),
        };
        if !matches!(endpoint.scheme(), "http" | "https") || endpoint.cannot_be_a_base() || endpoint.query().is_some() {
            return Err(settings("endpoint", "it looks like https://account.blob.core.windows.net, without a query"));
        }
        if key.is_none() && endpoint.scheme() != "https" {
            return Err(settings("endpoint", "an identity's token is only sent over https"));
        }
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if !(3..=24).contains(&name.len()) || !name.chars().all(plain) {
            return Err(settings("account", "it has 3 to 24 lower-case letters and digits"));
        }
        check_prefix(&options.container_prefix)?;
        Ok(Self { endpoint: without_trailing_slash(endpoint), name, key })
    }
}

fn check_prefix(prefix: &str) -> Result<(), LandingError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let good =
        prefix.len() <= MAX_CONTAINER_PREFIX_CHARS && prefix.chars().all(plain) && !prefix.starts_with('-') && !prefix.contains("--");
    if good {
        Ok(())
    } else {
        Err(settings("container_prefix", "it has up to 24 lower-case letters, digits and single hyphens, and no hyphen first"))
    }
}

/// The client library appends segments to the path, and an empty last one would become part of it.
fn without_trailing_slash(mut endpoint: Url) -> Url {
    if let Ok(mut segments) = endpoint.path_segments_mut() {
        segments.pop_if_empty();
    }
    endpoint
}

fn endpoint_of(scheme: &str, account: &str, suffix: &str) -> Result<Url, LandingError> {
    Url::parse(&format!("{scheme}://{account}.blob.{suffix}")).map_err(|_| settings("account", "it does not make a host name"))
}

fn decode_key(text: &str, setting: &'static str) -> Result<SigningKey, LandingError> {
    match BASE64.decode(text.trim()) {
        Ok(key) if !key.is_empty() => Ok(SigningKey::new(&key)),
        _ => Err(settings(setting, "the account's key is not base64")),
    }
}

fn settings(setting: &'static str, reason: &str) -> LandingError {
    LandingError::Settings { setting, reason: reason.to_owned() }
}

struct ConnectionString {
    account: String,
    key: String,
    endpoint: Url,
}

impl ConnectionString {
    fn parse(text: &str) -> Result<Self, LandingError> {
        let bad = |reason: &str| settings("connection_string", reason);
        let field = |wanted: &str| {
            text.split(';')
                .filter_map(|pair| pair.split_once('='))
                .find(|(name, _)| name.trim().eq_ignore_ascii_case(wanted))
                .map(|(_, value)| value.trim())
        };
        if field("UseDevelopmentStorage").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Err(bad("UseDevelopmentStorage is not supported: give Azurite's endpoint, account and key"));
        }
        let account = field("AccountName").ok_or_else(|| bad("AccountName is missing"))?.to_owned();
        let key = field("AccountKey").ok_or_else(|| bad("AccountKey is missing; a shared access signature cannot make grants"))?.to_owned();
        let endpoint = match field("BlobEndpoint") {
            Some(endpoint) => Url::parse(endpoint).map_err(|_| bad("BlobEndpoint is not a URL"))?,
            None if account == DEVELOPMENT_ACCOUNT => Url::parse(DEVELOPMENT_ENDPOINT).expect("a constant that parses"),
            None => endpoint_of(
                field("DefaultEndpointsProtocol").unwrap_or("https"),
                &account,
                field("EndpointSuffix").unwrap_or(DEFAULT_SUFFIX),
            )?,
        };
        Ok(Self { account, key, endpoint })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(credential: AzureCredential) -> AzureOptions {
        AzureOptions { endpoint: None, account: None, credential, container_prefix: String::new(), limits: Limits::default() }
    }

    #[test]
    fn a_connection_string_names_everything() {
        let text = "DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=a2V5PT0=;EndpointSuffix=core.windows.net";
        let account = Account::from_options(&options(AzureCredential::ConnectionString(text.into()))).unwrap();
        assert_eq!((account.name.as_str(), account.endpoint.as_str()), ("acct", "https://acct.blob.core.windows.net/"));
        let text = "AccountName=devstoreaccount1;AccountKey=a2V5;BlobEndpoint=http://localhost:9/devstoreaccount1/;";
        let account = Account::from_options(&options(AzureCredential::ConnectionString(text.into()))).unwrap();
        assert_eq!(account.endpoint.as_str(), "http://localhost:9/devstoreaccount1");
    }

    #[test]
    fn what_cannot_work_is_said_at_once_with_the_setting() {
        let fails = |options: AzureOptions, setting: &str| {
            let error = Account::from_options(&options).unwrap_err();
            assert!(error.to_string().starts_with(&format!("landing.{setting}:")) && error.is_permanent(), "{error}");
        };
        fails(options(AzureCredential::ConnectionString("AccountName=x".into())), "connection_string");
        fails(options(AzureCredential::ConnectionString("UseDevelopmentStorage=true".into())), "connection_string");
        fails(options(AzureCredential::ConnectionString("AccountName=acct;AccountKey=***".into())), "connection_string");
        fails(options(AzureCredential::SharedKey("a2V5".into())), "endpoint");
        let identity = AzureCredential::ManagedIdentity { client_id: None };
        fails(
            AzureOptions { endpoint: Some(Url::parse("http://acct.blob.core.windows.net").unwrap()), ..options(identity.clone()) },
            "endpoint",
        );
        fails(AzureOptions { endpoint: Some(Url::parse("https://storage.example.com").unwrap()), ..options(identity.clone()) }, "account");
        for prefix in ["-a", "a--b", "A", "a_b", &"a".repeat(MAX_CONTAINER_PREFIX_CHARS + 1)] {
            fails(
                AzureOptions { account: Some("acct".into()), container_prefix: prefix.into(), ..options(identity.clone()) },
                "container_prefix",
            );
        }
        let good = AzureOptions { endpoint: Some(Url::parse("https://acct.blob.core.windows.net/").unwrap()), ..options(identity) };
        assert_eq!(Account::from_options(&good).unwrap().name, "acct");
    }

    #[test]
    fn a_credential_does_not_print() {
        assert_eq!(format!("{:?}", AzureCredential::SharedKey("secret".into())), "SharedKey");
    }
}
