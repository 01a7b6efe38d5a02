//! A whole Muster for one test: services, controller and fleet, on private ports, in a private directory.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use muster_tests::api::Api;
use muster_tests::azurite::{ACCOUNT, Azurite, KEY};
use muster_tests::program::{Program, built};
use muster_tests::{free_port, wait};

/// Where bundles land.
pub(crate) enum Landing<'a> {
    Directory,
    Azurite(&'a Azurite),
}

/// A controller as a process; it can be killed and started again on the same port.
pub(crate) struct Controller {
    pub(crate) directory: PathBuf,
    pub(crate) api: Api,
    /// Of the embedded broker, if that is used.
    pub(crate) embedded_mqtt_port: u16,
    pub(crate) program: Program,
    settings: Vec<(String, String)>,
}

impl Controller {
    /// Starts one. No `mqtt` means the embedded broker, no `database` SQLite.
    pub(crate) async fn start(
        directory: &std::path::Path,
        mqtt: Option<&str>,
        database: Option<&str>,
        landing: Landing<'_>,
        more: &[(&str, &str)],
    ) -> Self {
        let (http, mqtt_port) = (free_port(), free_port());
        let mut settings = vec![
            ("server.listen".to_owned(), format!("127.0.0.1:{http}")),
            ("server.data_dir".to_owned(), directory.join("data").display().to_string()),
            ("mqtt.embedded_listen".to_owned(), format!("127.0.0.1:{mqtt_port}")),
            ("mqtt.embedded_storage".to_owned(), "file".to_owned()),
            ("dispatch.look_first".to_owned(), "2s".to_owned()),
            ("dispatch.grace".to_owned(), "1s".to_owned()),
            ("dispatch.backoff_first".to_owned(), "500ms".to_owned()),
        ];
        let mut set = |key: &str, value: String| settings.push((key.to_owned(), value));
        if let Some(url) = mqtt {
            set("mqtt.url", url.to_owned());
        }
        if let Some(url) = database {
            set("database.url", url.to_owned());
        }
        if let Landing::Azurite(azurite) = landing {
            set("landing.kind", "azure".to_owned());
            set("landing.endpoint", azurite.endpoint());
            set("landing.account", ACCOUNT.to_owned());
            set("landing.key", KEY.to_owned());
        }
        for (key, value) in more {
            set(key, (*value).to_owned());
        }
        let program = launch(directory, &settings);
        let controller = Self {
            directory: directory.to_owned(),
            api: Api::new(format!("http://127.0.0.1:{http}")),
            embedded_mqtt_port: mqtt_port,
            program,
            settings,
        };
        controller.ready().await;
        controller
    }

    pub(crate) async fn ready(&self) {
        let ready = || async {
            self.api
                .request(reqwest::Method::GET, "/readyz")
                .send()
                .await
                .map(|answer| answer.status().as_u16())
                .map_err(|error| error.to_string())
        };
        let deadline = tokio::time::timeout(
            Duration::from_secs(60),
            wait::until("the controller to be ready", Duration::from_secs(59), ready, |seen| *seen == Ok(200)),
        );
        if deadline.await.is_err() {
            panic!("the controller is not ready:\n{}", self.program.tail());
        }
    }

    /// `kill -9` and a new start.
    pub(crate) fn crash_and_restart(&mut self) {
        self.program.kill_9();
        self.program = launch(&self.directory, &self.settings);
    }

    pub(crate) fn embedded_mqtt(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.embedded_mqtt_port)
    }
}

fn launch(directory: &std::path::Path, settings: &[(String, String)]) -> Program {
    let mut command = Command::new(built("muster"));
    command.arg("serve").current_dir(directory).env("NO_COLOR", "1");
    for (key, value) in settings {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    Program::start("muster", directory, &mut command)
}

/// Runs `muster` as a person would, against a controller.
pub(crate) fn cli(api: &Api, arguments: &[&str]) -> std::process::Output {
    let mut command = Command::new(built("muster"));
    command.args(arguments).env("MUSTER_URL", &api.url).env("NO_COLOR", "1").env_remove("MUSTER_TOKEN");
    command.output().expect("muster runs")
}

/// Standard output of a command that must succeed.
pub(crate) fn cli_ok(api: &Api, arguments: &[&str]) -> String {
    let output = cli(api, arguments);
    let (out, err) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "muster {arguments:?} ended {}:\n{out}\n{err}", output.status);
    out
}
