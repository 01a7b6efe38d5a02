//! Several controllers on one database, one broker and one landing directory.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::api::Api;
use crate::program::{Program, built};
use crate::{free_port, wait};

/// One of them.
#[derive(Debug)]
struct Controller {
    name: String,
    directory: PathBuf,
    settings: Vec<(String, String)>,
    program: Program,
    api: Api,
}

/// All of them.
#[derive(Debug)]
pub struct Controllers {
    all: Vec<Controller>,
}

impl Controllers {
    /// Starts so many and waits until each is ready. The first one migrates the database.
    pub async fn start(count: usize, directory: &Path, mqtt: &str, database: &str, more: &[(&str, &str)]) -> Self {
        let mut controllers = Self { all: Vec::new() };
        for number in 1..=count {
            let name = format!("controller-{number}");
            let own = directory.join(&name);
            std::fs::create_dir_all(&own).expect("a private directory can be written");
            let http = free_port();
            let mut settings = vec![
                ("server.listen".to_owned(), format!("127.0.0.1:{http}")),
                ("server.data_dir".to_owned(), own.join("data").display().to_string()),
                ("landing.path".to_owned(), directory.join("landing").display().to_string()),
                ("mqtt.url".to_owned(), mqtt.to_owned()),
                ("database.url".to_owned(), database.to_owned()),
            ];
            settings.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
            let program = launch(&name, &own, &settings);
            let api = Api::new(format!("http://127.0.0.1:{http}"));
            controllers.all.push(Controller { name, directory: own, settings, program, api });
            controllers.ready(number - 1).await;
        }
        controllers
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The API of one.
    pub fn api(&self, number: usize) -> &Api {
        &self.all[number].api
    }

    /// The last lines one printed.
    pub fn tail(&self, number: usize) -> String {
        self.all[number].program.tail()
    }

    /// Peak memory of one since it was last started, in KiB.
    pub fn peak_rss_kib(&self, number: usize) -> u64 {
        self.all[number].program.peak_rss_kib()
    }

    /// CPU time of one since it was last started, in seconds.
    pub fn cpu_seconds(&self, number: usize) -> f64 {
        self.all[number].program.cpu_seconds()
    }

    /// `kill -9` of one, and a new start on the same ports and files.
    pub fn kill_and_restart(&mut self, number: usize) {
        self.kill(number);
        self.start_again(number);
    }

    /// `kill -9` of one.
    pub fn kill(&mut self, number: usize) {
        self.all[number].program.kill_9();
    }

    /// A new start of one that was killed, on the same ports and files.
    pub fn start_again(&mut self, number: usize) {
        let controller = &mut self.all[number];
        controller.program = launch(&controller.name, &controller.directory, &controller.settings);
    }

    /// Waits until one is ready.
    pub async fn ready(&self, number: usize) {
        let controller = &self.all[number];
        let ready = || async {
            let answer = controller.api.request(reqwest::Method::GET, "/readyz").send().await;
            answer.map(|answer| answer.status().as_u16()).map_err(|error| format!("{error}: {}", controller.program.tail()))
        };
        let _ = wait::until(&format!("{} to be ready", controller.name), Duration::from_secs(60), ready, |seen| *seen == Ok(200)).await;
    }
}

fn launch(name: &str, directory: &Path, settings: &[(String, String)]) -> Program {
    let mut command = Command::new(built("muster"));
    command.arg("serve").current_dir(directory).env("NO_COLOR", "1");
    for (key, value) in settings {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    Program::start(name, directory, &mut command)
}
