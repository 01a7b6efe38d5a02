//! The sections about alerts, as the intake and the store take them, and what they may say.

use std::time::Duration;

use muster_intake::amqp::MAX_NAME_BYTES;
use muster_intake::{AmqpOptions, IntakeOptions};
use muster_store::AlertLimits;
use muster_wire::DeviceId;
use muster_wire::alert::{MAX_ALERT_TEXT_BYTES, SourceRules};
use muster_wire::http::{MAX_EXPIRY_SECONDS, MIN_ATTEMPT_TIMEOUT_SECONDS, StormPolicy};
use secrecy::SecretString;

use super::check::{host_name, is_loopback_host};
use super::{Settings, SettingsError};

/// Most messages taken from the queue and not acknowledged.
const MAX_PREFETCH: u64 = 10_000;
/// Most deliveries of one message.
const MAX_DELIVERY_LIMIT: u64 = 10_000;
/// Most types of events.
const MAX_TYPES: u64 = 100;
/// Longest age of an alert, and longest time of a storm.
const MAX_ALERT_AGE: Duration = Duration::from_secs(31 * 24 * 3600);
/// Most collections that alerts may make per day.
const MAX_PER_DAY: u64 = 1_000_000;

impl Settings {
    /// Whether alerts come from a queue.
    pub fn has_amqp(&self) -> bool {
        !self.amqp.url.is_empty()
    }

    /// What the settings say about decisions.
    pub fn alert_limits(&self) -> AlertLimits {
        let intake = &self.intake;
        AlertLimits {
            max_age: intake.max_age.0,
            expires_after: intake.expires_after.0,
            attempt_timeout: self.dispatch.attempt_timeout.0,
            max_attempts: self.dispatch.attempts,
            per_day: intake.per_day,
            per_tenant_per_day: intake.per_tenant_per_day,
            storm: StormPolicy {
                devices: intake.storm_devices,
                within_seconds: intake.storm_within.0.as_secs(),
                per_stratum: intake.storm_per_stratum,
                at_most: intake.storm_at_most,
                control_twin: intake.control_twin,
            },
        }
    }

    /// What is an alert when it is posted.
    pub fn posted_rules(&self) -> SourceRules {
        self.rules(&self.intake.bare)
    }

    /// What is an alert when it comes from the queue.
    pub fn queue_rules(&self) -> SourceRules {
        self.rules(&self.amqp.bare)
    }

    /// The only tenant the queue may speak for.
    pub fn queue_tenant(&self) -> Option<String> {
        (!self.amqp.tenant.is_empty()).then(|| self.amqp.tenant.clone())
    }

    /// What is an alert when this device says it itself.
    pub fn device_rules(&self, device: &DeviceId) -> SourceRules {
        muster_intake::device_rules(device, &self.intake.types)
    }

    fn rules(&self, bare: &str) -> SourceRules {
        SourceRules { bare: (!bare.is_empty()).then(|| bare.to_owned()), types: self.intake.types.clone() }
    }

    /// All the intake has to know; `name` is this controller's.
    pub fn intake_options(&self, name: &str) -> IntakeOptions {
        IntakeOptions { limits: self.alert_limits(), types: self.intake.types.clone(), amqp: self.amqp_options(name) }
    }

    /// The queue of alerts, where there is one.
    pub fn amqp_options(&self, name: &str) -> Option<AmqpOptions> {
        let amqp = &self.amqp;
        Some(AmqpOptions {
            url: SecretString::from(amqp.url.to_option()?),
            ca_file: (!amqp.ca_file.as_os_str().is_empty()).then(|| amqp.ca_file.clone()),
            name: name.to_owned(),
            queue: amqp.queue.clone(),
            dead_letter_exchange: amqp.dead_letter_exchange.clone(),
            dead_letter_queue: amqp.dead_letter_queue.clone(),
            prefetch: amqp.prefetch,
            delivery_limit: amqp.delivery_limit,
            tenant: self.queue_tenant(),
            rules: self.queue_rules(),
        })
    }

