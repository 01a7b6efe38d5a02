//! Collections and their tasks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    Choice, ConsentKind, EscalationStep, Missing, Origin, PaceView, Paused, Priority, Retry, Rollout, Target, TargetView, Verdict, Window,
    WindowNow,
};
use crate::method::request::{ContentType, Encoding, LogItem};
use crate::{AttemptId, CollectionId, ConsentId, DeviceId, Reason, TaskId, TaskState};

/// Longest reason and case number, in characters.
pub const MAX_TEXT_CHARS: usize = 500;
/// Most items in a request for logs.
pub const MAX_LOG_ITEMS: usize = 64;
/// Shortest time for one attempt, in seconds.
pub const MIN_ATTEMPT_TIMEOUT_SECONDS: u64 = 2;
/// Longest time for one attempt, in seconds: a grant never lives longer.
pub const MAX_ATTEMPT_TIMEOUT_SECONDS: u64 = 24 * 3600;
/// Longest life of a collection, in seconds.
pub const MAX_EXPIRY_SECONDS: u64 = 90 * 24 * 3600;
/// Most attempts a request may ask for.
pub const MAX_ATTEMPTS_ASKED: u8 = 50;
/// Largest in-flight window of one collection.
pub const MAX_IN_FLIGHT: u32 = 200_000;

/// A request to collect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCollection {
    /// What is asked of each device.
    pub request: CollectionRequest,
    /// Which devices.
    pub target: Target,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Support case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub case: Option<String>,
    /// Which of the targeted devices.
    #[serde(default, skip_serializing_if = "is_default")]
    pub choice: Choice,
    /// How long and how fast; each member has a default in the settings.
    #[serde(default)]
    pub options: CollectionOptions,
    /// How it is paced, and when it stops by itself.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rollout: Rollout,
    /// Devices are asked only at these times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Also takes devices that meet the target later, until it expires. Needs a target that can grow: a condition, or all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub standing: bool,
    /// Deeper steps, for the devices whose answer gives reason to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<EscalationStep>,
    /// Meant for as many devices as there are. Without it, a collection of bundles or uploaded logs for more devices than
    /// `dispatch.confirm_above` of the settings is made paused, and begins when somebody resumes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub confirmed: bool,
}

impl NewCollection {
    /// A request with nothing but what is asked, and of whom.
    pub fn new(request: CollectionRequest, target: Target) -> Self {
        Self {
            request,
            target,
            reason: None,
            case: None,
            choice: Choice::default(),
            options: CollectionOptions::default(),
            rollout: Rollout::default(),
            window: None,
            standing: false,
            steps: Vec::new(),
            confirmed: false,
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What is asked of each device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum CollectionRequest {
    /// `UploadSupportBundle`.
    Bundle {
        /// Lower bound of the logs inside, RFC 3339 in UTC. `until` does not exist here: devices get it wrong.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<String>,
        /// Leave out all modules but edgeAgent and edgeHub.
        #[serde(default)]
        edge_runtime_only: bool,
    },
    /// `UploadModuleLogs`.
    UploadLogs {
        /// Which modules, which lines.
        items: Vec<LogItem>,
        /// Gzip by default.
        #[serde(default = "gzip")]
        encoding: Encoding,
        /// JSON by default.
        #[serde(default = "json")]
        content_type: ContentType,
    },
    /// `GetModuleLogs`: small answers over MQTT; the controller lands them.
    Logs {
        /// Which modules, which lines.
        items: Vec<LogItem>,
        /// Text by default.
        #[serde(default = "text")]
        content_type: ContentType,
    },
    /// `ping`: is it reachable?
    Ping {},
}

fn gzip() -> Encoding {
    Encoding::Gzip
}
fn json() -> ContentType {
    ContentType::Json
}
fn text() -> ContentType {
    ContentType::Text
}

impl CollectionRequest {
    /// The word for the kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bundle { .. } => "bundle",
            Self::UploadLogs { .. } => "upload_logs",
            Self::Logs { .. } => "logs",
            Self::Ping {} => "ping",
        }
    }
}

/// How long and how fast.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CollectionOptions {
    /// Time for one attempt, from sending to the end of the upload; the grant lives as long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt_timeout_seconds: Option<u64>,
    /// Attempts per device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u8>,
    /// Life of the collection: after it, whatever is not done expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u64>,
    /// Most devices asked at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u32>,
    /// Who goes first when there is not room for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// When a failed attempt is repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// Tasks per state. They add up to `targeted` at every instant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Counters {
    /// All.
    pub targeted: u64,
    /// Never to be sent.
    pub skipped: u64,
    /// Queued while the device is offline.
    pub waiting: u64,
    /// Queued, device not known to be offline.
    pub queued: u64,
    /// Sent, no answer yet.
    pub dispatched: u64,
    /// Answered, upload not seen yet.
    pub accepted: u64,
    /// Upload seen, not judged yet.
    pub uploaded: u64,
    /// Judged good.
    pub verified: u64,
    /// Refused by the device.
    pub refused: u64,
    /// No attempt succeeded.
    pub failed: u64,
    /// Deadline passed.
    pub expired: u64,
    /// Cancelled.
    pub cancelled: u64,
}

