//! Values against each other and against the contracts: refused where they cannot work or would be unsafe, warned about where they are risky.

use std::net::SocketAddr;
use std::time::Duration;

use muster_domain::backoff::Schedule;
use muster_wire::http::{
    MAX_ATTEMPT_TIMEOUT_SECONDS, MAX_ATTEMPTS_ASKED, MAX_EXPIRY_SECONDS, MAX_IN_FLIGHT, MAX_RETENTION_SECONDS, MIN_ATTEMPT_TIMEOUT_SECONDS,
};
use muster_wire::topic::{Prefix, is_caller};

use super::{AzureCredential, LandingKind, Settings, SettingsError, Span};

/// Shortest bearer token, in characters.
const MIN_TOKEN_CHARS: usize = 16;
/// Shortest key for the passwords of devices, in characters.
const MIN_DEVICE_KEY_CHARS: usize = 16;
/// Shortest password of the controller at the embedded broker, in characters.
const MIN_PASSWORD_CHARS: usize = 16;
/// Longest name of a token, in characters.
const MAX_TOKEN_NAME_CHARS: usize = 64;
/// Most tokens.
const MAX_TOKENS: usize = 1000;
/// Most statements and messages in one batch.
const MAX_BATCH: usize = 10_000;
/// Largest reserve of the window: it is left free twice by collections of low priority.
const MAX_RESERVE_PERCENT: u64 = 40;
/// Most bundles judged or inboxes opened at the same time.
const MAX_PARALLEL: usize = 1024;
/// Shortest time history is kept, unless for ever.
const MIN_RETENTION: Duration = Duration::from_secs(24 * 3600);
/// Most connections to the embedded broker.
const MAX_CONNECTIONS: usize = 1_000_000;

impl Settings {
    /// The address the HTTP API asks for.
    pub fn listen(&self) -> SocketAddr {
        self.server.listen
    }

    /// Whether every request has to carry a token.
    pub fn needs_token(&self) -> bool {
        !self.auth.tokens.is_empty()
    }

    /// Whether the broker runs inside this process.
    pub fn broker_is_embedded(&self) -> bool {
        self.mqtt.url.is_empty()
    }

    /// The prefix of all topics.
    pub fn prefix(&self) -> Prefix {
        self.mqtt.prefix.parse().expect("checked when the settings were read")
    }

    /// The waits between attempts.
    pub fn schedule(&self) -> Schedule {
        let dispatch = &self.dispatch;
        Schedule {
            first: dispatch.backoff_first.0,
            factor: dispatch.backoff_factor,
            max: dispatch.backoff_max.0,
            jitter_share: dispatch.backoff_jitter,
        }
    }

    /// Checks everything that one value's type cannot say; gives the warnings back.
    pub(super) fn check(&self) -> Result<Vec<String>, SettingsError> {
        let mut warnings = Vec::new();
        self.check_server(&mut warnings)?;
        self.check_tokens()?;
        self.check_database()?;
        self.check_mqtt(&mut warnings)?;
        self.check_amqp(&mut warnings)?;
        self.check_intake()?;
        self.check_landing()?;
        self.check_dispatch(&mut warnings)?;
        self.check_retention()?;
        if crate::telemetry::filter(&self.telemetry.log).is_err() {
            return Err(self.invalid(
                "telemetry.log",
                "is neither a level (error, warn, info, debug, trace) nor levels per module like info,muster_dispatch=debug",
            ));
        }
        Ok(warnings)
    }

