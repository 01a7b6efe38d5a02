//! What a collection would do, before it is made.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::DeviceId;

/// Stands in a previewed payload where the device will get its grant.
pub const GRANT_PLACEHOLDER: &str = "https://storage.example/inbox?the-grant-of-the-attempt";

/// A collection that was not made. All but `skipped` are asked sooner or later.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Preview {
    /// Devices of the collection.
    pub targeted: u64,
    /// Would be skipped: the device says that it lacks the method.
    pub skipped: u64,
    /// Would wait: offline at present.
    pub offline: u64,
    /// Would wait: at work on a bundle of another collection at present.
    pub busy: u64,
    /// Would be asked, without its being known whether they are connected.
    pub presence_unknown: u64,
    /// Out of what was collected before; absent when nothing of this kind was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
    /// The first device that would be asked, and what it would get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub example: Option<PreviewedRequest>,
    /// What is legal and does something else than one might think, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Size and time, from past bundles.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Estimate {
    /// How many past bundles of the same kind of request it comes from.
    pub from_bundles: u64,
    /// For how many of the devices those are of their own model (`tags.model`, else `reported.model`) and of the same window; for the others
    /// they are of the same window, else of the same model, else of the same kind of request only.
    #[serde(default)]
    pub same_model_and_window: u64,
    /// All bundles of the collection, in bytes.
    pub bytes: u64,
    /// From the first request to the last bundle, if every device were there and as fast as those were on average.
    pub seconds: u64,
}

/// A request as one device would get it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PreviewedRequest {
    /// The device.
    pub device: DeviceId,
    /// The direct method.
    pub method: String,
    /// The payload, as on the wire but for the grant.
    pub payload: Value,
}
