//! Topics of the device contract. Nobody formats or splits a topic anywhere else.
//!
//! ```
//! use muster_wire::topic::{Prefix, Topic};
//! let prefix: Prefix = "muster/v1".parse().unwrap();
//! let topic = Topic::Answer { device: "press-0042".parse().unwrap(), caller: "ctl-a".to_owned() };
//! assert_eq!(topic.render(&prefix), "muster/v1/d/press-0042/rsp/ctl-a");
//! assert_eq!(Topic::parse(&prefix, "muster/v1/d/press-0042/rsp/ctl-a"), Some(topic));
//! ```

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::DeviceId;
use crate::method::name::Method;

/// Longest topic, in bytes: Azure Event Grid and AWS IoT Core allow no more.
pub const MAX_TOPIC_BYTES: usize = 256;
/// Most levels the prefix may have; `{prefix}/d/{device}/c3/{method}/{correlation}/{deadline}` must stay within 8.
pub const MAX_PREFIX_LEVELS: usize = 2;
/// Longest prefix, in bytes.
pub const MAX_PREFIX_BYTES: usize = 40;
/// Longest caller id, in bytes.
pub const MAX_CALLER_BYTES: usize = 64;

/// What all topics of one installation begin with. Default `muster/v1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix(String);

/// Why a text is not a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "topic prefix {0:?}: use 1 to {MAX_PREFIX_LEVELS} levels of A-Z a-z 0-9 - _ . joined by /, at most {MAX_PREFIX_BYTES} characters, like muster/v1"
)]
pub struct InvalidPrefix(String);

impl Prefix {
    /// The prefix as text, without a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Prefix {
    fn default() -> Self {
        Self("muster/v1".to_owned())
    }
}

