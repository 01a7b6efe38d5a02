//! How the service is doing.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use super::CollectionCreated;
use crate::{CollectionId, DeviceId, Reason, TaskId, TaskState};

/// One thing the service needs, and whether it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Need {
    /// `database`, `broker` or `landing`.
    pub name: String,
    /// Whether it works.
    pub ok: bool,
    /// What is wrong, when it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Readiness {
    /// Every need is met.
    pub ready: bool,
    /// One by one.
    pub needs: Vec<Need>,
}

/// Answer of `/api/v1/status`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ServiceStatus {
    /// Version of the program.
    pub version: String,
    /// Id of this controller.
    pub controller: String,
    /// When it started.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub started_at: OffsetDateTime,
    /// `postgres` or `sqlite`.
    pub database: String,
    /// `embedded` or `external`.
    pub broker: String,
    /// Where devices connect, without credentials.
    pub mqtt_url: String,
    /// `directory` or `azure`.
    pub landing: String,
    /// Whether what it needs is there.
    pub readiness: Readiness,
    /// What the loops report; members may be added.
    #[schema(value_type = Object)]
    pub dispatch: Value,
}

/// Answer to a new collection, with what may surprise about it.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CollectionAnswer {
    /// The collection.
    #[serde(flatten)]
    pub created: CollectionCreated,
    /// What is legal and does something else than one might think, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Data of the event `task`: a task became final.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TaskEnded {
    /// The task.
    pub task: TaskId,
    /// Its device.
    pub device: DeviceId,
    /// How it ended.
    pub state: TaskState,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// Data of the event `finished`, the last of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CollectionEnded {
    /// The collection.
    pub collection: CollectionId,
}