    fn check_server(&self, warnings: &mut Vec<String>) -> Result<(), SettingsError> {
        let listen = self.server.listen;
        if !listen.ip().is_loopback() && !self.needs_token() {
            return Err(SettingsError::Refused {
                reason: format!(
                    "server.listen is {listen}, which other machines can reach, and no token is configured: anybody could collect from your fleet."
                ),
                next_step: "configure a token, for example MUSTER__AUTH__TOKENS=\"ops=$(openssl rand -hex 24)\", or listen on 127.0.0.1"
                    .to_owned(),
            });
        }
        self.within("server.stop_timeout", self.server.stop_timeout, Duration::ZERO, Duration::from_secs(600))?;
        if self.server.data_dir.as_os_str().is_empty() {
            return Err(self.invalid("server.data_dir", "must not be empty"));
        }
        if !self.server.public_url.is_empty() {
            let (scheme, host) =
                split_url(&self.server.public_url, &["http", "https"]).map_err(|reason| self.invalid("server.public_url", &reason))?;
            if scheme == "http" && self.landing.kind == LandingKind::Directory && !is_loopback_host(host_name(host)) {
                warnings.push(format!(
                    "server.public_url is {}, without TLS: whoever listens on the way can read the permissions to upload, and the bundles. Use https.",
                    self.server.public_url
                ));
            }
        } else if !listen.ip().is_loopback() && listen.ip().is_unspecified() && self.landing.kind == LandingKind::Directory {
            warnings.push(format!("server.public_url is empty and server.listen is {listen}: devices on other machines cannot be told where to upload. Set server.public_url."));
        }
        Ok(())
    }

    fn check_tokens(&self) -> Result<(), SettingsError> {
        let tokens = &self.auth.tokens;
        if tokens.len() > MAX_TOKENS {
            return Err(self.invalid("auth.tokens", &format!("has {} entries, more than {MAX_TOKENS}", tokens.len())));
        }
        for (index, token) in tokens.iter().enumerate() {
            let name_is_good = !token.name.is_empty()
                && token.name.chars().count() <= MAX_TOKEN_NAME_CHARS
                && token.name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@'));
            if !name_is_good {
                return Err(
                    self.invalid("auth.tokens", &format!("entry {index}: a name has 1 to {MAX_TOKEN_NAME_CHARS} of A-Z a-z 0-9 - _ . @"))
                );
            }
            let secret = token.token.expose();
            if secret.len() < MIN_TOKEN_CHARS || !secret.chars().all(|c| c.is_ascii_graphic()) {
                let rule = format!(
                    "the token {} needs at least {MIN_TOKEN_CHARS} visible ASCII characters; make one with: openssl rand -hex 24",
                    token.name
                );
                return Err(self.invalid("auth.tokens", &rule));
            }
            if tokens[..index].iter().any(|other| other.name == token.name || other.token.expose() == secret) {
                return Err(self.invalid("auth.tokens", &format!("{} stands there twice, by name or by token", token.name)));
            }
        }
        Ok(())
    }

    fn check_database(&self) -> Result<(), SettingsError> {
        let url = self.database.url.expose();
        if url.starts_with("sqlite:") && (url.contains(":memory:") || url.contains("mode=memory")) {
            return Err(self.invalid("database.url", "is a database in memory, which would lose all work at every stop; name a file"));
        }
        let known = url.is_empty() || ["postgres://", "postgresql://", "sqlite://"].iter().any(|scheme| url.starts_with(scheme));
        if !known {
            return Err(self.invalid("database.url", "begins neither with postgres:// nor with sqlite://"));
        }
        Ok(())
    }

