//! What a device remembers: the answers it gave, until nobody can ask again, and the uploads it works on.
//!
//! Correlation data is the idempotency key of the contract: the same request again gets the same answer and starts
//! nothing. With a journal the table survives a restart and `kill -9`; what is not on disk has not been answered.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use muster_wire::method::Method;
use muster_wire::method::answer::TaskStatus;
use muster_wire::presence::{MAX_REPORTED_OBJECTS, ReportedObject, TaskReport};
use muster_wire::properties::MAX_STATUS_BYTES;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::journal::{Journal, JournalError};
use crate::session::envelope::{Answer, ReplyTo};

/// Most answers that are remembered at once.
pub(crate) const MAX_ANSWERS: usize = 1024;
/// Answers from which on old ones are looked for.
const FIRST_SWEEP: usize = 32;
/// Most bytes of remembered answers.
pub(crate) const MAX_ANSWER_BYTES_REMEMBERED: usize = 16 * 1024 * 1024;
/// Most uploads in the table, ended ones included.
pub(crate) const MAX_TASKS: usize = 1000;
/// Most uploads that have not ended.
pub(crate) const MAX_OPEN_TASKS: usize = 64;
/// Most callers that wait for one answer; more are acknowledged and get nothing.
pub(crate) const MAX_WAITING_CALLERS: usize = 16;
/// Room for all of a report but its objects; the longest message, escaped, is a part of it.
const MAX_REPORT_HEAD_BYTES: usize = 32 * 1024;
/// How long an ended upload is remembered for `GetTaskStatus`.
pub(crate) const TASK_MEMORY_SECONDS: i64 = 7 * 24 * 3600;

/// One upload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Task {
    /// Ours: the correlationId of the answer.
    pub id: Uuid,
    /// The attempt that asked for it.
    pub attempt: Uuid,
    pub method: Method,
    /// The request's payload; dropped with the grant inside when the task ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    pub deadline_unix: i64,
    /// The device's clock when it was asked: object names are made from it, so that a resumed upload writes the same object.
    pub asked_unix: i64,
    pub status: TaskStatus,
    pub message: String,
    pub bytes: u64,
    pub objects: Vec<ReportedObject>,
    /// When it ended, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_unix: Option<i64>,
}

impl Task {
    pub(crate) fn is_open(&self) -> bool {
        self.ended_unix.is_none()
    }

