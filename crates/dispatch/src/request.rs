//! Requests to devices: what is asked, in the form the device wants, with the properties of the contract.

use bytes::Bytes;
use muster_domain::deadline::{AttemptWindow, message_expiry_seconds};
use muster_wire::http::CollectionRequest;
use muster_wire::method::name::Method;
use muster_wire::method::request::{
    Encoding, GetModuleLogsRequest, GetTaskStatusRequest, SasUrl, UploadModuleLogsRequest, UploadSupportBundleRequest,
};
use muster_wire::properties::{CONTENT_TYPE, MAX_ANSWER_BYTES, PROTOCOL_VERSION, RequestProperties};
use muster_wire::topic::Topic;
use muster_wire::{AttemptId, DeviceId};
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::clock;
use crate::session::{PublishError, Session};

/// The payload of a collection's request; `grant_url` where the method uploads. Its times are told as the clock of the device shows them.
pub fn payload(request: &CollectionRequest, grant_url: Option<&str>, clock_skew_ms: Option<i64>) -> Bytes {
    let grant_url = SasUrl::new(grant_url.unwrap_or_default());
    let json = match clock::told(request, clock_skew_ms).as_ref() {
        // `until` is never sent: devices put `since` in its place (iotedge-direct-methods §6.4).
        CollectionRequest::Bundle { since, edge_runtime_only } => {
            UploadSupportBundleRequest { sas_url: grant_url, since: since.clone(), until: None, edge_runtime_only: *edge_runtime_only }
                .to_json()
        }
        CollectionRequest::UploadLogs { items, encoding, content_type } => {
            UploadModuleLogsRequest { sas_url: grant_url, items: items.clone(), encoding: *encoding, content_type: *content_type }.to_json()
        }
        // Gzip: three to ten times more lines fit into one answer.
        CollectionRequest::Logs { items, content_type } => {
            GetModuleLogsRequest { items: items.clone(), encoding: Encoding::Gzip, content_type: *content_type }.to_json()
        }
        CollectionRequest::Ping {} => b"{}".to_vec(),
    };
    Bytes::from(json)
}

/// Who is asked, for which attempt, until when.
pub(crate) struct Addressed<'a> {
    pub(crate) device: &'a DeviceId,
    pub(crate) wants_311: bool,
    pub(crate) window: AttemptWindow,
    pub(crate) now: OffsetDateTime,
    /// Nobody asked for this; said where there are properties to say it.
    pub(crate) proactive: bool,
}

/// A message ready to leave.
struct Outgoing {
    topic: String,
    properties: PublishProperties,
    payload: Bytes,
}

/// Sends a collection's request for one attempt.
pub(crate) async fn send(
    session: &Session,
    to: &Addressed<'_>,
    method: Method,
    attempt: AttemptId,
    payload: Bytes,
) -> Result<(), PublishError> {
    let out = outgoing(session, to, method, attempt.uuid(), payload);
    session.publish(out.topic, out.properties, out.payload).await
}

/// The same once more, unless the broker is busy.
pub(crate) fn send_again(
    session: &Session,
    to: &Addressed<'_>,
    method: Method,
    attempt: AttemptId,
    payload: Bytes,
) -> Result<(), PublishError> {
    let out = outgoing(session, to, method, attempt.uuid(), payload);
    session.try_publish(out.topic, out.properties, out.payload)
}

/// Asks how an upload goes, unless the broker is busy. Its correlation data is an id of its own: a device remembers correlation data
/// together with the answer, so the attempt's id would bring back the answer to the upload request.
pub(crate) fn ask_status(session: &Session, to: &Addressed<'_>, poll: Uuid, correlation_id: &str) -> Result<(), PublishError> {
    let payload = GetTaskStatusRequest { correlation_id: correlation_id.to_owned() }.to_json();
    let out = outgoing(session, to, Method::GetTaskStatus, poll, Bytes::from(payload));
    session.try_publish(out.topic, out.properties, out.payload)
}

fn outgoing(session: &Session, to: &Addressed<'_>, method: Method, correlation: Uuid, payload: Bytes) -> Outgoing {
    metrics::counter!("muster_requests_sent_total", "method" => method.as_str()).increment(1);
    if to.wants_311 {
        // No properties there: the three needed values stand in the topic.
        let topic = Topic::Request311 {
            device: to.device.clone(),
            method: method.as_str().to_owned(),
            correlation,
            deadline_unix_seconds: to.window.until.unix_timestamp(),
        };
        return Outgoing { topic: topic.render(&session.prefix), properties: PublishProperties::default(), payload };
    }
    let topic = Topic::Request { device: to.device.clone(), method: method.as_str().to_owned() };
    let answer_to = Topic::Answer { device: to.device.clone(), caller: session.caller.clone() };
    let user_properties = RequestProperties {
        protocol: PROTOCOL_VERSION.to_owned(),
        source: session.caller.clone(),
        sent_at: to.now.replace_nanosecond(0).ok().and_then(|now| now.format(&Rfc3339).ok()),
        max_response_bytes: MAX_ANSWER_BYTES,
        trace_parent: None,
        proactive: to.proactive,
    }
    .to_pairs();
    let properties = PublishProperties {
        payload_format_indicator: Some(1),
        message_expiry_interval: Some(message_expiry_seconds(to.now, &to.window)),
        response_topic: Some(answer_to.render(&session.prefix)),
        correlation_data: Some(Bytes::copy_from_slice(correlation.as_bytes())),
        user_properties,
        content_type: Some(CONTENT_TYPE.to_owned()),
        ..PublishProperties::default()
    };
    Outgoing { topic: topic.render(&session.prefix), properties, payload }
}
