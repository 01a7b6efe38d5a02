//! A real Mosquitto of our own, on a free port, with its own files.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running broker; killed and removed when dropped.
pub(crate) struct Mosquitto {
    directory: tempfile::TempDir,
    pub port: u16,
    child: Option<Child>,
}

fn program() -> PathBuf {
    let places = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    places
        .into_iter()
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .map(|place| place.join("mosquitto"))
        .find(|path| path.exists())
        .expect("the tests need mosquitto in PATH or /usr/sbin")
}

impl Mosquitto {
    /// `more` is added to the configuration.
    pub(crate) async fn start(more: &str) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        drop(listener);
        let directory = tempfile::tempdir().expect("a directory");
        let config = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\npersistence true\npersistence_location {}/\nlog_type error\n{more}\n",
            directory.path().display()
        );
        std::fs::write(directory.path().join("mosquitto.conf"), config).expect("written");
        // Mosquitto gives up root for a user who must be able to write here.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(directory.path(), mode).expect("opened");
        let mut broker = Self { directory, port, child: None };
        broker.up().await;
        broker
    }

    pub(crate) async fn up(&mut self) {
        let child = Command::new(program())
            .arg("-c")
            .arg(self.directory.path().join("mosquitto.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto starts");
        self.child = Some(child);
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < deadline, "mosquitto does not listen on {}", self.port);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills the broker: what it did not save is gone.
    pub(crate) fn down(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.down();
    }
}
