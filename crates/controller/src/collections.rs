//! Making, ending and repeating collections: what the API and the console both do.

use std::collections::HashSet;
use std::time::Duration;

use http::StatusCode;
use muster_store::{Cancelled, Created, Idempotency, KnownDevice, MAX_COLLECTION_TASKS, NewTask, Reran, RerunLimits};
use muster_wire::http::{
    CollectionAnswer, CollectionCreated, MAX_ATTEMPT_TIMEOUT_SECONDS, MAX_ATTEMPTS_ASKED, MAX_EXPIRY_SECONDS, MAX_IN_FLIGHT,
    MIN_ATTEMPT_TIMEOUT_SECONDS, NewCollection, Rerun, Target, TargetView, Touched,
};
use muster_wire::method::Method;
use muster_wire::{CollectionId, DeviceId, Reason};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::api::problem::{ApiError, ApiResult};
use crate::api::{Api, collection_not_found};
use crate::settle::{self, settle};

/// Longest `Idempotency-Key`, in characters.
pub const MAX_IDEMPOTENCY_KEY_CHARS: usize = 200;
/// Unknown devices that are named in an answer.
pub const MAX_UNKNOWN_LISTED: usize = 20;
/// Device ids read at once.
const IDS_PER_READ: u32 = 10_000;

/// Makes a collection, or finds the one the same request made before. True: made now.
pub(crate) async fn create(api: &Api, caller: &str, key: Option<String>, new: NewCollection) -> ApiResult<(bool, CollectionAnswer)> {
    let now = OffsetDateTime::now_utc();
    let idempotency = key.map(|key| check_key(key, &new)).transpose()?;
    let settled = settle(&new, &api.settings.dispatch, now).map_err(|problem| ApiError::from(*problem))?;
    let method = settle::method(&settled.request);
    let (target, tasks) = match new.target {
        Target::Devices { devices } => (TargetView::Devices, named(api, devices, method).await?),
        Target::All {} => (TargetView::All, all(api, method).await?),
        Target::Condition { .. } => unreachable!("settle refuses it"),
    };
    let targeted = tasks.len() as u64;
    let collection = muster_store::NewCollection {
        id: CollectionId::new(),
        request: settled.request,
        target,
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

/// The devices named, each once, in the order they were named.
async fn named(api: &Api, devices: Vec<DeviceId>, method: Method) -> ApiResult<Vec<NewTask>> {
    let mut seen = HashSet::with_capacity(devices.len());
    let devices: Vec<DeviceId> = devices.into_iter().filter(|device| seen.insert(device.clone())).collect();
    drop(seen);
    let known = api.store.known_devices(&devices).await?;
    if known.len() < devices.len() {
        let known: HashSet<&DeviceId> = known.iter().map(|device| &device.id).collect();
        return Err(unknown_devices(devices.iter().filter(|device| !known.contains(device))));
    }
    let unable: HashSet<&DeviceId> = known.iter().filter(|device| !offers(device, method)).map(|device| &device.id).collect();
    Ok(devices
        .iter()
        .map(|device| NewTask { device: device.clone(), skip: unable.contains(device).then_some(Reason::MethodUnsupported) })
        .collect())
}

fn unknown_devices<'a>(unknown: impl Iterator<Item = &'a DeviceId> + Clone) -> ApiError {
    let count = unknown.clone().count();
    let detail = match count {
        1 => "a device named is not in the registry".to_owned(),
        _ => format!("{count} of the devices named are not in the registry"),
    };
    let error = ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "unknown_devices", "Devices are not known", detail)
        .next_step("check the spelling; a device is known from the moment it first connects (muster devices list)");
    let error = unknown
        .take(MAX_UNKNOWN_LISTED)
        .fold(error, |error, device| error.field("target.devices", format!("{device} is not in the registry")));
    match count.saturating_sub(MAX_UNKNOWN_LISTED) {
        0 => error,
        more => error.field("target.devices", format!("and {more} more")),
    }
}

/// Every device of the registry.
async fn all(api: &Api, method: Method) -> ApiResult<Vec<NewTask>> {
    let mut tasks: Vec<NewTask> = Vec::new();
    loop {
        let after = tasks.last().map(|task| task.device.clone());
        let ids = api.store.all_device_ids(after.as_ref(), IDS_PER_READ).await?;
        if ids.is_empty() {
            break;
        }
        if tasks.len() + ids.len() > MAX_COLLECTION_TASKS {
            return Err(ApiError::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "too_many_devices",
                "Too many devices for one collection",
                format!("the registry has more than {MAX_COLLECTION_TASKS} devices, the most one collection takes"),
            )
            .next_step("name the devices, in several collections"));
        }
        let known = api.store.known_devices(&ids).await?;
        let unable: HashSet<&DeviceId> = known.iter().filter(|device| !offers(device, method)).map(|device| &device.id).collect();
        tasks.extend(
            ids.iter().map(|device| NewTask { device: device.clone(), skip: unable.contains(device).then_some(Reason::MethodUnsupported) }),
        );
    }
    if tasks.is_empty() {
        return Err(ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "empty_target",
            "No device to collect from",
            "the registry has no device yet",
        )
        .next_step("connect a device to the broker (muster-agent run, or muster-agent fleet); it is known from then on"));
    }
    Ok(tasks)
}

/// Whether a device says it answers this method. One that never said anything is asked: its answer will tell.
fn offers(device: &KnownDevice, method: Method) -> bool {
    match device.methods.as_deref() {
        None | Some([]) => true,
        Some(methods) => methods.iter().any(|name| Method::find(name) == Some(method)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(methods: Option<&[&str]>) -> KnownDevice {
        KnownDevice {
            id: "d".parse().expect("an id"),
            presence: muster_wire::http::PresenceState::Online,
            methods: methods.map(|list| list.iter().map(|name| (*name).to_owned()).collect()),
            proto: Vec::new(),
            agent_started: None,
        }
    }

    #[test]
    fn a_device_is_left_out_only_when_it_says_what_it_can_do() {
        assert!(offers(&device(None), Method::UploadSupportBundle));
        assert!(offers(&device(Some(&[])), Method::UploadSupportBundle));
        assert!(offers(&device(Some(&["ping", "uploadsupportbundle"])), Method::UploadSupportBundle));
        assert!(!offers(&device(Some(&["ping", "GetModuleLogs"])), Method::UploadSupportBundle));
    }

    #[test]
    fn unknown_devices_are_listed_and_counted() {
        let ids: Vec<DeviceId> = (0..25).map(|n| format!("d{n}").parse().expect("an id")).collect();
        let problem = unknown_devices(ids.iter()).problem().clone();
        assert_eq!(problem.errors.len(), MAX_UNKNOWN_LISTED + 1);
        assert_eq!(problem.errors[MAX_UNKNOWN_LISTED].message, "and 5 more");
        assert!(problem.detail.starts_with("25 of the devices"));
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
