//! Following a collection to its end.
//!
//! The truth is the collection itself, read again and again. Its event stream only says when reading is worth it, and is what `watch` passes
//! on in a pipe: a stream that breaks, or a controller that restarts, costs freshness and nothing else.

mod pace;
mod picture;

use std::time::Duration;

use futures_util::StreamExt as _;
use muster_wire::CollectionId;
use muster_wire::http::{CollectionState, CollectionView, Counters, PAUSED_BY_ROLLOUT, PAUSED_FOR_CONFIRMATION};
use reqwest::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::client::Client;
use crate::failure::{Failure, exit};
use crate::present::Out;
use crate::progress;
use crate::signals::Signals;
use crate::sse::{Event, Reader};

pub(crate) use picture::summary;

/// Longest time between two readings.
const READ_EVERY: Duration = Duration::from_secs(2);
/// Time before the second reading; half as much longer for each later one, because what ends soon ends very soon.
const READ_FIRST: Duration = Duration::from_millis(60);
/// Shortest time between two readings.
const READ_AT_MOST_EVERY: Duration = Duration::from_millis(250);
/// How long a controller may be away before we stop waiting for it.
const GIVE_UP_AFTER: Duration = Duration::from_secs(300);
/// Pause before the event stream is opened again.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);
/// Events waiting to be printed; beyond it the stream waits for us.
const EVENTS_WAITING: usize = 256;
/// The event after which a stream has nothing to say.
const LAST_EVENT: &str = "finished";
/// After the end, how long the last events may take to arrive.
const LAST_EVENTS: Duration = Duration::from_secs(2);

