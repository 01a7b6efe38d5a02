//! The program itself: killed, restarted, cut off from its broker.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use muster_wire::method::answer::TaskStatus;

use crate::broker::Mosquitto;
use crate::caller::{Ask, Caller, bundle_request};
use crate::contract::{DEVICE, settings};
use crate::storage::{Storage, Trouble};

pub(crate) struct Program(Child);

impl Program {
    pub(crate) fn start(state: &std::path::Path) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_muster-agent"))
            .arg("run")
            .arg("--config")
            .arg(state.join("settings.toml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        Self(child)
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("gone");
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).expect("a pid")), signal).expect("signalled");
    }

    async fn exit_code(&mut self, within: Duration) -> Option<i32> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.0.try_wait().expect("a child") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the program does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn until(what: &str, look: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !look() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_kill_9_interrupted_is_finished_by_the_next_process() {
    let broker = Mosquitto::start("").await;
    let state = tempfile::tempdir().expect("a directory");
    settings(&broker, state.path());
    let storage = Storage::start().await;
    let caller = Caller::connect(broker.port).await;
    let mut program = Program::start(state.path());
    caller.presence(DEVICE, true).await;

    storage.always(Some(Trouble::Hang));
    let ask = Ask { expiry: Some(120), ..Ask::new(DEVICE, "UploadSupportBundle", bundle_request(&storage.grant("box"))) };
    let answer = caller.ask(&ask).await;
    until("the upload's first call", || !storage.calls().is_empty()).await;
    program.kill();
    // The will, from the broker, after its delay.
    caller.presence(DEVICE, false).await;
    storage.always(None);

    let _program = Program::start(state.path());
    let ended = caller.ended(ask.attempt).await;
    assert_eq!(ended.status, TaskStatus::Completed, "{}", ended.message);
    assert_eq!(answer.json()["correlationId"], ended.correlation_id.as_str(), "the same task");
    let calls = storage.calls();
    assert!(calls.iter().all(|call| call.path == calls[0].path), "the same object");
    assert_eq!(storage.objects("box").len(), 1);
    caller.send(&ask).await;
    assert_eq!(caller.answer(ask.attempt, 1).await.payload, answer.payload, "a third process would say the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_whose_deadline_passed_while_the_device_was_dead_fails_at_its_return() {
    let broker = Mosquitto::start("").await;
    let state = tempfile::tempdir().expect("a directory");
    settings(&broker, state.path());
    let storage = Storage::start().await;
    let caller = Caller::connect(broker.port).await;
    let mut program = Program::start(state.path());
    caller.presence(DEVICE, true).await;
    storage.always(Some(Trouble::Hang));
    let ask = Ask { expiry: Some(2), ..Ask::new(DEVICE, "UploadSupportBundle", bundle_request(&storage.grant("box"))) };
    caller.ask(&ask).await;
    program.kill();
    tokio::time::sleep(Duration::from_secs(3)).await;
    storage.always(None);
    let before = storage.calls().len();
    let _program = Program::start(state.path());
    let ended = caller.ended(ask.attempt).await;
    assert_eq!(ended.status, TaskStatus::Failed);
    assert_eq!(storage.calls().len(), before, "a dead grant is not tried");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_dies_costs_nothing_but_time() {
    let mut broker = Mosquitto::start("").await;
    let state = tempfile::tempdir().expect("a directory");
    settings(&broker, state.path());
    let storage = Storage::start().await;
    let _program = Program::start(state.path());
    let caller = Caller::connect(broker.port).await;
    caller.presence(DEVICE, true).await;
    storage.delay(Duration::from_secs(1));
    let ask = Ask { expiry: Some(120), ..Ask::new(DEVICE, "UploadSupportBundle", bundle_request(&storage.grant("box"))) };
    caller.ask(&ask).await;
    // Killed hard: it forgets every session, so the device has to subscribe anew and say again what was not acknowledged.
    broker.down();
    until("the object, uploaded without a broker", || storage.objects("box").len() == 1).await;
    broker.up().await;
    assert_eq!(caller.ended(ask.attempt).await.status, TaskStatus::Completed, "the status waited for the broker");
    until("the birth of the new connection", || caller.births(DEVICE) >= 2).await;
    assert_eq!(caller.ask(&Ask::new(DEVICE, "ping", "")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_is_a_goodbye_and_a_wrong_setting_an_exit_code() {
    let broker = Mosquitto::start("").await;
    let state = tempfile::tempdir().expect("a directory");
    settings(&broker, state.path());
    let caller = Caller::connect(broker.port).await;
    let mut program = Program::start(state.path());
    caller.presence(DEVICE, true).await;
    program.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(program.exit_code(Duration::from_secs(8)).await, Some(0));
    caller.presence(DEVICE, false).await;

    let run = |arguments: &[&str]| Command::new(env!("CARGO_BIN_EXE_muster-agent")).args(arguments).output().expect("the program runs");
    let wrong = run(&["run", "--device", "a/b"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("device.id"));
    assert_eq!(run(&["run", "--nonsense"]).status.code(), Some(2));
    let shown = run(&["check-config", "--config", state.path().join("settings.toml").to_str().expect("text")]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains(DEVICE) && !shown.contains("hunter2"), "{shown}");
    assert!(String::from_utf8_lossy(&run(&["faults"]).stdout).contains("upload_truncated"));
    assert!(String::from_utf8_lossy(&run(&["--version"]).stdout).starts_with("muster-agent "));
    let second = Command::new(env!("CARGO_BIN_EXE_muster-agent")).args(["config"]).output().expect("the program runs");
    assert!(String::from_utf8_lossy(&second.stdout).contains("[mqtt]"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_do_not_share_a_state_directory() {
    let broker = Mosquitto::start("").await;
    let state = tempfile::tempdir().expect("a directory");
    settings(&broker, state.path());
    let caller = Caller::connect(broker.port).await;
    let _first = Program::start(state.path());
    caller.presence(DEVICE, true).await;
    let second = Command::new(env!("CARGO_BIN_EXE_muster-agent"))
        .arg("run")
        .arg("--config")
        .arg(state.path().join("settings.toml"))
        .output()
        .expect("it ends");
    assert_eq!(second.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&second.stderr).contains("in use by another muster-agent"),
        "{}",
        String::from_utf8_lossy(&second.stderr)
    );
}
