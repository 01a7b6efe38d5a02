//! What can happen to an attempt, and what follows from it: one pure function, [`decide`], that holds all the rules.
//!
//! The caller reads [`TaskFacts`] from the database, decides, and applies the decision with an update that names the states the task
//! may come from ([`crate::task::sources`]). When that update touches no row, something else was faster, and the facts are read again.

use std::time::Duration;

use muster_wire::http::Verdict;
use muster_wire::method::answer::TaskStatus;
use muster_wire::{Reason, TaskState};

use crate::deadline::MIN_ATTEMPT;
use crate::retry::Reasons;
use crate::task;

/// A 400 of an agent that started less than this long ago may come from a method it has not registered yet, and says nothing.
pub const METHODS_REGISTER_WITHIN: Duration = Duration::from_secs(60);

/// What is known of the device's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Its birth message stands.
    Online,
    /// Its will was published.
    Offline,
    /// Never seen, or a broker without wills.
    Unknown,
}

/// Which kind of work a task is; the methods promise different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// `UploadSupportBundle`: one object, which becomes visible only when it is whole.
    UploadOne,
    /// `UploadModuleLogs`: an object per module, which may grow while we look.
    UploadMany,
    /// `GetModuleLogs`: the answer is the result, and we land it.
    Answer,
    /// `ping`: that it answers is all.
    Ping,
}

/// What the database knows of a task when something happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TaskFacts {
    /// Where it is.
    pub state: TaskState,
    /// Number of the current attempt; 0 before the first.
    pub attempt: u8,
    /// Attempts allowed.
    pub max_attempts: u8,
    /// What is being done.
    pub work: Work,
    /// The device's connection.
    pub presence: Presence,
    /// Whether its birth message lists the method; `None` when no birth message is known.
    pub method_listed: Option<bool>,
    /// How long ago the device's agent started, if it said so.
    pub agent_started_ago: Option<Duration>,
    /// The last status the device reported for this attempt.
    pub said: Option<TaskStatus>,
    /// The attempt's grant has run out, and the grace after it too.
    pub time_up: bool,
    /// Until the deadline of the task; zero when it has passed.
    pub time_left: Duration,
    /// Wait before the next attempt ([`crate::retry::wait`]).
    pub retry_delay: Duration,
    /// Reasons for which the collection wants an attempt repeated ([`crate::retry::reasons`]).
    pub retry_reasons: Reasons,
}

/// A device's answer to the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// 200 with a correlationId: the device is at work.
    Accepted,
    /// 200 with the result itself.
    Result,
    /// 200, and not what the method promises.
    Malformed,
    /// Any other status.
    Status(u16),
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The device answered the request.
    Answered(Answer),
    /// The device reported on its upload, pushed or asked. The caller stores it as [`TaskFacts::said`] as well.
    StatusReported(TaskStatus),
    /// A look into the inbox found committed objects.
    ObjectsFound,
    /// A look into the inbox found no committed object.
    NothingFound {
        /// Uncommitted blocks, or bytes the device reported: it had begun.
        begun: bool,
    },
    /// The objects were read and judged ([`crate::verdict::judge`]).
    Judged(Verdict, Reason),
    /// The attempt's grace is over ([`crate::deadline::AttemptWindow::give_up_at`]).
    AttemptTimeUp,
    /// The deadline of the task passed.
    DeadlinePassed,
    /// An engineer cancelled, or the collection was aborted.
    CancelRequested,
    /// The owner has not consented, or no longer does.
    ConsentMissing,
    /// The device's birth message does not list the method.
    MethodMissing,
    /// The device speaks no version of the protocol that we speak.
    ProtocolMismatch,
    /// The device is no longer in the registry.
    DeviceGone,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Move the task. A final state comes with a reason, another without.
    Move {
        /// Where to.
        to: TaskState,
        /// Why it ended.
        reason: Option<Reason>,
    },
    /// Back to queued, to be tried again after the back-off; the reason goes into the attempt's history.
    Retry {
        /// Why this attempt failed.
        reason: Reason,
    },
    /// Go and look into the inbox (land the answer first, where the answer is the result), then come back with what was found.
    Look,
    /// Nothing to do; count it.
    Ignore {
        /// Why.
        why: Ignored,
    },
}

