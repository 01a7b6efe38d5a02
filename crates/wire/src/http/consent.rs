//! Consent: who agreed to collection without being asked, for what scope, by which channel, to which terms.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::words::words;
use crate::{AttemptId, ConsentId, DeviceId};

/// Longest tenant, site, actor or reason in a decision, in characters.
pub const MAX_CONSENT_TEXT_CHARS: usize = 200;
/// Longest text of terms, in characters.
pub const MAX_TERMS_CHARS: usize = 100_000;
/// Most texts of terms that are kept.
pub const MAX_TERMS: u64 = 1_000;
/// Longest time a device's word counts without being heard again.
pub const MAX_FLAG_AGE: time::Duration = time::Duration::hours(48);

words! {
    /// What is agreed to. One never implies another.
    ConsentKind {
        /// Collection that an alert starts.
        Proactive = "proactive",
        /// Deeper diagnosis for one case.
        AdvancedDiagnostics = "advanced_diagnostics",
        /// One memory dump.
        MemoryDump = "memory_dump",
        /// Directory data for one case.
        Identity = "identity",
        /// A remote session.
        RemoteSupport = "remote_support",
    }
}

words! {
    /// Where consent stands.
    ConsentState {
        /// Nobody has decided.
        None = "none",
        /// Agreed to.
        Granted = "granted",
        /// Refused, and never agreed to before.
        Declined = "declined",
        /// Withdrawn.
        Revoked = "revoked",
        /// Ran out.
        Expired = "expired",
        /// Agreed to on record, but not provably current: the device has not confirmed it, or the terms changed.
        Suspended = "suspended",
    }
}

words! {
    /// What stands in a record.
    Decision {
        /// Agreed.
        Granted = "granted",
        /// Refused.
        Declined = "declined",
        /// Withdrawn.
        Revoked = "revoked",
    }
}

words! {
    /// What a grant rests on. The two are told apart for ever.
    Basis {
        /// Somebody said yes.
        Explicit = "explicit",
        /// The terms said that silence is a yes.
        DefaultOn = "default_on",
    }
}

words! {
    /// How a decision reached us.
    Channel {
        /// With the activation of the device.
        Activation = "activation",
        /// At the device, after its activation.
        DeviceShell = "device_shell",
        /// The customer's portal.
        Portal = "portal",
        /// The customer's own program.
        Api = "api",
        /// On paper, signed.
        Paper = "paper",
        /// A change in the registry that ends a consent, never one that makes it.
        Registry = "registry",
    }
}

words! {
    /// In which role somebody decides. Each customer role covers its own scope and what lies within.
    Role {
        /// Owns the device.
        DeviceOwner = "device-owner",
        /// Owns the site.
        SiteOwner = "site-owner",
        /// Owns the tenant.
        TenantOwner = "tenant-owner",
        /// Works for the vendor, a person or a program: decides nothing.
        Vendor = "vendor",
        /// Nobody: a rule of the product, which can end a consent and never make one.
        System = "system",
    }
}

words! {
    /// What silence means under some terms.
    TermsDefault {
        /// No.
        OptIn = "opt_in",
        /// Yes, until somebody says no.
        DefaultOn = "default_on",
    }
}

/// For which devices a decision is made.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ConsentScope {
    /// One device.
    Device {
        /// Which.
        id: DeviceId,
    },
    /// All devices with this `tags.site` of one tenant.
    Site {
        /// Their `tags.site`.
        id: String,
        /// Their `tags.tenant`.
        tenant: String,
    },
    /// All devices with this `tags.tenant`.
    Tenant {
        /// Their `tags.tenant`.
        id: String,
    },
}

