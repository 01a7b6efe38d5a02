//! A Mosquitto of our own: private port, private directory.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::program::Program;
use crate::{free_port, wait};

/// How the broker is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tuning {
    /// As installed: `max_queued_messages 1000`, Nagle on, nothing persisted.
    Stock,
    /// As `deploy/mosquitto/mosquitto.conf` has it, with persistence, without passwords.
    Ours,
    /// As `deploy/mosquitto/mosquitto.conf` has it, without passwords.
    Shipped,
}

/// A running Mosquitto.
#[derive(Debug)]
pub struct Mosquitto {
    /// Its process.
    pub program: Program,
    /// Its port on loopback.
    pub port: u16,
    config: PathBuf,
    directory: PathBuf,
}

fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("MUSTER_TEST_MOSQUITTO").filter(|path| !path.is_empty()) {
        return PathBuf::from(path);
    }
    ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/usr/bin/mosquitto", "/opt/homebrew/sbin/mosquitto"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
        .expect("mosquitto is installed; scripts/services.sh does that")
}

impl Mosquitto {
    /// Starts a broker and waits until it listens.
    pub async fn start(directory: &Path, tuning: Tuning) -> Self {
        let port = free_port();
        let config = directory.join("mosquitto.conf");
        let tuned = "max_inflight_messages 0\nmax_queued_messages 0\nset_tcp_nodelay true\n";
        let kept = format!("persistence true\nautosave_interval 1\npersistence_location {}/\n", directory.display());
        let settings = match tuning {
            Tuning::Stock => String::new(),
            Tuning::Ours => format!("{tuned}{kept}"),
            Tuning::Shipped => tuned.to_owned(),
        };
        let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\n{settings}");
        std::fs::write(&config, text).expect("a private directory can be written");
        let program = Self::launch(directory, &config);
        let broker = Self { program, port, config, directory: directory.to_owned() };
        broker.listening().await;
        broker
    }

    fn launch(directory: &Path, config: &Path) -> Program {
        let mut command = Command::new(binary());
        command.arg("-c").arg(config);
        // As root Mosquitto gives up its rights; the directory must be its own then.
        if nix::unistd::geteuid().is_root() {
            let text = std::fs::read_to_string(config).unwrap_or_default();
            if !text.contains("user ") {
                std::fs::write(config, format!("{text}user root\n")).expect("our own file");
            }
        }
        Program::start("mosquitto", directory, &mut command)
    }

    async fn listening(&self) {
        wait::for_port(self.port, Duration::from_secs(10), || self.program.tail()).await;
    }

    /// `kill -9` and a new start on the same port with the same files.
    pub async fn crash_and_restart(&mut self, down: Duration) {
        self.program.kill_9();
        tokio::time::sleep(down).await;
        self.program = Self::launch(&self.directory, &self.config);
        self.listening().await;
    }

    /// `mqtt://…`.
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }
}
