//! One request for logs.

use sea_orm::entity::prelude::*;

/// A row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "collection")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    /// Its id, which is also the first id its tasks can have.
    pub id: Uuid,
    /// Id of its last task.
    pub last_task: Uuid,
    /// Kind of request, as a word.
    pub kind: String,
    /// `CollectionRequest` as JSON.
    pub request: String,
    /// `TargetView` as JSON.
    pub target: String,
    /// Time for one attempt.
    pub attempt_timeout_ms: i64,
    /// Attempts per task as asked for.
    pub max_attempts: i16,
    /// Highest attempt number allowed; grows when tasks are run again.
    pub attempt_limit: i16,
    /// Most devices asked at the same time over all controllers; 0 when that was not asked for.
    pub in_flight: i64,
    /// Number of tasks.
    pub targeted: i64,
    /// Why, in words.
    pub reason: Option<String>,
    /// Support case.
    pub case_id: Option<String>,
    /// Who.
    pub created_by: String,
    /// When.
    pub created_at: i64,
    /// After this, what is not done expires.
    pub expires_at: i64,
    /// Key its creator gave.
    pub idempotency_key: Option<String>,
    /// Digest of the body that came with the key.
    pub body_sha256: Option<String>,
    /// When it was cancelled.
    pub cancelled_at: Option<i64>,
    /// When its last task became final.
    pub closed_at: Option<i64>,
    /// Final counters as JSON, once closed.
    pub outcome: Option<String>,
    /// Larger goes first.
    pub priority: i16,
    /// `Rollout` as JSON, where it says anything.
    pub rollout: Option<String>,
    /// `Retry` as JSON, where it was asked for.
    pub retry: Option<String>,
    /// `Window` as JSON.
    pub time_window: Option<String>,
    /// 1: also takes devices that meet the target later.
    pub standing: i16,
    /// Deeper steps, as a JSON list of `EscalationStep`.
    pub steps: Option<String>,
    /// The collection with the first step, when this is a later one.
    pub step_of: Option<Uuid>,
    /// Number of the step.
    pub step: i16,
    /// Pattern over the answers that decides who gets the next step.
    pub when_matches: Option<String>,
    /// Since when it asks nobody.
    pub paused_at: Option<i64>,
    /// Who paused it.
    pub paused_by: Option<String>,
    /// Why.
    pub paused_why: Option<String>,
    /// `Origin` as JSON, where nobody asked for it himself.
    pub origin: Option<String>,
    /// The consent it needs, as a word.
    pub consent_kind: Option<String>,
}

/// None: rows are joined by ranges of ids, not by keys.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
