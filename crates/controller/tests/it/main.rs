//! The controller as its callers and devices meet it: a real server on a free port, a real broker, a real directory, SQLite and Postgres.
#![allow(clippy::unwrap_used, reason = "tests")]

mod alert_intake;
mod alerts;
mod auth;
mod bundles;
mod client;
mod collections;
mod confirmation;
mod consent;
mod device;
mod harness;
mod lifecycle;
mod problems;
mod registry;
mod rollout;
mod timing;
