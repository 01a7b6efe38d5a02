//! Making, ending and repeating collections: what the API and the console both do.

use std::time::Duration;

use http::StatusCode;
use muster_domain::calendar::OpenTimes;
use muster_store::{Cancelled, Created, Idempotency, Reran, RerunLimits, Resumed};
use muster_wire::CollectionId;
use muster_wire::http::{
    Cancel, CollectionAnswer, CollectionCreated, CollectionOptions, CollectionState, CollectionView, MAX_ATTEMPT_TIMEOUT_SECONDS,
    MAX_ATTEMPTS_ASKED, MAX_EXPIRY_SECONDS, MAX_IN_FLIGHT, MAX_TEXT_CHARS, MIN_ATTEMPT_TIMEOUT_SECONDS, NewCollection, Origin,
    PAUSED_FOR_CONFIRMATION, Pause, Paused, Rerun, Rollout, StepOf, Touched, WindowNow,
};
use muster_wire::method::Method;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::api::problem::{ApiError, ApiResult};
use crate::api::{Api, collection_not_found};
use crate::settings::DispatchSettings;
use crate::settle::{self, settle};
use crate::targets;

/// Longest `Idempotency-Key`, in characters.
pub const MAX_IDEMPOTENCY_KEY_CHARS: usize = 200;