    fn check_mqtt(&self, warnings: &mut Vec<String>) -> Result<(), SettingsError> {
        let mqtt = &self.mqtt;
        if let Err(error) = mqtt.prefix.parse::<Prefix>() {
            return Err(self.invalid("mqtt.prefix", &error.to_string()));
        }
        if !mqtt.client_id.is_empty() && !is_caller(&mqtt.client_id) {
            return Err(self.invalid("mqtt.client_id", "is a level of response topics: 1 to 64 of A-Z a-z 0-9 - _ ."));
        }
        if !self.broker_is_embedded() {
            let (scheme, host) = split_url(&mqtt.url, &["mqtt", "mqtts"]).map_err(|reason| self.invalid("mqtt.url", &reason))?;
            if scheme == "mqtt" && !mqtt.password.is_empty() && !is_loopback_host(host_name(host)) {
                warnings.push("mqtt.url has no TLS: mqtt.password crosses the network readable. Use mqtts.".to_owned());
            }
            if scheme == "mqtt" && !mqtt.ca_file.as_os_str().is_empty() {
                return Err(self.invalid("mqtt.ca_file", "is given and mqtt.url begins with mqtt://, which has no TLS; use mqtts://"));
            }
            return Ok(());
        }
        let (listen, local) = (mqtt.embedded_listen, mqtt.embedded_listen.ip().is_loopback());
        if !local && mqtt.embedded_anonymous {
            return Err(SettingsError::Refused {
                reason: format!("mqtt.embedded_listen is {listen}, which other machines can reach, and mqtt.embedded_anonymous is true: anybody could pose as any device."),
                next_step: "set mqtt.embedded_anonymous = false and mqtt.embedded_device_key, or use a broker of your own with mqtt.url, or listen on 127.0.0.1".to_owned(),
            });
        }
        if !mqtt.embedded_anonymous && mqtt.embedded_device_key.expose().len() < MIN_DEVICE_KEY_CHARS {
            let rule = format!(
                "needs at least {MIN_DEVICE_KEY_CHARS} characters when mqtt.embedded_anonymous is false: otherwise no device could connect"
            );
            return Err(self.invalid("mqtt.embedded_device_key", &rule));
        }
        if !mqtt.password.is_empty() && mqtt.password.expose().len() < MIN_PASSWORD_CHARS {
            let rule = format!(
                "needs at least {MIN_PASSWORD_CHARS} characters with the embedded broker: whoever guesses it may ask every device; leave it empty for one that is made anew at every start"
            );
            return Err(self.invalid("mqtt.password", &rule));
        }
        if !local {
            warnings.push(
                "mqtt.embedded_listen is reachable by other machines without TLS: passwords and requests cross the network readable."
                    .to_owned(),
            );
        }
        if mqtt.embedded_connections == 0 || mqtt.embedded_connections > MAX_CONNECTIONS {
            return Err(self.invalid("mqtt.embedded_connections", &format!("lies between 1 and {MAX_CONNECTIONS}")));
        }
        Ok(())
    }

    fn check_landing(&self) -> Result<(), SettingsError> {
        let landing = &self.landing;
        if landing.kind == LandingKind::Directory {
            return Ok(());
        }
        if !landing.endpoint.is_empty() {
            split_url(&landing.endpoint, &["http", "https"]).map_err(|reason| self.invalid("landing.endpoint", &reason))?;
            if landing.endpoint.ends_with('/') {
                return Err(self.invalid("landing.endpoint", "must not end in a slash"));
            }
        }
        if !landing.connection_string.is_empty() {
            if !landing.account.is_empty() || !landing.key.is_empty() {
                return Err(
                    self.invalid("landing.connection_string", "says account and key already; leave landing.account and landing.key empty")
                );
            }
            return Ok(());
        }
        if landing.account.is_empty() {
            return Err(self.invalid("landing.account", "is needed when landing.kind is azure (or landing.connection_string)"));
        }
        match landing.credential {
            AzureCredential::Key if landing.key.is_empty() => {
                Err(self.invalid("landing.key", "is needed when landing.credential is key (or landing.key_file, or another credential)"))
            }
            AzureCredential::ClientSecret
                if landing.client_id.is_empty() || landing.tenant_id.is_empty() || landing.client_secret.is_empty() =>
            {
                Err(self.invalid(
                    "landing.client_secret",
                    "needs landing.client_id, landing.tenant_id and landing.client_secret (or its _file)",
                ))
            }
            _ => Ok(()),
        }
    }

