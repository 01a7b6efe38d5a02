//! What the owner says at the device: kept, said in the birth, and gone by at once.

use std::path::Path;
use std::process::Command;

use muster_wire::presence::ProactiveConsent;

use crate::broker::Mosquitto;
use crate::caller::{Ask, Caller};
use crate::contract::{DEVICE, settings};
use crate::restart::Program;

fn activate(state: &Path, words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster-agent"));
    let output = command.arg("activate").args(words).arg("--config").arg(state.join("settings.toml")).output().expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owners_word_is_kept_and_gone_by() {
    let broker = Mosquitto::start("").await;
    let state = tempfile::tempdir().expect("a directory");
    settings(&broker, state.path());
    let caller = Caller::connect(broker.port).await;
    let mut program = Program::start(state.path());
    caller.says(DEVICE, ProactiveConsent::Unknown).await;
    let logs = r#"{"schemaVersion":"1.0","items":[{"id":"none","filter":{}}]}"#;
    let unasked = || Ask { proactive: true, ..Ask::new(DEVICE, "GetModuleLogs", logs) };
    let refused = caller.ask(&unasked()).await;
    assert_eq!((refused.status, refused.json()["message"].as_str().map(|m| m.contains("has not agreed"))), (403, Some(true)));
    assert_eq!(caller.ask(&Ask::new(DEVICE, "GetModuleLogs", logs)).await.status, 200, "asked for by a person");
    assert_eq!(caller.ask(&Ask { proactive: true, ..Ask::new(DEVICE, "ping", "{}") }).await.status, 200, "it collects nothing");

    assert!(activate(state.path(), &["--proactive-logs", "yes"]).contains("agrees"));
    let first = caller.says(DEVICE, ProactiveConsent::Enabled).await;
    assert_eq!(caller.ask(&unasked()).await.status, 200);
    program.kill();
    program = Program::start(state.path());
    assert_eq!(caller.ask(&unasked()).await.status, 200, "kept over a restart");
    activate(state.path(), &["--proactive-logs", "yes"]);
    // The same word again is a decision again, and has another time.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while caller.says(DEVICE, ProactiveConsent::Enabled).await.proactive_consent_at == first.proactive_consent_at {
        assert!(std::time::Instant::now() < deadline, "the word said anew is not noticed");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }

    assert!(activate(state.path(), &["--proactive-logs", "no"]).contains("does not agree"));
    assert_eq!(caller.ask(&unasked()).await.status, 403, "at once, whatever was noticed");
    caller.says(DEVICE, ProactiveConsent::Disabled).await;
    activate(state.path(), &[]);
    caller.says(DEVICE, ProactiveConsent::Default).await;
    assert_eq!(caller.ask(&unasked()).await.status, 200, "left to the terms, which are known elsewhere");
    program.kill();
}
