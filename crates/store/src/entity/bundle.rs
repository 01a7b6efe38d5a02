//! A sealed bundle.

use sea_orm::entity::prelude::*;

/// A row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "bundle")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    /// Its task, which is also its id.
    pub task_id: Uuid,
    /// Attempt that delivered it.
    pub attempt: i16,
    /// Its device.
    pub device_id: String,
    /// `Verdict` as a word.
    pub verdict: String,
    /// Bytes of all objects.
    pub size_bytes: i64,
    /// Number of objects.
    pub objects: i64,
    /// Digest of the sealed manifest.
    pub manifest_sha256: String,
    /// `BundleManifest` as JSON.
    pub manifest: String,
    /// Where the objects lie in the landing zone.
    pub location: String,
    /// When it was sealed.
    pub sealed_at: i64,
}

/// None: rows are joined by ranges of ids, not by keys.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
