//! A caller that knows the contract's page and nothing else: requests out, answers, statuses and presence in.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_wire::presence::{Presence, ProactiveConsent, TaskReport};
use muster_wire::properties::AnswerProperties;
use muster_wire::topic::{Prefix, Topic};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use uuid::Uuid;

/// One answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub device: String,
    pub correlation: Vec<u8>,
    pub status: u16,
    pub properties: Vec<(String, String)>,
    pub payload: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload).expect("JSON")
    }
}

#[derive(Debug, Default)]
struct Heard {
    answers: Vec<Answer>,
    reports: Vec<(String, TaskReport)>,
    presence: Vec<(String, Presence)>,
    subscribed: bool,
}

/// A connected caller.
pub(crate) struct Caller {
    client: AsyncClient,
    heard: Arc<Mutex<Heard>>,
    prefix: Prefix,
}

/// A request, and what may be wrong with it.
pub(crate) struct Ask<'a> {
    pub device: &'a str,
    pub method: &'a str,
    pub payload: Vec<u8>,
    pub attempt: Uuid,
    pub expiry: Option<u32>,
    pub version: &'a str,
    pub max_response: Option<usize>,
    pub response_topic: Option<String>,
    /// Nobody asked for it.
    pub proactive: bool,
}

impl<'a> Ask<'a> {
    pub(crate) fn new(device: &'a str, method: &'a str, payload: impl Into<Vec<u8>>) -> Self {
        let (attempt, expiry) = (Uuid::now_v7(), Some(30));
        Self {
            device,
            method,
            payload: payload.into(),
            attempt,
            expiry,
            version: "1.0",
            max_response: None,
            response_topic: None,
            proactive: false,
        }
    }
}

impl Caller {
    pub(crate) async fn connect(port: u16) -> Self {
        let mut options = MqttOptions::new(format!("caller-{}", Uuid::now_v7().simple()), "127.0.0.1", port);
        options.set_max_packet_size(Some(1024 * 1024));
        options.set_outgoing_inflight_upper_limit(100);
        options.set_receive_maximum(Some(1000));
        let (client, mut events) = AsyncClient::new(options, 100);
        let prefix = Prefix::default();
        let heard: Arc<Mutex<Heard>> = Arc::default();
        let (listening, subscriber) = (Arc::clone(&heard), client.clone());
        let parse = prefix.clone();
        tokio::spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        for filter in ["muster/v1/d/+/rsp/test", "muster/v1/d/+/task", "muster/v1/d/+/state"] {
                            subscriber.try_subscribe(filter, QoS::AtLeastOnce).expect("room");
                        }
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => listening.lock().expect("unpoisoned").subscribed = true,
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let topic = String::from_utf8(publish.topic.to_vec()).expect("text");
                        let mut heard = listening.lock().expect("unpoisoned");
                        match Topic::parse(&parse, &topic).expect("a topic of the contract") {
                            Topic::Answer { device, .. } => {
                                let properties = publish.properties.expect("properties");
                                heard.answers.push(Answer {
                                    device: device.to_string(),
                                    correlation: properties.correlation_data.unwrap_or_default().to_vec(),
                                    status: AnswerProperties::from_pairs(&properties.user_properties).expect("a status").status,
                                    properties: properties.user_properties,
                                    payload: publish.payload.to_vec(),
                                });
                            }
                            Topic::TaskStatus { device } => {
                                heard.reports.push((device.to_string(), TaskReport::parse(&publish.payload).expect("a report")));
                            }
                            Topic::State { device } => {
                                heard.presence.push((device.to_string(), Presence::parse(&publish.payload).expect("presence")));
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        });
        let caller = Self { client, heard, prefix };
        caller.until("a subscription", |heard| heard.subscribed.then_some(())).await;
        caller
    }