impl Counters {
    /// Sum over all states; equals `targeted`.
    pub fn sum(&self) -> u64 {
        self.done() + self.waiting + self.queued + self.dispatched + self.accepted + self.uploaded
    }

    /// Tasks in a final state.
    pub fn done(&self) -> u64 {
        self.skipped + self.verified + self.refused + self.failed + self.expired + self.cancelled
    }
}

/// Where a collection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CollectionState {
    /// Some task is not final.
    Running,
    /// Every task is final.
    Finished,
    /// Cancelled; every task is final or about to be.
    Cancelled,
}

/// A collection with its counters.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CollectionView {
    /// Its id.
    pub id: CollectionId,
    /// What is asked.
    pub request: CollectionRequest,
    /// How the devices were chosen; a long list is shown by its length in `counters.targeted`.
    pub target: TargetView,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
    /// Support case.
    #[serde(default)]
    pub case: Option<String>,
    /// Who asked.
    pub created_by: String,
    /// What made it.
    #[serde(default)]
    pub origin: Origin,
    /// The consent it needs, if it may not go without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs_consent: Option<ConsentKind>,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
    /// After this, what is not done expires.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: OffsetDateTime,
    /// When the last task became final.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<OffsetDateTime>,
    /// Where it stands.
    pub state: CollectionState,
    /// Settings in force.
    pub options: CollectionOptions,
    /// How it is paced.
    #[serde(default)]
    pub rollout: Rollout,
    /// How far and how fast it is now, if it has limits of its own.
    #[serde(default)]
    pub pace: Option<PaceView>,
    /// Why it asks nobody at present, if somebody or something paused it.
    #[serde(default)]
    pub paused: Option<Paused>,
    /// Devices are asked only at these times.
    #[serde(default)]
    pub window: Option<Window>,
    /// Where its window stands; only while it is open.
    #[serde(default)]
    pub window_now: Option<WindowNow>,
    /// Also takes devices that meet the target later.
    #[serde(default)]
    pub standing: bool,
    /// Deeper steps behind this one.
    #[serde(default)]
    pub steps: Vec<EscalationStep>,
    /// Where those steps stand; only of a collection that is shown by itself.
    #[serde(default)]
    pub later_steps: Vec<StepView>,
    /// The collection whose step this one is.
    #[serde(default)]
    pub step_of: Option<StepOf>,
    /// Tasks per state.
    pub counters: Counters,
    /// Final tasks per reason code.
    pub reasons: BTreeMap<Reason, u64>,
    /// Bytes of its bundles.
    pub bundle_bytes: u64,
}

