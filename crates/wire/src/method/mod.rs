//! The direct methods of Azure IoT Edge, as pure code: what a caller sends, what a device answers, and every rule in between.
//!
//! Both sides use it. A controller builds requests ([`request`]) and reads answers ([`answer`]) that no real device would
//! misunderstand. A device agent reads requests the way edgeAgent reads them, picks modules ([`select`]) and lines
//! ([`filter`]), and renders what edgeAgent would have rendered ([`render`], [`object_name`], [`append`]).
//!
//! `fixtures/iotedge-cases.json` holds the observed behaviour; `tests/iotedge_cases.rs` runs all of it.

pub mod answer;
pub mod append;
pub mod error;
pub mod filter;
pub mod frames;
pub mod gzip;
mod lenient;
pub mod line;
pub mod name;
pub mod object_name;
pub mod pattern;
pub mod render;
pub mod request;
pub mod select;
pub mod since;
pub mod size;
pub mod timestamp;
pub mod upstream;

pub use error::MethodError;
pub use name::Method;
pub use request::{
    ContentType, Encoding, GetModuleLogsRequest, GetTaskStatusRequest, LogFilter, LogItem, SasUrl, UploadModuleLogsRequest,
    UploadSupportBundleRequest,
};
