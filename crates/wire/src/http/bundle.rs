//! Bundles: the sealed, verified objects of one task, and their manifest.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{AttemptId, CollectionId, ConsentId, DeviceId, Reason, TaskId};

/// What the cloud found when it read the objects. `empty` and `damaged` are not successes and are never sealed as a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All that was asked for.
    Complete,
    /// Good, with something missing.
    Partial,
    /// Nothing in it.
    Empty,
    /// Cannot be read.
    Damaged,
}

impl Verdict {
    /// The word in API and database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Partial => "partial",
            Self::Empty => "empty",
            Self::Damaged => "damaged",
        }
    }
}

/// Something a partial bundle lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Missing {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}

/// What an object turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ObjectKind {
    /// A zip archive.
    Zip,
    /// Gzip.
    Gzip,
    /// JSON.
    Json,
    /// Anything else.
    Text,
}

/// How deep the cloud looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Depth {
    /// Every byte read, every checksum inside computed.
    Full,
    /// Structure read; the bytes inside an archive were not all expanded because it is larger than the limit for that.
    Structure,
}

/// One sealed object. Size and digest are the cloud's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BundleObject {
    /// Name, as the device gave it.
    pub name: String,
    /// Bytes.
    pub size_bytes: u64,
    /// Lower-case hex of the SHA-256 over all bytes.
    pub sha256: String,
    /// What it is.
    pub kind: ObjectKind,
    /// Files inside, for a zip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<u32>,
    /// How deep it was read.
    pub depth: Depth,
}

/// The manifest, made by the cloud, sealed beside the objects as `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BundleManifest {
    /// `1.0`.
    pub version: String,
    /// Task.
    pub task: TaskId,
    /// Attempt that delivered it.
    pub attempt: AttemptId,
    /// Collection.
    pub collection: CollectionId,
    /// Device, as the broker vouches for it.
    pub device: DeviceId,
    /// The id the device gave its upload.
    #[serde(default)]
    pub correlation_id: Option<String>,
    /// Support case.
    #[serde(default)]
    pub case: Option<String>,
    /// The decision that allowed it, where it was collected without being asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consent: Option<ConsentId>,
    /// Complete or partial.
    pub verdict: Verdict,
    /// `collected` or `collected_partial`.
    pub reason: Reason,
    /// What is missing.
    #[serde(default)]
    pub missing: Vec<Missing>,
    /// The objects.
    pub objects: Vec<BundleObject>,
    /// When it was sealed.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub sealed_at: OffsetDateTime,
}

/// A bundle in a list.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BundleView {
    /// Its task, which is also its id.
    pub task: TaskId,
    /// Its collection.
    pub collection: CollectionId,
    /// Its device.
    pub device: DeviceId,
    /// Complete or partial.
    pub verdict: Verdict,
    /// Bytes of all objects.
    pub size_bytes: u64,
    /// Number of objects.
    pub objects: u32,
    /// SHA-256 of the sealed manifest.
    pub manifest_sha256: String,
    /// When it was sealed.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub sealed_at: OffsetDateTime,
    /// Where the objects lie in the landing zone.
    pub location: String,
}

/// A file in a bundle: an object, or an entry of a zip object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BundleFile {
    /// `object` for an object, `object!entry` for an entry of a zip.
    pub path: String,
    /// Bytes, expanded.
    pub size_bytes: u64,
}

/// Outcome of reading a sealed bundle again.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BundleCheck {
    /// Its task.
    pub task: TaskId,
    /// Every object has the size and digest of the manifest, and the manifest its own.
    pub intact: bool,
    /// Per object.
    pub objects: Vec<ObjectCheck>,
}

/// Outcome for one object.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ObjectCheck {
    /// Name.
    pub name: String,
    /// As the manifest says.
    pub expected_sha256: String,
    /// As read now; absent when it could not be read.
    #[serde(default)]
    pub found_sha256: Option<String>,
    /// Why it is not intact.
    #[serde(default)]
    pub problem: Option<String>,
}
