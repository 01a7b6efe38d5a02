//! What a device says when something happens to it: a structured CloudEvent around the common alert schema, on its own topic.
//!
//! A real device says it with `muster-agent raise`, beside the running agent; a simulated one of a fleet says it by itself.

use std::time::Duration;

use bytes::Bytes;
use muster_wire::DeviceId;
use muster_wire::alert::{ALERT_TYPE, COMMON_ALERT_SCHEMA, MAX_ALERT_TEXT_BYTES, Severity};
use muster_wire::topic::Topic;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason, PublishProperties};
use rumqttc::v5::{AsyncClient, Event};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::agent::{AgentError, session_options};
use crate::fault::Who;
use crate::settings::Settings;

/// Content type of an alert.
pub const CONTENT_TYPE: &str = "application/cloudevents+json; charset=utf-8";
/// How long `raise` waits for the broker, from the connection to the receipt.
pub const RAISE_LIMIT: Duration = Duration::from_secs(30);
/// Largest rate at which a fleet raises alerts, a second.
pub const MAX_RAISE_RATE: f64 = 100_000.0;

/// What is said about one thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raised {
    /// Name of the indicator.
    pub indicator: String,
    /// How bad it is; for display and order.
    pub severity: Severity,
    /// It ended, rather than began.
    pub resolved: bool,
    /// Joins what fired with what resolved; a new one where it is absent.
    pub origin: Option<String>,
    /// A sentence for people.
    pub description: Option<String>,
}

impl Raised {
    /// That it began, and nothing else.
    pub fn new(indicator: impl Into<String>) -> Self {
        Self { indicator: indicator.into(), severity: Severity::Sev2, resolved: false, origin: None, description: None }
    }

    /// What joins this one with others about the same, if it is said.
    fn origin(&self, id: Uuid) -> String {
        self.origin.clone().unwrap_or_else(|| id.to_string())
    }
}

/// Why a text is no name of an indicator.
///
/// # Errors
/// The reason, with what may be done.
pub fn check_indicator(name: &str) -> Result<(), String> {
    if name.trim().is_empty() {
        return Err("an indicator has a name, like IOTEdgeAgentNotRunningCondition".to_owned());
    }
    if name.len() > MAX_ALERT_TEXT_BYTES {
        return Err(format!("the name of the indicator has {} bytes; at most {MAX_ALERT_TEXT_BYTES}", name.len()));
    }
    Ok(())
}

/// The event as it goes out, and its id. `at` is the device's own clock.
pub fn event(device: &DeviceId, raised: &Raised, at: OffsetDateTime) -> (Uuid, Bytes) {
    let id = Uuid::new_v4();
    // Milliseconds: a clock that says more does not know more.
    let at = at.replace_millisecond(at.millisecond()).unwrap_or(at).format(&Rfc3339).unwrap_or_default();
    let severity = raised.severity.as_str();
    let severity = format!("S{}", &severity[1..]);
    let (condition, ended) = if raised.resolved { ("Resolved", Some(at.clone())) } else { ("Fired", None) };
    let mut essentials = serde_json::json!({
        "alertId": format!("urn:device:{device}:alert:{id}"),
        "severity": severity,
        "monitorCondition": condition,
        "monitoringService": "Muster agent",
        "configurationItems": [device.as_str()],
        "originAlertId": raised.origin(id),
        "firedDateTime": at,
        "essentialsVersion": "1.0",
        "alertContextVersion": "1.0",
    });
    if let Some(ended) = ended {
        essentials["resolvedDateTime"] = ended.into();
    }
    if let Some(description) = &raised.description {
        essentials["description"] = description.as_str().into();
    }
    let event = serde_json::json!({
        "specversion": "1.0",
        "id": id.to_string(),
        "source": format!("urn:device:{device}"),
        "type": ALERT_TYPE,
        "subject": raised.indicator,
        "time": at,
        "datacontenttype": "application/json",
        "data": {
            "schemaId": COMMON_ALERT_SCHEMA,
            "data": {
                "essentials": essentials,
                "alertContext": { "properties": { "alertType": raised.indicator } },
            },
        },
    });
    (id, event.to_string().into())
}

pub(crate) fn properties() -> PublishProperties {
    PublishProperties { payload_format_indicator: Some(1), content_type: Some(CONTENT_TYPE.to_owned()), ..PublishProperties::default() }
}

