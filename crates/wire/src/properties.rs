//! User properties of the device contract over MQTT 5, whichever client carries them. Names follow Azure IoT Operations' RPC protocol.

/// Version of the contract we speak.
pub const PROTOCOL_VERSION: &str = "1.0";
/// Content type of requests and answers.
pub const CONTENT_TYPE: &str = "application/json";

/// Largest request, in bytes.
pub const MAX_REQUEST_BYTES: usize = 128 * 1024;
/// Largest answer, in bytes; also what `maxResponse` says.
pub const MAX_ANSWER_BYTES: usize = 128 * 1024;
/// Largest task status or alert, in bytes.
pub const MAX_STATUS_BYTES: usize = 256 * 1024;
/// Largest birth message, in bytes.
pub const MAX_BIRTH_BYTES: usize = 16 * 1024;
/// Longest `__stMsg` we keep, in characters.
pub const MAX_STATUS_MESSAGE_CHARS: usize = 300;
/// Most user properties that are looked at; a broker may add its own, a hostile peer many.
pub const MAX_USER_PROPERTIES: usize = 64;

const PROTOCOL: &str = "__protVer";
const SOURCE: &str = "__srcId";
const SENT_AT: &str = "__ts";
const STATUS: &str = "__stat";
const STATUS_MESSAGE: &str = "__stMsg";
const SUPPORTED_MAJOR: &str = "__supProtMajVer";
const MAX_RESPONSE: &str = "maxResponse";
const TRACE_PARENT: &str = "traceparent";
const PURPOSE: &str = "purpose";
const PROACTIVE: &str = "proactive";

/// What a request carries beside its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestProperties {
    /// `__protVer`; a device that does not speak it answers 505.
    pub protocol: String,
    /// `__srcId`: who asks.
    pub source: String,
    /// `__ts`, RFC 3339: the caller's clock when it sent the request.
    pub sent_at: Option<String>,
    /// `maxResponse`: largest answer the caller takes, in bytes.
    pub max_response_bytes: usize,
    /// W3C trace context.
    pub trace_parent: Option<String>,
    /// `purpose=proactive`: nobody asked for this; a device whose owner has not agreed to that answers 403.
    pub proactive: bool,
}

impl RequestProperties {
    /// Name and value pairs, in a fixed order.
    pub fn to_pairs(&self) -> Vec<(String, String)> {
        let mut pairs = vec![(PROTOCOL.to_owned(), self.protocol.clone()), (SOURCE.to_owned(), self.source.clone())];
        pairs.extend(self.sent_at.clone().map(|value| (SENT_AT.to_owned(), value)));
        pairs.push((MAX_RESPONSE.to_owned(), self.max_response_bytes.to_string()));
        pairs.extend(self.trace_parent.clone().map(|value| (TRACE_PARENT.to_owned(), value)));
        pairs.extend(self.proactive.then(|| (PURPOSE.to_owned(), PROACTIVE.to_owned())));
        pairs
    }

    /// Reads them back; what is missing or makes no sense takes the contract's default. Compared by key: brokers add pairs of their own.
    pub fn from_pairs(pairs: &[(String, String)]) -> Self {
        Self {
            protocol: find(pairs, PROTOCOL).unwrap_or(PROTOCOL_VERSION).to_owned(),
            source: find(pairs, SOURCE).unwrap_or_default().to_owned(),
            sent_at: find(pairs, SENT_AT).map(str::to_owned),
            // A caller may take less than the contract allows, never more.
            max_response_bytes: find(pairs, MAX_RESPONSE).and_then(|v| v.parse().ok()).unwrap_or(MAX_ANSWER_BYTES).min(MAX_ANSWER_BYTES),
            trace_parent: find(pairs, TRACE_PARENT).map(str::to_owned),
            proactive: find(pairs, PURPOSE) == Some(PROACTIVE),
        }
    }

    /// Whether the major number is ours.
    pub fn is_supported(&self) -> bool {
        self.protocol.split('.').next() == PROTOCOL_VERSION.split('.').next()
    }
}

/// What an answer carries beside its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerProperties {
    /// `__stat`: status of the direct method.
    pub status: u16,
    /// `__stMsg`: a sentence for a person when the status is not 200.
    pub message: Option<String>,
}