    async fn until<T>(&self, what: &str, look: impl Fn(&Heard) -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(found) = look(&self.heard.lock().expect("unpoisoned")) {
                return found;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "waited in vain for {what}; heard {:#?}",
                self.heard.lock().expect("unpoisoned")
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn send(&self, ask: &Ask<'_>) {
        let device = ask.device.parse().expect("an id");
        let response = ask.response_topic.clone().unwrap_or_else(|| format!("muster/v1/d/{}/rsp/test", ask.device));
        let mut user_properties = vec![("__protVer".to_owned(), ask.version.to_owned()), ("__srcId".to_owned(), "test".to_owned())];
        user_properties.extend(ask.max_response.map(|bytes| ("maxResponse".to_owned(), bytes.to_string())));
        user_properties.extend(ask.proactive.then(|| ("purpose".to_owned(), "proactive".to_owned())));
        let properties = PublishProperties {
            payload_format_indicator: Some(1),
            message_expiry_interval: ask.expiry,
            response_topic: Some(response),
            correlation_data: Some(ask.attempt.as_bytes().to_vec().into()),
            content_type: Some("application/json".to_owned()),
            user_properties,
            ..PublishProperties::default()
        };
        let topic = Topic::Request { device, method: ask.method.to_owned() }.render(&self.prefix);
        self.client.publish_with_properties(topic, QoS::AtLeastOnce, false, ask.payload.clone(), properties).await.expect("sent");
    }

    /// Publishes anything at all.
    pub(crate) async fn raw(&self, topic: &str, payload: &[u8]) {
        self.client.publish(topic, QoS::AtLeastOnce, false, payload.to_vec()).await.expect("sent");
    }

    /// Sends and waits for the answer.
    pub(crate) async fn ask(&self, ask: &Ask<'_>) -> Answer {
        self.send(ask).await;
        self.answer(ask.attempt, 0).await
    }

    /// The answer number `index` to an attempt.
    pub(crate) async fn answer(&self, attempt: Uuid, index: usize) -> Answer {
        let of = |heard: &Heard| heard.answers.iter().filter(|a| a.correlation == attempt.as_bytes()).nth(index).cloned();
        self.until(&format!("answer {index} to {attempt}"), of).await
    }

    pub(crate) fn answers(&self, attempt: Uuid) -> Vec<Answer> {
        self.heard.lock().expect("unpoisoned").answers.iter().filter(|a| a.correlation == attempt.as_bytes()).cloned().collect()
    }

    pub(crate) fn all_answers(&self, device: &str) -> Vec<Answer> {
        self.heard.lock().expect("unpoisoned").answers.iter().filter(|a| a.device == device).cloned().collect()
    }

    pub(crate) fn reports(&self, device: &str) -> Vec<TaskReport> {
        self.heard.lock().expect("unpoisoned").reports.iter().filter(|(d, _)| d == device).map(|(_, report)| report.clone()).collect()
    }

    /// The first final report of an attempt.
    pub(crate) async fn ended(&self, attempt: Uuid) -> TaskReport {
        let of = |heard: &Heard| heard.reports.iter().map(|(_, r)| r).find(|r| r.attempt == attempt && r.status.is_final()).cloned();
        self.until(&format!("the end of {attempt}"), of).await
    }

    /// Presence of a device that fits.
    pub(crate) async fn presence(&self, device: &str, online: bool) -> Presence {
        let of =
            |heard: &Heard| heard.presence.iter().rev().find(|(d, _)| d == device).map(|(_, p)| p.clone()).filter(|p| p.online == online);
        self.until(&format!("{device} online={online}"), of).await
    }

    /// The word about proactive collection in the last birth of a device, once it is this one.
    pub(crate) async fn says(&self, device: &str, word: ProactiveConsent) -> Presence {
        let of = |heard: &Heard| heard.presence.iter().rev().find(|(d, p)| d == device && p.online).map(|(_, p)| p.clone());
        self.until(&format!("{device} says {word:?}"), |heard| of(heard).filter(|p| p.proactive_consent == Some(word))).await
    }

    pub(crate) fn births(&self, device: &str) -> usize {
        self.heard.lock().expect("unpoisoned").presence.iter().filter(|(d, p)| d == device && p.online).count()
    }

    /// Asks how an upload stands, until it has the status.
    pub(crate) async fn task_status(&self, device: &str, id: &str) -> String {
        let answer = self.ask(&Ask::new(device, "GetTaskStatus", format!(r#"{{"schemaVersion":"1.0","correlationId":"{id}"}}"#))).await;
        assert_eq!(answer.status, 200);
        answer.json()["status"].as_str().expect("a word").to_owned()
    }
}

/// A bundle request into a container.
pub(crate) fn bundle_request(grant: &str) -> String {
    serde_json::json!({ "schemaVersion": "1.0", "sasUrl": grant, "since": "1h" }).to_string()
}