    /// What the device says about it; as many of the objects as the contract's limits take, for the controller lists them itself.
    pub(crate) fn report(&self) -> TaskReport {
        let mut room = MAX_STATUS_BYTES - MAX_REPORT_HEAD_BYTES;
        let fits = |object: &&ReportedObject| {
            let bytes = serde_json::to_vec(object).map_or(usize::MAX, |json| json.len() + 1);
            room = room.saturating_sub(bytes);
            room > 0
        };
        TaskReport {
            correlation_id: self.id.to_string(),
            status: self.status,
            message: self.message.clone(),
            attempt: self.attempt,
            bytes: self.bytes,
            objects: self.objects.iter().take(MAX_REPORTED_OBJECTS).take_while(fits).cloned().collect(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct AnswerRecord {
    attempt: Uuid,
    status: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Answers are JSON, so they are text.
    payload: String,
    deadline_unix: i64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Entry {
    Answer(AnswerRecord),
    Task(Box<Task>),
}

#[derive(Debug)]
struct Remembered {
    deadline_unix: i64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Being worked on; these callers wait for it.
    Open(Vec<ReplyTo>),
    Answered(Answer),
}

/// What a request turned out to be.
#[derive(Debug)]
pub(crate) enum Begin {
    /// New: work on it and [`Table::finish`] it.
    New,
    /// The same request is being worked on; its answer will go to this caller too.
    Joined,
    /// It was answered before: this is the answer.
    Known(Answer),
    /// Too much is remembered already.
    Full,
}

/// The table of one device.
#[derive(Debug)]
pub(crate) struct Table {
    inner: Mutex<Inner>,
    /// One writer at a time, from the record on disk to the change in memory, so that a rewrite of the journal misses nothing.
    journal: Option<tokio::sync::Mutex<Arc<Mutex<Journal>>>>,
}

#[derive(Debug, Default)]
struct Inner {
    answers: HashMap<Uuid, Remembered>,
    /// Answers are looked through for old ones when there are so many: rarely, and long before the limit.
    sweep_at: usize,
    answer_bytes: usize,
    tasks: HashMap<Uuid, Task>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Table {
    /// A table that forgets with the process.
    pub(crate) fn in_memory() -> Self {
        Self { inner: Mutex::default(), journal: None }
    }

    /// A table on disk, with all that still matters of what it held.
    pub(crate) fn open(path: &Path, now_unix: i64) -> Result<Self, JournalError> {
        let (journal, entries, damaged) = Journal::open::<Entry>(path)?;
        if damaged > 0 {
            tracing::warn!(path = %path.display(), damaged, "lines of the task journal could not be read and were left out");
        }
        let mut inner = Inner::default();
        for entry in entries {
            match entry {
                Entry::Answer(record) if record.deadline_unix >= now_unix => {
                    let answer = Answer { status: record.status, message: record.message, payload: record.payload.into() };
                    inner.remember(record.attempt, record.deadline_unix, answer);
                }
                Entry::Answer(_) => {}
                Entry::Task(task) => {
                    inner.tasks.insert(task.id, *task);
                }
            }
        }
        inner.forget_old_tasks(now_unix);
        Ok(Self { inner: Mutex::new(inner), journal: Some(tokio::sync::Mutex::new(Arc::new(Mutex::new(journal)))) })
    }

    /// Whether there is an answer, or will be one, for this correlation data.
    pub(crate) fn knows(&self, attempt: Uuid) -> bool {
        lock(&self.inner).answers.contains_key(&attempt)
    }

    /// Looks a request up and, when it is new, notes that it is being worked on.
    pub(crate) fn begin(&self, attempt: Uuid, deadline_unix: i64, reply_to: &ReplyTo, now_unix: i64) -> Begin {
        let mut inner = lock(&self.inner);
        match inner.answers.get_mut(&attempt) {
            Some(Remembered { state: State::Answered(answer), .. }) => return Begin::Known(answer.clone()),
            Some(Remembered { state: State::Open(callers), .. }) => {
                if callers.len() < MAX_WAITING_CALLERS {
                    callers.push(reply_to.clone());
                }
                return Begin::Joined;
            }
            None => {}
        }
        if inner.answers.len() >= inner.sweep_at.max(FIRST_SWEEP) || inner.answer_bytes > MAX_ANSWER_BYTES_REMEMBERED {
            inner.forget_answers(now_unix);
            inner.sweep_at = inner.answers.len().saturating_mul(2).min(MAX_ANSWERS);
            if inner.answers.len() >= MAX_ANSWERS || inner.answer_bytes > MAX_ANSWER_BYTES_REMEMBERED {
                return Begin::Full;
            }
        }
        inner.answers.insert(attempt, Remembered { deadline_unix, state: State::Open(vec![reply_to.clone()]) });
        Begin::New
    }

    /// Records the answer, and the task it announces, on disk; returns the callers that wait for it.
    pub(crate) async fn finish(
        &self,
        attempt: Uuid,
        deadline_unix: i64,
        answer: Answer,
        task: Option<Task>,
    ) -> Result<Vec<ReplyTo>, JournalError> {
        let turn = self.turn().await;
        if let Some(journal) = turn.as_deref() {
            let record = AnswerRecord {
                attempt,
                status: answer.status,
                message: answer.message.clone(),
                payload: String::from_utf8_lossy(&answer.payload).into_owned(),
                deadline_unix,
            };
            // The task first: an answer on disk without its task would announce an upload that nobody makes.
            let entries = task.clone().map(|task| Entry::Task(Box::new(task))).into_iter().chain([Entry::Answer(record)]).collect();
            if let Err(error) = self.record(journal, entries).await {
                lock(&self.inner).answers.remove(&attempt);
                return Err(error);
            }
        }
        let mut inner = lock(&self.inner);
        if let Some(task) = task {
            inner.tasks.insert(task.id, task);
        }
        Ok(inner.remember(attempt, deadline_unix, answer))
    }

    /// Forgets a request that could not be worked on, so that it may come again; returns its callers.
    pub(crate) fn abandon(&self, attempt: Uuid) -> Vec<ReplyTo> {
        match lock(&self.inner).answers.remove(&attempt) {
            Some(Remembered { state: State::Open(callers), .. }) => callers,
            _ => Vec::new(),
        }
    }

    /// Whether one more upload may be taken on.
    pub(crate) fn has_room(&self, now_unix: i64) -> bool {
        let mut inner = lock(&self.inner);
        inner.forget_old_tasks(now_unix);
        inner.tasks.values().filter(|task| task.is_open()).count() < MAX_OPEN_TASKS
    }

    /// Uploads of a method that have not ended.
    pub(crate) fn open_tasks(&self, method: Method) -> usize {
        lock(&self.inner).tasks.values().filter(|task| task.is_open() && task.method == method).count()
    }

    /// The task of this id, compared exactly.
    pub(crate) fn task(&self, id: &str) -> Option<Task> {
        let parsed = Uuid::try_parse(id).ok()?;
        if parsed.to_string() != id {
            return None;
        }
        lock(&self.inner).tasks.get(&parsed).cloned()
    }

    /// All tasks that others may still wait for.
    pub(crate) fn tasks(&self) -> Vec<Task> {
        lock(&self.inner).tasks.values().cloned().collect()
    }

    /// Records what became of a task; returns it as it stands now.
    pub(crate) async fn update(&self, id: Uuid, change: impl FnOnce(&mut Task)) -> Result<Option<Task>, JournalError> {
        let turn = self.turn().await;
        let Some(task) = ({
            let mut inner = lock(&self.inner);
            inner.tasks.get_mut(&id).map(|task| {
                change(task);
                if !task.is_open() {
                    task.request = None;
                }
                task.clone()
            })
        }) else {
            return Ok(None);
        };
        if let Some(journal) = turn.as_deref() {
            self.record(journal, vec![Entry::Task(Box::new(task.clone()))]).await?;
        }
        Ok(Some(task))
    }

    /// Forgets every upload, as IoT Edge does at a restart; the answers stay, so that a repeated request starts nothing.
    pub(crate) fn forget_tasks(&self) {
        lock(&self.inner).tasks = HashMap::new();
    }

    async fn turn(&self) -> Option<tokio::sync::MutexGuard<'_, Arc<Mutex<Journal>>>> {
        match &self.journal {
            Some(journal) => Some(journal.lock().await),
            None => None,
        }
    }

    async fn record(&self, journal: &Arc<Mutex<Journal>>, entries: Vec<Entry>) -> Result<(), JournalError> {
        let compact = lock(journal).wants_compaction();
        let everything = if compact { Some(lock(&self.inner).everything()) } else { None };
        let journal = Arc::clone(journal);
        tokio::task::spawn_blocking(move || {
            let mut journal = lock(&journal);
            if let Some(everything) = everything {
                journal.compact(&everything)?;
            }
            journal.append(&entries)
        })
        .await
        .expect("writing the journal does not panic")
    }
}

impl Inner {
    fn remember(&mut self, attempt: Uuid, deadline_unix: i64, answer: Answer) -> Vec<ReplyTo> {
        self.answer_bytes += answer.payload.len();
        match self.answers.insert(attempt, Remembered { deadline_unix, state: State::Answered(answer) }) {
            Some(Remembered { state: State::Open(callers), .. }) => callers,
            Some(Remembered { state: State::Answered(old), .. }) => {
                self.answer_bytes -= old.payload.len();
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    fn forget_answers(&mut self, now_unix: i64) {
        self.answers.retain(|_, remembered| match &remembered.state {
            State::Answered(answer) if remembered.deadline_unix < now_unix => {
                self.answer_bytes -= answer.payload.len();
                false
            }
            _ => true,
        });
    }

    fn forget_old_tasks(&mut self, now_unix: i64) {
        self.tasks.retain(|_, task| task.ended_unix.is_none_or(|ended| ended + TASK_MEMORY_SECONDS > now_unix));
        if self.tasks.len() >= MAX_TASKS {
            let mut ended: Vec<(i64, Uuid)> = self.tasks.values().filter_map(|task| Some((task.ended_unix?, task.id))).collect();
            ended.sort_unstable();
            for (_, id) in ended.iter().take(self.tasks.len() + 1 - MAX_TASKS) {
                self.tasks.remove(id);
            }
        }
    }

    fn everything(&self) -> Vec<Entry> {
        let tasks = self.tasks.values().map(|task| Entry::Task(Box::new(task.clone())));
        let answers = self.answers.iter().filter_map(|(attempt, remembered)| match &remembered.state {
            State::Answered(answer) => Some(Entry::Answer(AnswerRecord {
                attempt: *attempt,
                status: answer.status,
                message: answer.message.clone(),
                payload: String::from_utf8_lossy(&answer.payload).into_owned(),
                deadline_unix: remembered.deadline_unix,
            })),
            State::Open(_) => None,
        });
        tasks.chain(answers).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::outbox::Receipt;
    use bytes::Bytes;

    const NOW: i64 = 1_800_000_000;

    fn caller(packet: u16) -> ReplyTo {
        ReplyTo {
            topic: "muster/v1/d/x/rsp/ctl".to_owned(),
            correlation: Bytes::new(),
            receipt: Receipt { connection: 1, packet },
            void_after_unix: Some(NOW + 60),
            max_response_bytes: 1000,
        }
    }

    fn answer(text: &str) -> Answer {
        Answer { status: 200, message: None, payload: text.to_owned().into() }
    }

    fn task(id: u128) -> Task {
        Task {
            id: Uuid::from_u128(id),
            attempt: Uuid::from_u128(id),
            method: Method::UploadSupportBundle,
            request: Some("{\"sasUrl\":\"https://secret\"}".to_owned()),
            deadline_unix: NOW + 60,
            asked_unix: NOW,
            status: TaskStatus::Running,
            message: String::new(),
            bytes: 0,
            objects: Vec::new(),
            ended_unix: None,
        }
    }

    #[tokio::test]
    async fn the_same_request_gets_the_same_answer_across_restarts() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("tasks.jsonl");
        let attempt = Uuid::from_u128(1);
        let table = Table::open(&path, NOW).expect("a table");
        assert!(matches!(table.begin(attempt, NOW + 60, &caller(1), NOW), Begin::New));
        assert!(matches!(table.begin(attempt, NOW + 60, &caller(2), NOW), Begin::Joined));
        let callers = table.finish(attempt, NOW + 60, answer("one"), Some(task(9))).await.expect("recorded");
        assert_eq!(callers.iter().map(|c| c.receipt.packet).collect::<Vec<_>>(), [1, 2], "both callers get it");
        drop(table);

        let table = Table::open(&path, NOW + 1).expect("a table");
        match table.begin(attempt, NOW + 60, &caller(3), NOW + 1) {
            Begin::Known(known) => assert_eq!(known, answer("one")),
            other => panic!("{other:?}"),
        }
        assert!(table.task(&Uuid::from_u128(9).to_string()).is_some_and(|task| task.is_open()));
        drop(table);
        let table = Table::open(&path, NOW + 61).expect("a table");
        assert!(matches!(table.begin(attempt, NOW + 200, &caller(3), NOW + 61), Begin::New), "its time is over, so it may come again");
    }

    #[tokio::test]
    async fn an_ended_task_keeps_no_grant_and_its_id_is_compared_exactly() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("tasks.jsonl");
        let table = Table::open(&path, NOW).expect("a table");
        let id = Uuid::from_u128(0xabc);
        table.begin(id, NOW + 60, &caller(1), NOW);
        table.finish(id, NOW + 60, answer("x"), Some(task(0xabc))).await.expect("recorded");
        assert_eq!(table.open_tasks(Method::UploadSupportBundle), 1);
        table
            .update(id, |task| {
                task.status = TaskStatus::Completed;
                task.ended_unix = Some(NOW + 5);
            })
            .await
            .expect("recorded");
        drop(table);
        let table = Table::open(&path, NOW + 10).expect("a table");
        let task = table.task(&id.to_string()).expect("remembered");
        assert_eq!((task.status, task.request), (TaskStatus::Completed, None));
        assert!(table.task(&id.to_string().to_uppercase()).is_none(), "letter case counts");
        assert!(table.task("").is_none());
        drop(table);
        assert!(Table::open(&path, NOW + TASK_MEMORY_SECONDS + 10).expect("a table").tasks().is_empty());
    }

    #[test]
    fn a_report_stays_within_the_contract() {
        let object = |n: usize, bytes: usize| ReportedObject {
            name: format!("hub/dev/{}-{n}.log", "m\"".repeat(bytes / 2)),
            size: u64::MAX,
            sha256: Some("0".repeat(64)),
        };
        let mut many = task(1);
        many.message = "\u{1}".repeat(4096);
        for (bytes, all) in [(50, true), (900, false)] {
            many.objects = (0..MAX_REPORTED_OBJECTS + 1).map(|n| object(n, bytes)).collect();
            let json = many.report().to_json();
            assert!(json.len() <= MAX_STATUS_BYTES, "{}", json.len());
            let read = TaskReport::parse(&json).expect("a report the controller takes");
            assert_eq!(read.objects.len() == MAX_REPORTED_OBJECTS, all, "{}", read.objects.len());
            assert!(read.objects.len() > 100);
        }
    }

    #[test]
    fn memory_is_bounded_and_old_answers_make_room() {
        let table = Table::in_memory();
        for n in 0..MAX_ANSWERS as u128 {
            assert!(matches!(table.begin(Uuid::from_u128(n), NOW + 10, &caller(1), NOW), Begin::New));
            lock(&table.inner).remember(Uuid::from_u128(n), NOW + 10, answer("x"));
        }
        assert!(matches!(table.begin(Uuid::max(), NOW + 10, &caller(1), NOW), Begin::Full));
        assert!(matches!(table.begin(Uuid::max(), NOW + 30, &caller(1), NOW + 11), Begin::New));
        assert_eq!(lock(&table.inner).answer_bytes, 0);
        assert!(lock(&table.inner).answers.len() < 2);
        for n in 0..2 * MAX_TASKS as u128 {
            let mut ended = task(n);
            ended.ended_unix = Some(NOW + n as i64);
            lock(&table.inner).tasks.insert(ended.id, ended);
            assert!(table.has_room(NOW));
        }
        assert!(table.tasks().len() <= MAX_TASKS);
        for n in 0..MAX_OPEN_TASKS as u128 {
            lock(&table.inner).tasks.insert(Uuid::from_u128(n), task(n));
        }
        assert!(!table.has_room(NOW));
    }
}
