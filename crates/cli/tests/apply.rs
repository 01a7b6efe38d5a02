//! `muster apply` and confirmation as a user meets them: the program, a real controller, and devices that run the real agent code.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use muster_agent::{Fleet, FleetOptions};
use muster_controller::{Controller, Settings};
use serde_json::Value;

/// Devices of the fleet; the controller asks back above one less.
const DEVICES: usize = 3;
/// How long the fleet may take to introduce itself.
const PATIENCE: Duration = Duration::from_secs(60);
const TOKEN: &str = "0123456789abcdef-nightly";
const BUNDLES: &str = "request: {kind: bundle, since: 24h}\ntarget: {kind: all}\n";
const PINGS: &str = "request: {kind: ping}\ntarget: {kind: all}\n";

struct Served {
    dir: tempfile::TempDir,
    url: String,
    controller: Controller,
    fleet: Fleet,
}

impl Served {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data").display().to_string();
        let tokens = format!("nightly={TOKEN}");
        let confirm_above = (DEVICES - 1).to_string();
        let settings = [
            ("server.listen", "127.0.0.1:0"),
            ("server.data_dir", &data),
            ("server.stop_timeout", "2s"),
            ("mqtt.embedded_listen", "127.0.0.1:0"),
            ("dispatch.look_first", "1s"),
            ("dispatch.scan_every", "100ms"),
            ("dispatch.confirm_above", &confirm_above),
            ("auth.tokens", &tokens),
            ("telemetry.log", "warn"),
        ];
        let settings: Vec<_> = settings.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let settings = Settings::load_from(None, [], &settings).expect("good settings");
        let controller = Box::pin(Controller::start(settings)).await.unwrap_or_else(|error| panic!("{error}"));
        let options = FleetOptions { mqtt_url: controller.mqtt_url(), devices: DEVICES, ..FleetOptions::default() };
        let fleet = Box::pin(Fleet::start(options)).await.expect("a fleet");
        let served = Self { url: controller.api_url().to_owned(), dir, controller, fleet };
        std::fs::write(served.path("nightly.token"), TOKEN).expect("written");
        let deadline = Instant::now() + PATIENCE;
        while served.ok(&["devices", "list", "-o", "name"]).await.lines().count() < DEVICES {
            assert!(Instant::now() < deadline, "the devices did not introduce themselves");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        served
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).expect("written");
        self.path(name).display().to_string()
    }

    /// Runs a program without holding up the controller, which lives in this process.
    async fn run(&self, mut command: Command) -> Output {
        for name in ["MUSTER_TOKEN", "NO_COLOR"] {
            command.env_remove(name);
        }
        command.env("MUSTER_URL", &self.url).env("MUSTER_TOKEN_FILE", self.path("nightly.token")).stdin(Stdio::null());
        tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("the program runs")
    }

    async fn muster(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        command.args(args);
        self.run(command).await
    }

    async fn ok(&self, args: &[&str]) -> String {
        let output = self.muster(args).await;
        assert_eq!(code(&output), 0, "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    async fn collections(&self) -> usize {
        self.ok(&["collections", "list", "-o", "name"]).await.lines().count()
    }

    async fn stop(self) {
        self.fleet.stop().await;
        self.controller.stop().await;
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it exited")
}

fn lines(bytes: &[u8]) -> Vec<Value> {
    text(bytes).lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

/// The first block of this language on the page about batch jobs.
fn block(language: &str) -> String {
    let page = include_str!("../../../docs/BATCH.md");
    let (_, rest) = page.split_once(&format!("```{language}\n")).expect("a block");
    rest.split_once("```").expect("its end").0.to_owned()
}

fn put_places(script: &str, directory: &Path, url: &str) -> String {
    let directory = directory.display().to_string();
    script.replace("https://muster.example.com", url).replace("/etc/muster", &directory).replace("/var/log", &directory)
}

/// The page is run as it stands, only elsewhere: its file, its script, its token.
#[tokio::test(flavor = "multi_thread")]
async fn the_nightly_job_of_the_page_runs() {
    let served = Served::start().await;
    let script = block("bash");
    assert!(script.lines().count() <= 10, "a nightly job in ten lines of shell");
    served.file("nightly.yaml", &block("yaml"));
    let script = served.file("nightly.sh", &put_places(&script, served.dir.path(), &served.url));
    let programs = Path::new(env!("CARGO_BIN_EXE_muster")).parent().expect("a directory").display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let mut command = Command::new("bash");
        command.arg(&script).env("PATH", format!("{programs}:{path}"));
        let output = served.run(command).await;
        assert_eq!((code(&output), text(&output.stdout).as_str()), (0, "every device verified\n"), "{}", text(&output.stderr));
        let log = std::fs::read(served.path("nightly.ndjson")).expect("the log");
        let [view] = &lines(&log)[..] else { panic!("one collection, one line: {}", text(&log)) };
        assert_eq!((view["counters"]["verified"].as_u64(), &view["created_by"]), (Some(DEVICES as u64), &Value::from("nightly")), "{view}");
        ids.push(view["id"].clone());
    }
    assert_eq!(ids[0], ids[1], "the second run of a day finds the first");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_document_is_made_or_none_and_the_worst_decides() {
    let served = Served::start().await;
    let bad = served.file("bad.yaml", &format!("{PINGS}---\n{PINGS}reasn: x\n"));
    let output = served.muster(&["apply", "-f", &bad, "--wait"]).await;
    let said = text(&output.stderr);
    assert_eq!(code(&output), 2, "{said}");
    assert!(said.contains("unknown field `reasn`") && said.contains("line 6, column 1") && output.stdout.is_empty(), "{said}");
    assert_eq!(served.collections().await, 0, "all documents are read before the first is made");

    // What only the controller knows to be wrong is told with what was made before it.
    let refused = served.file("refused.yaml", &format!("{PINGS}---\n{PINGS}options: {{max_attempts: 0}}\n"));
    let output = served.muster(&["apply", "-f", &refused]).await;
    let said = text(&output.stderr);
    assert_eq!((code(&output), lines(&output.stdout).len()), (2, 1), "{said}");
    assert!(said.contains("document 2 of 2 was refused; 1 before it were made") && said.contains("options.max_attempts"), "{said}");

    let before = served.collections().await;
    let both = served.file("both.json.yaml", &format!("{PINGS}---\n{PINGS}case: '48213'\n"));
    let dry = served.muster(&["apply", "-f", &both, "--dry-run"]).await;
    let targeted: Vec<_> = lines(&dry.stdout).iter().map(|preview| preview["targeted"].as_u64()).collect();
    assert_eq!((code(&dry), targeted), (0, vec![Some(DEVICES as u64); 2]));
    assert_eq!(served.collections().await, before, "a dry run makes nothing");
    let output = served.muster(&["apply", "-f", &both, "--wait", "--exit-status"]).await;
    let cases: Vec<_> = lines(&output.stdout).iter().map(|view| view["case"].clone()).collect();
    assert_eq!((code(&output), cases), (0, vec![Value::Null, Value::from("48213")]), "{}", text(&output.stderr));
    assert_eq!(served.collections().await, before + 2);

    let schema: Value = serde_json::from_str(&served.ok(&["apply", "--schema"]).await).expect("JSON");
    assert_eq!(schema["additionalProperties"], false);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_upload_waits_for_a_word() {
    let served = Served::start().await;
    let file = served.file("bundles.yaml", BUNDLES);
    let why = "targets 3 devices; dispatch.confirm_above is 2; resume it, or ask with confirmed";
    let dry = served.muster(&["apply", "-f", &file, "--dry-run"]).await;
    assert!(text(&dry.stderr).contains(&format!("it would be made paused: {why}")), "{}", text(&dry.stderr));

    // Waiting would be for nothing: it ends, and names the command.
    for args in [&["apply", "-f", &file, "--wait"][..], &["collect", "bundle", "--all", "--since", "2h", "--wait", "-o", "ndjson"]] {
        let output = served.muster(args).await;
        let said = text(&output.stderr);
        let view = lines(&output.stdout).pop().expect("a line");
        let id = view["id"].as_str().expect("an id");
        assert_eq!((code(&output), view["paused"]["by"].as_str()), (1, Some("confirmation")), "{said}");
        assert!(said.contains(&format!("it is paused: {why}; muster collections resume {id}")), "{said}");
        served.ok(&["collections", "resume", id]).await;
        served.ok(&["collections", "watch", id, "--exit-status"]).await;
    }
    let shown = served.ok(&["collect", "bundle", "--all", "-o", "table"]).await;
    assert!(shown.contains("next        muster collections resume col_"), "{shown}");

    // With a word, and where nothing is uploaded, it begins at once.
    served.ok(&["apply", "-f", &file, "--yes", "--wait"]).await;
    let confirmed = served.file("confirmed.yaml", &format!("{BUNDLES}confirmed: true\n"));
    served.ok(&["apply", "-f", &confirmed, "--wait"]).await;
    served.ok(&["collect", "bundle", "--all", "--since", "2h", "--yes", "--wait"]).await;
    let pings = served.file("pings.yaml", PINGS);
    served.ok(&["apply", "-f", &pings, "--wait"]).await;
    // A schedule is a word given in advance.
    served.ok(&["schedules", "create", "yearly", "--cron", "0 0 1 1 *", "-f", &file]).await;
    let id = served.ok(&["schedules", "run-now", "yearly", "-o", "name"]).await;
    served.ok(&["collections", "watch", id.trim(), "--exit-status"]).await;
    served.stop().await;
}
