use std::io::{Cursor, Write};

use ::zip::write::SimpleFileOptions;
use ::zip::{CompressionMethod, ZipWriter};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

/// What one makes a zip of.
pub(super) type File<'a> = (&'a str, &'a [u8]);

pub(super) fn options() -> SimpleFileOptions {
    SimpleFileOptions::default().compression_method(CompressionMethod::Deflated)
}

pub(super) fn zip_with(files: &[File<'_>], options: SimpleFileOptions) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        writer.start_file(*name, options).expect("a new file");
        writer.write_all(content).expect("into memory");
    }
    writer.finish().expect("into memory").into_inner()
}

pub(super) fn zip(files: &[File<'_>]) -> Vec<u8> {
    zip_with(files, options())
}

/// Written as a stream: sizes and checksums stand behind the data.
pub(super) fn streamed_zip(files: &[File<'_>]) -> Vec<u8> {
    let mut writer = ZipWriter::new_stream(Vec::new());
    for (name, content) in files {
        writer.start_file(*name, options()).expect("a new file");
        writer.write_all(content).expect("into memory");
    }
    writer.finish().expect("into memory").into_inner()
}

pub(super) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).expect("into memory");
    encoder.finish().expect("into memory")
}

pub(super) fn look_at(name: &str, bytes: &[u8]) -> ObjectFinding {
    look_with(name, bytes, &InspectLimits::default())
}

pub(super) fn look_with(name: &str, bytes: &[u8], limits: &InspectLimits) -> ObjectFinding {
    inspect(name, Cursor::new(bytes), bytes.len() as u64, limits)
}

/// The reason and the detail; panics when the object is sound.
#[track_caller]
pub(super) fn fault(finding: &ObjectFinding) -> (Reason, &str) {
    match &finding.condition {
        Condition::Bad(fault) => (fault.reason, &fault.detail),
        sound => panic!("{} is {sound:?}", finding.name),
    }
}

#[track_caller]
fn contents(finding: ObjectFinding) -> ZipContents {
    assert_eq!(finding.condition, Condition::Good);
    finding.zip.expect("a zip that is good has contents")
}

/// Puts one text of the same length in another's place, everywhere.
pub(super) fn replace(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let mut bytes = bytes.to_vec();
    let places: Vec<usize> = bytes.windows(old.len()).enumerate().filter(|(_, window)| *window == old).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "{old:?} is not in there");
    for at in places {
        bytes[at..at + new.len()].copy_from_slice(new);
    }
    bytes
}

