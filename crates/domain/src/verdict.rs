//! Judges all objects of an attempt together: is it what was asked for, and what is missing?
//!
//! A device's `Completed` is not looked at here. IoT Edge stores an error text under a zip's name and calls it completed, and a retried
//! upload can store half a zip and call it completed too.

use std::collections::BTreeMap;

use muster_wire::Reason;
pub use muster_wire::http::{Missing, ObjectKind, Verdict};

use crate::inspect::{Condition, Fault, MAX_MISSING, ObjectFinding, ZipContents};

/// What the attempt was to deliver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// One zip: of IoT Edge, with `check.json`, or of our own agent, with `manifest.json`.
    SupportBundle,
    /// One object per module.
    ModuleLogs {
        /// The modules by name, where the request named them; `None` when it was a pattern.
        modules: Option<Vec<String>>,
    },
}

/// The judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// In a word.
    pub verdict: Verdict,
    /// The reason code that goes with it.
    pub reason: Reason,
    /// What is missing from a partial bundle, and why.
    pub missing: Vec<Missing>,
    /// Objects that do not count, by name, and why. They need not be sealed.
    pub set_aside: Vec<Missing>,
}

impl Judgement {
    /// Whether this is a success.
    pub fn is_good(&self) -> bool {
        matches!(self.verdict, Verdict::Complete | Verdict::Partial)
    }

    fn good(mut missing: Vec<Missing>, set_aside: Vec<Missing>) -> Self {
        let mut seen = std::collections::HashSet::new();
        missing.retain(|part| seen.insert(part.what.clone()));
        missing.truncate(MAX_MISSING);
        let (verdict, reason) =
            if missing.is_empty() { (Verdict::Complete, Reason::Collected) } else { (Verdict::Partial, Reason::CollectedPartial) };
        Self { verdict, reason, missing, set_aside }
    }

    fn bad(verdict: Verdict, reason: Reason, set_aside: Vec<Missing>) -> Self {
        Self { verdict, reason, missing: Vec::new(), set_aside }
    }
}

/// Judges. Where an object could not be read for the storage's sake, the reason is [`Reason::LandingUnavailable`] and says nothing about
/// the device; the objects are to be read again.
pub fn judge(kind: Expected, findings: &[ObjectFinding]) -> Judgement {
    if findings.is_empty() {
        return Judgement::bad(Verdict::Empty, Reason::UploadMissing, Vec::new());
    }
    let set_aside: Vec<Missing> = findings.iter().filter_map(why_not).collect();
    if findings.iter().any(|finding| matches!(&finding.condition, Condition::Bad(Fault { reason: Reason::LandingUnavailable, .. }))) {
        return Judgement::bad(Verdict::Damaged, Reason::LandingUnavailable, set_aside);
    }
    match kind {
        Expected::SupportBundle => judge_bundle(findings, set_aside),
        Expected::ModuleLogs { modules } => judge_logs(modules.as_deref(), findings, set_aside),
    }
}

fn why_not(finding: &ObjectFinding) -> Option<Missing> {
    let why = match &finding.condition {
        Condition::Good => return None,
        Condition::Empty => "it is empty".to_owned(),
        Condition::Bad(fault) => fault.to_string(),
    };
    Some(Missing { what: finding.name.clone(), why })
}

fn is_zip(finding: &ObjectFinding) -> bool {
    finding.kind == ObjectKind::Zip
}