impl ConsentScope {
    /// `device`, `site` or `tenant`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Device { .. } => "device",
            Self::Site { .. } => "site",
            Self::Tenant { .. } => "tenant",
        }
    }

    /// The id within its kind.
    pub fn id(&self) -> &str {
        match self {
            Self::Device { id } => id.as_str(),
            Self::Site { id, .. } | Self::Tenant { id } => id,
        }
    }

    /// The tenant it names: none for a device, whose tenant stands in the registry.
    pub fn tenant(&self) -> Option<&str> {
        match self {
            Self::Device { .. } => None,
            Self::Site { tenant, .. } => Some(tenant),
            Self::Tenant { id } => Some(id),
        }
    }
}

impl std::fmt::Display for ConsentScope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Device { id } => write!(f, "device {id}"),
            Self::Site { id, tenant } => write!(f, "site {id} of tenant {tenant}"),
            Self::Tenant { id } => write!(f, "tenant {id}"),
        }
    }
}

/// Who decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Actor {
    /// The person or thing, by the name the customer knows it by.
    #[schema(example = "ada@contoso.example")]
    pub id: String,
    /// In which role.
    pub role: Role,
    /// How the channel made sure of it, as the channel says: `mfa`, `signature`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<String>,
}

/// Which terms a decision is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TermsRef {
    /// Their name.
    pub id: String,
    /// Their version.
    pub version: String,
    /// SHA-256 of the text that was shown, in lower-case hex.
    pub sha256: String,
    /// Language of the text that was shown.
    pub locale: String,
    /// Publishing this version asked everybody again.
    pub material: bool,
}

/// One decision. Records are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ConsentRecord {
    /// Its id.
    pub consent_id: ConsentId,
    /// What it is about.
    pub kind: ConsentKind,
    /// Whose devices; of a device, its tenant when the decision was made.
    pub tenant: Option<String>,
    /// Which devices.
    pub scope: ConsentScope,
    /// Its number among the decisions of this scope, from 1.
    pub version: u32,
    /// What was decided.
    pub decision: Decision,
    /// What it rests on.
    pub basis: Basis,
    /// To which terms; absent where a rule of the product ended it.
    pub terms: Option<TermsRef>,
    /// Version of the published list of indicators at that time, where there was one.
    #[serde(default)]
    pub catalogue_version_at_decision: Option<u32>,
    /// Who decided.
    pub actor: Actor,
    /// How it reached us.
    pub channel: Channel,
    /// Whose token or which part of the product wrote it down.
    pub recorded_by: String,
    /// Why, in words.
    #[serde(default)]
    pub reason: Option<String>,
    /// When it was decided, by our clock.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub decided_at: OffsetDateTime,
    /// From when it holds.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub effective_at: OffsetDateTime,
    /// When it runs out.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<OffsetDateTime>,
    /// Support case.
    #[serde(default)]
    pub case_number: Option<String>,
    /// The decision before it.
    #[serde(default)]
    pub supersedes: Option<ConsentId>,
}

/// A decision to be recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDecision {
    /// What it is about.
    #[serde(default = "proactive")]
    pub kind: ConsentKind,
    /// Which devices.
    pub scope: ConsentScope,
    /// The customer who decided. Without it, it is the holder of the token who decides, and that is the vendor: refused, and on record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<Actor>,
    /// How the customer told us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<Channel>,
    /// Version of the terms that was shown; the current one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms_version: Option<String>,
    /// Language in which they were shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    /// With a grant: when it runs out.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<OffsetDateTime>,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Number of the decision the customer saw, 0 for none: recorded only if it still is the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect_version: Option<u32>,
}

fn proactive() -> ConsentKind {
    ConsentKind::Proactive
}

/// A decision that was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DecisionRecorded {
    /// The record.
    pub record: ConsentRecord,
    /// Tasks that were cancelled with it. What their devices had uploaded is removed within minutes.
    pub cancelled: u64,
}

/// The last decision of one scope, and what it comes to now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Standing {
    /// Which devices.
    pub scope: ConsentScope,
    /// Where it stands.
    pub state: ConsentState,
    /// Why it stands there, in words.
    pub why: String,
    /// The decision; absent where nobody has decided.
    #[serde(default)]
    pub record: Option<ConsentRecord>,
}

