//! To devices: claims queued tasks in batches and sends their requests.
//!
//! A task is `dispatched` in the database before the first byte leaves. Whatever dies after that is found by the lease.
//!
//! A sweep claims only from collections that are new or were not finished by the one before. Now and then, and at most a share of the time,
//! all open collections are walked over; with a few of them that is at every poke, with tens of thousands every few seconds. Small collections
//! are claimed from together, so ten thousand of one device each cost what one of ten thousand does.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use muster_domain::deadline::MIN_ATTEMPT;
use muster_landing::Landing;
use muster_store::{ClaimRequest, ClaimedTask, MAX_CLAIM_COLLECTIONS, PacedClaim, Step, Store};
use muster_wire::http::{ConsentKind, Priority};
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
use crate::window::{Room, Window};
use crate::work::{OpenWork, OpenWorks};

/// A walk over all open collections takes at most one part in so many of the time.
const WALK_SHARE: u32 = 10;

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

/// A collection that may have something to send.
#[derive(Debug, Clone, Copy, Default)]
struct Pending {
    /// How far it has been swept: claiming all tasks costs one walk over them, not one per batch.
    after: Option<TaskId>,
    /// Not to be asked before: its own limits hold it back, or the database did not answer.
    held_until: Option<Instant>,
}

/// A walk over all collections of the lane, whatever is known about them: a device that came back, a retry that is due, a device that is
/// free for its next bundle show up nowhere else.
#[derive(Debug, Default)]
struct Walk {
    behind: Option<CollectionId>,
    /// What the claims cost so far.
    took: Duration,
}

/// Where the sender stands between two sweeps.
#[derive(Debug)]
struct Sweeps {
    pending: BTreeMap<CollectionId, Pending>,
    walk: Option<Walk>,
    /// Something happened since the last walk began.
    walk_wanted: bool,
    next_walk: Instant,
}

/// What a sweep leaves.
struct Swept {
    /// Some collection has more that could go at once.
    more: bool,
    /// Otherwise, when the next may have room.
    wait: Duration,
}

/// Collections that are claimed from together: the oldest, with as many behind it as have no more tasks than one batch. One with limits of its
/// own goes alone, and so does one that has more tasks by itself.
#[derive(Debug, Default)]
struct Group {
    members: Vec<(Arc<OpenWork>, Option<TaskId>)>,
    tasks: u64,
}

impl Group {
    /// False when it does not fit.
    fn push(&mut self, work: Arc<OpenWork>, after: Option<TaskId>, batch: u32) -> bool {
        let tasks = work.row.targeted.max(1);
        if !self.members.is_empty()
            && (work.limits.is_some() || self.tasks + tasks > u64::from(batch) || self.members.len() >= MAX_CLAIM_COLLECTIONS)
        {
            return false;
        }
        // Behind one with limits nothing fits any more.
        self.tasks = if work.limits.is_some() { u64::MAX / 2 } else { self.tasks + tasks };
        self.members.push((work, after));
        true
    }
}

