//! Judging: seal the objects out of the device's reach, read them, decide what they are, write the manifest, commit.
//!
//! Killed at any instruction it leaves a task that is `uploaded` under a lease and an inbox that is still full; whoever takes
//! the lease over does all of it again, to the same bytes. The bundle row and the move to `verified` are one commit, so a
//! bundle exists for others only whole, and once.

use std::io::Cursor;

use bytes::Bytes;
use muster_domain::event::{self, Event, Work};
use muster_domain::inspect::{InspectLimits, ObjectFinding, inspect};
use muster_domain::verdict::{Expected, Judgement, judge};
use muster_landing::{LandingError, ObjectName, SealedObject};
use muster_store::{OpenTask, Seal, Step, StepOutcome};
use muster_wire::http::{BundleManifest, BundleObject, CollectionRequest, Depth, Missing, Verdict};
use muster_wire::method::answer::{AnswerError, ModuleLogs};
use muster_wire::method::request::ContentType;
use muster_wire::{AttemptId, ConsentId, Reason, TaskState};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::consent::{Held, held_by};
use crate::inbound::{facts, moved, step};
use crate::look::Looker;
use crate::matching;
use crate::message::{Answer, clean};
use crate::session::Ack;
use crate::work::{NextStep, OpenWork};

/// Version of the manifest.
const MANIFEST_VERSION: &str = "1.0";
/// Largest sum of what is unpacked from a `GetModuleLogs` answer: an answer has at most 128 KB, and logs compress well.
const MAX_ANSWER_EXPANDED_BYTES: usize = 64 << 20;

/// Sealed objects and what they turned out to be.
#[derive(Default)]
struct Landed {
    sealed: Vec<SealedObject>,
    findings: Vec<ObjectFinding>,
}

