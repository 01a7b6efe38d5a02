//! Making, ending and repeating collections: what the API and the console both do.

use std::time::Duration;

use http::StatusCode;
use muster_store::{Cancelled, Created, Idempotency, Reran};
use muster_wire::CollectionId;
use muster_wire::http::{
    CollectionAnswer, CollectionCreated, MAX_EXPIRY_SECONDS, MIN_ATTEMPT_TIMEOUT_SECONDS, NewCollection, Rerun, Touched,
};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::api::problem::{ApiError, ApiResult};
use crate::api::{Api, collection_not_found};
use crate::settle::{self, settle};
use crate::targets;

/// Longest `Idempotency-Key`, in characters.
pub const MAX_IDEMPOTENCY_KEY_CHARS: usize = 200;

/// Makes a collection, or finds the one the same request made before. True: made now.
pub(crate) async fn create(api: &Api, caller: &str, key: Option<String>, new: NewCollection) -> ApiResult<(bool, CollectionAnswer)> {
    let now = OffsetDateTime::now_utc();
    let idempotency = key.map(|key| check_key(key, &new)).transpose()?;
    let mut settled = settle(&new, &api.settings.dispatch, now).map_err(|problem| ApiError::from(*problem))?;
    let method = settle::method(&settled.request);
    let aimed = targets::aim(api, new.target, &new.choice).await?;
    aimed.warn(&mut settled.warnings);
    let tasks = targets::tasks(api, aimed.devices, method).await?;
    let targeted = tasks.len() as u64;
    let collection = muster_store::NewCollection {
        id: CollectionId::new(),
        request: settled.request,
        target: aimed.view,
        reason: new.reason,
        case: new.case,
        created_by: caller.to_owned(),
        created_at: now,
        expires_at: settled.expires_at,
        attempt_timeout: settled.attempt_timeout,
        max_attempts: settled.max_attempts,
        in_flight: settled.in_flight,
        priority: new.options.priority.unwrap_or_default(),
        rollout: new.rollout,
        retry: new.options.retry,
        window: new.window,
        standing: new.standing,
        steps: new.steps,
        step_of: None,
        when_matches: None,
        paused: None,
        idempotency,
        tasks,
    };
    let answer = |id, targeted, repeated, warnings| CollectionAnswer { created: CollectionCreated { id, targeted, repeated }, warnings };
    match api.store.create_collection(&collection).await? {
        Created::New => {
            api.dispatch.poke();
            tracing::info!(collection.id = %collection.id, kind = collection.request.kind(), targeted, by = caller, "a collection was made");
            Ok((true, answer(collection.id, targeted, false, settled.warnings)))
        }
        Created::Repeated(id) => {
            let made = api.store.collection(id).await?.ok_or_else(|| collection_not_found(id))?;
            Ok((false, answer(id, made.targeted, true, settled.warnings)))
        }
        Created::KeyReused(id) => Err(ApiError::new(
            StatusCode::CONFLICT,
            "idempotency_key_reused",
            "The key was used for another request",
            format!("the Idempotency-Key stands for {id}, which was asked for differently"),
        )
        .next_step("use a new key for a new request")),
    }
}

/// Cancels what is not final.
pub(crate) async fn cancel(api: &Api, caller: &str, id: CollectionId) -> ApiResult<Touched> {
    match api.store.cancel_collection(id, caller, OffsetDateTime::now_utc()).await? {
        Cancelled::Done { tasks } => {
            api.dispatch.poke();
            tracing::info!(collection.id = %id, tasks, by = caller, "a collection was cancelled");
            Ok(Touched { tasks })
        }
        // Cancelling what is over is what the caller wanted, done before.
        Cancelled::Already | Cancelled::Finished => Ok(Touched { tasks: 0 }),
        Cancelled::Unknown => Err(collection_not_found(id)),
    }
}

/// Queues ended tasks again.
pub(crate) async fn rerun(api: &Api, caller: &str, id: CollectionId, rerun: Rerun) -> ApiResult<Touched> {
    let now = OffsetDateTime::now_utc();
    if let Some(seconds) = rerun.expires_in_seconds.filter(|seconds| !(MIN_ATTEMPT_TIMEOUT_SECONDS..=MAX_EXPIRY_SECONDS).contains(seconds))
    {
        return Err(ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_rerun",
            "Tasks cannot be run again like this",
            "a value cannot be used",
        )
        .field("expires_in_seconds", format!("is {seconds}; it lies between {MIN_ATTEMPT_TIMEOUT_SECONDS} and {MAX_EXPIRY_SECONDS}")));
    }
    let collection = api.store.collection(id).await?.ok_or_else(|| collection_not_found(id))?;
    let expires_at = match rerun.expires_in_seconds {
        Some(seconds) => now + Duration::from_secs(seconds),
        None if collection.expires_at > now => collection.expires_at,
        None => now + api.settings.dispatch.expiry.0,
    };
    let wanted = muster_store::Rerun { collection: id, who: caller, reasons: &rerun.reasons, expires_at, now };
    match api.store.rerun(&wanted).await? {
        Reran::Done { tasks } => {
            api.dispatch.poke();
            tracing::info!(collection.id = %id, tasks, by = caller, "tasks run again");
            Ok(Touched { tasks })
        }
        Reran::Unknown => Err(collection_not_found(id)),
    }
}

fn check_key(key: String, new: &NewCollection) -> ApiResult<Idempotency> {
    if key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY_CHARS || !key.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
        return Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            "invalid_idempotency_key",
            "Not an Idempotency-Key",
            format!("a key has 1 to {MAX_IDEMPOTENCY_KEY_CHARS} visible ASCII characters"),
        ));
    }
    // Of what was understood, not of the bytes: blanks and the order of members make no other request.
    let body = serde_json::to_vec(new).expect("it was JSON before");
    let body_sha256 = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Idempotency { key, body_sha256 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_visible_text_and_stands_for_what_was_understood() {
        let read = |text: &str| serde_json::from_str::<NewCollection>(text).expect("a request");
        let a = read(r#"{"request":{"kind":"ping"},"target":{"kind":"all"}}"#);
        let b = read("{ \"target\":{\"kind\":\"all\"}, \"options\":{}, \"request\":{\"kind\":\"ping\"} }");
        let digest = |new: &NewCollection| check_key("k".to_owned(), new).expect("a key").body_sha256;
        assert_eq!(digest(&a), digest(&b));
        let c = read(r#"{"request":{"kind":"ping"},"target":{"kind":"all"},"case":"1"}"#);
        assert_ne!(digest(&a), digest(&c));
        assert!(check_key("x".repeat(MAX_IDEMPOTENCY_KEY_CHARS), &a).is_ok());
        for bad in [String::new(), "x".repeat(MAX_IDEMPOTENCY_KEY_CHARS + 1), "a\u{7f}".to_owned(), "ä".to_owned()] {
            assert_eq!(check_key(bad, &a).expect_err("not a key").problem().code, "invalid_idempotency_key");
        }
    }
}