/// Why an alert could not be raised.
#[derive(Debug, thiserror::Error)]
pub enum RaiseError {
    /// Settings, or the way to the broker.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The name.
    #[error("{0}")]
    Indicator(String),
    /// The connection.
    #[error("the broker at {url}: {reason}; nothing was raised for certain, and raising it again is harmless")]
    Connection {
        /// Where.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// The broker's word about the message.
    #[error("the broker did not take the alert ({0}); the user {1:?} has to be allowed to write to the device's alert topic")]
    Refused(String, String),
    /// Nobody takes alerts.
    #[error("the broker took the alert and has nobody who reads it: no controller has been connected to it, or one that takes no alerts")]
    NobodyListens,
}

/// Says it, on a connection of its own beside that of a running agent, and waits until the broker has it. The event's id.
///
/// # Errors
/// [`RaiseError`]
pub async fn raise(settings: &Settings, raised: &Raised) -> Result<Uuid, RaiseError> {
    check_indicator(&raised.indicator).map_err(RaiseError::Indicator)?;
    let device = settings.device_id().map_err(AgentError::from)?;
    let session = session_options(settings, &device)?;
    // The id of the running agent would throw it out.
    let options = session.to_mqtt_once(format!("{}-raise-{}", session.client_id, Uuid::new_v4().simple()));
    let (id, payload) = event(&device, raised, OffsetDateTime::now_utc());
    let topic = Topic::Alert { device }.render(&session.prefix);
    let connection = |reason: String| RaiseError::Connection { url: settings.mqtt.url.clone(), reason };
    let (client, mut events) = AsyncClient::new(options, 4);
    let receipt = async {
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    let sent = client.try_publish_with_properties(topic.clone(), QoS::AtLeastOnce, false, payload.clone(), properties());
                    sent.map_err(|error| connection(error.to_string()))?;
                }
                Ok(Event::Incoming(Packet::PubAck(ack))) => return Ok(ack.reason),
                Ok(_) => {}
                Err(error) => return Err(connection(error.to_string())),
            }
        }
    };
    let reason = tokio::time::timeout(RAISE_LIMIT, receipt).await.unwrap_or_else(|_| Err(connection("no answer in time".to_owned())))?;
    // The goodbye is polite; the alert is there without it.
    let _ = client.try_disconnect();
    let _ = tokio::time::timeout(Duration::from_secs(1), events.poll()).await;
    match reason {
        PubAckReason::Success => Ok(id),
        PubAckReason::NoMatchingSubscribers => Err(RaiseError::NobodyListens),
        other => Err(RaiseError::Refused(format!("{other:?}"), settings.mqtt.username.clone())),
    }
}

/// An indicator that devices of a fleet raise, and which: `IOTEdgeAgentNotRunningCondition=10%`, `AcsUnhealthyCondition=3,7`.
#[derive(Debug, Clone, PartialEq)]
pub struct RaiseRule {
    /// The indicator.
    pub indicator: String,
    /// Who raises it.
    pub who: Who,
}

impl std::str::FromStr for RaiseRule {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || {
            let like = "like IOTEdgeAgentNotRunningCondition=10% or AcsUnhealthyCondition=3,7";
            format!("{text:?}: write INDICATOR=SHARE% or INDICATOR=DEVICE,DEVICE,…, {like}")
        };
        let (indicator, who) = text.split_once('=').ok_or_else(usage)?;
        check_indicator(indicator.trim())?;
        Ok(Self { indicator: indicator.trim().to_owned(), who: Who::read(who).ok_or_else(usage)? })
    }
}

/// What a fleet raises by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Raising {
    /// Who raises what; each once.
    pub rules: Vec<RaiseRule>,
    /// When it begins, after all devices had the time to connect.
    pub after: Duration,
    /// Alerts a second of all devices together; 0 is all at once.
    pub rate: f64,
}

impl Default for Raising {
    fn default() -> Self {
        Self { rules: Vec::new(), after: Duration::from_secs(10), rate: 10.0 }
    }
}