/// `__stat` is missing or is not a status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the answer has no readable __stat property")]
pub struct NoStatus;

impl AnswerProperties {
    /// Status 403: the device's owner has not agreed to collection without being asked.
    pub const NO_CONSENT: u16 = 403;
    /// Status 505: this version is not spoken here.
    pub const UNSUPPORTED_PROTOCOL: u16 = 505;

    /// Name and value pairs.
    pub fn to_pairs(&self) -> Vec<(String, String)> {
        let mut pairs = vec![(PROTOCOL.to_owned(), PROTOCOL_VERSION.to_owned()), (STATUS.to_owned(), self.status.to_string())];
        pairs.extend(self.message.clone().map(|value| (STATUS_MESSAGE.to_owned(), value)));
        if self.status == Self::UNSUPPORTED_PROTOCOL {
            let major = PROTOCOL_VERSION.split('.').next().unwrap_or(PROTOCOL_VERSION);
            pairs.push((SUPPORTED_MAJOR.to_owned(), major.to_owned()));
        }
        pairs
    }

    /// Reads them back.
    ///
    /// # Errors
    /// [`NoStatus`] when `__stat` is missing or not three digits from 100 to 599.
    pub fn from_pairs(pairs: &[(String, String)]) -> Result<Self, NoStatus> {
        let status = find(pairs, STATUS).and_then(status).ok_or(NoStatus)?;
        let message = find(pairs, STATUS_MESSAGE).map(|m| m.chars().take(MAX_STATUS_MESSAGE_CHARS).collect());
        Ok(Self { status, message })
    }
}

/// A status as it stands in a property or a topic: three digits, 100 to 599.
pub(crate) fn status(text: &str) -> Option<u16> {
    let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|status| digits && (100..600).contains(status))
}

fn find<'a>(pairs: &'a [(String, String)], key: &str) -> Option<&'a str> {
    pairs.iter().take(MAX_USER_PROPERTIES).find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_come_back_among_strangers() {
        let request = RequestProperties {
            protocol: PROTOCOL_VERSION.to_owned(),
            source: "ctl-1".to_owned(),
            sent_at: Some("2026-01-01T00:00:00Z".to_owned()),
            max_response_bytes: 1000,
            trace_parent: None,
            proactive: true,
        };
        let mut pairs = vec![("x-mqtt-sender".to_owned(), "broker".to_owned())];
        pairs.extend(request.to_pairs());
        assert_eq!(RequestProperties::from_pairs(&pairs), request);
        assert!(request.is_supported());
        assert!(!RequestProperties { protocol: "2.0".to_owned(), ..request }.is_supported());
        let takes = |bytes: &str| RequestProperties::from_pairs(&[(MAX_RESPONSE.to_owned(), bytes.to_owned())]).max_response_bytes;
        assert_eq!((takes("0"), takes("1000")), (0, 1000));
        for more in ["131073", "10000000", "-1", "", "lots"] {
            assert_eq!(takes(more), MAX_ANSWER_BYTES, "{more}");
        }
        let answer = AnswerProperties { status: 400, message: Some("no".to_owned()) };
        assert_eq!(AnswerProperties::from_pairs(&answer.to_pairs()), Ok(answer));
    }

    #[test]
    fn a_status_is_needed_and_bounded() {
        for bad in ["", "abc", "99", "600", "-200", "200 ", "+200", "0200", "2e2", "٢٠٠"] {
            assert_eq!(AnswerProperties::from_pairs(&[("__stat".to_owned(), bad.to_owned())]), Err(NoStatus), "{bad}");
        }
        let long = AnswerProperties::from_pairs(&[("__stat".to_owned(), "500".to_owned()), ("__stMsg".to_owned(), "é".repeat(9000))]);
        assert_eq!(long.expect("a status").message.expect("a message").chars().count(), MAX_STATUS_MESSAGE_CHARS);
        let many: Vec<_> =
            (0..MAX_USER_PROPERTIES).map(|i| (format!("k{i}"), String::new())).chain([("__stat".to_owned(), "200".to_owned())]).collect();
        assert_eq!(AnswerProperties::from_pairs(&many), Err(NoStatus), "properties past the limit are not looked at");
    }
}
