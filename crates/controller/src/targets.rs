//! From a target to its devices: found, looked up, and chosen among.

use std::collections::HashSet;

use http::StatusCode;
use muster_domain::condition::Condition;
use muster_store::{KnownDevice, MAX_COLLECTION_TASKS, NewTask};
use muster_wire::http::{Choice, Target, TargetView};
use muster_wire::method::Method;
use muster_wire::{DeviceId, Reason};

use crate::api::Api;
use crate::api::problem::{ApiError, ApiResult};

/// Unknown devices that are named in an answer.
pub const MAX_UNKNOWN_LISTED: usize = 20;
/// Device ids read at once.
pub(crate) const IDS_PER_READ: u32 = 10_000;

/// The devices of a target.
pub(crate) struct Aimed {
    /// How they were chosen.
    pub(crate) view: TargetView,
    /// Each once, in the order in which they are asked.
    pub(crate) devices: Vec<DeviceId>,
    /// Named more than once.
    pub(crate) duplicates: usize,
}

impl Aimed {
    /// Says what was wrong with the list, though not so wrong that it was refused.
    pub(crate) fn warn(&self, warnings: &mut Vec<String>) {
        if self.duplicates > 0 {
            warnings.push(format!("{} of the names were repeated; each device is asked once", self.duplicates));
        }
    }
}

/// Finds the devices of a target, and takes of them what is to be taken. A standing collection may begin with none.
pub(crate) async fn aim(api: &Api, target: Target, choice: &Choice, standing: bool) -> ApiResult<Aimed> {
    let mut aimed = match target {
        Target::Devices { devices } => {
            let (devices, duplicates) = named(api, devices).await?;
            Aimed { view: TargetView::Devices, devices, duplicates }
        }
        Target::All {} => {
            let devices = registered(api, None).await?;
            if devices.is_empty() && !standing {
                return Err(empty("the registry has no device yet")
                    .next_step("connect a device to the broker (muster-agent run, or muster-agent fleet); it is known from then on"));
            }
            Aimed { view: TargetView::All, devices, duplicates: 0 }
        }
        Target::Condition { condition: text, devices } => {
            let condition: Condition = text.parse().map_err(|error| unreadable("target.condition", error))?;
            let (devices, duplicates) = if devices.is_empty() {
                (registered(api, Some(&condition)).await?, 0)
            } else {
                let (devices, duplicates) = named(api, devices).await?;
                let matching: HashSet<DeviceId> = api.store.matching_among(&condition, &devices).await?.into_iter().collect();
                (devices.into_iter().filter(|device| matching.contains(device)).collect(), duplicates)
            };
            if devices.is_empty() && !standing {
                return Err(empty("no device meets the condition").next_step(
                    "muster devices list -t CONDITION shows who does; a comparison with a tag that a device lacks is never true",
                ));
            }
            Aimed { view: TargetView::Condition(text), devices, duplicates }
        }
    };
    aimed.devices = chosen(aimed.devices, choice);
    if aimed.devices.is_empty() && !standing {
        return Err(empty("every device of the target is excluded"));
    }
    Ok(aimed)
}

/// A condition that cannot be read, with the place.
pub(crate) fn unreadable(field: &str, error: impl std::fmt::Display) -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_condition", "The condition cannot be read", "it is not a condition")
        .field(field, error.to_string())
        .next_step("docs/TARGETS.md describes the language")
}

fn empty(detail: &str) -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "empty_target", "No device to collect from", detail)
}

/// The devices named, each once, in the order they were named, and how many names were repeated.
async fn named(api: &Api, devices: Vec<DeviceId>) -> ApiResult<(Vec<DeviceId>, usize)> {
    let names = devices.len();
    let mut seen = HashSet::with_capacity(names);
    let devices: Vec<DeviceId> = devices.into_iter().filter(|device| seen.insert(device.clone())).collect();
    drop(seen);
    let known = api.store.known_devices(&devices).await?;
    if known.len() < devices.len() {
        let known: HashSet<&DeviceId> = known.iter().map(|device| &device.id).collect();
        return Err(unknown_devices(devices.iter().filter(|device| !known.contains(device))));
    }
    let duplicates = names - devices.len();
    Ok((devices, duplicates))
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

/// Every device of the registry, or every one that meets the condition.
async fn registered(api: &Api, condition: Option<&Condition>) -> ApiResult<Vec<DeviceId>> {
    let mut devices: Vec<DeviceId> = Vec::new();
    loop {
        let after = devices.last();
        let ids = match condition {
            Some(condition) => api.store.matching_devices(condition, after, IDS_PER_READ).await?,
            None => api.store.all_device_ids(after, IDS_PER_READ).await?,
        };
        if ids.is_empty() {
            return Ok(devices);
        }
        if devices.len() + ids.len() > MAX_COLLECTION_TASKS {
            return Err(ApiError::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "too_many_devices",
                "Too many devices for one collection",
                format!("the target has more than {MAX_COLLECTION_TASKS} devices, the most one collection takes"),
            )
            .next_step("choose fewer by a condition, in several collections"));
        }
        devices.extend(ids);
    }
}