    fn check_dispatch(&self, warnings: &mut Vec<String>) -> Result<(), SettingsError> {
        let dispatch = &self.dispatch;
        let seconds = Duration::from_secs;
        self.within(
            "dispatch.attempt_timeout",
            dispatch.attempt_timeout,
            seconds(MIN_ATTEMPT_TIMEOUT_SECONDS),
            seconds(MAX_ATTEMPT_TIMEOUT_SECONDS),
        )?;
        self.within("dispatch.answer_timeout", dispatch.answer_timeout, seconds(MIN_ATTEMPT_TIMEOUT_SECONDS), dispatch.attempt_timeout.0)?;
        self.within("dispatch.expiry", dispatch.expiry, seconds(MIN_ATTEMPT_TIMEOUT_SECONDS), seconds(MAX_EXPIRY_SECONDS))?;
        if dispatch.attempt_timeout.0 > dispatch.expiry.0 {
            return Err(self.invalid(
                "dispatch.attempt_timeout",
                "is longer than dispatch.expiry: no attempt could use its time; shorten it or lengthen dispatch.expiry",
            ));
        }
        self.between("dispatch.attempts", dispatch.attempts.into(), 1, MAX_ATTEMPTS_ASKED.into())?;
        self.between("dispatch.in_flight", dispatch.in_flight.into(), 1, MAX_IN_FLIGHT.into())?;
        self.between("dispatch.reserve_percent", dispatch.reserve_percent.into(), 0, MAX_RESERVE_PERCENT)?;
        self.between("dispatch.claim_batch", dispatch.claim_batch.into(), 1, MAX_BATCH as u64)?;
        self.between("dispatch.apply_batch", dispatch.apply_batch as u64, 1, MAX_BATCH as u64)?;
        self.between("dispatch.verify_parallel", dispatch.verify_parallel as u64, 1, MAX_PARALLEL as u64)?;
        self.between("dispatch.open_parallel", dispatch.open_parallel as u64, 1, MAX_PARALLEL as u64)?;
        self.between("dispatch.max_bundle_bytes", dispatch.max_bundle_bytes, 1, u64::MAX >> 1)?;
        self.within("dispatch.flush_every", dispatch.flush_every, Duration::from_millis(1), seconds(1))?;
        self.within("dispatch.scan_every", dispatch.scan_every, Duration::from_millis(10), seconds(60))?;
        self.within("dispatch.look_first", dispatch.look_first, Duration::from_millis(10), seconds(3600))?;
        self.within("dispatch.look_max", dispatch.look_max, dispatch.look_first.0, seconds(3600))?;
        self.within("dispatch.grace", dispatch.grace, Duration::ZERO, seconds(600))?;
        self.within("dispatch.verify_lease", dispatch.verify_lease, seconds(10), seconds(24 * 3600))?;
        self.schedule().check().map_err(|error| self.invalid("dispatch.backoff_first, _factor, _max, _jitter", &error.to_string()))?;
        if dispatch.full_read_limit_bytes > dispatch.max_bundle_bytes {
            warnings.push("dispatch.full_read_limit_bytes is above dispatch.max_bundle_bytes: every bundle is read whole.".to_owned());
        }
        Ok(())
    }

    fn check_retention(&self) -> Result<(), SettingsError> {
        let kept = self.retention.attempts;
        if kept.0.is_zero() {
            return Ok(());
        }
        self.within("retention.attempts", kept, MIN_RETENTION, Duration::from_secs(MAX_RETENTION_SECONDS))
    }

    pub(super) fn within(&self, key: &str, span: Span, min: Duration, max: Duration) -> Result<(), SettingsError> {
        if (min..=max).contains(&span.0) {
            return Ok(());
        }
        let text = |duration| humantime::format_duration(duration);
        Err(self.invalid(key, &format!("is {}; it lies between {} and {}", text(span.0), text(min), text(max))))
    }

    pub(super) fn between(&self, key: &str, value: u64, min: u64, max: u64) -> Result<(), SettingsError> {
        if (min..=max).contains(&value) {
            return Ok(());
        }
        Err(self.invalid(key, &format!("is {value}; it lies between {min} and {max}")))
    }

    pub(super) fn invalid(&self, key: &str, reason: &str) -> SettingsError {
        SettingsError::Invalid { key: key.to_owned(), origin: self.source(key).cloned(), reason: reason.to_owned() }
    }
}

/// Scheme and `host[:port]` of a URL that has nothing after them but a path.
fn split_url<'a>(url: &'a str, schemes: &[&str]) -> Result<(&'a str, &'a str), String> {
    let wanted = || format!("is not a URL like {}://host:port", schemes[schemes.len() - 1]);
    let (scheme, rest) = url.split_once("://").filter(|(scheme, _)| schemes.contains(scheme)).ok_or_else(wanted)?;
    let host = rest.split('/').next().unwrap_or(rest);
    if host.contains('@') {
        return Err("must not hold a user name or password; there are settings for them".to_owned());
    }
    if host_name(host).is_empty() || rest.contains(['?', '#', ' ']) {
        return Err(wanted());
    }
    Ok((scheme, host))
}

/// The host of `host[:port]`, without the brackets of an IPv6 address.
pub(crate) fn host_name(host: &str) -> &str {
    if let Some(inner) = host.strip_prefix('[') {
        return inner.split(']').next().unwrap_or(inner);
    }
    host.split(':').next().unwrap_or(host)
}

/// Whether a host name means this machine.
pub(crate) fn is_loopback_host(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
