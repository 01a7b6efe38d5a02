//! The durable truth of Muster: the only crate that knows there is a database.
//!
//! # What is durable, and why
//!
//! * **collection**: who asked for what, why, and until when. Immutable but for its end (cancelled, closed) and its final counters.
//! * **task**: one row per collection and device, the state machine. It moves only by updates that name the states it may come from
//!   ([`muster_domain::task::sources`]), and only for the attempt and device they speak of.
//! * **attempt**: attempts that ended and were followed by another. The current one is part of its task.
//!   Standing collections and deeper steps grow: their tasks and the number of them are one write ([`Store::append_tasks`]).
//! * **device**: the registry, as births, wills and answers tell it. **device_slot**: which device is at work on which bundle, and until when.
//! * **pace**: how far and how fast a collection with limits of its own has come; one row for all controllers.
//! * **bundle**: what was sealed; written in the transaction that makes its task verified.
//! * **schedule**, **schedule_run**: collections that are made again and again, and what became of each run.
//! * **consent_record**, **consent_terms**: who agreed to collection without being asked, to which terms; **consent_audit**: what was refused
//!   and removed; **consent_cleanup**: attempts whose consent ended and that may have left something behind.
//! * **alert**: what happened to devices and what was decided about each, with **alert_job** (what was collected), **alert_use** (what is used
//!   up of budgets), **alert_recent**, **alert_storm** and **alert_stratum** (many at once); **alert_indicator** and **alert_rule** are what
//!   they are decided by; **parked_alert**: messages that were no alert.
//! * **collection_event**: what people did to a collection. **device_event**: what they did to a device of the registry.
//!
//! Not durable: which messages are on their way. A task says `dispatched` before its request leaves; whatever is lost after that runs into
//! the task's lease, and [`Store::take_silent`] hands it to whoever asks next.
//!
//! # How it is fast
//!
//! All tasks of a collection are one range of the primary key, so nothing is looked up by state and no index is written when a state
//! changes. Every call takes a batch and is one transaction with a fixed number of statements; a batch is a single parameter list
//! (`dialect`) and never a loop over rows. Several steps of one task in one batch are folded, so that each row is written once.
//!
//! # Outcomes
//!
//! A step that does not apply is an answer ([`StepOutcome`]), not an error. An error is a database that cannot be asked
//! ([`StoreError::is_transient`]), a row that makes no sense, or a caller that broke a rule.

mod alerts;
mod append;
mod apply;
mod bundles;
mod claim;
mod collections;
mod condition;
mod connect;
mod consent;
mod counters;
mod create;
mod create_many;
mod device_events;
mod devices;
mod dialect;
pub mod entity;
mod error;
mod fold;
mod instant;
mod lease;
mod lifecycle;
mod pace;
mod pause;
mod presence;
mod preview;
mod prune;
mod recover;
mod registry;
mod rerun;
mod schedules;
mod seal;
mod steer;
mod tasks;
mod text;
mod timeline;

pub use alerts::{AlertFilter, AlertLimits, Changed, MAX_ALERTS, NewParked, ParkedFilter, ReceivedAlert, Taken};
pub use append::MAX_APPEND;
pub use apply::{MAX_STEPS, Step, StepOutcome};
pub use bundles::{BundleFilter, BundleRecord};
pub use claim::{ClaimBatch, ClaimRequest, ClaimedTask, MAX_CLAIM, MAX_CLAIM_COLLECTIONS};
pub use collections::{Collection, CollectionEvent, CollectionFilter, Stamp};
pub use connect::{DEFAULT_CONNECTIONS, SchemaState, Store, StoreOptions};
pub use consent::{
    AuditLine, AuditWhat, Cleanup, Decided, Deciding, LAST_LOOK_AFTER, MAX_CLEANUPS, MAX_SUSPENSION, Published, RECHECK_SUSPENDED,
    StandingFilter, Terms,
};
pub use counters::Tally;
pub use create::{Created, Idempotency, MAX_COLLECTION_TASKS, NewCollection, NewTask};
pub use devices::{DeviceFilter, KnownDevice};
pub use dialect::Dialect;
pub use error::{Failure, MAX_CONFLICT_RETRIES, StoreError};
pub use lease::Looking;
pub use lifecycle::{Cancel, Cancelled};
pub use pace::{PacedClaim, RECOUNT_EVERY};
pub use pause::{Paused, Resumed};
pub use presence::{Birth, MAX_PRESENCE_BATCH};
pub use preview::PastBundles;
pub use prune::{MAX_PRUNED, Pruned};
pub use recover::{OpenTask, OpenTasks, TakeRequest};
pub use registry::{DeviceEntry, Entered, Forgotten, MAX_ENTRIES};
pub use rerun::{RERUN_BY_DEFAULT, Reran, Rerun, RerunLimits};
pub use schedules::{RUN_LEASE, Schedule, ScheduleMade, Take};
pub use seal::Seal;
pub use steer::STEER_EVERY;
pub use tasks::TaskFilter;
pub use text::{MAX_CORRELATION_ID_CHARS, MAX_DETAIL_CHARS};
pub use timeline::{LinePlace, NoLinePlace};