/// Why an event changes nothing. The words are label values of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// The task is final.
    Final,
    /// The task is not with the device at present.
    NotDispatched,
    /// Said before, or implied by what is known.
    AlreadyKnown,
    /// The objects are being judged; their verdict decides.
    BeingJudged,
    /// There is still time.
    StillWaiting,
}

impl Ignored {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Final => "final",
            Self::NotDispatched => "not_dispatched",
            Self::AlreadyKnown => "already_known",
            Self::BeingJudged => "being_judged",
            Self::StillWaiting => "still_waiting",
        }
    }
}

impl Decision {
    /// The state the task is in afterwards; `None` when it stays.
    pub fn to(self) -> Option<TaskState> {
        match self {
            Self::Move { to, .. } => Some(to),
            Self::Retry { .. } => Some(TaskState::Queued),
            Self::Look | Self::Ignore { .. } => None,
        }
    }
}

/// What follows from an event. Total: every state and every event has an answer, and every move it names is in the table.
pub fn decide(task: &TaskFacts, event: &Event) -> Decision {
    use TaskState::{Accepted, Dispatched, Queued, Uploaded};
    match task.state {
        Queued => while_queued(task, event),
        Dispatched | Accepted => while_with_the_device(task, event),
        Uploaded => while_uploaded(task, event),
        _ => ignore(Ignored::Final),
    }
}

/// Whether the device may still be working on an attempt that ended for this reason. Then the next one begins not before the grant and
/// its grace have run out ([`crate::deadline::AttemptWindow::give_up_at`]): a device is never asked for two bundles at the same time.
pub fn may_still_be_at_work(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::NoAnswer | Reason::AnswerMalformed | Reason::UploadUnfinished | Reason::SasExpired | Reason::LandingUnavailable
    )
}

fn while_queued(task: &TaskFacts, event: &Event) -> Decision {
    match event {
        Event::CancelRequested => end(TaskState::Cancelled, Reason::CancelledByUser),
        Event::ConsentMissing => end(TaskState::Skipped, Reason::ConsentMissing),
        Event::MethodMissing => end(TaskState::Skipped, Reason::MethodUnsupported),
        Event::ProtocolMismatch => end(TaskState::Skipped, Reason::ProtocolUnsupported),
        Event::DeviceGone => end(TaskState::Skipped, Reason::DeviceUnknown),
        Event::DeadlinePassed if task.presence == Presence::Offline => end(TaskState::Expired, Reason::DeviceOffline),
        Event::DeadlinePassed => end(TaskState::Expired, Reason::DeadlinePassed),
        // The attempt was given up too early; the next one is not sent yet, so this one still counts. What is bad is no news.
        Event::ObjectsFound if task.attempt > 0 => Decision::Move { to: TaskState::Uploaded, reason: None },
        Event::Judged(verdict @ (Verdict::Complete | Verdict::Partial), reason) if task.attempt > 0 && task.work == Work::Answer => {
            judged(task, *verdict, *reason)
        }
        Event::Answered(_)
        | Event::StatusReported(_)
        | Event::ObjectsFound
        | Event::NothingFound { .. }
        | Event::Judged(..)
        | Event::AttemptTimeUp => ignore(Ignored::NotDispatched),
    }
}

