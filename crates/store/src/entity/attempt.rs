//! An attempt that ended and was not the last word.

use sea_orm::entity::prelude::*;

/// A row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "attempt")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    /// Its id.
    pub id: Uuid,
    /// State it ended in.
    pub state: i16,
    /// Why.
    pub reason: Option<i16>,
    /// More about it.
    pub detail: Option<String>,
    /// The id the device gave its upload.
    pub correlation_id: Option<String>,
    /// When it was claimed.
    pub dispatched_at: Option<i64>,
    /// When the device answered.
    pub accepted_at: Option<i64>,
    /// When the upload was seen.
    pub uploaded_at: Option<i64>,
    /// When it ended.
    pub ended_at: i64,
}

/// None: rows are joined by ranges of ids, not by keys.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
