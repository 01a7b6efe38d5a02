//! To devices: claims queued tasks in batches and sends their requests.
//!
//! A task is `dispatched` in the database before the first byte leaves. Whatever dies after that is found by the lease.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use muster_domain::deadline::MIN_ATTEMPT;
use muster_landing::Landing;
use muster_store::{ClaimRequest, ClaimedTask, PacedClaim, Step, Store};
use muster_wire::http::Priority;
use muster_wire::{CollectionId, DeviceId, Reason, TaskId, TaskState};
use secrecy::ExposeSecret;
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::DispatchOptions;
use crate::apply::{Applier, Change, Then};
use crate::clock;
use crate::consent::{Held, held};
use crate::inbound::step;
use crate::look::{Looks, window};
use crate::request::{self, Addressed};
use crate::session::Session;
use crate::wake::Wake;
use crate::window::Window;
use crate::work::{OpenWork, OpenWorks};

/// What went out, for the status page.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) claimed: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) put_back: AtomicU64,
}

/// The sender of one lane.
pub(crate) struct Outbound {
    pub(crate) lane: Priority,
    pub(crate) store: Store,
    pub(crate) landing: Landing,
    pub(crate) options: Arc<DispatchOptions>,
    pub(crate) session: Session,
    pub(crate) applier: Applier,
    pub(crate) works: Arc<OpenWorks>,
    pub(crate) looks: Looks,
    pub(crate) window: Arc<Window>,
    pub(crate) wake: Wake,
    pub(crate) sent: Arc<Sent>,
}

/// How far a collection has been swept. A sweep goes once over its tasks, so claiming all of them costs one pass, not one per batch.
type Cursors = HashMap<CollectionId, TaskId>;
/// Collections that their own limits hold back, and until when it is not worth asking.
type Holds = HashMap<CollectionId, Instant>;

/// What a sweep leaves.
struct Swept {
    /// Some collection has more that could go at once.
    more: bool,
    /// Otherwise, when the next may have room.
    wait: Duration,
}

