//! Many collections of one device each in a few statements: what alerts make.

use muster_domain::rollout::Limits;
use muster_domain::rollout::steering::is_steered;
use muster_wire::http::{ConsentKind, MAX_TEXT_CHARS};
use muster_wire::{ConsentId, TaskState};
use uuid::Uuid;

use crate::create::NewCollection;
use crate::dialect::{Batch, ID_BYTES, Tx, VALUE_BYTES, parcels};
use crate::error::StoreError;
use crate::instant::to_ms;
use crate::text::bounded;

/// A collection of one device that has consented.
#[derive(Debug, Clone)]
pub(crate) struct OfOne {
    pub(crate) new: NewCollection,
    pub(crate) consent: ConsentId,
}

struct Texts {
    request: String,
    target: String,
    origin: String,
    reason: Option<String>,
    creator: String,
}

/// Makes them, each with its task, its consent and the first line of its history.
///
/// # Errors
/// [`StoreError::Misuse`] for one that has more to it than that: other devices, stages, limits, steps, a window or a key.
pub(crate) async fn create_of_one(tx: &mut Tx, all: &[OfOne]) -> Result<(), StoreError> {
    let mut texts = Vec::with_capacity(all.len());
    for OfOne { new, .. } in all {
        let plain = new.tasks.len() == 1
            && new.tasks[0].skip.is_none()
            && Limits::of(&new.rollout, new.in_flight, 1).is_none()
            && !is_steered(&new.rollout)
            && new.rollout.stages.is_empty()
            && new.steps.is_empty()
            && new.step_of.is_none()
            && new.window.is_none()
            && new.retry.is_none()
            && new.paused.is_none()
            && new.idempotency.is_none()
            && !new.standing;
        if !plain {
            return Err(StoreError::Misuse(format!("{} is no collection of one device and nothing more", new.id)));
        }
        let json = |error: serde_json::Error| StoreError::Misuse(format!("the request could not be written as JSON: {error}"));
        texts.push((
            new,
            Texts {
                request: serde_json::to_string(&new.request).map_err(json)?,
                target: serde_json::to_string(&new.target).map_err(json)?,
                origin: serde_json::to_string(&new.origin).map_err(json)?,
                reason: new.reason.as_deref().map(|text| bounded(text, MAX_TEXT_CHARS).into_owned()),
                creator: bounded(&new.created_by, MAX_TEXT_CHARS).into_owned(),
            },
        ));
    }
    // Two ids, nine numbers and as many texts beside those that are counted.
    let bytes = |(new, texts): &(&NewCollection, Texts)| {
        let long = texts.request.len() + texts.target.len() + texts.origin.len() + texts.reason.as_ref().map_or(0, String::len);
        2 * ID_BYTES + 9 * (VALUE_BYTES + 8) + 9 * VALUE_BYTES + long + texts.creator.len() + new.case.as_ref().map_or(0, String::len) + 32
    };
    for parcel in parcels(&texts, bytes) {
        insert_collections(tx, parcel).await?;
    }
    for parcel in parcels(all, |of| 2 * ID_BYTES + VALUE_BYTES + of.new.tasks[0].device.as_str().len()) {
        let batch = Batch::default()
            .ids("id", parcel.iter().map(|of| of.new.id.task(0).uuid()))
            .texts("device", parcel.iter().map(|of| Some(of.new.tasks[0].device.as_str())))
            .ids("consent", parcel.iter().map(|of| of.consent.uuid()));
        let queued = TaskState::Queued.code();
        let sql = format!("INSERT INTO task (id, device_id, state, consent_id) SELECT v.id, v.device, {queued}, v.consent FROM [[v]]");
        tx.execute(&sql, &[], Some(&batch)).await?;
    }
    for parcel in parcels(&texts, |(_, texts)| 2 * ID_BYTES + 8 + VALUE_BYTES + texts.creator.len()) {
        let batch = Batch::default()
            .ids("id", parcel.iter().map(|_| Uuid::now_v7()))
            .ids("collection", parcel.iter().map(|(new, _)| new.id.uuid()))
            .numbers("at", parcel.iter().map(|(new, _)| Some(to_ms(new.created_at))))
            .texts("who", parcel.iter().map(|(_, texts)| Some(texts.creator.as_str())));
        const SQL: &str = "INSERT INTO collection_event (id, collection_id, at, who, what, detail) \
            SELECT v.id, v.collection, v.at, v.who, 'created', '{\"skipped\":0,\"targeted\":1}' FROM [[v]]";
        tx.execute(SQL, &[], Some(&batch)).await?;
    }
    Ok(())
}

async fn insert_collections(tx: &mut Tx, parcel: &[(&NewCollection, Texts)]) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO collection (id, last_task, kind, request, target, attempt_timeout_ms, max_attempts, attempt_limit, in_flight, \
        targeted, reason, case_id, created_by, created_at, expires_at, priority, origin, consent_kind) \
        SELECT v.id, v.last_task, v.kind, v.request, v.target, v.timeout_ms, v.attempts, v.attempts, 0, 1, v.reason, v.case_id, v.creator, \
        v.created_at, v.expires_at, v.priority, v.origin, v.consent_kind FROM [[v]]";
    let new = || parcel.iter().map(|(new, _)| *new);
    let texts = || parcel.iter().map(|(_, texts)| texts);
    let batch = Batch::default()
        .ids("id", new().map(|new| new.id.uuid()))
        .ids("last_task", new().map(|new| new.id.task(0).uuid()))
        .texts("kind", new().map(|new| Some(new.request.kind())))
        .texts("request", texts().map(|texts| Some(texts.request.as_str())))
        .texts("target", texts().map(|texts| Some(texts.target.as_str())))
        .numbers("timeout_ms", new().map(|new| Some(i64::try_from(new.attempt_timeout.as_millis()).unwrap_or(i64::MAX))))
        .smalls("attempts", new().map(|new| Some(i16::from(new.max_attempts))))
        .texts("reason", texts().map(|texts| texts.reason.as_deref()))
        .texts("case_id", new().map(|new| new.case.as_deref()))
        .texts("creator", texts().map(|texts| Some(texts.creator.as_str())))
        .numbers("created_at", new().map(|new| Some(to_ms(new.created_at))))
        .numbers("expires_at", new().map(|new| Some(to_ms(new.expires_at))))
        .smalls("priority", new().map(|new| Some(new.priority.code())))
        .texts("origin", texts().map(|texts| Some(texts.origin.as_str())))
        .texts("consent_kind", new().map(|new| new.needs_consent.map(ConsentKind::as_str)));
    tx.execute(SQL, &[], Some(&batch)).await.map(|_| ())
}
