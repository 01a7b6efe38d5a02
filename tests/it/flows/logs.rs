//! Real logs of this machine through the real agent.

use std::process::Command;
use std::time::Duration;

use muster_tests::program::{Program, built};

use crate::stack::{Controller, Landing, cli_ok};

/// `muster logs` and `muster collect bundle` return lines that are really there.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_agent_returns_lines_that_are_really_there() {
    let directory = tempfile::tempdir().expect("a private directory");
    let controller = Controller::start(directory.path(), None, None, Landing::Directory, &[]).await;
    let marker = format!("pump stalled {}", uuid::Uuid::new_v4());
    let log = directory.path().join("pump.log");
    std::fs::write(&log, format!("first line\n<3> 2026-01-02 03:04:05.678 +00:00 [ERR] - {marker}\n")).expect("a private directory");
    let config = directory.path().join("agent.toml");
    std::fs::write(
        &config,
        format!(
            "[device]\nid = \"press-0042\"\nstate_dir = \"{}\"\n[mqtt]\nurl = \"{}\"\n[modules.pump]\nfiles = [\"{}\"]\n",
            directory.path().join("agent-state").display(),
            controller.embedded_mqtt(),
            log.display()
        ),
    )
    .expect("a private directory");
    let mut command = Command::new(built("muster-agent"));
    command.arg("run").arg("--config").arg(&config);
    let agent = Program::start("muster-agent", directory.path(), &mut command);
    controller.api.devices_online(1, Duration::from_secs(30)).await;

    let out = cli_ok(&controller.api, &["logs", "press-0042", "--module", "pump"]);
    assert!(out.contains(&marker), "{out}\n{}", agent.tail());

    let id = cli_ok(&controller.api, &["collect", "bundle", "--device", "press-0042", "--wait", "--exit-status", "-o", "name"]);
    let id = id.lines().last().expect("the id is printed").trim();
    let task = format!("{}-0", id.replace("col_", "tsk_"));
    let files = cli_ok(&controller.api, &["bundles", "files", &task, "-o", "json"]);
    assert!(files.contains("manifest.json") && files.contains("pump"), "{files}");
    let object = serde_json::from_str::<serde_json::Value>(&files).expect("JSON");
    let path = object
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|file| file["path"].as_str())
        .find(|path| path.contains("pump_log"))
        .expect("the module's log")
        .to_owned();
    let text = cli_ok(&controller.api, &["bundles", "cat", &task, &path]);
    assert!(text.contains(&marker), "{text}");
}
