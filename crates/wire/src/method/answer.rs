//! What a device answers. A device renders these; a controller reads them and believes nothing: sizes are bounded, extra
//! members are ignored, and what is missing is an error that names it.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::error::{MethodError, storable};
use super::gzip::{self, GunzipError};

/// Largest answer that is read, in bytes.
pub const MAX_ANSWER_BYTES: usize = 128 * 1024;
/// Most modules in one answer.
pub const MAX_MODULES: usize = 1000;
/// Longest module id in an answer, in bytes.
pub const MAX_MODULE_ID_BYTES: usize = 256;
/// Longest correlation id a device may give, in bytes.
pub const MAX_CORRELATION_ID_BYTES: usize = 128;

/// Why an answer is not what the method promises.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// Over [`MAX_ANSWER_BYTES`].
    #[error("the answer has {0} bytes; at most {MAX_ANSWER_BYTES} are read")]
    TooLarge(usize),
    /// Not the JSON that was promised.
    #[error("the answer does not have the promised form: {0}")]
    Form(#[from] serde_json::Error),
    /// Over [`MAX_MODULES`].
    #[error("the answer names {0} modules; at most {MAX_MODULES} are read")]
    TooManyModules(usize),
    /// A module id that is blank, too long, or has control characters.
    #[error("the answer names a module {0:?}, which cannot be a module id")]
    ModuleId(String),
    /// Neither `payload` nor `payloadBytes`.
    #[error("module {0} has neither payload nor payloadBytes")]
    NoPayload(String),
    /// `payloadBytes` is not base64.
    #[error("payloadBytes of module {0} is not base64")]
    Base64(String),
    /// `payloadBytes` does not unpack.
    #[error("payloadBytes of module {id}: {source}")]
    Gunzip {
        /// The module.
        id: String,
        /// What is wrong.
        source: GunzipError,
    },
    /// A correlation id that is blank, too long, or has control characters.
    #[error("correlationId {0:?} cannot be an id")]
    CorrelationId(String),
    /// Not one of the six words.
    #[error("{0:?} is not a task status")]
    Status(String),
}

/// The logs of one module in a `GetModuleLogs` answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleLogs {
    /// Name of the module.
    pub id: String,
    /// Its logs.
    pub payload: LogPayload,
}

/// Logs as they travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPayload {
    /// `payload`: text, or the text of a JSON array.
    Plain(String),
    /// `payloadBytes`: gzip of the same, unpacked only when asked for.
    Gzip(Vec<u8>),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ModuleLogsOut<'a> {
    id: &'a str,
    payload_bytes: Option<String>,
    payload: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ModuleLogsIn {
    id: String,
    #[serde(default)]
    payload_bytes: Option<String>,
    #[serde(default)]
    payload: Option<String>,
}

impl ModuleLogs {
    /// The payload of a whole answer. Both members are always there, the unused one null.
    pub fn to_json(all: &[Self]) -> Vec<u8> {
        let out: Vec<_> = all
            .iter()
            .map(|logs| match &logs.payload {
                LogPayload::Plain(text) => ModuleLogsOut { id: &logs.id, payload_bytes: None, payload: Some(text) },
                LogPayload::Gzip(bytes) => ModuleLogsOut { id: &logs.id, payload_bytes: Some(STANDARD.encode(bytes)), payload: None },
            })
            .collect();
        serde_json::to_vec(&out).expect("strings are always JSON")
    }

    /// Reads the payload of a whole answer. The order of the modules means nothing.
    pub fn parse_all(payload: &[u8]) -> Result<Vec<Self>, AnswerError> {
        let read: Vec<ModuleLogsIn> = serde_json::from_slice(bounded(payload)?)?;
        if read.len() > MAX_MODULES {
            return Err(AnswerError::TooManyModules(read.len()));
        }
        read.into_iter().map(Self::checked).collect()
    }