impl Outbound {
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut sweeps = Sweeps { pending: BTreeMap::new(), walk: None, walk_wanted: true, next_walk: Instant::now() };
        let mut next_claim = Instant::now();
        loop {
            // A bounded rate of claims, each as large as what came free meanwhile; a lone request on an idle system goes at once.
            tokio::time::sleep_until(next_claim).await;
            next_claim = Instant::now() + self.options.flush_every;
            let swept = match self.session.is_connected() {
                true => self.sweep(&mut sweeps).await,
                false => Swept { more: false, wait: self.options.scan_every },
            };
            tokio::select! {
                () = tokio::time::sleep(if swept.more { Duration::ZERO } else { swept.wait }) => {}
                () = self.wake.outbound_poked(self.lane) => sweeps.walk_wanted = true,
                () = stop.cancelled() => return,
            }
            sweeps.walk_wanted |= !swept.more;
        }
    }

    /// One batch per collection, or per group of small ones, that may have something to send; the oldest first. Then on with the walk.
    async fn sweep(&self, sweeps: &mut Sweeps) -> Swept {
        for id in self.works.fresh(self.lane) {
            // From its beginning: what is new may lie behind where the last sweep stood.
            sweeps.pending.insert(id, Pending::default());
        }
        let mut has_room = true;
        let mut behind = None;
        while has_room {
            let room = self.room();
            has_room = room.size > 0;
            let group = if has_room { self.next_pending(&mut sweeps.pending, &mut behind, room.size) } else { Group::default() };
            if group.members.is_empty() {
                self.window.fill(room, []);
                break;
            }
            self.claim(group, room, &mut sweeps.pending).await;
        }
        let began = Instant::now();
        if sweeps.walk.is_none() && sweeps.walk_wanted && sweeps.next_walk <= began {
            (sweeps.walk, sweeps.walk_wanted) = (Some(Walk::default()), false);
        }
        while let Some(walk) = sweeps.walk.as_mut().filter(|_| has_room && began.elapsed() < self.options.flush_every) {
            let room = self.room();
            has_room = room.size > 0;
            let group = if has_room { self.next_of_walk(&sweeps.pending, &mut walk.behind) } else { Group::default() };
            if group.members.is_empty() {
                self.window.fill(room, []);
                if has_room {
                    sweeps.next_walk = Instant::now() + walk.took * WALK_SHARE;
                    sweeps.walk = None;
                }
                break;
            }
            walk.took += self.claim(group, room, &mut sweeps.pending).await;
        }
        if !has_room {
            // Whatever ends pokes.
            return Swept { more: false, wait: self.options.scan_every };
        }
        let more = sweeps.walk.is_some() || sweeps.pending.values().any(|pending| pending.held_until.is_none());
        let held = sweeps.pending.values().filter_map(|pending| pending.held_until);
        let walk = sweeps.walk_wanted.then_some(sweeps.next_walk);
        let wait = held.chain(walk).map(|until| until.saturating_duration_since(Instant::now())).min();
        Swept { more, wait: wait.unwrap_or(self.options.scan_every).min(self.options.scan_every) }
    }

    fn room(&self) -> Room {
        self.window.take(self.options.claim_batch, self.options.window_of(self.lane))
    }

    /// Somebody may be asked for it now.
    fn may_claim(&self, work: &OpenWork) -> bool {
        let now = OffsetDateTime::now_utc();
        work.row.priority == self.lane && work.may_send() && work.expires_at - now >= MIN_ATTEMPT && work.may_ask(now)
    }

    /// The next ones that are known to have something, behind `behind`, which moves on. Those that may not be asked leave the list.
    fn next_pending(&self, pending: &mut BTreeMap<CollectionId, Pending>, behind: &mut Option<CollectionId>, room: u32) -> Group {
        let (mut group, mut gone) = (Group::default(), Vec::new());
        let now = Instant::now();
        let from = behind.map_or(Bound::Unbounded, Bound::Excluded);
        for (id, at) in pending.range((from, Bound::Unbounded)) {
            if at.held_until.is_none_or(|until| until <= now) {
                match self.works.get(*id).filter(|work| self.may_claim(work)) {
                    Some(work) => {
                        if !group.push(work, at.after, room) {
                            break;
                        }
                    }
                    None => gone.push(*id),
                }
            }
            *behind = Some(*id);
        }
        for id in gone {
            pending.remove(&id);
        }
        group
    }

    /// The next ones of a walk, behind `behind`, which moves on.
    fn next_of_walk(&self, pending: &BTreeMap<CollectionId, Pending>, behind: &mut Option<CollectionId>) -> Group {
        let mut group = Group::default();
        loop {
            let page = self.works.behind(*behind, MAX_CLAIM_COLLECTIONS);
            if page.is_empty() {
                return group;
            }
            for work in page {
                let id = work.id;
                if !pending.contains_key(&id) && self.may_claim(&work) && !group.push(work, None, self.options.claim_batch) {
                    return group;
                }
                *behind = Some(id);
            }
        }
    }

    /// Claims from a group and sends what it got. Notes which of them may have more; how long the claim took.
    async fn claim(&self, group: Group, room: Room, pending: &mut BTreeMap<CollectionId, Pending>) -> Duration {
        let now = OffsetDateTime::now_utc();
        let look = self.options.look_first.mul_f64(1.0 + 0.2 * rand::random::<f64>());
        let requests = group.members.iter().map(|(work, after)| ClaimRequest {
            collection: work.id,
            after: *after,
            limit: room.size,
            owner: &self.options.owner,
            now,
            lease_until: now + look.min(work.attempt_timeout),
            method: work.method.as_str(),
            device_until: work.one_per_device().then(|| window(&self.options, work, now).give_up_at),
            consent: work.row.needs_consent,
        });
        let requests: Vec<ClaimRequest<'_>> = requests.collect();
        let began = Instant::now();
        let claimed = match group.members.first().and_then(|(work, _)| Some((work, work.limits.as_ref()?))) {
            None => self.store.claim_each(&requests, room.size).await.map(|batch| PacedClaim { batch, wait: None }),
            Some((work, limits)) => self.store.claim_paced(&requests[0], limits, work.row.targeted).await,
        };
        let took = began.elapsed();
        let PacedClaim { batch, wait } = match claimed {
            Ok(claimed) => claimed,
            Err(error) => {
                self.window.fill(room, []);
                tracing::warn!(collections = group.members.len(), error = &error as &dyn std::error::Error, "could not claim tasks");
                let held_until = Some(Instant::now() + self.options.scan_every);
                pending.extend(group.members.into_iter().map(|(work, after)| (work.id, Pending { after, held_until })));
                return took;
            }
        };
        // A limit can change, a device can answer: asked again at every scan at least.
        let held_until = wait.map(|wait| Instant::now() + wait.min(self.options.scan_every));
        // Where the room was filled by the last task of all, nothing is left.
        let found = batch.tasks.len() as u64 + u64::from(batch.busy);
        let filled_at = batch.scanned_to.filter(|_| found < group.tasks);
        for (work, after) in &group.members {
            let next = match filled_at {
                Some(task) if work.id == task.collection() => Some(Pending { after: Some(task), held_until }),
                Some(task) if work.id > task.collection() => Some(Pending { after: *after, held_until }),
                _ => held_until.map(|_| Pending { after: None, held_until }),
            };
            match next {
                Some(next) => drop(pending.insert(work.id, next)),
                // The sweep reached the end; the next walk begins at the start.
                None => drop(pending.remove(&work.id)),
            }
        }
        self.window.fill(room, batch.tasks.iter().map(|task| task.attempt.task().collection()));
        if !batch.tasks.is_empty() {
            self.sent.claimed.fetch_add(batch.tasks.len() as u64, Ordering::Relaxed);
            let works: HashMap<CollectionId, &Arc<OpenWork>> = group.members.iter().map(|(work, _)| (work.id, work)).collect();
            let with_work = |task: ClaimedTask| works.get(&task.attempt.task().collection()).map(|work| ((*work).clone(), task));
            self.send(batch.tasks.into_iter().filter_map(with_work).collect(), now).await;
        }
        took
    }

    async fn send(&self, tasks: Vec<(Arc<OpenWork>, ClaimedTask)>, now: OffsetDateTime) {
        // What may have come late of the attempt before counts no longer.
        for (_, task) in tasks.iter().filter(|(work, task)| work.uploads() && task.attempt.number() > 1) {
            self.looks.close(task.attempt.task().attempt(task.attempt.number() - 1));
        }
        let (tasks, unsupported): (Vec<_>, Vec<_>) = tasks.into_iter().partition(|(_, task)| task.method_listed != Some(false));
        for (work, task) in unsupported {
            let detail = format!("its birth message does not list {}", work.method.as_str());
            self.give_up(&work, &task, TaskState::Refused, Reason::MethodUnsupported, detail).await;
        }
        let (uploads, answers): (Vec<_>, Vec<_>) = tasks.into_iter().partition(|(work, _)| work.uploads());
        // The tasks are in the order of their collections, so that the request of each is written once.
        let mut written: Option<(CollectionId, Bytes)> = None;
        for (work, task) in answers {
            let payload = match (clock::shift(task.clock_skew_ms), &written) {
                (Some(_), _) => request::payload(&work.row.request, None, task.clock_skew_ms),
                (None, Some((of, payload))) if *of == work.id => payload.clone(),
                (None, _) => {
                    let payload = request::payload(&work.row.request, None, None);
                    written = Some((work.id, payload.clone()));
                    payload
                }
            };
            self.publish(&work, &task, now, payload).await;
        }
        // A grant is a permission to upload: asked once more right before it is given.
        let mut uploads = self.with_consent(uploads).await.into_iter();
        let mut opening = FuturesUnordered::new();
        loop {
            while opening.len() < self.options.open_parallel
                && let Some((work, task)) = uploads.next()
            {
                let landing = self.landing.clone();
                let until = window(&self.options, &work, now).until;
                opening.push(async move { (landing.open_inbox(task.attempt, until).await, work, task) });
            }
            let Some((opened, work, task)) = opening.next().await else { return };
            match opened {
                Ok(grant) => {
                    let payload = request::payload(&work.row.request, Some(grant.url().expose_secret()), task.clock_skew_ms);
                    self.publish(&work, &task, now, payload).await;
                }
                Err(error) => {
                    tracing::warn!(attempt = %task.attempt, error = &error as &dyn std::error::Error, "could not open an inbox; the task is put back");
                    self.put_back(&work, &task, now).await;
                }
            }
        }
    }

    /// Those that may be given a grant. What is left out because the records cannot be read is brought back by its lease.
    async fn with_consent(&self, tasks: Vec<(Arc<OpenWork>, ClaimedTask)>) -> Vec<(Arc<OpenWork>, ClaimedTask)> {
        let (asked, mut may): (Vec<_>, Vec<_>) = tasks.into_iter().partition(|(work, _)| work.row.needs_consent.is_some());
        for &kind in ConsentKind::ALL {
            let of_kind: Vec<_> = asked.iter().filter(|(work, _)| work.row.needs_consent == Some(kind)).collect();
            let devices: Vec<&DeviceId> = of_kind.iter().map(|(_, task)| &task.device).collect();
            let held = match held(&self.store, Some(kind), &devices).await {
                Ok(held) => held,
                Err(error) => {
                    tracing::warn!(
                        tasks = of_kind.len(),
                        error = &error as &dyn std::error::Error,
                        "could not read consent; no grant is given"
                    );
                    continue;
                }
            };
            for ((work, task), held) in of_kind.into_iter().zip(held) {
                match held {
                    Held::Granted(_) => may.push((work.clone(), task.clone())),
                    // Not sent; its lease brings it back, and then the records are asked again.
                    Held::Suspended => {}
                    Held::Gone(why) => self.give_up(work, task, TaskState::Cancelled, Reason::ConsentMissing, why).await,
                }
            }
        }
        may
    }

    async fn publish(&self, work: &OpenWork, task: &ClaimedTask, now: OffsetDateTime, payload: Bytes) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::tests::{collection, store};

    /// The small ones go together as far as they fit for certain; a large one and one with limits go alone, and nobody is passed over.
    #[tokio::test]
    async fn small_collections_are_grouped_in_their_order() {
        let directory = tempfile::tempdir().expect("a private directory");
        let store = store(&directory).await;
        let sizes = [(1, None), (2, None), (8, None), (1, None), (1, Some(3)), (1, None), (0, None), (9, None), (10, None), (11, None)];
        let mut ids = Vec::new();
        for (devices, in_flight) in sizes {
            ids.push(collection(&store, devices, in_flight).await);
            // Ids of one millisecond have no order.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let works = OpenWorks::default();
        works.refresh(&store, &Wake::default()).await.expect("read");
        let groups = |room| {
            let mut groups = vec![Group::default()];
            for work in works.all() {
                if !groups.last_mut().expect("one").push(work.clone(), None, room) {
                    let mut next = Group::default();
                    assert!(next.push(work, None, room), "the first one always fits");
                    groups.push(next);
                }
            }
            groups.iter().map(|group| group.members.iter().map(|(work, _)| work.row.targeted).collect()).collect::<Vec<Vec<u64>>>()
        };
        assert_eq!(groups(10), [vec![1, 2], vec![8, 1], vec![1], vec![1, 0], vec![9], vec![10], vec![11]]);
        assert_eq!(groups(100), [vec![1, 2, 8, 1], vec![1], vec![1, 0, 9, 10, 11]]);
        assert_eq!(groups(1).len(), sizes.len());
        store.close().await;
    }
}