fn while_with_the_device(task: &TaskFacts, event: &Event) -> Decision {
    let dispatched = task.state == TaskState::Dispatched;
    match *event {
        Event::CancelRequested => end(TaskState::Cancelled, Reason::CancelledByUser),
        Event::ConsentMissing => end(TaskState::Cancelled, Reason::ConsentMissing),
        Event::Answered(answer) if dispatched => answered(task, answer),
        Event::Answered(_) => ignore(Ignored::AlreadyKnown),
        Event::StatusReported(status) => reported(task, status),
        Event::ObjectsFound if may_be_growing(task) => ignore(Ignored::StillWaiting),
        Event::ObjectsFound => Decision::Move { to: TaskState::Uploaded, reason: None },
        Event::NothingFound { begun } => nothing_found(task, begun),
        // Only the answer that we land ourselves is judged while dispatched. Objects of a device go through `uploaded`, so that
        // whoever dies while judging them leaves a task that is found again.
        Event::Judged(verdict, reason) if dispatched && task.work == Work::Answer => judged(task, verdict, reason),
        Event::Judged(..) => Decision::Look,
        // A ping leaves nothing behind to look for.
        Event::AttemptTimeUp if task.work == Work::Ping => failed_attempt(task, Reason::NoAnswer),
        Event::DeadlinePassed if task.work == Work::Ping => end(TaskState::Expired, Reason::DeadlinePassed),
        // The device's silence says nothing about its upload: the object may be there.
        Event::AttemptTimeUp | Event::DeadlinePassed => Decision::Look,
        Event::MethodMissing if dispatched && task.method_listed == Some(false) => end(TaskState::Refused, Reason::MethodUnsupported),
        Event::ProtocolMismatch if dispatched => end(TaskState::Refused, Reason::ProtocolUnsupported),
        // It has the request and may be working on it; the attempt's time decides.
        Event::MethodMissing | Event::ProtocolMismatch | Event::DeviceGone => ignore(Ignored::StillWaiting),
    }
}

fn while_uploaded(task: &TaskFacts, event: &Event) -> Decision {
    match *event {
        Event::CancelRequested => end(TaskState::Cancelled, Reason::CancelledByUser),
        Event::ConsentMissing => end(TaskState::Cancelled, Reason::ConsentMissing),
        Event::Judged(verdict, reason) => judged(task, verdict, reason),
        // What was found is gone: nobody but us removes objects, so the first look was wrong or the inbox was lost.
        Event::NothingFound { .. } => failed_attempt(task, Reason::UploadMissing),
        // Whoever was judging may have died.
        Event::AttemptTimeUp => Decision::Look,
        Event::Answered(_)
        | Event::StatusReported(_)
        | Event::ObjectsFound
        | Event::DeadlinePassed
        | Event::MethodMissing
        | Event::ProtocolMismatch
        | Event::DeviceGone => ignore(Ignored::BeingJudged),
    }
}

fn answered(task: &TaskFacts, answer: Answer) -> Decision {
    match (answer, task.work) {
        (Answer::Accepted, Work::UploadOne | Work::UploadMany) => Decision::Move { to: TaskState::Accepted, reason: None },
        (Answer::Result, Work::Answer) => Decision::Look,
        (Answer::Result, Work::Ping) => end(TaskState::Verified, Reason::Answered),
        (Answer::Accepted | Answer::Result | Answer::Malformed, _) => failed_attempt(task, Reason::AnswerMalformed),
        (Answer::Status(505), _) => end(TaskState::Refused, Reason::ProtocolUnsupported),
        // Time-out, too early, too many: words of a gateway in between, about the moment and not about the request.
        (Answer::Status(408 | 425 | 429), _) => failed_attempt(task, Reason::DeviceError),
        (Answer::Status(400..=499), _) => refused(task),
        (Answer::Status(500..=599), _) => failed_attempt(task, Reason::DeviceError),
        (Answer::Status(_), _) => failed_attempt(task, Reason::AnswerMalformed),
    }
}

fn refused(task: &TaskFacts) -> Decision {
    let just_started = task.agent_started_ago.is_some_and(|ago| ago < METHODS_REGISTER_WITHIN);
    if just_started && task.retry_reasons.contains(Reason::RequestRefused) && another_attempt_fits(task) {
        return Decision::Retry { reason: Reason::RequestRefused };
    }
    match task.method_listed {
        Some(false) => end(TaskState::Refused, Reason::MethodUnsupported),
        Some(true) | None => end(TaskState::Refused, Reason::RequestRefused),
    }
}

