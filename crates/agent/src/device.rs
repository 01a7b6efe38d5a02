//! One device: what it is, what it remembers, and how it takes a request. The same code runs in a real agent and, many
//! times, in a simulated fleet; what differs is where logs and bundles come from and whether a fault is scripted.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use muster_wire::DeviceId;
use muster_wire::method::answer::NOTHING;
use muster_wire::method::{Method, MethodError};
use muster_wire::presence::{AgentName, Presence};
use muster_wire::properties::AnswerProperties;
use muster_wire::topic::{Filters, Prefix, Topic};
use rumqttc::v5::mqttbytes::v5::Publish;
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::alert::{self, Raised};
use crate::consent::{Consent, Word};
use crate::counters::Counters;
use crate::fault::{Fault, FaultFigures};
use crate::fleet::synthetic::Synthetic;
use crate::machine::Machine;
use crate::methods;
use crate::session::Cut;
use crate::session::envelope::{self, Answer, Incoming, ReplyTo, Request};
use crate::session::outbox::{Message, Outbox, Receipt, Sent};
use crate::table::{Begin, Table, Task};
use crate::task;
use crate::trace::{Happened, Trace};
use crate::upload::Uploader;

/// Requests of one device that are worked on at once; more are answered with 500.
pub(crate) const MAX_REQUESTS_AT_ONCE: u32 = 64;
/// Said to who asks without being asked to.
const NO_CONSENT: &str = "the owner of this device has not agreed to collection that nobody asked for";
/// How often a repeater says everything.
const REPEATS: usize = 3;

/// Where logs and bundles come from.
#[derive(Debug)]
pub(crate) enum Source {
    Real(Machine),
    Synthetic(Synthetic),
}

/// What all devices of a process share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub prefix: Prefix,
    /// Subscribe to all requests, not to those of each method.
    pub wildcard: bool,
    /// Host name that stands in object names and JSON lines where IoT Edge has its hub.
    pub hub: String,
    /// The parent's host name, for `$upstream`.
    pub gateway: Option<String>,
    pub source: Source,
    pub uploader: Uploader,
    pub counters: Arc<Counters>,
    pub trace: Option<Trace>,
    pub figures: FaultFigures,
    /// Uploads at once, over all devices of the process: each holds its content while it lasts.
    pub uploads: Semaphore,
    /// Where temporary files are made.
    pub temp: PathBuf,
    /// Largest object this device makes.
    pub max_object_bytes: u64,
    /// Ends everything.
    pub stop: CancellationToken,
    /// All tasks that work on requests and uploads.
    pub work: TaskTracker,
}

/// One device.
#[derive(Debug)]
pub(crate) struct Device {
    id: DeviceId,
    shared: Arc<Shared>,
    outbox: Outbox,
    table: Table,
    cut: Cut,
    consent: Consent,
    fault: Option<Fault>,
    /// Place in the fleet, from 0; what is synthetic about a device follows from it.
    pub ordinal: u32,
    started: OffsetDateTime,
    clock_offset_seconds: i32,
    /// One bundle at a time.
    pub bundle_turn: tokio::sync::Mutex<()>,
    pub bundle_uploads: AtomicU32,
    busy: AtomicU32,
    /// A fault that happens once has happened.
    pub fault_done: AtomicBool,
}

/// What makes one device differ from the next.
#[derive(Debug)]
pub(crate) struct Identity {
    pub id: DeviceId,
    pub ordinal: u32,
    pub fault: Option<Fault>,
    pub clock_offset_seconds: i32,
    pub consent: Consent,
}

impl Device {
    pub(crate) fn new(identity: Identity, shared: Arc<Shared>, outbox: Outbox, table: Table) -> Arc<Self> {
        let Identity { id, ordinal, fault, clock_offset_seconds, consent } = identity;
        Arc::new(Self {
            id,
            shared,
            outbox,
            table,
            cut: Cut::default(),
            consent,
            fault,
            ordinal,
            started: OffsetDateTime::now_utc() + time::Duration::seconds(clock_offset_seconds.into()),
            clock_offset_seconds,
            bundle_turn: tokio::sync::Mutex::new(()),
            bundle_uploads: AtomicU32::new(0),
            busy: AtomicU32::new(0),
            fault_done: AtomicBool::new(false),
        })
    }

