//! Messages of the device contract, as files: the valid ones are read and written back, the invalid ones are refused with the text beside
//! them. A file stays for as long as a device may send it.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use muster_wire::presence::{Presence, TaskReport};
use serde_json::Value;

fn files(kind: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/messages").join(kind);
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    assert!(files.len() >= 5, "{files:?}");
    files
}

fn is_task(path: &Path) -> bool {
    path.file_name().unwrap().to_str().unwrap().starts_with("task")
}

/// What was read, written again; or why it was refused.
fn round(path: &Path) -> Result<Value, String> {
    let bytes = std::fs::read(path).unwrap();
    let written = if is_task(path) {
        TaskReport::parse(&bytes).map_err(|error| error.to_string())?.to_json()
    } else {
        Presence::parse(&bytes).map_err(|error| error.to_string())?.to_json()
    };
    Ok(serde_json::from_slice(&written).unwrap())
}

#[test]
fn valid_messages_lose_nothing_we_know() {
    for path in files("valid") {
        let written = round(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let sent: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for (member, value) in written.as_object().unwrap() {
            let default = value == "" || value == 0 || value.as_array().is_some_and(Vec::is_empty);
            let newer = member == "proactiveConsent" && value == "unknown";
            assert!(sent.get(member) == Some(value) || default || newer, "{}: {member} became {value}", path.display());
        }
        for member in sent.as_object().unwrap().keys().filter(|member| *member != "future") {
            assert!(written.get(member).is_some(), "{}: {member} is lost", path.display());
        }
    }
}

#[test]
fn invalid_messages_are_refused_with_the_reason_beside_them() {
    for path in files("invalid") {
        let expected =
            std::fs::read_to_string(path.with_extension("error.txt")).unwrap_or_else(|_| panic!("{} has no .error.txt", path.display()));
        assert_eq!(round(&path).expect_err(path.to_str().unwrap()), expected.trim_end(), "{}", path.display());
    }
}
