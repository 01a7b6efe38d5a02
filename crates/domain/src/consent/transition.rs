//! The table of consent, as data.

use muster_wire::http::{ConsentKind, ConsentState, TermsDefault};

use ConsentState::{Declined, Expired, Granted, None, Revoked, Suspended};

/// Something that bears on a consent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    /// The device was activated, and whoever did so left the choice open.
    Activated,
    /// Somebody agrees.
    Enable,
    /// Somebody refuses or withdraws.
    Disable,
    /// The moment in the grant has come.
    TimeUp,
    /// The case it was for is closed.
    CaseClosed,
    /// The device has not been heard for too long, or does not say what its owner wants.
    Unsynchronised,
    /// The device says that its owner agreed.
    Synchronised,
    /// A version of the terms was published.
    TermsPublished,
    /// The catalogue of indicators has a new entry.
    IndicatorAdded,
    /// The device went to another tenant.
    Moved,
}

impl What {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Activated,
        Self::Enable,
        Self::Disable,
        Self::TimeUp,
        Self::CaseClosed,
        Self::Unsynchronised,
        Self::Synchronised,
        Self::TermsPublished,
        Self::IndicatorAdded,
        Self::Moved,
    ];
}

/// Who decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum By {
    /// A customer whose role covers the scope.
    Customer,
    /// A customer whose role does not.
    SmallerRole,
    /// The device, for its owner.
    Device,
    /// The vendor, a person or a program.
    Vendor,
    /// Nobody: the clock, the registry, a publication.
    Rule,
}

/// What the guards of the table ask about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Who decides.
    pub by: By,
    /// What it is about.
    pub kind: ConsentKind,
    /// What silence means under the current terms.
    pub default: TermsDefault,
    /// With a publication: it asks everybody again.
    pub material: bool,
}

/// When a row holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Always.
    Always,
    /// A customer whose role covers the scope decides, or the device for its owner.
    Owner,
    /// The current terms say this of silence.
    Silence(TermsDefault),
    /// The publication is of this kind.
    Material(bool),
    /// It is a consent for a case.
    OfACase,
    /// It is a consent that the device has to confirm.
    OfADevice,
}

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Where it stands.
    pub from: ConsentState,
    /// What happens.
    pub what: What,
    /// When that counts.
    pub guard: Guard,
    /// Where it goes.
    pub to: ConsentState,
}

const fn row(from: ConsentState, what: What, guard: Guard, to: ConsentState) -> Row {
    Row { from, what, guard, to }
}

/// Every move there is. The rows behind the empty line follow from the others: a suspension lies over a grant on record, which its owner can
/// withdraw or renew, and which ends in time, whatever lies over it.
pub const ROWS: &[Row] = &[
    row(None, What::Activated, Guard::Silence(TermsDefault::DefaultOn), Granted),
    row(None, What::Activated, Guard::Silence(TermsDefault::OptIn), None),
    row(None, What::Enable, Guard::Owner, Granted),
    row(None, What::Disable, Guard::Owner, Declined),
    row(Declined, What::Enable, Guard::Owner, Granted),
    row(Granted, What::Disable, Guard::Owner, Revoked),
    row(Granted, What::TimeUp, Guard::Always, Expired),
    row(Granted, What::CaseClosed, Guard::OfACase, Expired),
    row(Granted, What::Unsynchronised, Guard::OfADevice, Suspended),
    row(Suspended, What::Synchronised, Guard::OfADevice, Granted),
    row(Suspended, What::Disable, Guard::Owner, Revoked),
    row(Granted, What::TermsPublished, Guard::Material(true), Suspended),
    row(Granted, What::TermsPublished, Guard::Material(false), Granted),
    row(Revoked, What::Enable, Guard::Owner, Granted),
    row(Expired, What::Enable, Guard::Owner, Granted),
    row(Granted, What::IndicatorAdded, Guard::Always, Granted),
    row(Granted, What::Moved, Guard::Always, Revoked),
    row(Suspended, What::Enable, Guard::Owner, Granted),
    row(Suspended, What::TimeUp, Guard::Always, Expired),
    row(Suspended, What::CaseClosed, Guard::OfACase, Expired),
    row(Suspended, What::Moved, Guard::Always, Revoked),
];

/// Why nothing changes. The caller puts the first two on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No vendor identity can make, widen or end a consent.
    #[error("the vendor does not decide about consent; a decision names the customer who made it")]
    Vendor,
    /// The role is too small.
    #[error("this role does not cover the scope")]
    Role,
    /// The table has no such row.
    #[error("consent is {from} and cannot change like this")]
    NotInTable {
        /// Where it stands.
        from: ConsentState,
    },
}

impl Refusal {
    /// The word for the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vendor => "vendor",
            Self::Role => "role",
            Self::NotInTable { .. } => "not_in_table",
        }
    }
}

impl Guard {
    fn holds(self, facts: &Facts) -> bool {
        match self {
            Self::Always => true,
            Self::Owner => matches!(facts.by, By::Customer | By::Device),
            Self::Silence(default) => facts.default == default,
            Self::Material(material) => facts.material == material,
            Self::OfACase => matches!(facts.kind, ConsentKind::AdvancedDiagnostics | ConsentKind::Identity),
            Self::OfADevice => matches!(facts.kind, ConsentKind::Proactive | ConsentKind::RemoteSupport),
        }
    }
}

/// Where a consent goes.
///
/// # Errors
/// [`Refusal`]: nothing changes.
pub fn transition(from: ConsentState, what: What, facts: &Facts) -> Result<ConsentState, Refusal> {
    if matches!(what, What::Enable | What::Disable | What::Activated) {
        match facts.by {
            By::Vendor => return Err(Refusal::Vendor),
            By::SmallerRole => return Err(Refusal::Role),
            By::Customer | By::Device | By::Rule => {}
        }
    }
    let fits = |row: &&Row| row.from == from && row.what == what && row.guard.holds(facts);
    ROWS.iter().find(fits).map(|row| row.to).ok_or(Refusal::NotInTable { from })
}