    pub(crate) fn id(&self) -> &DeviceId {
        &self.id
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// What it subscribes to.
    pub(crate) fn filters(&self) -> Vec<String> {
        let filters = Filters(&self.shared.prefix);
        if self.shared.wildcard { vec![filters.requests_to(&self.id)] } else { filters.requests_by_method(&self.id) }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    pub(crate) fn cut(&self) -> &Cut {
        &self.cut
    }

    pub(crate) fn consent(&self) -> &Consent {
        &self.consent
    }

    /// Says the birth again while the connection lasts.
    pub(crate) fn announce(&self) {
        self.outbox.send(self.birth(), Vec::new());
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// The device's own clock, right or wrong.
    pub(crate) fn clock(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc() + time::Duration::seconds(self.clock_offset_seconds.into())
    }

    /// Birth: who we are and what we can do.
    pub(crate) fn birth(&self) -> Message {
        let Word { proactive_consent, at } = self.consent.word();
        let presence = Presence {
            online: true,
            proto: vec![muster_wire::properties::PROTOCOL_VERSION.to_owned()],
            methods: Method::ALL.iter().map(|method| method.as_str().to_owned()).collect(),
            agent: Some(AgentName { name: "muster-agent".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }),
            started: Some(self.started),
            clock: Some(self.clock()),
            reported: match &self.shared.source {
                Source::Real(machine) => machine.reported.clone(),
                Source::Synthetic(synthetic) => synthetic.reported(self.ordinal),
            },
            proactive_consent: Some(proactive_consent),
            proactive_consent_at: at,
        };
        self.presence_message(&presence)
    }

    /// What the broker would say for us if we just vanished.
    pub(crate) fn absence(&self) -> Message {
        self.presence_message(&Presence::will())
    }

    fn presence_message(&self, presence: &Presence) -> Message {
        Message {
            topic: Topic::State { device: self.id.clone() }.render(&self.shared.prefix),
            payload: presence.to_json().into(),
            retain: true,
            properties: None,
            void_after_unix: None,
            replaces: None,
            of_this_connection: true,
        }
    }

    /// Sends a message; a repeater says everything three times.
    fn send(&self, message: Message, acknowledges: Vec<Receipt>) {
        if self.has(Fault::Repeater) {
            for _ in 1..REPEATS {
                self.outbox.send(Message { replaces: None, ..message.clone() }, Vec::new());
            }
        }
        if self.outbox.send(message, acknowledges) != Sent::Queued {
            self.counters().dropped();
            tracing::warn!(device.id = %self.id, "a message could not be sent: too large for the broker, or the queue was full");
        }
    }

    fn reply(&self, to: &ReplyTo, answer: &Answer) {
        self.counters().answered(answer.status);
        let mut to = to.clone();
        if self.has(Fault::WrongCorrelation) {
            to.correlation = Bytes::copy_from_slice(Uuid::new_v4().as_bytes());
        }
        self.send(answer.to_message(&to), vec![to.receipt]);
    }

    /// Says how an upload stands.
    pub(crate) fn report(&self, task: &Task) {
        if !task.is_open() {
            self.note(Happened::Done, task.attempt, None);
        }
        let mut report = task.report();
        if self.has(Fault::WrongStatus) {
            report.correlation_id = Uuid::new_v4().to_string();
            report.attempt = Uuid::new_v4();
        }
        let properties = rumqttc::v5::mqttbytes::v5::PublishProperties {
            payload_format_indicator: Some(1),
            content_type: Some(muster_wire::properties::CONTENT_TYPE.to_owned()),
            ..Default::default()
        };
        self.counters().status();
        let message = Message {
            topic: Topic::TaskStatus { device: self.id.clone() }.render(&self.shared.prefix),
            payload: report.to_json().into(),
            retain: false,
            properties: Some(properties),
            void_after_unix: None,
            replaces: Some(task.id),
            of_this_connection: false,
        };
        self.send(message, Vec::new());
    }

    /// Says that something happened; the id of the event. It waits for a connection like everything else, and until the broker has it.
    pub(crate) fn raise(&self, raised: &Raised) -> Uuid {
        let (id, payload) = alert::event(&self.id, raised, self.clock());
        self.counters().alert();
        let message = Message {
            topic: Topic::Alert { device: self.id.clone() }.render(&self.shared.prefix),
            payload,
            retain: false,
            properties: Some(alert::properties()),
            void_after_unix: None,
            replaces: None,
            of_this_connection: false,
        };
        self.send(message, Vec::new());
        id
    }

    /// Takes a message from the broker. Never waits: what takes time gets a task of its own.
    pub(crate) fn receive(self: &Arc<Self>, publish: Publish) {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let connection = self.outbox.connection();
        match envelope::read(&self.shared.prefix, &self.id, &publish, connection, now) {
            Incoming::Ignored(reason) => {
                self.counters().ignored();
                tracing::debug!(device.id = %self.id, "a message was ignored: {reason}");
                self.outbox.acknowledge(Receipt { connection, packet: publish.pkid });
            }
            Incoming::Refused { reply_to, .. } if self.is_silent() => self.outbox.acknowledge(reply_to.receipt),
            Incoming::Refused { reply_to, status, reason } => {
                self.counters().request();
                self.reply(&reply_to, &Answer::refusal(status, &reason));
            }
            Incoming::Request(request) => {
                self.counters().request();
                self.note(Happened::Arrived, request.attempt, Some(&request.method));
                if self.is_silent() {
                    self.outbox.acknowledge(request.reply_to.receipt);
                } else if self.leaves_now(&request) {
                    // Not acknowledged: the broker keeps it for our return.
                    self.cut.ask(self.shared.figures.away);
                } else {
                    self.take(request, now);
                }
            }
        }
    }

    fn take(self: &Arc<Self>, request: Request, now: i64) {
        let collects = !matches!(Method::find(&request.method), Some(Method::Ping | Method::GetTaskStatus));
        if request.proactive && collects && !self.consent.allows() {
            self.reply(&request.reply_to, &Answer::refusal(AnswerProperties::NO_CONSENT, NO_CONSENT));
            self.note(Happened::Done, request.attempt, None);
            return;
        }
        // A ping has one answer and starts nothing, so it is not remembered; but correlation data that is known has its answer.
        if Method::find(&request.method) == Some(Method::Ping) && !self.table.knows(request.attempt) {
            self.reply(&request.reply_to, &ping());
            self.note(Happened::Done, request.attempt, None);
        } else {
            self.begin(request, now);
        }
    }

    /// Deaf from birth, or silent after half an upload.
    fn is_silent(&self) -> bool {
        self.has(Fault::Deaf) || self.has(Fault::HalfUpload) && self.fault_done.load(Ordering::Relaxed)
    }

    /// Half of the offline devices leave when the first real request comes; the others were away at the start.
    fn leaves_now(&self, request: &Request) -> bool {
        self.has(Fault::Offline)
            && self.ordinal % 2 == 1
            && Method::find(&request.method) != Some(Method::Ping)
            && !self.fault_done.swap(true, Ordering::Relaxed)
    }

    fn begin(self: &Arc<Self>, request: Request, now: i64) {
        match self.table.begin(request.attempt, request.deadline_unix, &request.reply_to, now) {
            Begin::Joined => self.counters().repeated(),
            Begin::Known(answer) => {
                self.counters().repeated();
                self.reply(&request.reply_to, &answer);
            }
            Begin::Full => self.reply(&request.reply_to, &Answer::refusal(500, "the device remembers too many requests; try again later")),
            Begin::New if self.busy.fetch_add(1, Ordering::Relaxed) >= MAX_REQUESTS_AT_ONCE => {
                self.busy.fetch_sub(1, Ordering::Relaxed);
                self.give_up(request.attempt, &Answer::refusal(500, "the device is busy with other requests; try again later"));
            }
            Begin::New => {
                let device = Arc::clone(self);
                let stop = self.shared.stop.clone();
                self.shared.work.spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = device.work(request) => {}
                    }
                    device.busy.fetch_sub(1, Ordering::Relaxed);
                });
            }
        }
    }