fn reported(task: &TaskFacts, status: TaskStatus) -> Decision {
    match status {
        // The report carries the correlationId, so it stands for an answer that was lost.
        TaskStatus::NotStarted | TaskStatus::Running if task.state == TaskState::Dispatched => {
            Decision::Move { to: TaskState::Accepted, reason: None }
        }
        TaskStatus::NotStarted | TaskStatus::Running => ignore(Ignored::AlreadyKnown),
        TaskStatus::Completed | TaskStatus::Unknown => Decision::Look,
        // Beyond the grant's end the device could only fail; its own word hides that.
        TaskStatus::Failed if task.time_up => failed_attempt(task, Reason::SasExpired),
        TaskStatus::Failed => failed_attempt(task, Reason::UploadFailed),
        TaskStatus::Cancelled => failed_attempt(task, Reason::UploadCancelled),
    }
}

/// Objects of which more may come: only the device's word or the end of its grant says that they are all.
fn may_be_growing(task: &TaskFacts) -> bool {
    let device_is_done =
        matches!(task.said, Some(TaskStatus::Completed | TaskStatus::Failed | TaskStatus::Cancelled | TaskStatus::Unknown));
    task.work == Work::UploadMany && !device_is_done && !task.time_up
}

fn nothing_found(task: &TaskFacts, begun: bool) -> Decision {
    match task.said {
        Some(TaskStatus::Completed) => return failed_attempt(task, Reason::UploadMissing),
        Some(TaskStatus::Unknown) => return failed_attempt(task, Reason::TaskLost),
        Some(TaskStatus::NotStarted | TaskStatus::Running | TaskStatus::Failed | TaskStatus::Cancelled) | None => {}
    }
    if !task.time_up {
        return if task.time_left.is_zero() { end(TaskState::Expired, Reason::DeadlinePassed) } else { ignore(Ignored::StillWaiting) };
    }
    let reason = match task.said {
        Some(TaskStatus::Failed) => Reason::UploadFailed,
        Some(TaskStatus::Cancelled) => Reason::UploadCancelled,
        _ if begun => Reason::UploadUnfinished,
        _ if task.state == TaskState::Dispatched => Reason::NoAnswer,
        _ => Reason::SasExpired,
    };
    failed_attempt(task, reason)
}

fn judged(task: &TaskFacts, verdict: Verdict, reason: Reason) -> Decision {
    match verdict {
        Verdict::Complete => end(TaskState::Verified, Reason::Collected),
        Verdict::Partial => end(TaskState::Verified, Reason::CollectedPartial),
        // Not the device's doing, and no attempt of it is spent: the objects are read again.
        Verdict::Empty | Verdict::Damaged if reason == Reason::LandingUnavailable => Decision::Look,
        // The filter matched no module or no line: the same question has the same answer.
        Verdict::Empty if task.work == Work::Answer || task.work == Work::UploadMany && reason == Reason::UploadEmpty => {
            failed_for_good(reason)
        }
        Verdict::Empty | Verdict::Damaged => failed_attempt(task, reason),
    }
}

/// Whether attempts remain and the deadline leaves room for the wait and an attempt after it.
fn another_attempt_fits(task: &TaskFacts) -> bool {
    task.attempt < task.max_attempts && task.time_left >= task.retry_delay.saturating_add(MIN_ATTEMPT)
}

fn failed_attempt(task: &TaskFacts, reason: Reason) -> Decision {
    if task::retryable(reason) && task.retry_reasons.contains(reason) && another_attempt_fits(task) {
        return Decision::Retry { reason };
    }
    failed_for_good(reason)
}

fn failed_for_good(reason: Reason) -> Decision {
    // A reason that a failure cannot carry comes from a verdict that contradicts itself; the column still holds a word of its family.
    let reason = if task::reasons(TaskState::Failed).contains(&reason) { reason } else { Reason::UploadDamaged };
    end(TaskState::Failed, reason)
}

fn end(to: TaskState, reason: Reason) -> Decision {
    Decision::Move { to, reason: Some(reason) }
}

fn ignore(why: Ignored) -> Decision {
    Decision::Ignore { why }
}

#[cfg(test)]
mod tests;
