//! `/api/v1/collections/{id}/events`: a collection as it goes, as server-sent events.
//!
//! * `counters`: [`Counters`], whenever they change and at least every [`QUIET`];
//! * `task`: [`TaskEnded`], for each task that became final;
//! * `finished`: [`CollectionEnded`], the last one.
//!
//! The database is the source: each stream reads it at intervals, so a stream survives whoever moves the tasks. Every event's id says up to
//! which moment ended tasks were told; a client that comes back with it as `Last-Event-ID` hears of everything later, and of the last few
//! seconds before it once more.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, StatusCode};
use muster_store::{Collection, TaskFilter};
use muster_wire::http::{CollectionEnded, CollectionState, Counters, MAX_PAGE, Problem, TaskEnded};
use muster_wire::{CollectionId, TaskState};
use time::OffsetDateTime;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use super::extract::Id;
use super::problem::{ApiError, ApiResult, Chain};
use super::{Api, MAX_STREAMS, collection_not_found};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Longest silence of a stream.
const QUIET: Duration = Duration::from_secs(15);
/// First pause between two readings, doubled until [`READ_EVERY`]: one device answers at once, and somebody waits for it.
const READ_FIRST: Duration = Duration::from_millis(50);
/// How often the counters are read; a collection of a hundred thousand tasks is counted in some ten milliseconds.
const READ_EVERY: Duration = Duration::from_millis(500);
/// Reading which tasks ended goes through all that did: for so many tasks at each reading, for more proportionally less often.
const TASKS_PER_READING: u64 = 2_000;
/// Tasks end by clocks and commits that may overtake each other by this much.
const OVERLAP: Duration = Duration::from_secs(10);
/// Events on their way to a client; a slow one stops the reading.
const EVENTS_AHEAD: usize = 256;
/// Resolution in which it is remembered when a task ended.
const TICK_MS: i128 = 100;

/// Follow a collection
#[utoipa::path(get, path = "/api/v1/collections/{id}/events", tag = "collections",
    params(("id" = CollectionId, Path), ("Last-Event-ID" = Option<String>, Header, description = "Id of the last event seen")),
    responses(
        (status = 200, content_type = "text/event-stream", body = String, description = "Events `counters` (Counters), `task` (TaskEnded) and, last, `finished` (CollectionEnded)"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 503, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn events(State(api): State<Arc<Api>>, Id(id): Id<CollectionId>, headers: HeaderMap) -> ApiResult<Response> {
    let collection = api.store.collection(id).await?.ok_or_else(|| collection_not_found(id))?;
    let permit = api.streams.clone().try_acquire_owned().map_err(|_| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many_streams",
            "Too many followers",
            format!("{MAX_STREAMS} streams are open already"),
        )
        .next_step("read the collection itself instead")
    })?;
    let since = headers.get(LAST_EVENT_ID).and_then(|value| value.to_str().ok()?.parse::<i64>().ok());
    let (sender, mut receiver) = mpsc::channel(EVENTS_AHEAD);
    let follower = Follower::new(api, &collection, since, sender);
    tokio::spawn(follower.run(permit));
    let stream = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
    Ok(Sse::new(stream).into_response())
}

type Sender = mpsc::Sender<Result<Event, Infallible>>;

/// The client is gone.
struct Gone;

struct Follower {
    api: Arc<Api>,
    id: CollectionId,
    created_ms: i128,
    /// Per task, when the end that was told of last happened, in ticks since the collection was made; 0 when none was.
    told: Vec<u32>,
    /// Latest end that was told of, in Unix milliseconds: the id of the events.
    mark: i64,
    /// Ends before this were told to this client on an earlier connection.
    since: i64,
    sender: Sender,
}