/// What a follower is shown.
pub(crate) enum Seen<'a> {
    /// Where the collection stands now.
    View(&'a CollectionView),
    /// Something happened, as the controller put it.
    Event(&'a Event),
    /// The controller is away; we keep trying.
    Away(&'a Failure),
}

/// What a follower wants to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tell {
    /// Where the collection stands; it is over as soon as it is over.
    Views,
    /// Every event too, the last ones included.
    Everything,
}

/// Whether every task is final, those of the deeper steps too, or the collection does not go on without somebody and no device is at work for
/// it.
fn is_over(view: &CollectionView) -> bool {
    let ended = |state, counters: &Counters| state != CollectionState::Running && counters.done() >= counters.targeted;
    let counters = &view.counters;
    (ended(view.state, counters) && view.later_steps.iter().all(|step| ended(step.state, &step.counters)))
        || (needs_somebody(view) && counters.dispatched + counters.accepted + counters.uploaded == 0)
}

/// Whether its own rollout stopped it.
fn stopped_itself(view: &CollectionView) -> bool {
    view.paused.as_ref().is_some_and(|paused| paused.by == PAUSED_BY_ROLLOUT)
}

/// Whether it is paused, and nobody paused it who would know to resume it: its rollout stopped it, or it was made so for want of a word.
pub(crate) fn needs_somebody(view: &CollectionView) -> bool {
    stopped_itself(view) || view.paused.as_ref().is_some_and(|paused| paused.by == PAUSED_FOR_CONFIRMATION)
}

/// What the exit code says about a collection that is over.
pub(crate) fn exit_code(view: &CollectionView) -> u8 {
    let counters = &view.counters;
    if stopped_itself(view) {
        exit::ABORTED
    } else if counters.skipped >= counters.targeted {
        exit::NOTHING_ALLOWED
    } else if counters.verified == counters.targeted && view.later_steps.iter().all(|step| step.counters.verified == step.counters.targeted)
    {
        exit::DONE
    } else {
        exit::SOME_NOT
    }
}

/// Follows a collection to its end and shows every step.
pub(crate) async fn follow(
    client: &Client,
    id: CollectionId,
    tell: Tell,
    mut see: impl FnMut(Seen<'_>) -> Result<(), Failure>,
) -> Result<CollectionView, Failure> {
    let (sender, mut events) = mpsc::channel(EVENTS_WAITING);
    let stream = tokio::spawn(stream(client.clone(), id, sender));
    let _stop_when_done = AbortOnDrop(stream.abort_handle());
    let mut away_since: Option<Instant> = None;
    let mut known = false;
    let mut read_every = READ_FIRST;
    loop {
        let read_at = Instant::now();
        match client.get::<CollectionView>("read the collection", &["collections", &id.to_string()], &[]).await {
            Ok(view) => {
                (known, away_since) = (true, None);
                see(Seen::View(&view))?;
                if is_over(&view) {
                    if tell == Tell::Everything {
                        last_events(&mut events, &mut see).await?;
                    }
                    return Ok(view);
                }
            }
            Err(failure) if known && is_passing(&failure) => {
                if away_since.get_or_insert(read_at).elapsed() > GIVE_UP_AFTER {
                    return Err(failure);
                }
                see(Seen::Away(&failure))?;
            }
            Err(failure) => return Err(failure),
        }
        // The next reading: when something happened, and not sooner than the last one allows.
        tokio::select! {
            Some(event) = events.recv() => {
                see(Seen::Event(&event))?;
                while let Ok(event) = events.try_recv() {
                    see(Seen::Event(&event))?;
                }
                tokio::time::sleep_until(read_at + READ_AT_MOST_EVERY).await;
            }
            () = tokio::time::sleep(read_every) => read_every = (read_every * 3 / 2).min(READ_EVERY),
        }
    }
}

/// The stream ends by itself when the collection does; what it still has to say is waited for, but not for long.
async fn last_events(events: &mut mpsc::Receiver<Event>, see: &mut impl FnMut(Seen<'_>) -> Result<(), Failure>) -> Result<(), Failure> {
    let deadline = Instant::now() + LAST_EVENTS;
    while let Ok(Some(event)) = tokio::time::timeout_at(deadline, events.recv()).await {
        see(Seen::Event(&event))?;
    }
    Ok(())
}

/// Whether a controller that restarts would cause this.
fn is_passing(failure: &Failure) -> bool {
    match failure {
        Failure::Unreachable { .. } | Failure::Local { .. } => true,
        Failure::Refused { problem, .. } => matches!(problem.status, 429 | 500..=599),
        _ => false,
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads the event stream to its last event, and opens it again where it broke.
async fn stream(client: Client, id: CollectionId, events: mpsc::Sender<Event>) {
    let mut last_id: Option<String> = None;
    loop {
        let mut headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("text/event-stream"))]);
        if let Some(value) = last_id.as_deref().and_then(|id| HeaderValue::from_str(id).ok()) {
            headers.insert(HeaderName::from_static("last-event-id"), value);
        }
        let Ok(response) = client.open("follow the collection", &["collections", &id.to_string(), "events"], &[], headers).await else {
            // Whether the collection can be read at all is the reader's business; the stream is only a help.
            tokio::time::sleep(REOPEN_PAUSE).await;
            continue;
        };
        let mut pieces = response.bytes_stream();
        let mut reader = Reader::default();
        // Whatever ends the stream before its last event, a restart for one: it is opened again, from where it broke.
        while let Some(Ok(piece)) = pieces.next().await {
            let Ok(complete) = reader.feed(&piece) else { break };
            for event in complete {
                let is_last = event.name == LAST_EVENT;
                last_id = event.id.clone().or(last_id);
                if events.send(event).await.is_err() || is_last {
                    return;
                }
            }
        }
        tokio::time::sleep(REOPEN_PAUSE).await;
    }
}

/// Follows with a block redrawn on standard error; returns the last view. Ctrl-C stops the watching, not the collection.
pub(crate) async fn follow_with_progress(client: &Client, id: CollectionId, out: &Out) -> Result<CollectionView, Failure> {
    let mut signals = Signals::listen()?;
    let result = tokio::select! {
        result = draw(client, id, out) => result,
        _ = signals.next() => {
            signals.insist();
            Err(Failure::Interrupted)
        }
    };
    result.inspect_err(|_| out.note(&goes_on(client, id)))
}

/// The same for who watches over Ctrl-C already.
pub(crate) async fn draw(client: &Client, id: CollectionId, out: &Out) -> Result<CollectionView, Failure> {
    let block = ClearOnDrop(progress::block());
    let mut pace = pace::Pace::default();
    let width = usize::from(comfy_table::Table::new().width().unwrap_or(80));
    let started = Instant::now();
    let mut last: Option<CollectionView> = None;
    follow(client, id, Tell::Views, |seen| {
        match seen {
            Seen::View(view) => {
                pace.note(started.elapsed(), view.counters.done());
                block.0.set_message(picture::block(view, &pace, width, out));
                last = Some(view.clone());
            }
            Seen::Away(failure) => {
                let before = last.as_ref().map(|view| picture::block(view, &pace, width, out)).unwrap_or_default();
                block.0.set_message(format!("{before}\n{failure}; trying again"));
            }
            Seen::Event(_) => {}
        }
        Ok(())
    })
    .await
}

/// Leaves nothing half-drawn, however the watching ends.
struct ClearOnDrop(indicatif::ProgressBar);

impl Drop for ClearOnDrop {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// What to say when the watching ends before the collection.
fn goes_on(client: &Client, id: CollectionId) -> String {
    let url = if client.url() == crate::args::DEFAULT_URL { String::new() } else { format!(" --url {}", client.url()) };
    format!(
        "The collection goes on without this terminal.\n  come back:  muster collections watch {id}{url}\n  stop it:    muster collections cancel {id}{url}"
    )
}

#[cfg(test)]
mod tests {
    use muster_wire::http::StepView;

    use super::*;

    #[test]
    fn exit_codes_follow_the_counters() {
        let code = |counters: Counters| exit_code(&picture::tests::view(counters));
        assert_eq!(code(Counters { targeted: 3, verified: 3, ..Counters::default() }), exit::DONE);
        assert_eq!(code(Counters { targeted: 3, verified: 2, failed: 1, ..Counters::default() }), exit::SOME_NOT);
        assert_eq!(code(Counters { targeted: 3, verified: 2, skipped: 1, ..Counters::default() }), exit::SOME_NOT);
        assert_eq!(code(Counters { targeted: 3, cancelled: 3, ..Counters::default() }), exit::SOME_NOT);
        assert_eq!(code(Counters { targeted: 3, skipped: 3, ..Counters::default() }), exit::NOTHING_ALLOWED);
        assert_eq!(code(Counters::default()), exit::NOTHING_ALLOWED);
    }

    #[test]
    fn over_means_every_task_is_final() {
        let mut view = picture::tests::view(Counters { targeted: 2, verified: 1, uploaded: 1, ..Counters::default() });
        view.state = CollectionState::Cancelled;
        assert!(!is_over(&view));
        view.counters = Counters { targeted: 2, verified: 1, cancelled: 1, ..Counters::default() };
        assert!(is_over(&view));
        let counters = Counters { targeted: 1, failed: 1, ..Counters::default() };
        view.later_steps = vec![StepView { id: view.id, step: 2, kind: "bundle".into(), state: CollectionState::Running, counters }];
        assert!(!is_over(&view), "a step may still get devices");
        view.later_steps[0].state = CollectionState::Finished;
        assert!(is_over(&view));
        view.counters = Counters { targeted: 2, verified: 2, ..Counters::default() };
        assert_eq!(exit_code(&view), exit::SOME_NOT, "the step behind it failed");
        view.state = CollectionState::Running;
        assert!(!is_over(&view));
    }

    #[test]
    fn a_collection_that_stopped_itself_is_over_when_no_device_is_at_work() {
        let paused = |by: &str, dispatched| {
            let mut view =
                picture::tests::view(Counters { targeted: 10, verified: 4, queued: 6 - dispatched, dispatched, ..Counters::default() });
            view.state = CollectionState::Running;
            let why = "4 of 8 done devices (50.0 %) ended without success; the limit is 5 %, from 8 on".to_owned();
            view.paused = Some(muster_wire::http::Paused { at: view.created_at, by: by.to_owned(), why });
            view
        };
        assert!(is_over(&paused(PAUSED_BY_ROLLOUT, 0)) && !is_over(&paused(PAUSED_BY_ROLLOUT, 1)), "what is out may end");
        assert_eq!(exit_code(&paused(PAUSED_BY_ROLLOUT, 0)), exit::ABORTED);
        assert!(!is_over(&paused("ada", 0)), "who paused it resumes it");
        let mut unconfirmed = paused(PAUSED_FOR_CONFIRMATION, 0);
        assert!(is_over(&unconfirmed), "--wait would wait for nothing");
        assert_eq!(exit_code(&unconfirmed), exit::SOME_NOT);
        unconfirmed.counters = Counters { targeted: 10, skipped: 10, ..Counters::default() };
        assert_eq!(exit_code(&unconfirmed), exit::NOTHING_ALLOWED, "resuming it would change nothing");
    }
}
