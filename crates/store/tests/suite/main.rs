//! The one suite of the store, run on Postgres and on SQLite.
//!
//! Postgres is the server of `MUSTER_TEST_POSTGRES` (default `postgres://root@127.0.0.1:5432/postgres`); each test has a database of its own
//! there. Without a server the tests fail: a suite that skips proves nothing.

#[macro_use]
mod harness;

mod alerts;
mod claims;
mod conditions;
mod consent;
mod counters;
mod crash;
mod create;
mod growth;
mod hostile;
mod lifecycle;
mod moves;
mod pace;
mod presence;
mod preview;
mod prune;
mod recover;
mod registry;
mod rollout;
mod rules;
mod schedules;
mod schema;
mod seal;
mod storms;
mod timeline;
mod views;
