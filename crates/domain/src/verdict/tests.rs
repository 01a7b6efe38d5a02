use super::*;
use crate::inspect::{Depth, ObjectFinding, ZipContents};

fn finding(name: &str, kind: ObjectKind, condition: Condition, zip: Option<ZipContents>) -> ObjectFinding {
    ObjectFinding { name: name.into(), size_bytes: 100, kind, depth: Depth::Full, condition, zip }
}

fn good_zip(zip: ZipContents) -> ObjectFinding {
    finding("d/support-bundle.zip", ObjectKind::Zip, Condition::Good, Some(ZipContents { files: 3, expanded_bytes: 99, ..zip }))
}

fn bad(name: &str, reason: Reason) -> ObjectFinding {
    let kind = if name.ends_with(".zip") { ObjectKind::Zip } else { ObjectKind::Gzip };
    finding(name, kind, Condition::Bad(Fault { reason, detail: "broken".into() }), None)
}

fn empty(name: &str) -> ObjectFinding {
    let kind = if name.ends_with(".zip") { ObjectKind::Zip } else { ObjectKind::Text };
    finding(name, kind, Condition::Empty, None)
}

fn good(name: &str) -> ObjectFinding {
    finding(name, ObjectKind::Gzip, Condition::Good, None)
}

fn part(what: &str) -> Missing {
    Missing { what: what.into(), why: "because".into() }
}

fn bundle(findings: &[ObjectFinding]) -> (Verdict, Reason, Vec<String>) {
    let judgement = judge(Expected::SupportBundle, findings);
    (judgement.verdict, judgement.reason, judgement.missing.into_iter().map(|part| part.what).collect())
}

fn logs(modules: Option<&[&str]>, findings: &[ObjectFinding]) -> (Verdict, Reason, Vec<String>) {
    let modules = modules.map(|modules| modules.iter().map(|module| (*module).to_owned()).collect());
    let judgement = judge(Expected::ModuleLogs { modules }, findings);
    (judgement.verdict, judgement.reason, judgement.missing.into_iter().map(|part| part.what).collect())
}

#[test]
fn a_bundle_counts_with_check_json_or_the_agents_manifest() {
    let none: Vec<String> = Vec::new();
    let check = ZipContents { has_check: true, ..ZipContents::default() };
    assert_eq!(bundle(&[good_zip(check)]), (Verdict::Complete, Reason::Collected, none.clone()));
    let manifest = ZipContents { agent_missing: Some(vec![]), ..ZipContents::default() };
    assert_eq!(bundle(&[good_zip(manifest)]), (Verdict::Complete, Reason::Collected, none.clone()));
    assert_eq!(bundle(&[good_zip(ZipContents::default())]), (Verdict::Damaged, Reason::UploadDamaged, none));
    let rest = ZipContents { has_diagnostics: true, ..ZipContents::default() };
    assert_eq!(bundle(&[good_zip(rest)]), (Verdict::Partial, Reason::CollectedPartial, vec!["check.json".to_owned()]));
}

#[test]
fn what_the_device_could_not_collect_makes_it_partial() {
    let zip = ZipContents {
        has_check: true,
        agent_missing: Some(vec![part("journal"), part("inspect/a.json")]),
        failed: vec![part("inspect/a.json"), part("logs/docker.txt")],
        ..ZipContents::default()
    };
    let missing = ["journal", "inspect/a.json", "logs/docker.txt"].map(String::from).to_vec();
    assert_eq!(bundle(&[good_zip(zip)]), (Verdict::Partial, Reason::CollectedPartial, missing));
}

#[test]
fn the_better_of_two_zips_is_the_bundle_and_a_broken_extra_is_a_loss() {
    let check = ZipContents { has_check: true, ..ZipContents::default() };
    let lesser = ZipContents { has_diagnostics: true, ..ZipContents::default() };
    let earlier_try = bad("a/old.zip", Reason::UploadTruncated);
    assert_eq!(bundle(&[earlier_try.clone(), good_zip(lesser), good_zip(check.clone())]).0, Verdict::Complete);
    assert_eq!(judge(Expected::SupportBundle, &[earlier_try, good_zip(check.clone())]).set_aside[0].what, "a/old.zip");
    let (verdict, _, missing) = bundle(&[good_zip(check), bad("a/core.gz", Reason::UploadDamaged), good("a/extra.gz")]);
    assert_eq!((verdict, missing), (Verdict::Partial, vec!["a/core.gz".to_owned()]));
}

