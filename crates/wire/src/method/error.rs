//! What a device answers when it cannot do what was asked.

use serde::Serialize;

use super::name;

/// Longest error message that is kept from a device's answer, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 4096;

/// A method that did not succeed: the status and a sentence for a person. The sentence is shown and logged, never matched on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct MethodError {
    status: u16,
    message: String,
}

#[derive(Serialize)]
struct ErrorPayload<'a> {
    message: &'a str,
}

impl MethodError {
    /// 400: the request itself is wrong, and will be wrong again.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self { status: 400, message: message.into() }
    }

    /// 500: anything else. IoT Edge also uses it for a schema version it does not know.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { status: 500, message: message.into() }
    }

    /// 505: the caller speaks a protocol version that this device does not.
    pub fn version_unsupported(message: impl Into<String>) -> Self {
        Self { status: 505, message: message.into() }
    }

    /// 400 for a method name that is not registered.
    pub fn unknown_method(name: &str) -> Self {
        let shown: String = name.chars().take(64).collect();
        if name::is_not_offered(name) {
            Self::bad_request(format!("the method {shown:?} is not offered by this device"))
        } else {
            Self::bad_request(format!("there is no method {shown:?}"))
        }
    }

    /// The status of the method: 400, 500 or 505.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The payload of the answer.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&ErrorPayload { message: &self.message }).expect("a string is always JSON")
    }
}

/// The sentence in a device's error payload. Whatever the payload is, this gives something short that can be shown and stored.
pub fn message_of(payload: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Read {
        #[serde(alias = "Message")]
        message: String,
    }
    let bounded = &payload[..payload.len().min(super::request::MAX_REQUEST_BYTES)];
    match serde_json::from_slice::<Read>(bounded) {
        Ok(read) => storable(&read.message),
        Err(_) => storable(&String::from_utf8_lossy(&bounded[..bounded.len().min(MAX_MESSAGE_BYTES)])),
    }
}

/// A hostile text, cut to [`MAX_MESSAGE_BYTES`] and without NUL, which a database would refuse.
pub(super) fn storable(text: &str) -> String {
    let mut end = text.len().min(MAX_MESSAGE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_has_one_member_and_comes_back() {
        let error = MethodError::bad_request("x\"y\nz");
        assert_eq!(error.to_json(), br#"{"message":"x\"y\nz"}"#);
        assert_eq!(message_of(&error.to_json()), "x\"y\nz");
        assert_eq!(error.status(), 400);
        assert_eq!(MethodError::failed("").status(), 500);
        assert_eq!(MethodError::version_unsupported("").status(), 505);
        assert!(MethodError::unknown_method("restartmodule").message().contains("not offered"));
    }

    #[test]
    fn any_payload_gives_a_bounded_message() {
        assert_eq!(message_of(b"plain\0text"), "plain\u{fffd}text");
        assert_eq!(message_of(b"\xff"), "\u{fffd}");
        assert_eq!(message_of(b""), "");
        let long = serde_json::json!({ "message": "ä".repeat(MAX_MESSAGE_BYTES) }).to_string();
        assert!(message_of(long.as_bytes()).len() <= MAX_MESSAGE_BYTES);
    }
}