const BUNDLE: &[File<'_>] = &[
    ("check.json", br#"{"checks":[]} and then some"#),
    ("logs/edgeAgent_log.txt", b"a line\nanother line\n"),
    ("inspect/edgeAgent.json", b"[]"),
    ("network/bridge.json", b"[{}]"),
];

#[test]
fn a_bundle_of_iot_edge_in_every_way_of_writing_it() {
    let stored = options().compression_method(CompressionMethod::Stored);
    for (way, bytes) in [
        ("deflated", zip(BUNDLE)),
        ("stored", zip_with(BUNDLE, stored)),
        ("64-bit", zip_with(BUNDLE, options().large_file(true))),
        ("streamed", streamed_zip(BUNDLE)),
    ] {
        for depth in [Depth::Full, Depth::Structure] {
            let finding = look_with("d/support-bundle.zip", &bytes, &InspectLimits { depth, ..InspectLimits::default() });
            assert_eq!((finding.kind, finding.depth, finding.entries()), (ObjectKind::Zip, depth, Some(4)), "{way}");
            let zip = contents(finding);
            assert!(zip.has_check && zip.has_diagnostics && zip.agent_missing.is_none() && zip.failed.is_empty(), "{way}");
            assert_eq!(zip.expanded_bytes, BUNDLE.iter().map(|(_, content)| content.len() as u64).sum::<u64>(), "{way}");
            let names: Vec<&str> = zip.listed.iter().map(|entry| entry.name.as_str()).collect();
            assert_eq!(names, BUNDLE.iter().map(|(name, _)| *name).collect::<Vec<_>>(), "{way}");
        }
    }
    assert_eq!(look_at("upload", &zip(BUNDLE)).kind, ObjectKind::Zip, "a zip is known without its extension");
}

#[test]
fn what_the_agents_manifest_calls_missing_is_told_and_bounded() {
    let manifest = br#"{"version":"1.0","missing":[{"what":"journal","why":"permission\ndenied","more":1},{"what":"disk"}],"other":[]}"#;
    let zip1 = contents(look_at("b.zip", &zip(&[("manifest.json", manifest), ("logs/a.txt", b"x")])));
    let missing = zip1.agent_missing.expect("a manifest");
    assert_eq!(missing[0], Missing { what: "journal".into(), why: "permission denied".into() });
    assert_eq!(missing[1], Missing { what: "disk".into(), why: String::new() });

    let many = format!(r#"{{"missing":[{}]}}"#, vec![r#"{"what":"w","why":"y"}"#; MAX_MISSING + 1].join(","));
    let zip2 = contents(look_at("b.zip", &zip(&[("manifest.json", many.as_bytes())])));
    assert_eq!(zip2.agent_missing.map(|missing| missing.len()), Some(MAX_MISSING));

    let long = format!(r#"{{"missing":[{{"what":"{}","why":""}}]}}"#, "ü".repeat(MAX_TEXT_CHARS + 1));
    let zip3 = contents(look_at("b.zip", &zip(&[("manifest.json", long.as_bytes())])));
    assert_eq!(zip3.agent_missing.expect("a manifest")[0].what.chars().count(), MAX_TEXT_CHARS + 1, "cut, with a mark");

    let too_large = format!(r#"{{"missing":[],"pad":"{}"}}"#, "x".repeat(MAX_AGENT_MANIFEST_BYTES as usize));
    for other in [too_large.as_bytes(), b"not json", br#"{"name":"of something else"}"#, b""] {
        let zip4 = contents(look_at("b.zip", &zip(&[("manifest.json", other), ("x", b"x")])));
        assert_eq!(zip4.agent_missing, None);
    }
}

#[test]
fn error_entries_tell_what_they_stand_in_for() {
    let zip1 = contents(look_at(
        "b.zip",
        &zip(&[
            ("check.json", b"{}"),
            ("inspect/gone_err.json", b"no such container"),
            ("inspect/broken_err_docker.txt", b"no docker"),
            ("logs/docker_err.txt", b"no journal"),
            ("network/n_err.json", b"x"),
            ("network/n_err_docker.txt", b"x"),
            ("inspect/both.json", b"[]"),
            ("inspect/both_err.json", b"[]"),
            ("inspect/my_err.json", b"[]"),
            ("logs/my_err_log.txt", b"the module is called my_err"),
            ("notes_err.txt", b"elsewhere"),
        ]),
    ));
    let what: Vec<&str> = zip1.failed.iter().map(|part| part.what.as_str()).collect();
    assert_eq!(what, ["inspect/gone.json", "inspect/broken.json", "logs/docker.txt", "network/n.json"]);
    assert!(zip1.failed[0].why.contains("inspect/gone_err.json"));
}

#[test]
fn a_zip_that_holds_nothing_is_empty() {
    for bytes in [zip(&[]), zip(&[("check.json", b"")]), zip(&[("logs/", b"")])] {
        assert_eq!(look_at("b.zip", &bytes).condition, Condition::Empty);
    }
    let hollow_check = contents(look_at("b.zip", &zip(&[("check.json", b""), ("logs/a.txt", b"x")])));
    assert!(!hollow_check.has_check && hollow_check.has_diagnostics);
}

#[test]
fn what_stands_under_a_zips_name_and_is_none() {
    let reason = |bytes: &[u8]| fault(&look_at("hub/dev/support-bundle.zip", bytes)).0;
    assert_eq!(reason(br#"{"message":"invalid parameter: since"}"#), Reason::UploadErrorDocument);
    assert_eq!(reason(b" \n{\"Message\":\"x\",\"code\":4}"), Reason::UploadErrorDocument);
    assert_eq!(reason(b"<?xml version=\"1.0\"?><Error><Code>AuthenticationFailed</Code></Error>"), Reason::UploadErrorDocument);
    assert_eq!(reason(br#"{"other":"json"}"#), Reason::UploadNotAZip);
    assert_eq!(reason(b"plain text"), Reason::UploadNotAZip);
    assert_eq!(reason(&gzip(b"gzip")), Reason::UploadNotAZip);
    assert_eq!(reason(b"PK\x03\x04 and nothing more"), Reason::UploadTruncated);
    assert_eq!(reason(b"PK"), Reason::UploadTruncated);
    let finding = look_at("b.zip", format!(r#"{{"message":"{}"}}"#, "x".repeat(5000)).as_bytes());
    assert!(fault(&finding).1.len() < 2 * MAX_TEXT_CHARS, "the device's text is cut");
    assert_eq!(look_at("b.zip", b"").condition, Condition::Empty);
}

#[test]
fn gzip_is_read_to_its_last_member() {
    let members = [gzip(b"one\n"), gzip(b""), gzip(b"two\n")].concat();
    for name in ["m.log.gz", "m.GZ"] {
        assert_eq!(look_at(name, &members).condition, Condition::Good);
    }
    assert_eq!(look_at("m.log.gz", &[gzip(b""), gzip(b"")].concat()).condition, Condition::Empty);
    assert_eq!(fault(&look_at("m.log.gz", &[&members[..], b"garbage"].concat())).0, Reason::UploadDamaged);
    assert_eq!(fault(&look_at("m.log.gz", &[&members[..], b"\x1f"].concat())).0, Reason::UploadTruncated);
    assert_eq!(fault(&look_at("m.log.gz", b"plain text")).0, Reason::UploadDamaged);
    assert_eq!(fault(&look_at("m.log.gz", br#"{"message":"no"}"#)).0, Reason::UploadErrorDocument);
    assert_eq!(fault(&look_at("m.log.gz", &zip(BUNDLE))).0, Reason::UploadDamaged);
    let structure = InspectLimits { depth: Depth::Structure, ..InspectLimits::default() };
    assert_eq!(look_with("m.log.gz", &members, &structure).condition, Condition::Good);
    assert_eq!(look_with("m.log.gz", &gzip(&vec![b'x'; 1 << 20]), &structure).condition, Condition::Good);
    assert_eq!(fault(&look_with("m.log.gz", b"plain", &structure)).0, Reason::UploadDamaged);
}

#[test]
fn json_is_parsed_to_its_last_byte_also_inside_gzip() {
    for (text, expected) in [
        (&br#"[{"timestamp":"2026-11-21T10:00:00Z","text":"x \" [ y"}]"#[..], Ok(Condition::Good)),
        (b"[] \n", Ok(Condition::Empty)),
        (b" {} ", Ok(Condition::Empty)),
        (b"[1,2", Err(Reason::UploadTruncated)),
        (b"[1] x", Err(Reason::UploadDamaged)),
        (b"log line", Err(Reason::UploadDamaged)),
        (br#"{"message":"no such module"}"#, Err(Reason::UploadErrorDocument)),
        (br#"{"message":"fine","more":1}"#, Ok(Condition::Good)),
    ] {
        for (name, bytes) in [("m.json", text.to_vec()), ("m.json.gz", gzip(text))] {
            match (&look_at(name, &bytes).condition, &expected) {
                (Condition::Bad(fault), Err(reason)) => assert_eq!(fault.reason, *reason, "{name} {fault}"),
                (condition, Ok(expected)) => assert_eq!(condition, expected, "{name}"),
                (condition, Err(reason)) => panic!("{name} is {condition:?}, not {reason}"),
            }
        }
    }
    let deep = |levels: usize| [vec![b'['; levels], vec![b']'; levels]].concat();
    assert_eq!(look_at("m.json", &deep(MAX_JSON_DEPTH)).condition, Condition::Good);
    for (name, bytes) in [("m.json", deep(MAX_JSON_DEPTH + 1)), ("m.json.gz", gzip(&deep(1 << 20))), ("m.json", vec![b'['; 1 << 20])] {
        assert_eq!(fault(&look_at(name, &bytes)).0, Reason::UploadUnsafe);
    }
}

#[test]
fn text_is_taken_as_it_is() {
    for name in ["m.log", "m.txt", "m", "core.bin", "a.b/c"] {
        assert_eq!(look_at(name, b"a line").condition, Condition::Good);
        assert_eq!(look_at(name, b"").condition, Condition::Empty);
        assert_eq!(look_at(name, b" \n\n").condition, Condition::Empty);
    }
    assert_eq!(look_at("m.log", &vec![b'\n'; HEAD_BYTES + 1]).condition, Condition::Good, "only a small object is looked at for that");
}

#[test]
fn an_object_beyond_the_limit_is_not_read_at_all() {
    let limits = InspectLimits { object_bytes: 10, ..InspectLimits::default() };
    assert_eq!(look_with("m.log", b"0123456789", &limits).condition, Condition::Good);
    assert_eq!(fault(&look_with("m.log", b"0123456789a", &limits)).0, Reason::UploadTooLarge);
}