/// What a device says of itself in its birth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DeviceFlag {
    /// `enabled`, `disabled`, `default` or `unknown`.
    pub flag: String,
    /// When it was last heard; after 48 hours its word counts no longer.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub heard_at: Option<OffsetDateTime>,
}

/// Consent for one scope: where it stands and how it came there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ConsentView {
    /// What it is about.
    pub kind: ConsentKind,
    /// Which devices.
    pub scope: ConsentScope,
    /// Where it stands, with everything that bears on it.
    pub state: ConsentState,
    /// The decision in force.
    #[serde(default)]
    pub consent: Option<ConsentId>,
    /// Why it stands there, in words.
    pub why: String,
    /// Of a device: its tenant.
    #[serde(default)]
    pub tenant: Option<String>,
    /// Of a device: its site.
    #[serde(default)]
    pub site: Option<String>,
    /// Of a device: its own word.
    #[serde(default)]
    pub device_says: Option<DeviceFlag>,
    /// The last decision of each scope that bears on it, the most specific first.
    pub standings: Vec<Standing>,
    /// All decisions of this scope itself, newest first; at most 1000.
    pub history: Vec<ConsentRecord>,
}

/// A text of terms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TermsView {
    /// What they are about.
    pub kind: ConsentKind,
    /// Their name.
    pub id: String,
    /// Their version.
    pub version: String,
    /// Language of the text.
    pub locale: String,
    /// Number of the version among those of this kind, from 1; the highest is current.
    pub number: u32,
    /// SHA-256 of the text, in lower-case hex.
    pub sha256: String,
    /// What silence means under them.
    pub default: TermsDefault,
    /// Publishing this version suspended all grants to earlier ones.
    pub material: bool,
    /// When they were published.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub published_at: OffsetDateTime,
    /// By whom.
    pub published_by: String,
    /// The text; not in a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Terms to be published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTerms {
    /// What they are about.
    #[serde(default = "proactive")]
    pub kind: ConsentKind,
    /// Their version. A version that is there takes further languages, and never another text.
    #[schema(example = "2026-12-01")]
    pub version: String,
    /// Language of the text.
    #[schema(example = "en-GB")]
    pub locale: String,
    /// What silence means under them.
    pub default: TermsDefault,
    /// Everybody is asked again: grants to earlier versions are suspended.
    pub material: bool,
    /// The text.
    pub text: String,
}

/// A line of the audit: what was refused, and what was removed when a consent ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ConsentAuditLine {
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: OffsetDateTime,
    /// Whose token, or which part of the product.
    pub who: String,
    /// `refused`, `object_removed` or `inbox_closed`.
    pub what: String,
    /// About which kind of consent.
    pub kind: ConsentKind,
    /// Of which scope.
    pub scope: ConsentScope,
    /// Of which attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<AttemptId>,
    /// Of which object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// More, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back() {
        for kind in ConsentKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(*kind));
            assert_eq!(serde_json::to_value(kind).expect("a word"), kind.as_str());
        }
        for role in Role::ALL {
            assert_eq!(Role::from_word(role.as_str()), Some(*role));
        }
        assert!("yes".parse::<Decision>().expect_err("no word").contains("granted, declined, revoked"));
    }

    #[test]
    fn a_scope_is_told_by_its_type() {
        let site: ConsentScope = serde_json::from_str(r#"{"type":"site","id":"oslo","tenant":"contoso"}"#).expect("a scope");
        assert_eq!((site.kind(), site.id(), site.tenant()), ("site", "oslo", Some("contoso")));
        assert!(serde_json::from_str::<ConsentScope>(r#"{"type":"site","id":"oslo"}"#).is_err(), "a site is a tenant's");
        assert!(serde_json::from_str::<ConsentScope>(r#"{"type":"device","id":"a/b"}"#).is_err());
    }
}