impl FromStr for Prefix {
    type Err = InvalidPrefix;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let level = |l: &str| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if text.len() > MAX_PREFIX_BYTES || text.split('/').count() > MAX_PREFIX_LEVELS || !text.split('/').all(level) {
            return Err(InvalidPrefix(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A caller's id inside a response topic: one level, no wildcard.
pub fn is_caller(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_CALLER_BYTES && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// A topic of the contract, about one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topic {
    /// Request, controller to device (MQTT 5).
    Request {
        /// Who is asked.
        device: DeviceId,
        /// Direct method, in its canonical spelling when we send it.
        method: String,
    },
    /// Answer, device to the caller that asked.
    Answer {
        /// Who answers.
        device: DeviceId,
        /// Who asked.
        caller: String,
    },
    /// Progress of uploads.
    TaskStatus {
        /// Whose uploads.
        device: DeviceId,
    },
    /// Alert.
    Alert {
        /// Who raises it.
        device: DeviceId,
    },
    /// Birth and will, retained.
    State {
        /// Whose presence.
        device: DeviceId,
    },
    /// Request in the MQTT 3.1.1 form: the three needed values stand in the topic.
    Request311 {
        /// Who is asked.
        device: DeviceId,
        /// Direct method.
        method: String,
        /// The attempt's id.
        correlation: Uuid,
        /// Unix seconds after which the request is void.
        deadline_unix_seconds: i64,
    },
    /// Answer in the MQTT 3.1.1 form.
    Answer311 {
        /// Who answers.
        device: DeviceId,
        /// The attempt's id.
        correlation: Uuid,
        /// Status of the direct method.
        status: u16,
    },
}

impl Topic {
    /// The device this topic is about: taken from the topic, which the broker's permissions vouch for, never from a payload.
    pub fn device(&self) -> &DeviceId {
        match self {
            Self::Request { device, .. }
            | Self::Answer { device, .. }
            | Self::TaskStatus { device }
            | Self::Alert { device }
            | Self::State { device }
            | Self::Request311 { device, .. }
            | Self::Answer311 { device, .. } => device,
        }
    }

    /// The topic as it is published.
    pub fn render(&self, prefix: &Prefix) -> String {
        let device = self.device();
        match self {
            Self::Request { method, .. } => format!("{prefix}/d/{device}/cmd/{method}"),
            Self::Answer { caller, .. } => format!("{prefix}/d/{device}/rsp/{caller}"),
            Self::TaskStatus { .. } => format!("{prefix}/d/{device}/task"),
            Self::Alert { .. } => format!("{prefix}/d/{device}/alert"),
            Self::State { .. } => format!("{prefix}/d/{device}/state"),
            Self::Request311 { method, correlation, deadline_unix_seconds, .. } => {
                format!("{prefix}/d/{device}/c3/{method}/{}/{deadline_unix_seconds}", correlation.simple())
            }
            Self::Answer311 { correlation, status, .. } => format!("{prefix}/d/{device}/r3/{}/{status}", correlation.simple()),
        }
    }

    /// Reads a topic; `None` when it is not one of the contract.
    pub fn parse(prefix: &Prefix, topic: &str) -> Option<Self> {
        if topic.len() > MAX_TOPIC_BYTES {
            return None;
        }
        let rest = topic.strip_prefix(prefix.as_str())?.strip_prefix("/d/")?;
        let mut levels = rest.split('/');
        let device: DeviceId = levels.next()?.parse().ok()?;
        let parsed = match (levels.next()?, levels.next(), levels.next(), levels.next()) {
            ("cmd", Some(method), None, None) if !method.is_empty() => Self::Request { device, method: method.to_owned() },
            ("rsp", Some(caller), None, None) if is_caller(caller) => Self::Answer { device, caller: caller.to_owned() },
            ("task", None, None, None) => Self::TaskStatus { device },
            ("alert", None, None, None) => Self::Alert { device },
            ("state", None, None, None) => Self::State { device },
            ("c3", Some(method), Some(correlation), Some(deadline)) if !method.is_empty() => Self::Request311 {
                device,
                method: method.to_owned(),
                correlation: correlation_of(correlation)?,
                deadline_unix_seconds: deadline.parse().ok().filter(|_| deadline.bytes().all(|byte| byte.is_ascii_digit()))?,
            },
            ("r3", Some(correlation), Some(status), None) => {
                Self::Answer311 { device, correlation: correlation_of(correlation)?, status: crate::properties::status(status)? }
            }
            _ => return None,
        };
        levels.next().is_none().then_some(parsed)
    }
}

/// 32 hex digits; the library would take a UUID in any of its spellings.
fn correlation_of(text: &str) -> Option<Uuid> {
    Uuid::try_parse(text).ok().filter(|_| text.len() == 32)
}

/// Topic filters of a subscriber.
#[derive(Debug, Clone, Copy)]
pub struct Filters<'a>(pub &'a Prefix);

impl Filters<'_> {
    /// All requests to one device, MQTT 5 form.
    pub fn requests_to(&self, device: &DeviceId) -> String {
        format!("{}/d/{device}/cmd/#", self.0)
    }

    /// The same, a filter for each method. A broker may compare each message with every wildcard it holds, and one per device then makes
    /// a message as dear as the fleet is large.
    pub fn requests_by_method(&self, device: &DeviceId) -> Vec<String> {
        Method::ALL.iter().map(|method| format!("{}/d/{device}/cmd/{method}", self.0)).collect()
    }

    /// Answers of all devices to one caller.
    pub fn answers_to(&self, caller: &str) -> String {
        format!("{}/d/+/rsp/{caller}", self.0)
    }

    /// Answers in the MQTT 3.1.1 form; they name no caller.
    pub fn answers_311(&self) -> String {
        format!("{}/d/+/r3/+/+", self.0)
    }

    /// Task status of all devices.
    pub fn task_status(&self) -> String {
        format!("{}/d/+/task", self.0)
    }

    /// Alerts of all devices.
    pub fn alerts(&self) -> String {
        format!("{}/d/+/alert", self.0)
    }

    /// Presence of all devices.
    pub fn states(&self) -> String {
        format!("{}/d/+/state", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn device() -> DeviceId {
        "dev.1:a_b".parse().expect("a device id")
    }

    #[test]
    fn both_directions_agree() {
        let prefix = Prefix::default();
        let correlation = Uuid::now_v7();
        for topic in [
            Topic::Request { device: device(), method: "GetModuleLogs".to_owned() },
            Topic::Answer { device: device(), caller: "ctl-1".to_owned() },
            Topic::TaskStatus { device: device() },
            Topic::Alert { device: device() },
            Topic::State { device: device() },
            Topic::Request311 { device: device(), method: "ping".to_owned(), correlation, deadline_unix_seconds: 1_800_000_000 },
            Topic::Answer311 { device: device(), correlation, status: 200 },
        ] {
            let text = topic.render(&prefix);
            assert!(text.split('/').count() <= 8, "{text}");
            assert_eq!(Topic::parse(&prefix, &text), Some(topic));
        }
    }

    #[test]
    fn forged_topics_are_none() {
        let prefix = Prefix::default();
        for topic in [
            "",
            "muster/v1",
            "muster/v1/d/",
            "muster/v1/d/x",
            "muster/v2/d/x/task",
            "muster/v1/d/x/task/y",
            "muster/v1/d/x y/task",
            "muster/v1/d//task",
            "muster/v1/d/x/rsp/a/b",
            "muster/v1/d/x/rsp/",
            "muster/v1/d/+/task",
            "muster/v1/d/x/r3/zz/200",
            "muster/v1/d/x/r3/00000000-0000-7000-8000-000000000001/200",
            "muster/v1/d/x/r3/{00000000-0000-7000-8000-000000000001}/200",
            "muster/v1/d/x/r3/00000000000070008000000000000001/0",
            "muster/v1/d/x/r3/00000000000070008000000000000001/+200",
            "muster/v1/d/x/r3/00000000000070008000000000000001/65535",
            "muster/v1/d/x/r3/00000000000070008000000000000001/",
            "muster/v1/d/x/c3/ping/00000000000070008000000000000001/-5",
            "muster/v1/d/x/c3/ping/00000000000070008000000000000001/+5",
            "muster/v1/d/x/c3/ping/00000000000070008000000000000001/soon",
            "muster/v1/d/../state",
            "muster/v1x/d/x/task",
        ] {
            assert_eq!(Topic::parse(&prefix, topic), None, "{topic}");
        }
        assert_eq!(Topic::parse(&prefix, &format!("muster/v1/d/x/cmd/{}", "m".repeat(300))), None);
    }

    #[test]
    fn the_longest_ids_fit_the_topic_limit() {
        let prefix: Prefix = format!("{}/{}", "p".repeat(19), "q".repeat(20)).parse().expect("the longest prefix");
        let device: DeviceId = "d".repeat(128).parse().expect("the longest device id");
        let topic = Topic::Answer { device: device.clone(), caller: "c".repeat(MAX_CALLER_BYTES) };
        assert!(topic.render(&prefix).len() <= MAX_TOPIC_BYTES);
        let topic = Topic::Request311 {
            device,
            method: "UploadSupportBundle".to_owned(),
            correlation: Uuid::max(),
            deadline_unix_seconds: 99_999_999_999,
        };
        assert!(topic.render(&prefix).len() <= MAX_TOPIC_BYTES);
    }

    #[test]
    fn prefixes_outside_the_rule_are_refused() {
        for bad in ["", "/", "a/", "/a", "a/b/c", "a+", "#", "a b", &"x".repeat(41)] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_without_panic(text in ".{0,300}") {
            let _ = Topic::parse(&Prefix::default(), &text);
            let _ = Topic::parse(&Prefix::default(), &format!("muster/v1/d/{text}"));
        }
    }
}