fn unix_ms(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

impl Follower {
    fn new(api: Arc<Api>, collection: &Collection, since: Option<i64>, sender: Sender) -> Self {
        let overlap = i64::try_from(OVERLAP.as_millis()).expect("seconds");
        Self {
            api,
            id: collection.id,
            created_ms: i128::from(unix_ms(collection.created_at)),
            told: vec![0; usize::try_from(collection.targeted).unwrap_or_default()],
            mark: since.unwrap_or_default().max(0),
            since: since.map_or(i64::MIN, |mark| mark.saturating_sub(overlap)),
            sender,
        }
    }

    async fn run(mut self, _permit: OwnedSemaphorePermit) {
        let stop = self.api.soft_stop.clone();
        tokio::select! {
            // Either way the stream ends; the client comes back if it wants to.
            _gone = self.follow() => {}
            () = stop.cancelled() => {}
        }
    }

    async fn follow(&mut self) -> Result<(), Gone> {
        let pace = READ_EVERY * u32::try_from(self.told.len() as u64 / TASKS_PER_READING + 1).unwrap_or(u32::MAX);
        let mut told: Option<Counters> = None;
        let (mut told_at, mut walked_at, mut walked_done) = (Instant::now(), None::<Instant>, 0);
        let mut pause = READ_FIRST;
        loop {
            let view = match self.api.store.collection_view(self.id).await {
                Ok(Some(view)) => view,
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::warn!(collection.id = %self.id, error = %Chain(&error), "a follower could not read its collection; trying again");
                    tokio::time::sleep(READ_EVERY * 4).await;
                    continue;
                }
            };
            let is_over = view.state != CollectionState::Running && view.counters.done() >= view.counters.targeted;
            let is_due = walked_at.is_none_or(|at| at.elapsed() >= pace) && (view.counters.done() != walked_done || walked_at.is_none());
            if is_due || is_over {
                if !self.tell_ended().await? {
                    continue;
                }
                (walked_at, walked_done) = (Some(Instant::now()), view.counters.done());
            }
            if told != Some(view.counters) || told_at.elapsed() >= QUIET {
                self.tell("counters", &view.counters).await?;
                (told, told_at) = (Some(view.counters), Instant::now());
            }
            if is_over {
                return self.tell("finished", &CollectionEnded { collection: self.id }).await;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(READ_EVERY);
        }
    }

    /// Tells of the tasks that ended since the last time, in the order they ended. False when they could not be read.
    async fn tell_ended(&mut self) -> Result<bool, Gone> {
        let finals: Vec<TaskState> = TaskState::ALL.into_iter().filter(|state| state.is_final()).collect();
        let mut filter = TaskFilter { limit: MAX_PAGE, states: finals, ..TaskFilter::default() };
        let mut ended = Vec::new();
        loop {
            let tasks = match self.api.store.tasks(self.id, &filter).await {
                Ok(tasks) => tasks,
                Err(error) => {
                    tracing::warn!(collection.id = %self.id, error = %Chain(&error), "a follower could not read the tasks of its collection; trying again");
                    tokio::time::sleep(READ_EVERY * 4).await;
                    return Ok(false);
                }
            };
            filter.after = tasks.last().map(|task| task.id);
            let is_last = tasks.len() < MAX_PAGE as usize;
            for task in tasks {
                let at = task.finished_at.map_or(0, unix_ms);
                let ticks = ((i128::from(at) - self.created_ms) / TICK_MS).max(0) + 1;
                let ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
                let Some(slot) = self.told.get_mut(task.id.ordinal() as usize) else { continue };
                if *slot != ticks {
                    *slot = ticks;
                    if at >= self.since {
                        ended.push((at, TaskEnded { task: task.id, device: task.device, state: task.state, reason: task.reason }));
                    }
                }
            }
            if is_last {
                break;
            }
        }
        ended.sort_by_key(|(at, task)| (*at, task.task));
        for (at, task) in ended {
            self.mark = self.mark.max(at);
            self.tell("task", &task).await?;
        }
        Ok(true)
    }

    async fn tell(&self, name: &str, data: &impl serde::Serialize) -> Result<(), Gone> {
        let event = Event::default().event(name).id(self.mark.to_string()).json_data(data).expect("plain data is JSON");
        self.sender.send(Ok(event)).await.map_err(|_| Gone)
    }
}