    /// Answers without remembering, so that the same request may be tried again.
    fn give_up(&self, attempt: Uuid, answer: &Answer) {
        for caller in self.table.abandon(attempt) {
            self.reply(&caller, answer);
        }
        self.note(Happened::Done, attempt, None);
    }

    fn note(&self, what: Happened, attempt: Uuid, method: Option<&str>) {
        if let Some(trace) = &self.shared.trace {
            trace.note(what, &self.id, attempt, method);
        }
    }

    async fn work(self: &Arc<Self>, request: Request) {
        if self.has(Fault::Slow) {
            tokio::time::sleep(self.shared.figures.slow_delay).await;
        }
        let left = u64::try_from(request.deadline_unix - OffsetDateTime::now_utc().unix_timestamp()).unwrap_or(0);
        let reply = match tokio::time::timeout(Duration::from_secs(left.max(1)), methods::carry_out(self, &request)).await {
            Ok(reply) => reply,
            Err(_) => Err(MethodError::failed("the request's deadline passed while the device worked on it")),
        };
        let (payload, task) = match reply {
            Ok(reply) => (Ok(reply.payload), reply.task),
            Err(error) => (Err(error), None),
        };
        let answer = answer_of(payload);
        match self.table.finish(request.attempt, request.deadline_unix, answer.clone(), task.clone()).await {
            Ok(callers) => {
                if task.as_ref().is_some_and(|task| task.method == Method::UploadSupportBundle) {
                    self.counters().bundles_asked_at_once(self.table.open_tasks(Method::UploadSupportBundle));
                }
                for caller in callers {
                    self.reply(&caller, &answer);
                }
                match task {
                    Some(task) => task::launch(self, task),
                    None => self.note(Happened::Done, request.attempt, None),
                }
            }
            Err(error) => {
                tracing::error!(device.id = %self.id, %error, "the task table cannot be written; the request is refused");
                self.give_up(request.attempt, &Answer::refusal(500, "the device cannot write its task table"));
            }
        }
    }

    /// Takes up what a former process left undone, and says again how recent uploads ended.
    pub(crate) fn resume(self: &Arc<Self>) {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        for task in self.table.tasks() {
            if task.is_open() {
                task::launch(self, task);
            } else if task.deadline_unix >= now {
                self.report(&task);
            }
        }
    }
}

fn answer_of(outcome: Result<Bytes, MethodError>) -> Answer {
    match outcome {
        Ok(payload) => Answer { status: 200, message: None, payload },
        Err(error) => Answer { status: error.status(), message: Some(error.message().to_owned()), payload: error.to_json().into() },
    }
}

/// The whole of `ping`.
fn ping() -> Answer {
    Answer { status: 200, message: None, payload: Bytes::from_static(NOTHING) }
}
