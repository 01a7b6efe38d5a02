//! Consent: what a decision may become, what the record comes to, and what holds for a device.
//!
//! * [`mod@transition`]: the table of what may follow on what, as data. Nothing else decides whether a decision is recorded.
//! * [`record`]: records are only ever added; [`record::last`] reads a history and says where it ended, or where it is broken.
//! * [`mod@effective`]: what the decisions for a device, its site and its tenant come to together, with the device's own word.
//!
//! Two states are never written down, because they come and go without anybody deciding: `expired` follows from the clock, and `suspended`
//! from the clock, the device's word and the terms. They lie over a grant on record and are computed whenever it is asked for.

pub mod effective;
pub mod record;
pub mod transition;

#[cfg(test)]
mod tests;

pub use effective::{Effective, Known, OnRecord, effective};
pub use transition::{By, Facts, Refusal, What, transition};

use muster_wire::http::{ConsentKind, ConsentScope, Role};

/// The kinds that are built. The others have words, so that a client of tomorrow is refused clearly.
pub fn is_built(kind: ConsentKind) -> bool {
    kind == ConsentKind::Proactive
}

/// Whether a customer in this role decides for this scope.
pub fn covers(role: Role, scope: &ConsentScope) -> bool {
    match role {
        Role::DeviceOwner => matches!(scope, ConsentScope::Device { .. }),
        Role::SiteOwner => matches!(scope, ConsentScope::Device { .. } | ConsentScope::Site { .. }),
        Role::TenantOwner => true,
        Role::Vendor | Role::System => false,
    }
}