/// Without the excluded, a sample of the rest, no more than the limit; in the order they had.
fn chosen(mut devices: Vec<DeviceId>, choice: &Choice) -> Vec<DeviceId> {
    if !choice.exclude.is_empty() {
        let excluded: HashSet<&DeviceId> = choice.exclude.iter().collect();
        devices.retain(|device| !excluded.contains(device));
    }
    if let Some(percent) = choice.sample_percent
        && !devices.is_empty()
    {
        let places = rand::seq::index::sample(&mut rand::rng(), devices.len(), sample_size(devices.len(), percent));
        let taken: HashSet<usize> = places.into_iter().collect();
        let mut place = 0;
        devices.retain(|_| {
            place += 1;
            taken.contains(&(place - 1))
        });
    }
    devices.truncate(choice.limit.map_or(usize::MAX, |limit| limit as usize));
    devices
}

/// So many percent, rounded; one at least.
fn sample_size(devices: usize, percent: f64) -> usize {
    // A collection is far smaller than what a float holds exactly.
    let share = (devices as f64 * percent / 100.0).round() as usize;
    share.clamp(devices.min(1), devices)
}

/// A task for each device; skipped at once where the device says that it lacks the method.
pub(crate) async fn tasks(api: &Api, devices: Vec<DeviceId>, method: Method) -> ApiResult<Vec<NewTask>> {
    let mut tasks = Vec::with_capacity(devices.len());
    for chunk in devices.chunks(IDS_PER_READ as usize) {
        let known = api.store.known_devices(chunk).await?;
        let unable: HashSet<&DeviceId> = known.iter().filter(|device| !offers(device, method)).map(|device| &device.id).collect();
        tasks.extend(
            chunk
                .iter()
                .map(|device| NewTask { device: device.clone(), skip: unable.contains(device).then_some(Reason::MethodUnsupported) }),
        );
    }
    Ok(tasks)
}

/// Whether a device says it answers this method. One that never said anything is asked: its answer will tell.
pub(crate) fn offers(device: &KnownDevice, method: Method) -> bool {
    match device.methods.as_deref() {
        None | Some([]) => true,
        Some(methods) => methods.iter().any(|name| Method::find(name) == Some(method)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(count: usize) -> Vec<DeviceId> {
        (0..count).map(|n| format!("d{n:04}").parse().expect("an id")).collect()
    }

    fn device(methods: Option<&[&str]>) -> KnownDevice {
        KnownDevice {
            id: "d".parse().expect("an id"),
            presence: muster_wire::http::PresenceState::Online,
            methods: methods.map(|list| list.iter().map(|name| (*name).to_owned()).collect()),
            proto: Vec::new(),
            agent_started: None,
            clock_skew_ms: None,
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
        let ids = ids(25);
        let problem = unknown_devices(ids.iter()).problem().clone();
        assert_eq!(problem.errors.len(), MAX_UNKNOWN_LISTED + 1);
        assert_eq!(problem.errors[MAX_UNKNOWN_LISTED].message, "and 5 more");
        assert!(problem.detail.starts_with("25 of the devices"));
    }

    #[test]
    fn excluded_first_then_sampled_then_limited() {
        let all = ids(1000);
        let choice = Choice { exclude: all[..500].to_vec(), sample_percent: Some(2.0), limit: None };
        let sample = chosen(all.clone(), &choice);
        assert_eq!(sample.len(), 10);
        assert!(sample.is_sorted() && sample.iter().all(|device| all[500..].contains(device)), "in order, none twice, none excluded");
        let limited = chosen(all.clone(), &Choice { limit: Some(3), ..choice });
        assert_eq!(limited.len(), 3);
        assert_eq!(chosen(all.clone(), &Choice { limit: Some(2), ..Choice::default() }), all[..2]);
        assert!(chosen(all.clone(), &Choice { exclude: all, sample_percent: Some(50.0), limit: None }).is_empty());
    }

    #[test]
    fn a_sample_is_a_share_and_never_nobody() {
        for (devices, percent, size) in [(1000, 2.0, 20), (10, 0.001, 1), (3, 50.0, 2), (7, 100.0, 7), (0, 50.0, 0)] {
            assert_eq!(sample_size(devices, percent), size, "{percent} % of {devices}");
        }
    }

    /// Each of ten devices is in about half of the samples of half. A device fails this once in a billion runs.
    #[test]
    fn every_device_has_the_same_chance() {
        let mut seen = [0_u32; 10];
        let all = ids(10);
        for _ in 0..1000 {
            for device in chosen(all.clone(), &Choice { sample_percent: Some(50.0), ..Choice::default() }) {
                seen[all.iter().position(|other| *other == device).expect("one of them")] += 1;
            }
        }
        assert!(seen.iter().all(|count| (400..=600).contains(count)), "{seen:?}");
    }
}