    pub(super) fn check_amqp(&self, warnings: &mut Vec<String>) -> Result<(), SettingsError> {
        let amqp = &self.amqp;
        for (key, name) in [
            ("amqp.queue", &amqp.queue),
            ("amqp.dead_letter_exchange", &amqp.dead_letter_exchange),
            ("amqp.dead_letter_queue", &amqp.dead_letter_queue),
        ] {
            if name.is_empty() || name.len() > MAX_NAME_BYTES || name.starts_with("amq.") || name.chars().any(char::is_control) {
                let rule =
                    format!("is a name of 1 to {MAX_NAME_BYTES} bytes that does not begin with amq., which the broker keeps for itself");
                return Err(self.invalid(key, &rule));
            }
        }
        if amqp.queue == amqp.dead_letter_queue {
            return Err(self.invalid("amqp.dead_letter_queue", "is amqp.queue as well: dead letters would come in again as alerts"));
        }
        self.between("amqp.prefetch", amqp.prefetch.into(), 1, MAX_PREFETCH)?;
        self.between("amqp.delivery_limit", amqp.delivery_limit.into(), 1, MAX_DELIVERY_LIMIT)?;
        self.check_source_name("amqp.bare", &amqp.bare)?;
        if !self.has_amqp() {
            return Ok(());
        }
        // The value is a secret, so no message repeats it.
        let wrong = || self.invalid("amqp.url", "is not a URL like amqp://user:password@host:5672/vhost, or amqps://…");
        let url = url::Url::parse(amqp.url.expose()).map_err(|_| wrong())?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
        match url.scheme() {
            "amqps" => {}
            "amqp" if !amqp.ca_file.as_os_str().is_empty() => {
                return Err(self.invalid("amqp.ca_file", "is given and amqp.url begins with amqp://, which has no TLS; use amqps://"));
            }
            "amqp" if url.password().is_some() && !is_loopback_host(host_name(host)) => {
                warnings.push("amqp.url has no TLS: its password crosses the network readable. Use amqps.".to_owned());
            }
            "amqp" => {}
            _ => return Err(wrong()),
        }
        Ok(())
    }

    pub(super) fn check_intake(&self) -> Result<(), SettingsError> {
        let intake = &self.intake;
        let seconds = Duration::from_secs;
        self.between("intake.types", intake.types.len() as u64, 1, MAX_TYPES)?;
        if intake.types.iter().any(|kind| kind.is_empty() || kind.len() > MAX_ALERT_TEXT_BYTES) {
            return Err(self.invalid("intake.types", &format!("is a list of texts of 1 to {MAX_ALERT_TEXT_BYTES} bytes")));
        }
        self.check_source_name("intake.bare", &intake.bare)?;
        self.within("intake.max_age", intake.max_age, seconds(60), MAX_ALERT_AGE)?;
        self.within("intake.expires_after", intake.expires_after, seconds(MIN_ATTEMPT_TIMEOUT_SECONDS), seconds(MAX_EXPIRY_SECONDS))?;
        self.between("intake.per_day", intake.per_day.into(), 0, MAX_PER_DAY)?;
        self.between("intake.per_tenant_per_day", intake.per_tenant_per_day.into(), 0, MAX_PER_DAY)?;
        self.between("intake.storm_devices", intake.storm_devices.into(), 2, MAX_PER_DAY)?;
        self.within("intake.storm_within", intake.storm_within, seconds(1), MAX_ALERT_AGE)?;
        self.between("intake.storm_per_stratum", intake.storm_per_stratum.into(), 1, MAX_PER_DAY)?;
        self.between("intake.storm_at_most", intake.storm_at_most.into(), 1, MAX_PER_DAY)
    }

    /// The name stands as `source` of each alert.
    fn check_source_name(&self, key: &str, name: &str) -> Result<(), SettingsError> {
        if name.len() > MAX_ALERT_TEXT_BYTES || !name.chars().all(|c| c.is_ascii_graphic()) {
            let rule = format!("is the name of a source, of at most {MAX_ALERT_TEXT_BYTES} visible ASCII characters");
            return Err(self.invalid(key, &rule));
        }
        Ok(())
    }
}
