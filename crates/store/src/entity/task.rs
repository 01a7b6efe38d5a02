//! One collection × one device.

use sea_orm::entity::prelude::*;

/// A row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "task")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    /// Its id.
    pub id: Uuid,
    /// Not sent before this.
    pub not_before: i64,
    /// Until when its owner may work on it.
    pub lease_until: Option<i64>,
    /// When the current attempt was claimed.
    pub dispatched_at: Option<i64>,
    /// When the device answered.
    pub accepted_at: Option<i64>,
    /// When the upload was seen.
    pub uploaded_at: Option<i64>,
    /// When it became final.
    pub finished_at: Option<i64>,
    /// `TaskState`.
    pub state: i16,
    /// Number of the current or last attempt; 0 before the first.
    pub attempt: i16,
    /// Why it, or its last attempt, ended.
    pub reason: Option<i16>,
    /// Its device.
    pub device_id: String,
    /// Controller that works on it.
    pub owner: Option<String>,
    /// The id the device gave its upload.
    pub correlation_id: Option<String>,
    /// More about the reason, for a person.
    pub detail: Option<String>,
    /// 1: its answer gives reason for the next step; 0: it does not; absent: nobody asked.
    pub matched: Option<i16>,
    /// The decision under which it was made or last sent.
    pub consent_id: Option<Uuid>,
}

/// None: rows are joined by ranges of ids, not by keys.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
