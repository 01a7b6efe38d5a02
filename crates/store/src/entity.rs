//! The rows as sea-orm sees them, for everything that is not a batch. One file per table.
//!
//! They stay close to the database: numbers for states and reasons, milliseconds for times, text for JSON. The views of this crate turn
//! them into the types of `muster-wire` and say so when a row makes no sense.

pub mod attempt;
pub mod bundle;
pub mod collection;
pub mod collection_event;
pub mod device;
pub mod task;
