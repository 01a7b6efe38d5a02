//! What holds for a device.
//!
//! The most specific decision is looked at first: the device's, its site's, its tenant's. But a refusal at any level wins over a grant at
//! any other, and the device's own word wins over the record.

use muster_wire::ConsentId;
use muster_wire::http::{Basis, ConsentState, Decision, MAX_FLAG_AGE};
use muster_wire::presence::ProactiveConsent;
use time::OffsetDateTime;

/// The last decision of a scope, as far as it bears on what holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnRecord {
    /// Its id.
    pub consent: ConsentId,
    /// What was decided.
    pub decision: Decision,
    /// What it rests on.
    pub basis: Basis,
    /// When it runs out.
    pub expires_at: Option<OffsetDateTime>,
    /// Number of the version of the terms it is about.
    pub terms_number: Option<u32>,
    /// Whose devices it was about.
    pub tenant: Option<String>,
}

/// All that bears on one device.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Its tenant, as the registry has it.
    pub tenant: Option<&'a str>,
    /// The decision for it alone.
    pub device: Option<&'a OnRecord>,
    /// The one for its site.
    pub site: Option<&'a OnRecord>,
    /// The one for its tenant.
    pub of_tenant: Option<&'a OnRecord>,
    /// Its own word.
    pub flag: ProactiveConsent,
    /// When it was last heard itself.
    pub heard_at: Option<OffsetDateTime>,
    /// Number of the newest version of the terms that asked everybody again.
    pub newest_material: Option<u32>,
}

/// What it comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// Where it stands.
    pub state: ConsentState,
    /// The decision in force; only of what is granted.
    pub consent: Option<ConsentId>,
    /// Why, in words.
    pub why: String,
}

impl Effective {
    /// Nobody has decided anything.
    pub fn none(why: impl Into<String>) -> Self {
        Self { state: ConsentState::None, consent: None, why: why.into() }
    }

    /// It may be collected now.
    pub fn is_granted(&self) -> bool {
        self.state == ConsentState::Granted
    }
}

/// Where one decision stands, and why.
pub fn standing(record: &OnRecord, newest_material: Option<u32>, now: OffsetDateTime) -> (ConsentState, &'static str) {
    match record.decision {
        Decision::Declined => (ConsentState::Declined, "was refused"),
        Decision::Revoked => (ConsentState::Revoked, "was withdrawn"),
        Decision::Granted if record.expires_at.is_some_and(|end| end <= now) => (ConsentState::Expired, "ran out"),
        Decision::Granted if newest_material > record.terms_number => {
            (ConsentState::Suspended, "is to earlier terms, and the change asked everybody again")
        }
        Decision::Granted => (ConsentState::Granted, "was granted"),
    }
}

impl Known<'_> {
    /// The decision for the device alone, while it is about the tenant the device has now. One made before it had any goes with it.
    pub fn own(&self) -> Option<&OnRecord> {
        self.device.filter(|record| record.tenant.is_none() || record.tenant.as_deref() == self.tenant)
    }
}

/// What holds for a device.
pub fn effective(known: &Known<'_>, now: OffsetDateTime) -> Effective {
    let levels = [("of the device", known.own()), ("of its site", known.site), ("of its tenant", known.of_tenant)];
    let mut found: Option<(ConsentState, &OnRecord, String)> = None;
    // The more a state is worth, the better it stands for the others; a specific one stands before a general one.
    let worth = |state| match state {
        ConsentState::Granted => 3,
        ConsentState::Suspended => 2,
        ConsentState::Expired => 1,
        _ => 0,
    };
    for (whose, record) in levels {
        let Some(record) = record else { continue };
        let (state, what) = standing(record, known.newest_material, now);
        let why = format!("consent {whose} {what}");
        if matches!(state, ConsentState::Declined | ConsentState::Revoked) {
            return Effective { state, consent: None, why };
        }
        if found.as_ref().is_none_or(|(best, ..)| worth(state) > worth(*best)) {
            found = Some((state, record, why));
        }
    }
    let Some((state, record, why)) = found else { return Effective::none("nobody has decided for the device, its site or its tenant") };
    if state != ConsentState::Granted {
        return Effective { state, consent: None, why };
    }
    let suspended = |why: &str| Effective { state: ConsentState::Suspended, consent: None, why: why.to_owned() };
    match known.flag {
        // A no after the grant is a decision of its own, and on record; this one is older than the grant.
        ProactiveConsent::Disabled => return suspended("the device itself says that its owner does not agree"),
        ProactiveConsent::Default if record.basis == Basis::DefaultOn => {}
        ProactiveConsent::Default => return suspended("the device says that its owner left the choice open"),
        ProactiveConsent::Unknown => return suspended("the device does not say whether its owner agreed"),
        ProactiveConsent::Enabled => {}
    }
    if known.heard_at.is_none_or(|at| now - at > MAX_FLAG_AGE) {
        return suspended("the device has not been heard for 48 hours");
    }
    Effective { state, consent: Some(record.consent), why }
}
