//! The program as a user runs it: arguments in, output and exit code out. The controller here is a script that says what a real one would, or
//! what a broken or hostile one might; the real one is met in the tests of the whole system.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const TASK: &str = "tsk_01jd8k2m3n4p5q6r7s-0";
const COLLECTION: &str = "col_01jd8k2m3n4p5q6r7s";

/// Answers by path and query, byte for byte; anything else is a 404 without a problem document.
struct Script {
    url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Script {
    fn start(answers: impl IntoIterator<Item = (String, u16, Vec<u8>)>) -> Self {
        let answers: HashMap<String, (u16, Vec<u8>)> = answers.into_iter().map(|(path, status, body)| (path, (status, body))).collect();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away in the middle is one of the cases.
                let _ = answer(stream, &answers, &log);
            }
        });
        Self { url, seen }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("no answer panicked").clone()
    }
}

fn answer(mut stream: TcpStream, answers: &HashMap<String, (u16, Vec<u8>)>, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut length = 0;
    let mut key = String::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        if let Some(value) = lower.strip_prefix("idempotency-key:") {
            key = format!(" key={}", value.trim());
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut words = first.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    log.lock().expect("no answer panicked").push(format!("{method} {path}{key} {}", String::from_utf8_lossy(&body)));
    let missing = (404, b"not here".to_vec());
    let (status, body) = answers.get(path).unwrap_or(&missing);
    write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    stream.write_all(body)
}

fn muster(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    command.args(args).stdin(Stdio::null());
    for name in ["MUSTER_URL", "MUSTER_TOKEN", "MUSTER_TOKEN_FILE", "NO_COLOR"] {
        command.env_remove(name);
    }
    command
}

fn run(args: &[&str]) -> Output {
    muster(args).output().expect("the program runs")
}

fn against(script: &Script, args: &[&str]) -> Output {
    muster(args).env("MUSTER_URL", &script.url).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it exited")
}

fn json_answer(path: &str, body: &Value) -> (String, u16, Vec<u8>) {
    (format!("/api/v1/{path}"), 200, body.to_string().into_bytes())
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn object(name: &str, bytes: &[u8]) -> Value {
    json!({ "name": name, "size_bytes": bytes.len(), "sha256": sha256(bytes), "kind": "text", "depth": "full" })
}

fn manifest(objects: &[Value]) -> Value {
    json!({
        "version": "1.0", "task": TASK, "attempt": "att_01jd8k2m3n4p5q6r7s-0-1", "collection": COLLECTION, "device": "press-0042",
        "correlation_id": null, "case": null, "verdict": "complete", "reason": "collected", "missing": [], "objects": objects,
        "sealed_at": "2026-11-21T12:00:00Z",
    })
}

fn device(id: &str) -> Value {
    json!({
        "id": id, "presence": "online", "last_seen": "2026-11-21T12:00:00Z", "first_seen": "2026-11-20T12:00:00Z", "methods": ["ping"],
        "agent": { "name": "muster-agent", "version": "0.1.0" }, "started": null, "clock_skew_ms": 12, "reported": {}, "tags": {},
    })
}

fn collection(state: &str, counters: &Value) -> Value {
    json!({
        "id": COLLECTION, "request": { "kind": "bundle" }, "target": "devices", "reason": null, "case": null, "created_by": "local",
        "created_at": "2026-11-21T11:00:00Z", "expires_at": "2026-11-22T11:00:00Z", "finished_at": null, "state": state, "options": {},
        "counters": counters, "reasons": {}, "bundle_bytes": 0,
    })
}

fn counters(targeted: u64, verified: u64, failed: u64, skipped: u64) -> Value {
    json!({
        "targeted": targeted, "skipped": skipped, "waiting": 0, "queued": 0, "dispatched": 0, "accepted": 0, "uploaded": 0,
        "verified": verified, "refused": 0, "failed": failed, "expired": 0, "cancelled": 0,
    })
}

fn files_below(dir: &Path) -> Vec<String> {
    fn walk(dir: &Path, root: &Path, into: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).expect("listed").flatten() {
            let path = entry.path();
            if path.is_dir() { walk(&path, root, into) } else { into.push(path.strip_prefix(root).expect("below").display().to_string()) }
        }
    }
    let mut all = Vec::new();
    walk(dir, dir, &mut all);
    all.sort();
    all
}

#[test]
fn a_command_line_that_is_wrong_exits_with_2_and_says_how() {
    for args in
        [&[][..], &["nonsense"], &["collect", "bundle"], &["devices", "list", "--url", "nonsense"], &["check-config", "--set", "no.such=1"]]
    {
        let output = run(args);
        assert_eq!(code(&output), 2, "{args:?}: {}", text(&output.stderr));
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn nobody_at_the_address_exits_with_1_and_names_the_way_out() {
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let url = format!("http://127.0.0.1:{port}");
    let output = run(&["devices", "list", "--url", &url]);
    let words = text(&output.stderr);
    assert_eq!(code(&output), 1, "{words}");
    for part in [url.as_str(), "muster serve", "muster demo", "--url"] {
        assert!(words.contains(part), "{part} is missing in: {words}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_news() {
    let mut child = muster(&["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(text(&output.stderr), "");
    assert_eq!(code(&output), 141);
}

#[test]
fn every_shell_gets_its_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        assert_eq!(code(&output), 0, "{shell}");
        assert!(text(&output.stdout).contains("collections"), "{shell}");
    }
}

#[test]
fn a_pipe_gets_every_page_as_ndjson_and_a_table_when_asked() {
    let script = Script::start([
        json_answer("devices?limit=1000", &json!({ "items": [device("a-1"), device("a-2")], "next": "c2" })),
        json_answer("devices?limit=1000&after=c2", &json!({ "items": [device("b-1")] })),
        json_answer("devices?limit=200", &json!({ "items": [device("a-1")] })),
    ]);
    let output = against(&script, &["devices", "list"]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let ids: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["id"].clone()).collect();
    assert_eq!(ids, ["a-1", "a-2", "b-1"]);
    assert_eq!(text(&against(&script, &["devices", "list", "-o", "name"]).stdout), "a-1\na-2\nb-1\n");
    let all: Value = serde_json::from_slice(&against(&script, &["devices", "list", "-o", "json"]).stdout).expect("one document");
    assert_eq!(all.as_array().map(Vec::len), Some(3));
    let table = text(&against(&script, &["devices", "list", "-o", "table"]).stdout);
    assert!(table.starts_with("DEVICE") && table.contains("a-1") && !table.contains('\u{1b}'), "{table}");
}

#[test]
fn colour_in_a_pipe_only_when_asked() {
    let script = Script::start([json_answer("devices?limit=200", &json!({ "items": [device("a-1")] }))]);
    let table = |args: &[&str]| text(&against(&script, &[&["devices", "list", "-o", "table"], args].concat()).stdout);
    assert!(table(&["--color", "always"]).contains('\u{1b}'));
    assert!(!table(&["--color", "never"]).contains('\u{1b}'));
    assert!(!table(&[]).contains('\u{1b}'));
}

#[test]
fn a_problem_is_shown_and_its_status_decides_the_exit_code() {
    let problem = |status: u16, code: &str| {
        json!({
            "type": format!("urn:muster:problem:{code}"), "title": "A title", "status": status, "code": code, "detail": "what happened",
            "next_step": "do this", "errors": [{ "field": "target.devices", "message": "ghost is not in the registry" }],
        })
        .to_string()
        .into_bytes()
    };
    for (status, expected) in [(422, 2), (400, 2), (409, 1), (503, 1)] {
        let script = Script::start([("/api/v1/collections".to_owned(), status, problem(status, "some_code"))]);
        let output = against(&script, &["collect", "bundle", "--device", "ghost"]);
        let words = text(&output.stderr);
        assert_eq!(code(&output), expected, "{words}");
        for part in ["cannot create the collection", "what happened", "target.devices: ghost", "do this", "some_code"] {
            assert!(words.contains(part), "{part} is missing in: {words}");
        }
    }
}

#[test]
fn something_else_at_the_address_is_told() {
    let script = Script::start([("/api/v1/devices?limit=1000".to_owned(), 200, b"<html>".to_vec())]);
    let output = against(&script, &["devices", "list"]);
    assert_eq!(code(&output), 1);
    assert!(text(&output.stderr).contains("--url"), "{}", text(&output.stderr));
    let output = against(&script, &["bundles", "show", TASK]);
    assert_eq!(code(&output), 1);
    assert!(text(&output.stderr).contains("404"), "{}", text(&output.stderr));
}

#[test]
fn waiting_ends_with_the_exit_code_of_the_counters() {
    for (counters, expected) in [(counters(2, 2, 0, 0), 0), (counters(2, 1, 1, 0), 1), (counters(2, 0, 0, 2), 4)] {
        let script = Script::start([
            json_answer("collections", &json!({ "id": COLLECTION, "targeted": 2, "repeated": false, "warnings": ["that may take long"] })),
            json_answer(&format!("collections/{COLLECTION}"), &collection("finished", &counters)),
        ]);
        let output = against(&script, &["collect", "bundle", "--device", "a", "b", "--since", "2h", "--wait", "--exit-status"]);
        assert_eq!(code(&output), expected, "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("that may take long"));
        let last: Value = serde_json::from_slice(&output.stdout).expect("the collection at its end");
        assert_eq!(last["counters"]["targeted"], 2);
        // A key is made up, so that a connection that breaks never makes two collections.
        let create = script.seen().into_iter().find(|line| line.starts_with("POST")).expect("created");
        assert!(create.contains(" key=") && create.contains("\"since\":\"7200s\""), "{create}");
        let output = against(&script, &["collections", "watch", COLLECTION, "-o", "json"]);
        assert_eq!(code(&output), 0, "without --exit-status watching is all that was asked");
        assert_eq!(code(&against(&script, &["collections", "watch", COLLECTION, "-o", "json", "--exit-status"])), expected);
    }
}

#[test]
fn watching_in_a_pipe_passes_events_on() {
    let events = "event: counters\nid: 5\ndata: {\"targeted\":1}\n\n: alive\n\nevent: task\nid: 6\ndata: {\"device\":\"a\"}\n\nevent: finished\nid: 6\ndata: {}\n\n";
    let script = Script::start([
        json_answer(&format!("collections/{COLLECTION}"), &collection("finished", &counters(1, 1, 0, 0))),
        (format!("/api/v1/collections/{COLLECTION}/events"), 200, events.as_bytes().to_vec()),
    ]);
    let output = against(&script, &["collections", "watch", COLLECTION]);
    let names: Vec<String> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["event"].as_str().expect("a name").to_owned())
        .collect();
    assert_eq!(names, ["counters", "task", "finished", "end"]);
}

#[test]
fn a_download_is_checked_kept_and_never_overwrites() {
    let (good, evil) = (b"all is well\n".to_vec(), b"ssh-ed25519 AAAA\n".to_vec());
    let objects =
        [object("hub/press-0042/edgeAgent.log", &good), object("../../.ssh/authorized_keys", &evil), object("manifest.json", &evil)];
    let path = |rest: &str| format!("/api/v1/bundles/{TASK}{rest}");
    let sealed = manifest(&objects).to_string().into_bytes();
    // The last but one: a URL library folds `..` away, so the name cannot be asked for as it is; a controller never seals such a name.
    let script = Script::start([
        (path(""), 200, sealed.clone()),
        (path("/objects/hub/press-0042/edgeAgent.log"), 200, good.clone()),
        (path("/objects/.ssh/authorized_keys"), 200, evil.clone()),
        (path("/objects/manifest.json"), 200, evil.clone()),
    ]);
    let dir = tempfile::tempdir().expect("a directory");
    let into = dir.path().join("a/b");
    let into_text = into.to_str().expect("UTF-8");
    let args = ["bundles", "download", TASK, "--dir", into_text, "-o", "json"];
    let output = against(&script, &args);
    assert_eq!(code(&output), 0, "{} {}", text(&output.stdout), text(&output.stderr));
    let files = ["%2E%2E/%2E%2E/%2Essh/authorized_keys", "%6Danifest.json", "hub/press-0042/edgeAgent.log", "manifest.json"];
    assert_eq!(files_below(&into), files);
    assert_eq!(files_below(dir.path()).len(), files.len(), "nothing outside");
    let written: Value = serde_json::from_slice(&std::fs::read(into.join("manifest.json")).expect("there")).expect("JSON");
    assert_eq!(written["objects"].as_array().map(Vec::len), Some(3), "the manifest is the controller's, not the device's");

    // Again: all is kept, nothing is fetched.
    let before = script.seen().len();
    assert_eq!(code(&against(&script, &args)), 0);
    assert!(!script.seen()[before..].iter().any(|line| line.contains("edgeAgent")), "{:?}", script.seen());
    assert_eq!(code(&run(&["bundles", "verify", "--local", into_text])), 0);

    // A file that differs stays as it is, until it may be replaced.
    let log = into.join("hub/press-0042/edgeAgent.log");
    std::fs::write(&log, "mine").expect("written");
    let output = against(&script, &args);
    assert_eq!(code(&output), 1);
    assert!(text(&output.stdout).contains("--force"), "{}", text(&output.stdout));
    assert_eq!(std::fs::read(&log).expect("there"), b"mine");
    assert_eq!(code(&run(&["bundles", "verify", "--local", into_text])), 1);
    assert_eq!(code(&against(&script, &[&args[..], &["--force"]].concat())), 0);
    assert_eq!(std::fs::read(&log).expect("there"), good);
}

#[test]
fn a_download_that_differs_from_the_manifest_leaves_nothing() {
    let promised = b"0123456789".to_vec();
    for (sent, why) in [(&b"0123456780"[..], "SHA-256"), (b"01234", "5 of 10"), (b"0123456789abc", "more bytes")] {
        let sealed = manifest(&[object("x.log", &promised)]).to_string().into_bytes();
        let script = Script::start([
            (format!("/api/v1/bundles/{TASK}"), 200, sealed),
            (format!("/api/v1/bundles/{TASK}/objects/x.log"), 200, sent.to_vec()),
        ]);
        let dir = tempfile::tempdir().expect("a directory");
        let output = against(&script, &["bundles", "download", TASK, "--dir", dir.path().to_str().expect("UTF-8"), "-o", "json"]);
        assert_eq!(code(&output), 1);
        assert!(text(&output.stdout).contains(why), "{why}: {}", text(&output.stdout));
        assert_eq!(files_below(dir.path()), ["manifest.json"], "{why}");
    }
}
