//! A controller of one test's own.

use std::future::Future;
use std::time::{Duration, Instant};

use muster_controller::{Controller, Settings};
use serde_json::Value;

use crate::client::Client;

pub(crate) struct Served {
    pub(crate) controller: Controller,
    pub(crate) api: Client,
    pub(crate) dir: tempfile::TempDir,
}

pub(crate) fn settings(dir: &std::path::Path, flags: &[(&str, &str)]) -> Settings {
    let mut all = vec![
        ("server.listen".to_owned(), "127.0.0.1:0".to_owned()),
        ("server.data_dir".to_owned(), dir.join("data").display().to_string()),
        ("server.stop_timeout".to_owned(), "2s".to_owned()),
        ("mqtt.embedded_listen".to_owned(), "127.0.0.1:0".to_owned()),
        ("dispatch.look_first".to_owned(), "1s".to_owned()),
        ("dispatch.scan_every".to_owned(), "100ms".to_owned()),
        ("telemetry.log".to_owned(), "warn".to_owned()),
    ];
    all.extend(flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    Settings::load_from(None, [], &all).expect("good settings")
}

impl Served {
    pub(crate) async fn start(flags: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let controller = Box::pin(Controller::start(settings(dir.path(), flags))).await.unwrap_or_else(|error| panic!("{error}"));
        let api = Client { authority: controller.http_addr().to_string(), token: None };
        Self { controller, api, dir }
    }

    pub(crate) async fn ready(self) -> Self {
        until("ready", || async { self.api.get("/readyz").await.status == 200 }).await;
        self
    }

    /// Waits until every task of a collection is final, and gives the collection.
    pub(crate) async fn finished(&self, id: &str) -> Value {
        let path = format!("/api/v1/collections/{id}");
        until("the collection to finish", || async { self.api.get_json::<Value>(&path).await["state"] != "running" }).await;
        self.api.get_json(&path).await
    }
}

/// Waits for a condition.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A database of one test's own on the Postgres server of the tests.
pub(crate) struct Postgres {
    pub(crate) url: String,
    name: String,
    stem: String,
}

impl Postgres {
    pub(crate) fn create() -> Self {
        let server = std::env::var("MUSTER_TEST_POSTGRES").unwrap_or_else(|_| "postgres://root@127.0.0.1:5432/postgres".to_owned());
        let stem = server.rsplit_once('/').expect("postgres://…/database").0.to_owned();
        let name = format!("muster_controller_{}", uuid::Uuid::new_v4().simple());
        let maker = Self { url: format!("{stem}/{name}"), name, stem };
        maker.ask(&format!("CREATE DATABASE {}", maker.name));
        maker
    }

    /// A statement past the controller, to bring about what takes hours.
    pub(crate) fn run(&self, sql: &str) {
        let output = std::process::Command::new("psql").args([&self.url, "-qc", sql]).output().expect("psql");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn ask(&self, sql: &str) {
        let output = std::process::Command::new("psql").args([&format!("{}/postgres", self.stem), "-qc", sql]).output().expect("psql");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.ask(&format!("DROP DATABASE {} WITH (FORCE)", self.name));
    }
}
