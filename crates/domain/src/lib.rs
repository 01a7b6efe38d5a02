//! The rules of Muster without any I/O: what a task may become, what an event means for it, when to try again, when to give up,
//! and what the uploaded objects are worth.
//!
//! * [`task`]: the transition table as data. The check in Rust and the `WHERE` of the database both come from it.
//! * [`event`]: what can happen to an attempt, and [`event::decide`], the one function that says what follows.
//! * [`alert`]: what follows when a device raises an alert: rules, budgets, storms, and the request that is made.
//! * [`backoff`], [`deadline`]: when the next attempt, the next question and the end of waiting are.
//! * [`retry`]: for which reasons and after which waits a collection tries again.
//! * [`calendar`]: times that come again: windows, schedules, missed runs.
//! * [`condition`]: the language in which devices are chosen: its grammar, its parser, and what it says of a device.
//! * [`consent`]: what a decision about consent may become, and what holds for a device.
//! * [`counters`]: the honest sum over the states of a collection.
//! * [`inspect`]: reads one object (zip, gzip, JSON, text) without trusting a byte of it and in bounded memory.
//! * [`rollout`]: how a collection is paced, and when it stops by itself.
//! * [`tags`]: what people write on a device: limits, and changes laid over it.
//! * [`verdict`]: judges all objects of an attempt: complete, partial, empty or damaged, and what is missing.
//!
//! Clocks and randomness are parameters. [`inspect`] reads from a reader it is given and opens nothing itself.

pub mod alert;
pub mod backoff;
pub mod calendar;
pub mod condition;
pub mod consent;
pub mod counters;
pub mod deadline;
pub mod event;
pub mod inspect;
pub mod retry;
pub mod rollout;
pub mod tags;
pub mod task;
pub mod verdict;
