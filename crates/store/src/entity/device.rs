//! A device of the registry.

use sea_orm::entity::prelude::*;

/// A row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "device")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    /// Its id.
    pub id: String,
    /// 0 unknown, 1 online, 2 offline.
    pub presence: i16,
    /// When that was last said.
    pub presence_at: i64,
    /// Last time anything came from it.
    pub last_seen: Option<i64>,
    /// First time it was heard of.
    pub first_seen: i64,
    /// When its agent started, by its own clock.
    pub started_at: Option<i64>,
    /// Its clock minus ours at its last birth.
    pub clock_skew_ms: Option<i64>,
    /// Protocol forms it wants, as a JSON list.
    pub proto: String,
    /// Direct methods it answers, as a JSON list; absent before its first birth.
    pub methods: Option<String>,
    /// Program it runs.
    pub agent_name: Option<String>,
    /// Version of that.
    pub agent_version: Option<String>,
    /// Proactive consent as the device knows it.
    pub consent: Option<String>,
    /// Tags set by us.
    pub tags: Json,
    /// Reported properties.
    pub reported: Json,
    /// Gateway it is behind.
    pub parent: Option<String>,
    /// When it was last pinged and the ping ended.
    pub pinged_at: Option<i64>,
    /// How long the answer took; absent when there was none.
    pub ping_ms: Option<i64>,
    /// Pings in a row that were not answered.
    pub ping_failed: Option<i16>,
    /// When its owner last said so at the device, by its own clock.
    pub consent_at: Option<i64>,
    /// When it was last heard itself, and not only what the broker kept of it.
    pub heard_at: Option<i64>,
}

/// None: rows are joined by ranges of ids, not by keys.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