/// Where a deeper step stands. It is a collection of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StepView {
    /// Its collection.
    pub id: CollectionId,
    /// Its number, from 2.
    pub step: u8,
    /// Kind of its request.
    pub kind: String,
    /// Where it stands.
    pub state: CollectionState,
    /// Its tasks per state; it gets one for each device whose answer gave reason to.
    pub counters: Counters,
}

/// Which step of which collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StepOf {
    /// The collection with the first step.
    pub collection: CollectionId,
    /// Number of the step, from 2.
    pub step: u8,
}

/// One collection × one device.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TaskView {
    /// Its id.
    pub id: TaskId,
    /// Its collection.
    pub collection: CollectionId,
    /// Its device.
    pub device: DeviceId,
    /// Where it stands.
    pub state: TaskState,
    /// Queued, and the device is offline.
    #[serde(default)]
    pub waiting: bool,
    /// Why it ended, or why the last attempt did.
    #[serde(default)]
    pub reason: Option<Reason>,
    /// More about it, for a person.
    #[serde(default)]
    pub detail: Option<String>,
    /// Number of the current or last attempt; 0 before the first.
    pub attempt: u8,
    /// The decision under which it was made or last sent, where it needs consent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consent: Option<ConsentId>,
    /// The id the device gave its upload.
    #[serde(default)]
    pub correlation_id: Option<String>,
    /// When the current attempt was sent.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub dispatched_at: Option<OffsetDateTime>,
    /// When the device answered.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub accepted_at: Option<OffsetDateTime>,
    /// When the upload was seen.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub uploaded_at: Option<OffsetDateTime>,
    /// When it became final.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<OffsetDateTime>,
    /// Not sent before this.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub not_before: Option<OffsetDateTime>,
    /// Its bundle, once sealed.
    #[serde(default)]
    pub bundle: Option<TaskBundle>,
}

/// The bundle of a task, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TaskBundle {
    /// Complete or partial.
    pub verdict: Verdict,
    /// Bytes of all objects.
    pub size_bytes: u64,
    /// Number of objects.
    pub objects: u32,
    /// What a partial bundle lacks.
    #[serde(default)]
    pub missing: Vec<Missing>,
}

/// A task with its earlier attempts.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TaskDetail {
    /// The task.
    #[serde(flatten)]
    pub task: TaskView,
    /// Attempts that ended before the current one, oldest first.
    pub attempts: Vec<AttemptView>,
}

/// An attempt that ended and was followed by another.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AttemptView {
    /// Its id.
    pub id: AttemptId,
    /// State it ended in.
    pub state: TaskState,
    /// Why.
    #[serde(default)]
    pub reason: Option<Reason>,
    /// More about it.
    #[serde(default)]
    pub detail: Option<String>,
    /// The id the device gave its upload.
    #[serde(default)]
    pub correlation_id: Option<String>,
    /// When it was sent.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub dispatched_at: Option<OffsetDateTime>,
    /// When it ended.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub ended_at: OffsetDateTime,
}

/// Answer to a new collection.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CollectionCreated {
    /// Its id.
    pub id: CollectionId,
    /// Tasks made.
    pub targeted: u64,
    /// The same `Idempotency-Key` came before with the same body: this is the collection made then.
    pub repeated: bool,
    /// It is paused: it begins, or goes on, when somebody resumes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

/// Asks for tasks to be tried again inside the same collection.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rerun {
    /// Only tasks that ended for one of these; all that ended without success when empty.
    #[serde(default)]
    pub reasons: Vec<Reason>,
    /// New life of the collection from now on, in seconds; the old expiry stays when absent and still ahead.
    #[serde(default)]
    pub expires_in_seconds: Option<u64>,
    /// Another time for one attempt, from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt_timeout_seconds: Option<u64>,
    /// Another number of attempts per device, counted anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u8>,
    /// Another number of devices asked at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u32>,
}

/// How many tasks a command touched.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Touched {
    /// Tasks.
    pub tasks: u64,
}
