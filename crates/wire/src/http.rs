//! Bodies of the HTTP API, shared by the controller that answers and the CLI that asks.
//!
//! Times are RFC 3339 in UTC; sizes are bytes; durations are seconds with `_seconds` at the end of the name. Inputs refuse unknown members.

mod alert;
mod bundle;
mod calendar;
mod collection;
mod collection_file;
mod consent;
mod device;
mod escalation;
mod in_words;
mod indicator;
mod origin;
mod preview;
mod problem;
mod registry;
mod retention;
mod rollout;
mod rule;
mod schedule;
mod status;
mod storm;
mod target;
mod timeline;

pub use alert::*;
pub use bundle::*;
pub use calendar::*;
pub use collection::*;
pub use collection_file::*;
pub use consent::*;
pub use device::*;
pub use escalation::*;
pub use in_words::span_in_words;
pub use indicator::*;
pub use origin::*;
pub use preview::*;
pub use problem::*;
pub use registry::*;
pub use retention::*;
pub use rollout::*;
pub use rule::*;
pub use schedule::*;
pub use status::*;
pub use storm::*;
pub use target::*;
pub use timeline::*;

use serde::{Deserialize, Serialize};

/// Largest page, in items.
pub const MAX_PAGE: u32 = 1000;
/// Page size when none is asked for.
pub const DEFAULT_PAGE: u32 = 100;

/// A page of a list. `next` is an opaque cursor; absent on the last page.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Give it back as `?after=` for the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
