//! The controller: the daemon that serves the HTTP API, runs the dispatcher and, where nobody else does, the broker.
//!
//! * [`Settings`]: layered, checked, shown with secrets masked.
//! * [`Controller`]: everything put together; how it starts and stops is in its module.
//! * [`doctor`]: looks at everything a start would need.
//! * [`openapi_json`]: the description of the API, committed as `docs/openapi.json`.
//! * [`collection_schema_json`]: the JSON Schema of a collection in a file, as `muster apply` reads it.

mod alerts;
mod api;
mod broker;
mod collections;
mod consent;
mod contents;
mod controller;
mod data_dir;
pub mod doctor;
mod import;
mod preview;
mod published;
mod ready;
mod registry;
mod retention;
mod schedules;
pub mod settings;
mod settle;
mod targets;
pub mod telemetry;

pub use api::{MAX_BODY_BYTES, MAX_STREAMS, collection_schema_json, openapi_json};
pub use broker::BrokerError;
pub use collections::MAX_IDEMPOTENCY_KEY_CHARS;
pub use contents::{MAX_EXPANDED_BYTES, MAX_FILES_LISTED};
pub use controller::{Controller, PartEnded, StartError, migrate};
pub use data_dir::DataDirError;
pub use settings::{Settings, SettingsError};
pub use targets::MAX_UNKNOWN_LISTED;