/// Makes a collection, or finds the one the same request made before. True: made now.
pub(crate) async fn create(
    api: &Api,
    caller: &str,
    key: Option<String>,
    origin: Origin,
    new: NewCollection,
) -> ApiResult<(bool, CollectionAnswer)> {
    let now = OffsetDateTime::now_utc();
    let idempotency = key.map(|key| check_key(key, &new)).transpose()?;
    let mut settled = settle(&new, &api.settings.dispatch, now).map_err(|problem| ApiError::from(*problem))?;
    let method = settle::method(&settled.request);
    let aimed = targets::aim(api, new.target, &new.choice, new.standing).await?;
    aimed.warn(&mut settled.warnings);
    let tasks = targets::tasks(api, aimed.devices, method).await?;
    let targeted = tasks.len() as u64;
    let paused = if new.rollout.start_paused {
        let why = "made paused; it begins when somebody resumes it".to_owned();
        Some(Paused { at: now, by: caller.to_owned(), why })
    } else {
        let why = unconfirmed(new.confirmed, method, targeted, api.settings.dispatch.confirm_above);
        why.map(|why| Paused { at: now, by: PAUSED_FOR_CONFIRMATION.to_owned(), why })
    };
    let when_matches = settled.steps.first().and_then(|step| step.when_matches.clone());
    let mut collection = muster_store::NewCollection {
        id: CollectionId::new(),
        request: settled.request,
        target: aimed.view,
        reason: new.reason,
        case: new.case,
        created_by: caller.to_owned(),
        origin,
        needs_consent: None,
        created_at: now,
        expires_at: settled.expires_at,
        attempt_timeout: settled.attempt_timeout,
        max_attempts: settled.max_attempts,
        in_flight: settled.in_flight,
        priority: new.options.priority.unwrap_or_default(),
        rollout: new.rollout,
        retry: new.options.retry.clone(),
        window: new.window,
        standing: new.standing,
        steps: settled.steps,
        step_of: None,
        when_matches,
        paused,
        idempotency,
        tasks: Vec::new(),
    };
    let answer = |id, targeted, repeated, paused: Option<&Paused>, mut warnings: Vec<String>| {
        if let Some(paused) = paused.filter(|paused| paused.by == PAUSED_FOR_CONFIRMATION) {
            warnings.push(format!("it is paused: {}; muster collections resume {id}", paused.why));
        }
        CollectionAnswer { created: CollectionCreated { id, targeted, repeated, paused: paused.is_some() }, warnings }
    };
    let later = deeper_steps(&collection, &new.options, &api.settings.dispatch);
    collection.tasks = tasks;
    match api.store.create_escalation(&collection, &later).await? {
        Created::New => {
            api.dispatch.poke(std::iter::once(collection.id).chain(later.iter().map(|step| step.id)));
            tracing::info!(collection.id = %collection.id, kind = collection.request.kind(), targeted, by = caller, "a collection was made");
            Ok((true, answer(collection.id, targeted, false, collection.paused.as_ref(), settled.warnings)))
        }
        Created::Repeated(id) => {
            let made = api.store.collection_view(id).await?.ok_or_else(|| collection_not_found(id))?;
            Ok((false, answer(id, made.counters.targeted, true, made.paused.as_ref(), settled.warnings)))
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

/// Why a collection is made paused though nobody asked for that: it would upload from more devices than goes without a word (0: any number).
pub(crate) fn unconfirmed(confirmed: bool, method: Method, targeted: u64, above: u64) -> Option<String> {
    let asks = !confirmed && method.is_upload() && above > 0 && targeted > above;
    asks.then(|| format!("targets {targeted} devices; dispatch.confirm_above is {above}; resume it, or ask with confirmed"))
}

/// Pauses: no device is asked from now on, what is out may end.
pub(crate) async fn pause(api: &Api, caller: &str, id: CollectionId, pause: Pause) -> ApiResult<CollectionView> {
    let why = pause.why.unwrap_or_else(|| "somebody paused it".to_owned());
    if why.chars().count() > MAX_TEXT_CHARS {
        let detail = format!("why has {} characters; at most {MAX_TEXT_CHARS} are kept", why.chars().count());
        return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_pause", "The collection cannot be paused like this", detail));
    }
    match api.store.pause(id, caller, &why, OffsetDateTime::now_utc()).await? {
        muster_store::Paused::Done => {
            api.dispatch.poke([id]);
            tracing::info!(collection.id = %id, why, by = caller, "a collection was paused");
        }
        // Paused is what the caller wanted, done before.
        muster_store::Paused::Already => {}
        muster_store::Paused::Ended => return Err(collection_ended(id, "pause")),
        muster_store::Paused::Unknown => return Err(collection_not_found(id)),
    }
    api.store.collection_view(id).await?.ok_or_else(|| collection_not_found(id))
}

/// Resumes: on from where it stands, and past a gate it stands at.
pub(crate) async fn resume(api: &Api, caller: &str, id: CollectionId) -> ApiResult<CollectionView> {
    match api.store.resume(id, caller, OffsetDateTime::now_utc()).await? {
        Resumed::Done { stage } => {
            api.dispatch.poke([id]);
            tracing::info!(collection.id = %id, stage, by = caller, "a collection was resumed");
        }
        Resumed::Already => {}
        Resumed::Ended => return Err(collection_ended(id, "resume")),
        Resumed::Unknown => return Err(collection_not_found(id)),
    }
    api.store.collection_view(id).await?.ok_or_else(|| collection_not_found(id))
}

fn collection_ended(id: CollectionId, verb: &str) -> ApiError {
    let detail = format!("{id} has ended or was cancelled: there is nothing to {verb}");
    ApiError::new(StatusCode::CONFLICT, "collection_ended", "The collection has ended", detail)
        .next_step("make a new collection, or run its tasks again (muster collections rerun)")
}

/// The collections of the deeper steps: as the first, each with its own request, and without a device yet. Only the first is paced by stages
/// and limits: a later one gets its devices one by one, as they come out of the step before.
fn deeper_steps(
    first: &muster_store::NewCollection,
    options: &CollectionOptions,
    defaults: &DispatchSettings,
) -> Vec<muster_store::NewCollection> {
    let expires_in = Duration::try_from(first.expires_at - first.created_at).unwrap_or_default();
    (first.steps.iter().enumerate())
        .map(|(index, step)| {
            let behind = &first.steps[index + 1..];
            let usual = settle::usual_timeout(settle::method(&step.request), defaults).min(expires_in);
            muster_store::NewCollection {
                id: CollectionId::new(),
                request: step.request.clone(),
                attempt_timeout: options.attempt_timeout_seconds.map_or(usual, Duration::from_secs),
                rollout: Rollout::default(),
                standing: false,
                steps: behind.to_vec(),
                step_of: Some(StepOf { collection: first.id, step: u8::try_from(index + 2).expect("bounded by MAX_STEPS") }),
                when_matches: behind.first().and_then(|next| next.when_matches.clone()),
                paused: None,
                idempotency: None,
                tasks: Vec::new(),
                ..first.clone()
            }
        })
        .collect()
}

/// A collection as it is shown by itself: with its window as it stands now, and the steps behind it.
pub(crate) async fn show(api: &Api, id: CollectionId) -> ApiResult<CollectionView> {
    let mut view = api.store.collection_view(id).await?.ok_or_else(|| collection_not_found(id))?;
    view.window_now = window_now(&view, OffsetDateTime::now_utc());
    if !view.steps.is_empty() {
        view.later_steps = api.store.later_steps(id).await?;
    }
    Ok(view)
}

/// Where the window of an open collection stands.
pub(crate) fn window_now(view: &CollectionView, now: OffsetDateTime) -> Option<WindowNow> {
    let window = view.window.as_ref().filter(|_| view.state == CollectionState::Running)?;
    let times = OpenTimes::parse(window).ok()?;
    let opening = times.opening(now);
    let open = opening.is_some_and(|opening| opening.contains(now));
    let changes_at = opening.map(|opening| if open { opening.until } else { opening.from });
    Some(WindowNow { open, changes_at, words: times.words(now) })
}

/// Cancels what is not final, or only what is queued; the steps behind a collection end with it.
pub(crate) async fn cancel(api: &Api, caller: &str, id: CollectionId, cancel: Cancel) -> ApiResult<Touched> {
    let which = if cancel.queued_only { muster_store::Cancel::Queued } else { muster_store::Cancel::All };
    match api.store.cancel_collection(id, which, caller, OffsetDateTime::now_utc()).await? {
        Cancelled::Done { tasks } => {
            let mut tasks = tasks;
            let steps = api.store.later_steps(id).await?;
            for step in &steps {
                if let Cancelled::Done { tasks: more } =
                    api.store.cancel_collection(step.id, which, caller, OffsetDateTime::now_utc()).await?
                {
                    tasks += more;
                }
            }
            api.dispatch.poke(std::iter::once(id).chain(steps.iter().map(|step| step.id)));
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
    let bounds = [
        ("expires_in_seconds", rerun.expires_in_seconds, MIN_ATTEMPT_TIMEOUT_SECONDS, MAX_EXPIRY_SECONDS),
        ("attempt_timeout_seconds", rerun.attempt_timeout_seconds, MIN_ATTEMPT_TIMEOUT_SECONDS, MAX_ATTEMPT_TIMEOUT_SECONDS),
        ("max_attempts", rerun.max_attempts.map(u64::from), 1, u64::from(MAX_ATTEMPTS_ASKED)),
        ("in_flight", rerun.in_flight.map(u64::from), 1, u64::from(MAX_IN_FLIGHT)),
    ];
    for (field, value, least, most) in bounds {
        if let Some(value) = value.filter(|value| !(least..=most).contains(value)) {
            return Err(ApiError::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid_rerun",
                "Tasks cannot be run again like this",
                "a value cannot be used",
            )
            .field(field, format!("is {value}; it lies between {least} and {most}")));
        }
    }
    let collection = api.store.collection(id).await?.ok_or_else(|| collection_not_found(id))?;
    let expires_at = match rerun.expires_in_seconds {
        Some(seconds) => now + Duration::from_secs(seconds),
        None if collection.expires_at > now => collection.expires_at,
        None => now + api.settings.dispatch.expiry.0,
    };
    let limits = RerunLimits {
        attempt_timeout: rerun.attempt_timeout_seconds.map(Duration::from_secs),
        max_attempts: rerun.max_attempts,
        in_flight: rerun.in_flight,
    };
    let wanted = muster_store::Rerun { collection: id, who: caller, reasons: &rerun.reasons, expires_at, limits, now };
    match api.store.rerun(&wanted).await? {
        Reran::Done { tasks } => {
            api.dispatch.poke([id]);
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
    fn only_uploads_of_more_devices_than_the_setting_want_a_word() {
        let why = unconfirmed(false, Method::UploadSupportBundle, 5000, 1000).expect("unconfirmed");
        assert_eq!(why, "targets 5000 devices; dispatch.confirm_above is 1000; resume it, or ask with confirmed");
        assert!(unconfirmed(false, Method::UploadModuleLogs, 1001, 1000).is_some());
        for (confirmed, method, targeted, above) in [
            (true, Method::UploadSupportBundle, 5000, 1000),
            (false, Method::UploadSupportBundle, 1000, 1000),
            (false, Method::UploadSupportBundle, 5000, 0),
            (false, Method::GetModuleLogs, 5000, 1000),
            (false, Method::Ping, 5000, 1000),
        ] {
            assert_eq!(unconfirmed(confirmed, method, targeted, above), None, "{method:?} {targeted} {above}");
        }
    }

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
