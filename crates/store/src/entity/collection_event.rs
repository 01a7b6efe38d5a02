//! Something that was done to a collection.

use sea_orm::entity::prelude::*;

/// A row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "collection_event")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    /// Ordered by time.
    pub id: Uuid,
    /// The collection.
    pub collection_id: Uuid,
    /// When.
    pub at: i64,
    /// Who.
    pub who: String,
    /// What was done, as a word.
    pub what: String,
    /// More, as JSON.
    pub detail: String,
}

/// None: rows are joined by ranges of ids, not by keys.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
