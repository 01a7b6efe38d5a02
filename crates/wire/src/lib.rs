//! All that crosses a process boundary in Muster, as types, without any I/O.
//!
//! * [`ids`]: who is who. One 16-byte id carries collection, task and attempt. [`record_id`]: decisions about consent, alerts, storms.
//! * [`device_id`], [`topic`], [`properties`], [`presence`]: the device contract over MQTT (`docs/DEVICE-CONTRACT.md`).
//! * [`method`]: the direct methods of IoT Edge, byte for byte as real devices speak them.
//! * [`state`], [`reason`]: the words of a task's life, as they stand in the database, in the API and in the CLI.
//! * [`alert`]: events that say what happened to a device: CloudEvents around the common alert schema.
//! * [`http`]: bodies of the HTTP API.
//!
//! Everything a device, a queue or a browser sends is hostile until one of these types has parsed it.

pub mod alert;
pub mod device_id;
pub mod http;
pub mod ids;
pub mod method;
pub mod presence;
pub mod properties;
pub mod reason;
pub mod record_id;
pub mod state;
pub mod topic;
mod words;

pub use device_id::DeviceId;
pub use ids::{AttemptId, CollectionId, TaskId};
pub use reason::Reason;
pub use record_id::{AlertId, ConsentId, ParkedId, StormId};
pub use state::TaskState;