fn judge_bundle(findings: &[ObjectFinding], mut set_aside: Vec<Missing>) -> Judgement {
    let good = |finding: &&ObjectFinding| finding.condition == Condition::Good;
    let zips: Vec<(&ObjectFinding, Vec<Missing>)> =
        findings.iter().filter(good).filter_map(|finding| Some((finding, missing_from(finding.zip.as_ref()?)?))).collect();
    // A device that tried twice may have left two: the better one is the bundle.
    if let Some((_, missing)) = zips.iter().min_by_key(|(_, missing)| missing.len()) {
        // A further object of the device that is no good is a loss of its own; a further zip that is no good was an earlier try.
        let lost = findings.iter().filter(|finding| !is_zip(finding)).filter_map(why_not);
        return Judgement::good(missing.iter().cloned().chain(lost).collect(), set_aside);
    }
    for finding in findings.iter().filter(good) {
        let why = if is_zip(finding) {
            "it opens as a zip and is no support bundle: neither check.json nor manifest.json"
        } else {
            "it is no zip"
        };
        set_aside.push(Missing { what: finding.name.clone(), why: why.into() });
    }
    // What went wrong with a zip says more than what went wrong beside it.
    let zips: Vec<&ObjectFinding> = findings.iter().filter(|finding| is_zip(finding)).collect();
    if zips.is_empty() && findings.iter().any(|finding| finding.condition != Condition::Empty) {
        return Judgement::bad(Verdict::Damaged, Reason::UploadNotAZip, set_aside);
    }
    worst(if zips.is_empty() { findings.iter().collect() } else { zips }, set_aside)
}

/// What a zip lacks as a support bundle; `None` when it is none.
fn missing_from(zip: &ZipContents) -> Option<Vec<Missing>> {
    let mut missing = zip.agent_missing.clone().unwrap_or_default();
    if !zip.has_check && zip.agent_missing.is_none() {
        if !zip.has_diagnostics {
            return None;
        }
        missing.push(Missing { what: "check.json".into(), why: "the device did not include it, or it is empty".into() });
    }
    missing.extend(zip.failed.iter().cloned());
    Some(missing)
}

/// The verdict when nothing is good: the first object that is damaged decides, and if all are empty, they are empty.
fn worst(findings: Vec<&ObjectFinding>, set_aside: Vec<Missing>) -> Judgement {
    let fault = findings.iter().find_map(|finding| match &finding.condition {
        Condition::Bad(fault) => Some(fault.reason),
        Condition::Good => Some(Reason::UploadDamaged),
        Condition::Empty => None,
    });
    match fault {
        Some(reason) => Judgement::bad(Verdict::Damaged, reason, set_aside),
        None => Judgement::bad(Verdict::Empty, Reason::UploadEmpty, set_aside),
    }
}

fn judge_logs(modules: Option<&[String]>, findings: &[ObjectFinding], set_aside: Vec<Missing>) -> Judgement {
    if !findings.iter().any(|finding| finding.condition == Condition::Good) {
        return worst(findings.iter().collect(), set_aside);
    }
    // Per module the best of its objects counts: a second try leaves a second object.
    let mut by_module: BTreeMap<String, Option<Missing>> = BTreeMap::new();
    for finding in findings {
        let module = module_of(&finding.name);
        let problem = why_not(finding).map(|problem| Missing { what: module.to_owned(), ..problem });
        let best = by_module.entry(module.to_ascii_lowercase()).or_insert_with(|| problem.clone());
        if problem.is_none() {
            *best = None;
        }
    }
    let mut missing: Vec<Missing> = by_module.values().flatten().cloned().collect();
    for module in modules.unwrap_or_default() {
        if !by_module.contains_key(&module.to_ascii_lowercase()) {
            missing.push(Missing { what: module.clone(), why: "the device uploaded nothing for it".into() });
        }
    }
    Judgement::good(missing, set_aside)
}

/// `edgeHub` of `hub/device/edgeHub-2026-11-21--10-00-00.json.gz`; the whole last part of a name that is not made like that.
pub fn module_of(name: &str) -> &str {
    let last = name.rsplit('/').next().unwrap_or(name);
    let mut stem = last;
    for extension in [".gz", ".json", ".log", ".txt"] {
        stem = stem.strip_suffix(extension).unwrap_or(stem);
    }
    const SHAPE: &[u8] = b"-0000-00-00--00-00-00";
    let Some(at) = stem.len().checked_sub(SHAPE.len()).filter(|at| stem.is_char_boundary(*at)) else { return stem };
    let fits = stem.as_bytes()[at..].iter().zip(SHAPE).all(|(c, shape)| if *shape == b'0' { c.is_ascii_digit() } else { c == shape });
    if fits { &stem[..at] } else { stem }
}

#[cfg(test)]
mod tests;
