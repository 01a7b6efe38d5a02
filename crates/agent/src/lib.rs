//! A Muster device: it answers the direct methods of the device contract (`docs/DEVICE-CONTRACT.md`) over MQTT 5, from real log
//! sources or, many times in one process, from synthetic ones.
//!
//! ```text
//!              broker
//!                │ requests            ▲ answers, status, presence
//!          session ── envelope      outbox      one task per device; never waits, never forgets before the PUBACK
//!                │                     ▲
//!              device ─── table ── journal      same request, same answer, across restarts
//!                │
//!             methods ── modules ── logs        Docker, journald, files → filtered, rendered
//!                │
//!               task ─── bundle ── upload       objects into the grant's container; ends at its deadline
//! ```
//!
//! * [`Agent`]: one real device, from [`Settings`].
//! * [`Fleet`]: simulated devices with scripted [`Fault`]s, over the same code.

pub mod agent;
pub mod alert;
pub mod bundle;
pub mod consent;
pub mod counters;
mod device;
pub mod fault;
pub mod fleet;
mod journal;
mod logs;
mod machine;
mod methods;
pub mod modules;
pub mod recent;
mod session;
pub mod settings;
mod table;
mod task;
pub mod trace;
pub mod upload;

pub use agent::{Agent, AgentError};
pub use alert::{RaiseError, RaiseRule, Raised, Raising};
pub use consent::{ConsentShare, ConsentShares};
pub use counters::Stats;
pub use fault::{Fault, FaultFigures, FaultRule, Who};
pub use fleet::{Fleet, FleetError, FleetOptions};
pub use journal::JournalError;
pub use session::broker::{BrokerError, TlsFiles};
pub use settings::{Settings, SettingsError};