    fn checked(read: ModuleLogsIn) -> Result<Self, AnswerError> {
        if !is_id(&read.id, MAX_MODULE_ID_BYTES) {
            return Err(AnswerError::ModuleId(shown(&read.id)));
        }
        let payload = match (read.payload_bytes, read.payload) {
            (Some(encoded), _) => LogPayload::Gzip(STANDARD.decode(encoded).map_err(|_| AnswerError::Base64(read.id.clone()))?),
            (None, Some(text)) => LogPayload::Plain(text),
            (None, None) => return Err(AnswerError::NoPayload(read.id)),
        };
        Ok(Self { id: read.id, payload })
    }

    /// The logs as text, unpacked if they were packed, never more than `max_bytes`. Bad UTF-8 is replaced.
    pub fn text(&self, max_bytes: usize) -> Result<Cow<'_, str>, AnswerError> {
        let gunzip = |source| AnswerError::Gunzip { id: self.id.clone(), source };
        match &self.payload {
            LogPayload::Plain(text) => Ok(Cow::Borrowed(text)),
            LogPayload::Gzip(packed) => {
                let bytes = gzip::decompress(packed, max_bytes).map_err(gunzip)?;
                Ok(Cow::Owned(match String::from_utf8(bytes) {
                    Ok(text) => text,
                    Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
                }))
            }
        }
    }

    /// The lines of an answer with `contentType: json`.
    pub fn entries(&self, max_bytes: usize) -> Result<Vec<LogEntry>, AnswerError> {
        Ok(serde_json::from_str(&self.text(max_bytes)?)?)
    }
}

/// One line of a log in its JSON form, as read. Everything in it is the device's word.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LogEntry {
    /// Name of the module.
    pub id: String,
    /// `stdout` or `stderr`.
    #[serde(default)]
    pub stream: String,
    /// Its level.
    #[serde(default)]
    pub loglevel: i32,
    /// Its text.
    pub text: String,
    /// When it was received. [`super::timestamp::NO_TIMESTAMP`] is "unknown".
    #[serde(default)]
    pub timestamp: String,
}

impl LogEntry {
    /// The time, unless it is unknown.
    pub fn known_timestamp(&self) -> Option<&str> {
        (!self.timestamp.is_empty() && self.timestamp != super::timestamp::NO_TIMESTAMP).then_some(&self.timestamp)
    }
}

/// What a task of a device has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub enum TaskStatus {
    /// In the type, never sent by a real device.
    NotStarted,
    /// From the moment the method answers.
    Running,
    /// Ended without an error. No proof that a useful object exists.
    Completed,
    /// Ended with an error.
    Failed,
    /// Cancelled inside the device, in practice by a timeout of its own.
    Cancelled,
    /// The device does not know the id, for example after a restart.
    Unknown,
}

impl TaskStatus {
    /// Every status.
    pub const ALL: &[Self] = &[Self::NotStarted, Self::Running, Self::Completed, Self::Failed, Self::Cancelled, Self::Unknown];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotStarted => "NotStarted",
            Self::Running => "Running",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
            Self::Unknown => "Unknown",
        }
    }

    /// From the word, in any letter case.
    pub fn find(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|status| status.as_str().eq_ignore_ascii_case(word))
    }

    /// Whether the device will not say anything else about this task.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::Unknown)
    }
}

impl fmt::Display for TaskStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What an upload does, as it stands in the message of a failed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `UploadModuleLogs`.
    Logs,
    /// `UploadSupportBundle`.
    SupportBundle,
}

/// The answer of the uploads and of `GetTaskStatus`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskStatusAnswer {
    /// What it has come to.
    pub status: TaskStatus,
    /// A sentence if it failed.
    pub message: String,
    /// The id the device gave.
    pub correlation_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TaskStatusIn {
    status: String,
    #[serde(default)]
    message: Option<String>,
    correlation_id: String,
}

impl TaskStatusAnswer {
    /// The answer of an upload that has begun.
    pub fn running(correlation_id: impl Into<String>) -> Self {
        Self::of(TaskStatus::Running, correlation_id)
    }

    /// The answer for an id nobody knows: the id comes back.
    pub fn unknown(correlation_id: impl Into<String>) -> Self {
        Self::of(TaskStatus::Unknown, correlation_id)
    }

    /// An answer without a message, as every status but `Failed` has it.
    pub fn of(status: TaskStatus, correlation_id: impl Into<String>) -> Self {
        Self { status, message: String::new(), correlation_id: correlation_id.into() }
    }

