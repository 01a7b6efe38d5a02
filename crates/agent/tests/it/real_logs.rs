//! Logs that are really on this machine.

use std::process::{Command, Stdio};

use muster_wire::method::answer::ModuleLogs;
use muster_wire::method::answer::TaskStatus;

use crate::broker::Mosquitto;
use crate::caller::{Ask, Caller, bundle_request};
use crate::storage::Storage;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_of_var_log_come_back_as_they_are_there() {
    let path = "/var/log/dpkg.log";
    let file = std::fs::read_to_string(path).expect("a Debian machine has dpkg.log");
    let broker = Mosquitto::start("").await;
    let state = tempfile::tempdir().expect("a directory");
    let caller = Caller::connect(broker.port).await;
    let mut program = Command::new(env!("CARGO_BIN_EXE_muster-agent"))
        .args([
            "run",
            "--device",
            "real-1",
            "--mqtt",
            &broker.url(),
            "--files",
            &format!("dpkg={path}"),
            "--files",
            "alternatives=/var/log/alternatives*",
        ])
        .args(["--journal", "journal=", "--state-dir", state.path().to_str().expect("text")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    caller.presence("real-1", true).await;

    let text = r#"{"schemaVersion":"1.0","contentType":"text","items":[{"id":"dpkg","filter":{"tail":25}}]}"#;
    let answer = caller.ask(&Ask::new("real-1", "GetModuleLogs", text)).await;
    let logs = ModuleLogs::parse_all(&answer.payload).expect("logs");
    let lines: Vec<&str> = file.lines().collect();
    let expected: String = lines[lines.len().saturating_sub(25)..].iter().map(|line| format!("{line}\n")).collect();
    assert_eq!(logs[0].text(1 << 20).expect("text"), expected);

    let installed = r#"{"schemaVersion":"1.0","items":[{"id":"dpkg","filter":{"regex":"status installed .*libc6","tail":100000}}]}"#;
    let answer = caller.ask(&Ask::new("real-1", "GetModuleLogs", installed)).await;
    let entries = ModuleLogs::parse_all(&answer.payload).expect("logs")[0].entries(1 << 20).expect("lines");
    assert_eq!(
        entries.len(),
        file.lines()
            .filter(|line| line.contains("status installed ")
                && line.split("status installed ").nth(1).is_some_and(|rest| rest.contains("libc6")))
            .count()
    );
    assert!(entries.iter().all(|entry| entry.known_timestamp().is_some()), "the line's own time is its time");

    let everything = r#"{"schemaVersion":"1.0","contentType":"text","items":[{"id":"dpkg"}]}"#;
    let too_large = caller.ask(&Ask::new("real-1", "GetModuleLogs", everything)).await;
    assert_eq!(too_large.status, if file.len() > 127_000 { 400 } else { 200 });

    let storage = Storage::start().await;
    let ask = Ask::new("real-1", "UploadSupportBundle", bundle_request(&storage.grant("box")).replace("1h", "10years"));
    caller.ask(&ask).await;
    let ended = caller.ended(ask.attempt).await;
    assert_eq!(ended.status, TaskStatus::Completed, "{}", ended.message);
    let bytes = storage.objects("box").into_values().next().expect("a bundle");
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(bytes)).expect("a zip");
    assert_eq!(std::io::read_to_string(zip.by_name("logs/dpkg_log.txt").expect("there")).expect("text"), file);
    assert!(zip.by_name("logs/alternatives_log.txt").expect("there").size() > 0);
    assert!(zip.by_name("logs/journal_log.txt").is_ok());
    program.kill().expect("killed");
    program.wait().expect("gone");
}