#[test]
fn a_bundle_that_is_none_says_why() {
    let none = Vec::<String>::new();
    assert_eq!(bundle(&[]), (Verdict::Empty, Reason::UploadMissing, none.clone()));
    assert_eq!(bundle(&[empty("x.zip")]), (Verdict::Empty, Reason::UploadEmpty, none.clone()));
    assert_eq!(bundle(&[empty("x.log")]), (Verdict::Empty, Reason::UploadEmpty, none.clone()));
    assert_eq!(bundle(&[good("x.gz")]), (Verdict::Damaged, Reason::UploadNotAZip, none.clone()));
    assert_eq!(bundle(&[empty("y.zip"), bad("x.zip", Reason::UploadTruncated)]), (Verdict::Damaged, Reason::UploadTruncated, none.clone()));
    for reason in [Reason::UploadErrorDocument, Reason::UploadNotAZip, Reason::UploadUnsafe, Reason::UploadTooLarge] {
        assert_eq!(bundle(&[bad("x.zip", reason)]), (Verdict::Damaged, reason, none.clone()));
        assert_eq!(bundle(&[bad("x.zip", reason), good("y.gz"), bad("z.gz", Reason::UploadDamaged)]).1, reason);
    }
}

#[test]
fn a_storage_that_cannot_be_read_is_not_the_devices_fault() {
    let check = ZipContents { has_check: true, ..ZipContents::default() };
    let findings = [good_zip(check), bad("x.gz", Reason::LandingUnavailable)];
    assert_eq!(bundle(&findings).1, Reason::LandingUnavailable);
    assert_eq!(logs(None, &findings).1, Reason::LandingUnavailable);
    assert!(!judge(Expected::SupportBundle, &findings).is_good());
}

#[test]
fn logs_are_judged_module_by_module() {
    let hub = good("hub/dev/edgeHub-2026-11-21--10-00-00.json.gz");
    let agent_bad = bad("hub/dev/edgeAgent-2026-11-21--10-00-00.json.gz", Reason::UploadTruncated);
    let agent_good = good("hub/dev/edgeAgent-2026-11-21--10-00-09.json.gz");
    let none = Vec::<String>::new();
    assert_eq!(logs(None, std::slice::from_ref(&hub)), (Verdict::Complete, Reason::Collected, none.clone()));
    assert_eq!(logs(Some(&["edgehub"]), std::slice::from_ref(&hub)).0, Verdict::Complete, "ids ignore case");
    let one = vec!["edgeAgent".to_owned()];
    assert_eq!(
        logs(Some(&["edgeAgent", "edgeHub"]), std::slice::from_ref(&hub)),
        (Verdict::Partial, Reason::CollectedPartial, one.clone())
    );
    assert_eq!(logs(None, &[hub.clone(), agent_bad.clone()]), (Verdict::Partial, Reason::CollectedPartial, one));
    assert_eq!(logs(None, &[agent_bad.clone(), hub.clone(), agent_good]), (Verdict::Complete, Reason::Collected, none.clone()));
    assert_eq!(logs(None, &[agent_bad, empty("x.log")]), (Verdict::Damaged, Reason::UploadTruncated, none.clone()));
    assert_eq!(logs(None, &[empty("x.log"), empty("y.log")]), (Verdict::Empty, Reason::UploadEmpty, none.clone()));
    assert_eq!(logs(Some(&["a"]), &[]), (Verdict::Empty, Reason::UploadMissing, none));
}

#[test]
fn the_module_is_read_from_the_name() {
    for (name, module) in [
        ("hub/dev/edgeHub-2026-11-21--10-00-00.json.gz", "edgeHub"),
        ("a-b-2026-11-21--10-00-00.log", "a-b"),
        ("edgeHub.log.gz", "edgeHub"),
        ("edgeHub-2026-11-21--10-00-0x.log", "edgeHub-2026-11-21--10-00-0x"),
        ("é-2026-11-21--10-00-00.log", "é"),
        ("ééééééééééééééééééééé", "ééééééééééééééééééééé"),
        ("", ""),
    ] {
        assert_eq!(module_of(name), module, "{name}");
    }
}