    /// The answer for an upload that failed.
    pub fn failed(operation: Operation, error: &str, correlation_id: impl Into<String>) -> Self {
        let what = match operation {
            Operation::Logs => "upload logs",
            Operation::SupportBundle => "upload support bundle",
        };
        let message = format!("Task {what} failed because of error {error}");
        Self { status: TaskStatus::Failed, message, correlation_id: correlation_id.into() }
    }

    /// The payload of the answer.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings are always JSON")
    }

    /// Reads an answer. The message is cut to [`super::error::MAX_MESSAGE_BYTES`].
    pub fn parse(payload: &[u8]) -> Result<Self, AnswerError> {
        let read: TaskStatusIn = serde_json::from_slice(bounded(payload)?)?;
        if !is_id(&read.correlation_id, MAX_CORRELATION_ID_BYTES) {
            return Err(AnswerError::CorrelationId(shown(&read.correlation_id)));
        }
        Ok(Self {
            status: TaskStatus::find(&read.status).ok_or_else(|| AnswerError::Status(shown(&read.status)))?,
            message: storable(&read.message.unwrap_or_default()),
            correlation_id: read.correlation_id,
        })
    }
}

/// The payload of a method that has nothing to say, such as `ping`.
pub const NOTHING: &[u8] = b"null";

/// An answer of a device: its status and payload, sorted into "did it" and "did not".
pub fn outcome(status: u16, payload: &[u8]) -> Result<&[u8], MethodError> {
    match status {
        200..=299 => Ok(payload),
        400..=499 => Err(MethodError::bad_request(super::error::message_of(payload))),
        505 => Err(MethodError::version_unsupported(super::error::message_of(payload))),
        _ => Err(MethodError::failed(super::error::message_of(payload))),
    }
}

fn bounded(payload: &[u8]) -> Result<&[u8], AnswerError> {
    if payload.len() > MAX_ANSWER_BYTES { Err(AnswerError::TooLarge(payload.len())) } else { Ok(payload) }
}

pub(crate) fn is_id(id: &str, max_bytes: usize) -> bool {
    !id.trim().is_empty() && id.len() <= max_bytes && !id.chars().any(char::is_control)
}

fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packed_logs_come_back_with_a_limit() {
        let mut two_members = gzip::compress(b"abc\n");
        two_members.extend(gzip::compress("\u{2603}\n".as_bytes()));
        let logs = vec![
            ModuleLogs { id: "edgeHub".into(), payload: LogPayload::Gzip(two_members) },
            ModuleLogs { id: "m".into(), payload: LogPayload::Plain("x".into()) },
        ];
        let read = ModuleLogs::parse_all(&ModuleLogs::to_json(&logs)).expect("our own answer");
        assert_eq!(read, logs);
        assert_eq!(read[0].text(8).expect("eight bytes"), "abc\n\u{2603}\n");
        assert!(matches!(read[0].text(7), Err(AnswerError::Gunzip { .. })));
        assert_eq!(ModuleLogs::to_json(&[]), b"[]");
    }

    #[test]
    fn extra_members_are_ignored_and_missing_ones_named() {
        let parse = |text: &str| ModuleLogs::parse_all(text.as_bytes());
        assert_eq!(parse(r#"[{"id":"m","payload":"x","note":{"a":1}}]"#).expect("extra members").len(), 1);
        assert!(matches!(parse(r#"[{"id":"m","payload":null,"payloadBytes":null}]"#), Err(AnswerError::NoPayload(id)) if id == "m"));
        assert!(matches!(parse(r#"[{"id":"m","payloadBytes":"@@"}]"#), Err(AnswerError::Base64(_))));
        assert!(matches!(parse(r#"[{"payload":"x"}]"#), Err(AnswerError::Form(_))));
        assert!(matches!(parse(r#"[{"id":" ","payload":"x"}]"#), Err(AnswerError::ModuleId(_))));
        assert!(matches!(parse(r#"[{"id":"a\u0000b","payload":"x"}]"#), Err(AnswerError::ModuleId(_))));
        assert!(matches!(parse("null"), Err(AnswerError::Form(_))));
    }

    #[test]
    fn every_limit_of_an_answer_holds() {
        let modules = |count: usize| format!("[{}]", vec![r#"{"id":"m","payload":""}"#; count].join(","));
        assert!(ModuleLogs::parse_all(modules(MAX_MODULES).as_bytes()).is_ok());
        assert!(matches!(ModuleLogs::parse_all(modules(MAX_MODULES + 1).as_bytes()), Err(AnswerError::TooManyModules(_))));
        let named = |length: usize| format!(r#"[{{"id":"{}","payload":""}}]"#, "m".repeat(length));
        assert!(ModuleLogs::parse_all(named(MAX_MODULE_ID_BYTES).as_bytes()).is_ok());
        assert!(matches!(ModuleLogs::parse_all(named(MAX_MODULE_ID_BYTES + 1).as_bytes()), Err(AnswerError::ModuleId(_))));
        assert!(matches!(ModuleLogs::parse_all(&vec![b' '; MAX_ANSWER_BYTES + 1]), Err(AnswerError::TooLarge(_))));
        let status = |length: usize| TaskStatusAnswer::running("i".repeat(length)).to_json();
        assert!(TaskStatusAnswer::parse(&status(MAX_CORRELATION_ID_BYTES)).is_ok());
        assert!(matches!(TaskStatusAnswer::parse(&status(MAX_CORRELATION_ID_BYTES + 1)), Err(AnswerError::CorrelationId(_))));
    }

    #[test]
    fn task_status_comes_back() {
        let failed = TaskStatusAnswer::failed(Operation::Logs, "boom", "id1");
        assert_eq!(TaskStatusAnswer::parse(&failed.to_json()).expect("our own answer"), failed);
        let read = TaskStatusAnswer::parse(br#"{"status":"completed","message":null,"correlationId":"x","objects":[]}"#).expect("lenient");
        assert_eq!(read, TaskStatusAnswer::of(TaskStatus::Completed, "x"));
        assert!(matches!(TaskStatusAnswer::parse(br#"{"status":"Done","correlationId":"x"}"#), Err(AnswerError::Status(_))));
        assert!(matches!(TaskStatusAnswer::parse(br#"{"status":"Running","correlationId":" "}"#), Err(AnswerError::CorrelationId(_))));
        for &status in TaskStatus::ALL {
            assert_eq!(TaskStatus::find(status.as_str()), Some(status));
            assert_eq!(serde_json::to_value(status).expect("a word"), status.as_str());
        }
    }

    #[test]
    fn json_logs_are_decoded_twice() {
        let inner = r#"[{"iothub":"h","device":"d","id":"m","stream":"stderr","loglevel":3,"text":"x","timestamp":"0001-01-01T00:00:00"}]"#;
        let answer = ModuleLogs::to_json(&[ModuleLogs { id: "m".into(), payload: LogPayload::Plain(inner.into()) }]);
        let entries = ModuleLogs::parse_all(&answer).expect("an answer")[0].entries(1000).expect("entries");
        assert_eq!((entries[0].text.as_str(), entries[0].loglevel, entries[0].known_timestamp()), ("x", 3, None));
    }

    #[test]
    fn statuses_sort_into_outcomes() {
        assert_eq!(outcome(200, b"x"), Ok(&b"x"[..]));
        assert_eq!(outcome(400, br#"{"message":"m"}"#), Err(MethodError::bad_request("m")));
        assert_eq!(outcome(505, b""), Err(MethodError::version_unsupported("")));
        assert_eq!(outcome(0, b"x"), Err(MethodError::failed("x")));
    }

    proptest! {
        #[test]
        fn never_panics(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = ModuleLogs::parse_all(&payload);
            let _ = TaskStatusAnswer::parse(&payload);
            let _ = outcome(500, &payload);
        }

        #[test]
        fn never_panics_on_almost_answers(id in "\\PC{0,5}", bytes in "[A-Za-z0-9+/=]{0,40}") {
            let payload = serde_json::json!([{"id": id, "payloadBytes": bytes}]).to_string();
            if let Ok(logs) = ModuleLogs::parse_all(payload.as_bytes()) {
                for module in logs { let _ = module.text(100); let _ = module.entries(100); }
            }
        }
    }
}
