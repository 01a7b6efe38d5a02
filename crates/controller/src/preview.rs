//! A collection that is not made: whom it would ask, who would wait, and what the first device would get.

use std::collections::{HashMap, HashSet};

use muster_dispatch::request_payload;
use muster_domain::estimate::{Reach, estimate};
use muster_store::KnownDevice;
use muster_wire::DeviceId;
use muster_wire::http::{GRANT_PLACEHOLDER, NewCollection, PresenceState, Preview, PreviewedRequest};
use time::OffsetDateTime;

use crate::api::Api;
use crate::api::problem::{ApiError, ApiResult};
use crate::collections::unconfirmed;
use crate::settle::{self, settle};
use crate::targets::{self, IDS_PER_READ, offers};

/// Looks at everything that making the collection would look at, and writes nothing.
pub(crate) async fn preview(api: &Api, new: NewCollection) -> ApiResult<Preview> {
    let now = OffsetDateTime::now_utc();
    let mut settled = settle(&new, &api.settings.dispatch, now).map_err(|problem| ApiError::from(*problem))?;
    let method = settle::method(&settled.request);
    let aimed = targets::aim(api, new.target, &new.choice, new.standing).await?;
    aimed.warn(&mut settled.warnings);
    let targeted = aimed.devices.len() as u64;
    if let Some(why) = unconfirmed(new.confirmed || new.rollout.start_paused, method, targeted, api.settings.dispatch.confirm_above) {
        settled.warnings.push(format!("it would be made paused: {why}"));
    }
    let mut preview = Preview {
        targeted,
        skipped: 0,
        offline: 0,
        busy: 0,
        presence_unknown: 0,
        estimate: None,
        example: None,
        warnings: settled.warnings,
    };
    let mut asked: HashMap<Option<String>, u64> = HashMap::new();
    for chunk in aimed.devices.chunks(IDS_PER_READ as usize) {
        let known = api.store.known_devices(chunk).await?;
        let able: Vec<&KnownDevice> = known.iter().filter(|device| offers(device, method)).collect();
        preview.skipped += (known.len() - able.len()) as u64;
        for (model, count) in api.store.models_of(&able.iter().map(|device| &device.id).collect::<Vec<_>>()).await? {
            *asked.entry(model).or_default() += count;
        }
        let busy: HashSet<DeviceId> = if method.is_upload() {
            let ids: Vec<DeviceId> = able.iter().map(|device| device.id.clone()).collect();
            api.store.busy_devices(&ids, now).await?.into_iter().collect()
        } else {
            HashSet::new()
        };
        for device in &able {
            // A device has one line: what it waits for first.
            match device.presence {
                PresenceState::Offline => preview.offline += 1,
                _ if busy.contains(&device.id) => preview.busy += 1,
                PresenceState::Unknown => preview.presence_unknown += 1,
                PresenceState::Online => {}
            }
        }
        if preview.example.is_none() {
            let able: HashMap<&DeviceId, &KnownDevice> = able.iter().map(|device| (&device.id, *device)).collect();
            if let Some(device) = chunk.iter().find_map(|device| able.get(device)) {
                let payload = request_payload(&settled.request, Some(GRANT_PLACEHOLDER), device.clock_skew_ms);
                let payload = serde_json::from_slice(&payload).map_err(|error| ApiError::internal("preview a payload", &error))?;
                preview.example = Some(PreviewedRequest { device: device.id.clone(), method: method.as_str().to_owned(), payload });
            }
        }
    }
    let past = api.store.past_bundles(settled.request.kind()).await?;
    let asked: Vec<(Option<String>, u64)> = asked.into_iter().collect();
    let in_flight = settled.in_flight.unwrap_or(api.settings.dispatch.in_flight);
    preview.estimate = estimate(&past, Reach::of(&settled.request, now.unix_timestamp()), &asked, in_flight);
    Ok(preview)
}