/// Why a judgement could not be made.
#[derive(Debug, thiserror::Error)]
enum Unjudged {
    #[error("the landing zone could not be used")]
    Landing(#[from] LandingError),
    #[error("the upload has {bytes} bytes, {limit} are allowed")]
    TooLarge { bytes: u64, limit: u64 },
    #[error("the reader of an object ended unexpectedly")]
    Reader(#[from] tokio::task::JoinError),
    #[error("a sealed object could not be read")]
    Sealed(#[from] std::io::Error),
}

impl Looker {
    /// Judges the inbox of a task that is `uploaded` and leased to us.
    pub(crate) async fn judge(&self, work: &OpenWork, row: &OpenTask, attempt: AttemptId) {
        if row.state != TaskState::Uploaded {
            return;
        }
        let Ok(_permit) = self.judging.acquire().await else { return };
        let began = std::time::Instant::now();
        let judged = match self.seal_inbox(attempt).await {
            Ok(landed) => {
                let judgement = judge(expected(work), &landed.findings);
                (landed, judgement)
            }
            Err(error @ Unjudged::TooLarge { .. }) => (Landed::default(), damaged(Reason::UploadTooLarge, &error.to_string())),
            Err(Unjudged::Landing(
                error @ (LandingError::TooManyObjects { .. } | LandingError::ObjectTooLarge { .. } | LandingError::InboxTooLarge { .. }),
            )) => (Landed::default(), damaged(Reason::UploadTooLarge, &error.to_string())),
            Err(Unjudged::Landing(LandingError::InboxNotFound { .. })) => {
                self.vanished(work, row, attempt).await;
                return;
            }
            Err(error) => {
                // Ours, not the device's: nothing moves, and the lease brings another try.
                tracing::warn!(%attempt, error = &error as &dyn std::error::Error, "could not judge an upload; trying again later");
                return;
            }
        };
        let (landed, judgement) = judged;
        if self.finish(work, row, attempt, TaskState::Uploaded, landed, judgement).await {
            metrics::histogram!("muster_judge_seconds").record(began.elapsed().as_secs_f64());
            self.close(attempt).await;
        }
    }

    /// The inbox is gone: closed by a controller that saw the attempt end otherwise. Where that one was right, this changes nothing.
    async fn vanished(&self, work: &OpenWork, row: &OpenTask, attempt: AttemptId) {
        let now = OffsetDateTime::now_utc();
        let facts = facts(&self.options, work, attempt, TaskState::Uploaded, now);
        let decision = event::decide(&facts, &Event::NothingFound { begun: false });
        let base = Step { device: Some(row.device.clone()), ..step(attempt, now) };
        if let Some((step, leaves_device)) = moved(&self.options, work, &facts, decision, base) {
            self.applier.apply(step, leaves_device).await;
        }
    }

    /// Lands an answer that is the result itself, and acknowledges its message once the bundle is committed.
    pub(crate) async fn land(&self, work: &OpenWork, row: &OpenTask, attempt: AttemptId, answer: Answer, ack: Ack) {
        if !matches!(row.state, TaskState::Dispatched | TaskState::Queued) {
            ack.done();
            return;
        }
        // An answer may unpack to a thousand times its size, so no more of them are in memory than uploads are judged.
        let Ok(_permit) = self.judging.acquire().await else { return };
        let (landed, judgement) = match texts(&answer.payload) {
            Ok(modules) => match self.put_answer(work, attempt, modules).await {
                Ok(landed) => {
                    let judgement = judge(expected(work), &landed.findings);
                    (landed, judgement)
                }
                Err(error) => {
                    // Not acknowledged: the broker brings it again on the next connection, the lease asks again before that.
                    tracing::warn!(%attempt, error = &error as &dyn std::error::Error, "could not land an answer");
                    return;
                }
            },
            Err(error) => (Landed::default(), damaged(Reason::AnswerMalformed, &error.to_string())),
        };
        if self.finish(work, row, attempt, row.state, landed, judgement).await {
            ack.done();
        }
    }

    /// Whether a line of the sealed objects matches; each is read once more, as a stream.
    async fn any_line_matches(&self, attempt: AttemptId, landed: &Landed, pattern: &str) -> Result<bool, Unjudged> {
        for object in &landed.sealed {
            let reader = self.landing.reader(attempt, &object.name).await?;
            let pattern = pattern.to_owned();
            if tokio::task::spawn_blocking(move || matching::any_line_of_object(reader, &pattern)).await?? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes the manifest and commits, or gives the attempt up. False: shutting down, nothing is decided.
    async fn finish(
        &self,
        work: &OpenWork,
        row: &OpenTask,
        attempt: AttemptId,
        from: TaskState,
        landed: Landed,
        judgement: Judgement,
    ) -> bool {
        let matched = match &work.next_step {
            Some(NextStep::Matching(pattern)) if judgement.is_good() => match self.any_line_matches(attempt, &landed, pattern).await {
                Ok(matched) => Some(matched),
                Err(error) => {
                    tracing::warn!(%attempt, error = &error as &dyn std::error::Error, "could not look for the pattern of the next step; trying again later");
                    return false;
                }
            },
            _ => None,
        };
        let now = OffsetDateTime::now_utc();
        let facts = facts(&self.options, work, attempt, from, now);
        let decision = event::decide(&facts, &Event::Judged(judgement.verdict, judgement.reason));
        let base = Step { device: Some(row.device.clone()), detail: detail(&judgement), matched, ..step(attempt, now) };
        let Some((step, leaves_device)) = moved(&self.options, work, &facts, decision, base) else {
            // Came late and is no good: the next attempt decides.
            let late = from == TaskState::Queued;
            if late {
                self.discard(attempt).await;
            }
            return late;
        };
        let good = judgement.is_good();
        let outcome = if good {
            // Asked again in the transaction that makes the bundle; here for the manifest, and so that nothing is written in vain.
            let consent = match held_by(&self.store, work, &row.device, attempt).await {
                Some(Held::Granted(consent)) => consent,
                Some(Held::Gone(_)) => None,
                Some(Held::Suspended) => return from != TaskState::Uploaded,
                None => return false,
            };
            match self.write_manifest(work, row, attempt, &landed, judgement, (consent, now)).await {
                Ok((manifest, manifest_sha256)) => {
                    let location = self.landing.sealed_location(attempt);
                    let consent = work.row.needs_consent;
                    self.applier.seal(Seal { step, manifest, manifest_sha256, location, consent }, leaves_device).await
                }
                Err(error) => {
                    tracing::warn!(%attempt, error = &error as &dyn std::error::Error, "could not write a manifest; trying again later");
                    return false;
                }
            }
        } else {
            self.applier.apply(step, leaves_device).await
        };
        let Some(outcome) = outcome else { return false };
        let verified = self.is_verified(attempt).await;
        if !verified {
            self.discard(attempt).await;
        }
        // Where consent may come back the upload stays for the next try; where it is gone, its clean-up puts on record what it removes. An
        // answer is asked for again.
        if work.row.needs_consent.is_some() && !verified && (good || outcome != StepOutcome::Applied) {
            return from != TaskState::Uploaded;
        }
        tracing::debug!(%attempt, ?outcome, "judged");
        true
    }

    /// Nobody will ever read these: a cancelled or damaged upload leaves nothing behind.
    async fn discard(&self, attempt: AttemptId) {
        if let Err(error) = self.landing.delete_sealed(attempt).await {
            tracing::warn!(%attempt, error = &error as &dyn std::error::Error, "could not remove sealed objects of an attempt that failed");
        }
    }

    /// Whether this very attempt's bundle is the one that counts. Asked of the database and not of our own outcome: a commit whose
    /// confirmation was lost is a commit.
    async fn is_verified(&self, attempt: AttemptId) -> bool {
        match self.store.bundle(attempt.task()).await {
            Ok(bundle) => bundle.is_some_and(|bundle| bundle.manifest.attempt == attempt),
            // Unknown: keep what is there rather than remove what may count.
            Err(_) => true,
        }
    }

    async fn seal_inbox(&self, attempt: AttemptId) -> Result<Landed, Unjudged> {
        let objects = self.landing.list_inbox(attempt).await?.objects;
        let total: u64 = objects.iter().map(|object| object.size_bytes).sum();
        let mut landed = Landed::default();
        if total > self.options.max_bundle_bytes {
            return Err(Unjudged::TooLarge { bytes: total, limit: self.options.max_bundle_bytes });
        }
        for object in objects {
            let sealed = self.landing.seal(attempt, &object.name).await?;
            let limits = self.limits(sealed.size_bytes);
            let reader = self.landing.reader(attempt, &object.name).await?;
            let (name, size) = (object.name.as_str().to_owned(), sealed.size_bytes);
            let finding = tokio::task::spawn_blocking(move || inspect(&name, reader, size, &limits)).await?;
            landed.sealed.push(sealed);
            landed.findings.push(finding);
        }
        Ok(landed)
    }

    fn limits(&self, size_bytes: u64) -> InspectLimits {
        let depth = if size_bytes <= self.options.full_read_limit_bytes { Depth::Full } else { Depth::Structure };
        InspectLimits { depth, ..InspectLimits::default() }
    }

    async fn put_answer(&self, work: &OpenWork, attempt: AttemptId, modules: Vec<(String, String)>) -> Result<Landed, LandingError> {
        let extension = match work.row.request {
            CollectionRequest::Logs { content_type: ContentType::Json, .. } => "json",
            _ => "log",
        };
        let mut landed = Landed::default();
        for (index, (module, text)) in modules.into_iter().enumerate() {
            // A module name comes from the device and becomes part of a path.
            let name = ObjectName::from_device(&format!("{module}.{extension}"))
                .or_else(|_| ObjectName::from_device(&format!("module-{index}.{extension}")))?;
            let bytes = Bytes::from(text);
            let sealed = self.landing.put_sealed(attempt, &name, bytes.clone()).await?;
            landed.findings.push(inspect(name.as_str(), Cursor::new(bytes), sealed.size_bytes, &self.limits(sealed.size_bytes)));
            landed.sealed.push(sealed);
        }
        Ok(landed)
    }

    async fn write_manifest(
        &self,
        work: &OpenWork,
        row: &OpenTask,
        attempt: AttemptId,
        landed: &Landed,
        judgement: Judgement,
        (consent, now): (Option<ConsentId>, OffsetDateTime),
    ) -> Result<(BundleManifest, String), LandingError> {
        let objects: Vec<BundleObject> = landed
            .sealed
            .iter()
            .zip(&landed.findings)
            .map(|(sealed, finding)| BundleObject {
                name: sealed.name.as_str().to_owned(),
                size_bytes: sealed.size_bytes,
                sha256: sealed.sha256.to_string(),
                kind: finding.kind,
                entries: finding.entries(),
                depth: finding.depth,
            })
            .collect();
        let manifest = BundleManifest {
            version: MANIFEST_VERSION.to_owned(),
            task: attempt.task(),
            attempt,
            collection: work.id,
            device: row.device.clone(),
            correlation_id: row.correlation_id.clone(),
            case: work.row.case.clone(),
            consent,
            verdict: judgement.verdict,
            reason: judgement.reason,
            missing: judgement.missing,
            objects,
            sealed_at: now,
        };
        let bytes = serde_json::to_vec_pretty(&manifest).expect("a manifest has only JSON members");
        let sha256 = hex(&Sha256::digest(&bytes));
        self.landing.put_sealed(attempt, &ObjectName::manifest(), Bytes::from(bytes)).await?;
        Ok((manifest, sha256))
    }
}

/// Module and text of an answer, unpacked within bounds.
fn texts(payload: &[u8]) -> Result<Vec<(String, String)>, AnswerError> {
    let mut left = MAX_ANSWER_EXPANDED_BYTES;
    let mut texts = Vec::new();
    for module in ModuleLogs::parse_all(payload)? {
        let text = module.text(left)?.into_owned();
        left -= text.len().min(left);
        texts.push((module.id, text));
    }
    Ok(texts)
}

fn expected(work: &OpenWork) -> Expected {
    match work.work {
        Work::UploadOne => Expected::SupportBundle,
        _ => Expected::ModuleLogs { modules: None },
    }
}

/// A judgement without findings.
fn damaged(reason: Reason, why: &str) -> Judgement {
    let set_aside = vec![Missing { what: "the upload".to_owned(), why: clean(why) }];
    Judgement { verdict: Verdict::Damaged, reason, missing: Vec::new(), set_aside }
}

/// What was wrong, in words for a person.
fn detail(judgement: &Judgement) -> Option<String> {
    let parts = if judgement.is_good() { &judgement.missing } else { &judgement.set_aside };
    let (first, more) = parts.split_first()?;
    let rest = if more.is_empty() { String::new() } else { format!(" (and {} more)", more.len()) };
    Some(clean(&format!("{}: {}{rest}", first.what, first.why)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
