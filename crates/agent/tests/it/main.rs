//! The agent against a real broker: one device, and fleets of them.
#![allow(clippy::unwrap_used)]

mod activate;
mod broker;
mod caller;
mod contract;
mod fleet;
mod real_logs;
mod restart;
#[expect(dead_code, reason = "shared with the unit tests of the uploader, which make more trouble")]
mod storage;