impl Outbound {
    pub(crate) async fn run(self, stop: CancellationToken) {
        let (mut cursors, mut holds) = (Cursors::new(), Holds::new());
        let mut next_claim = Instant::now();
        loop {
            // A bounded rate of claims, each as large as what came free meanwhile; a lone request on an idle system goes at once.
            tokio::time::sleep_until(next_claim).await;
            next_claim = Instant::now() + self.options.flush_every;
            let swept = match self.session.is_connected() {
                true => self.sweep(&mut cursors, &mut holds).await,
                false => Swept { more: false, wait: self.options.scan_every },
            };
            tokio::select! {
                () = tokio::time::sleep(if swept.more { Duration::ZERO } else { swept.wait }) => {}
                () = self.wake.outbound_poked(self.lane), if !swept.more => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// One batch per open collection of this lane that has room, the oldest first.
    async fn sweep(&self, cursors: &mut Cursors, holds: &mut Holds) -> Swept {
        let mut works = self.works.all();
        works.retain(|work| work.row.priority == self.lane && work.may_send());
        cursors.retain(|id, _| works.iter().any(|work| work.id == *id));
        let began = Instant::now();
        holds.retain(|_, until| *until > began);
        let mut more = false;
        for work in works.into_iter().filter(|work| !holds.contains_key(&work.id)).collect::<Vec<_>>() {
            let now = OffsetDateTime::now_utc();
            if work.expires_at - now < MIN_ATTEMPT || !work.may_ask(now) {
                continue;
            }
            let room = self.window.take(work.id, self.options.claim_batch, self.options.window_of(self.lane));
            if room == 0 {
                continue;
            }
            let look = self.options.look_first.mul_f64(1.0 + 0.2 * rand::random::<f64>());
            let claim = ClaimRequest {
                collection: work.id,
                after: cursors.get(&work.id).copied(),
                limit: room,
                owner: &self.options.owner,
                now,
                lease_until: now + look.min(work.attempt_timeout),
                method: work.method.as_str(),
                device_until: work.one_per_device().then(|| window(&self.options, &work, now).give_up_at),
                consent: work.row.needs_consent,
            };
            let claimed = match &work.limits {
                None => self.store.claim(&claim).await.map(|batch| PacedClaim { batch, wait: None }),
                Some(limits) => self.store.claim_paced(&claim, limits, work.row.targeted).await,
            };
            let PacedClaim { batch, wait } = match claimed {
                Ok(claimed) => claimed,
                Err(error) => {
                    self.window.ended(work.id, room);
                    tracing::warn!(collection = %work.id, error = &error as &dyn std::error::Error, "could not claim tasks");
                    continue;
                }
            };
            if let Some(wait) = wait {
                // A limit can change, a device can answer: asked again at every scan at least.
                holds.insert(work.id, Instant::now() + wait.min(self.options.scan_every));
            }
            match batch.scanned_to {
                Some(task) => {
                    cursors.insert(work.id, task);
                    more |= wait.is_none();
                }
                // The sweep reached the end; the next one begins at the start, when poked or by the timer.
                None => drop(cursors.remove(&work.id)),
            }
            let claimed = u32::try_from(batch.tasks.len()).unwrap_or(u32::MAX);
            self.window.ended(work.id, room.saturating_sub(claimed));
            if claimed > 0 {
                self.sent.claimed.fetch_add(u64::from(claimed), Ordering::Relaxed);
                self.send(&work, batch.tasks, now).await;
            }
        }
        let until_room = holds.values().map(|until| until.saturating_duration_since(Instant::now())).min();
        Swept { more, wait: until_room.unwrap_or(self.options.scan_every).min(self.options.scan_every) }
    }

    async fn send(&self, work: &Arc<OpenWork>, tasks: Vec<ClaimedTask>, now: OffsetDateTime) {
        // What may have come late of the attempt before counts no longer.
        for task in tasks.iter().filter(|task| work.uploads() && task.attempt.number() > 1) {
            self.looks.close(task.attempt.task().attempt(task.attempt.number() - 1));
        }
        let (tasks, unsupported): (Vec<_>, Vec<_>) = tasks.into_iter().partition(|task| task.method_listed != Some(false));
        for task in unsupported {
            let detail = format!("its birth message does not list {}", work.method.as_str());
            self.give_up(work, &task, TaskState::Refused, Reason::MethodUnsupported, detail).await;
        }
        if !work.uploads() {
            let payload = request::payload(&work.request, None, None);
            for task in tasks {
                let payload = match clock::shift(task.clock_skew_ms) {
                    None => payload.clone(),
                    Some(_) => request::payload(&work.request, None, task.clock_skew_ms),
                };
                self.publish(work, &task, now, payload).await;
            }
            return;
        }
        // A grant is a permission to upload: asked once more right before it is given.
        let Some(tasks) = self.with_consent(work, tasks).await else { return };
        let mut opening = FuturesUnordered::new();
        let mut tasks = tasks.into_iter();
        loop {
            while opening.len() < self.options.open_parallel
                && let Some(task) = tasks.next()
            {
                let landing = self.landing.clone();
                let until = window(&self.options, work, now).until;
                opening.push(async move { (landing.open_inbox(task.attempt, until).await, task) });
            }
            let Some((opened, task)) = opening.next().await else { return };
            match opened {
                Ok(grant) => {
                    let payload = request::payload(&work.request, Some(grant.url().expose_secret()), task.clock_skew_ms);
                    self.publish(work, &task, now, payload).await;
                }
                Err(error) => {
                    tracing::warn!(attempt = %task.attempt, error = &error as &dyn std::error::Error, "could not open an inbox; the task is put back");
                    self.put_back(work, &task, now).await;
                }
            }
        }
    }

    /// Those that may be given a grant. `None` when the records cannot be read: their leases bring all of them back.
    async fn with_consent(&self, work: &OpenWork, tasks: Vec<ClaimedTask>) -> Option<Vec<ClaimedTask>> {
        if work.row.needs_consent.is_none() {
            return Some(tasks);
        }
        let devices: Vec<&DeviceId> = tasks.iter().map(|task| &task.device).collect();
        let held = match held(&self.store, work, &devices).await {
            Ok(held) => held,
            Err(error) => {
                tracing::warn!(collection = %work.id, error = &error as &dyn std::error::Error, "could not read consent; no grant is given");
                return None;
            }
        };
        let mut may = Vec::with_capacity(tasks.len());
        for (task, held) in tasks.into_iter().zip(held) {
            match held {
                Held::Granted(_) => may.push(task),
                // Not sent; its lease brings it back, and then the records are asked again.
                Held::Suspended => {}
                Held::Gone(why) => self.give_up(work, &task, TaskState::Cancelled, Reason::ConsentMissing, why).await,
            }
        }
        Some(may)
    }

    async fn publish(&self, work: &OpenWork, task: &ClaimedTask, now: OffsetDateTime, payload: bytes::Bytes) {
        let to = Addressed {
            device: &task.device,
            wants_311: task.wants_311,
            window: window(&self.options, work, now),
            now,
            proactive: work.is_proactive(),
        };
        match request::send(&self.session, &to, work.method, task.attempt, payload).await {
            Ok(()) => {
                self.sent.sent.fetch_add(1, Ordering::Relaxed);
            }
            // The lease ends, and the request is sent again; a request that is too large for this broker never gets smaller, and
            // the attempt's time ends it.
            Err(error) => tracing::warn!(attempt = %task.attempt, %error, "could not send a request"),
        }
    }

    /// Our fault, not the device's; but an attempt was counted, so it stays honest: it is one that failed for `landing_unavailable`.
    async fn put_back(&self, work: &OpenWork, task: &ClaimedTask, now: OffsetDateTime) {
        self.sent.put_back.fetch_add(1, Ordering::Relaxed);
        let detail = "no inbox could be opened for the upload".to_owned();
        if task.attempt.number() >= work.max_attempts || !work.retry_reasons.contains(Reason::LandingUnavailable) {
            return self.give_up(work, task, TaskState::Failed, Reason::LandingUnavailable, detail).await;
        }
        let wait = work.retry_wait(&self.options, task.attempt.number());
        let step = Step {
            reason: Some(Reason::LandingUnavailable),
            detail: Some(detail),
            not_before: Some(now + wait),
            ..step(task.attempt, now)
        };
        self.ended(work, step).await;
    }

    async fn give_up(&self, work: &OpenWork, task: &ClaimedTask, to: TaskState, reason: Reason, detail: String) {
        let step = Step { to, reason: Some(reason), detail: Some(detail), ..step(task.attempt, OffsetDateTime::now_utc()) };
        self.ended(work, step).await;
    }

    async fn ended(&self, work: &OpenWork, step: Step) {
        let step = Box::new(Step { releases_slot: work.one_per_device(), ..step });
        self.applier.send(Change::Step { step, leaves_device: true, then: Then::Nothing }).await;
    }
}