impl Raising {
    /// Who raises what, in an order that follows from the seed. `Err`: a device that is not there.
    pub(crate) fn assign(&self, devices: usize, seed: u64) -> Result<Vec<(usize, &str)>, (String, usize)> {
        let mut all = Vec::new();
        for (place, rule) in (0_u64..).zip(&self.rules) {
            match &rule.who {
                Who::Numbers(numbers) => {
                    for &number in numbers {
                        let index = number.checked_sub(1).filter(|&index| index < devices);
                        all.push((index.ok_or_else(|| (rule.indicator.clone(), number))?, rule.indicator.as_str()));
                    }
                }
                Who::Share(share) => {
                    let mut order: Vec<usize> = (0..devices).collect();
                    order.shuffle(&mut SmallRng::seed_from_u64(seed ^ 0x616c_6572_7421 ^ (place << 48)));
                    let count = (share * devices as f64).round() as usize;
                    all.extend(order.into_iter().take(count).map(|index| (index, rule.indicator.as_str())));
                }
            }
        }
        all.shuffle(&mut SmallRng::seed_from_u64(seed));
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_says_who_what_and_when() {
        let device: DeviceId = "press-0042".parse().expect("an id");
        let at = time::macros::datetime!(2026-11-28 08:00:01.5 UTC);
        let raised = Raised { description: Some("down".to_owned()), ..Raised::new("IOTEdgeAgentNotRunningCondition") };
        let (id, bytes) = event(&device, &raised, at);
        let event_of = |bytes: &Bytes| serde_json::from_slice::<serde_json::Value>(bytes).expect("JSON");
        let said = event_of(&bytes);
        assert_eq!((said["source"].as_str(), said["type"].as_str()), (Some("urn:device:press-0042"), Some(ALERT_TYPE)));
        assert_eq!(
            (said["subject"].as_str(), said["time"].as_str()),
            (Some("IOTEdgeAgentNotRunningCondition"), Some("2026-11-28T08:00:01.5Z"))
        );
        let essentials = &said["data"]["data"]["essentials"];
        assert_eq!((essentials["severity"].as_str(), essentials["monitorCondition"].as_str()), (Some("Sev2"), Some("Fired")));
        assert_eq!(essentials["originAlertId"].as_str(), Some(id.to_string().as_str()));
        assert!(essentials["resolvedDateTime"].is_null() && essentials["description"] == "down");
        let ended = Raised { resolved: true, origin: Some(id.to_string()), ..Raised::new("IOTEdgeAgentNotRunningCondition") };
        let (other, bytes) = event(&device, &ended, at);
        let said = event_of(&bytes);
        assert_ne!(other, id, "another event");
        let essentials = &said["data"]["data"]["essentials"];
        assert_eq!(
            (essentials["monitorCondition"].as_str(), essentials["resolvedDateTime"].as_str()),
            (Some("Resolved"), said["time"].as_str())
        );
        assert_eq!(essentials["originAlertId"].as_str(), Some(id.to_string().as_str()));
    }

    #[test]
    fn rules_are_read_or_refused_with_an_example() {
        assert_eq!("A=10%".parse(), Ok(RaiseRule { indicator: "A".to_owned(), who: Who::Share(0.1) }));
        assert_eq!("A = 3,7".parse(), Ok(RaiseRule { indicator: "A".to_owned(), who: Who::Numbers(vec![3, 7]) }));
        for bad in ["A", "A=", "A=x", "A=101%", "A=0"] {
            assert!(bad.parse::<RaiseRule>().expect_err(bad).contains("AcsUnhealthyCondition=3,7"), "{bad}");
        }
        assert!("=5%".parse::<RaiseRule>().expect_err("no name").contains("has a name"));
        assert!(format!("{}=5%", "x".repeat(MAX_ALERT_TEXT_BYTES + 1)).parse::<RaiseRule>().is_err());
    }

    #[test]
    fn who_raises_what_follows_from_the_seed() {
        let raising =
            |rules: &[&str]| Raising { rules: rules.iter().map(|rule| rule.parse().expect("a rule")).collect(), ..Raising::default() };
        let some = raising(&["A=10%", "B=1,200", "C=100%"]);
        let all = some.assign(200, 5).expect("assigned");
        let of = |name| all.iter().filter(|(_, indicator)| *indicator == name).count();
        assert_eq!((of("A"), of("B"), of("C")), (20, 2, 200));
        assert_eq!(some.assign(200, 5).expect("assigned"), all);
        assert_ne!(some.assign(200, 6).expect("assigned"), all);
        assert_eq!(raising(&["B=201"]).assign(200, 5), Err(("B".to_owned(), 201)));
    }
}
