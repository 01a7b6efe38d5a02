//! What a history of decisions comes to.

use muster_wire::http::{ConsentRecord, Decision};

/// A history that nobody can have written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("decision {version} of {scope}: {why}")]
pub struct Broken {
    /// Number of the decision at fault.
    pub version: u32,
    /// Of which scope.
    pub scope: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// The last decision of a history, oldest first, of one scope. `None` for an empty one.
///
/// # Errors
/// [`Broken`] when a decision is missing, stands at the wrong place, or cannot follow on the one before.
pub fn last<'a>(history: impl IntoIterator<Item = &'a ConsentRecord>) -> Result<Option<&'a ConsentRecord>, Broken> {
    let mut before: Option<&ConsentRecord> = None;
    for record in history {
        let broken = |why| Err(Broken { version: record.version, scope: record.scope.to_string(), why });
        if record.version != before.map_or(1, |before| before.version + 1) {
            return broken("a decision before it is missing");
        }
        if record.supersedes != before.map(|before| before.consent_id) {
            return broken("it names another decision as the one before it");
        }
        let follows = match record.decision {
            Decision::Granted => true,
            // Refused before any grant; withdrawn after one. A grant to another tenant is none for this one.
            Decision::Declined => before.is_none_or(|before| before.decision != Decision::Granted || before.tenant != record.tenant),
            Decision::Revoked => before.is_some_and(|before| before.decision == Decision::Granted),
        };
        if !follows {
            return broken("it cannot follow on the decision before it");
        }
        before = Some(record);
    }
    Ok(before)
}
