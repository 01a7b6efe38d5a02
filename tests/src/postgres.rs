//! PostgreSQL: a database of our own in the running server, or a server of our own that may be killed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::program::Program;
use crate::{free_port, wait};

/// A database that is dropped with this value.
#[derive(Debug)]
pub struct Database {
    /// `postgres://…/muster_it_…`.
    pub url: String,
    name: String,
    admin_url: String,
}

/// The server tests may make databases in.
pub fn admin_url() -> String {
    std::env::var("MUSTER_TEST_POSTGRES").unwrap_or_else(|_| "postgres://root@127.0.0.1:5432/postgres".to_owned())
}

impl Database {
    /// Makes an empty database in the running server.
    pub async fn create() -> Self {
        Self::create_in(&admin_url()).await
    }

    /// Makes an empty database in this server.
    pub async fn create_in(admin_url: &str) -> Self {
        let name = format!("muster_it_{}", uuid::Uuid::new_v4().simple());
        let mut admin = PgConnection::connect(admin_url)
            .await
            .unwrap_or_else(|error| panic!("PostgreSQL at {admin_url}: {error}; scripts/services.sh starts one"));
        admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.expect("the test user may create databases");
        let (server, _) = admin_url.rsplit_once('/').expect("a database URL has a path");
        Self { url: format!("{server}/{name}"), name, admin_url: admin_url.to_owned() }
    }

    /// Drops it; called at the end of a test, for dropping needs the runtime.
    pub async fn drop_now(self) {
        if let Ok(mut admin) = PgConnection::connect(&self.admin_url).await {
            let _ = admin.execute(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name))).await;
        }
    }

    /// A connection for looking behind the scenes.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.expect("our own database")
    }
}

/// A server of our own, to be killed.
#[derive(Debug)]
pub struct Server {
    /// Its process.
    pub program: Program,
    /// Its port on loopback.
    pub port: u16,
    data: PathBuf,
    directory: PathBuf,
}

fn tool(name: &str) -> PathBuf {
    if let Some(directory) = std::env::var_os("MUSTER_TEST_POSTGRES_BIN").filter(|directory| !directory.is_empty()) {
        return PathBuf::from(directory).join(name);
    }
    let mut versions: Vec<_> =
        std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|e| e.path().join("bin").join(name)).collect();
    versions.sort();
    versions.into_iter().rev().find(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(name))
}

/// PostgreSQL refuses to run as root.
fn as_postgres(program: &Path) -> Command {
    if nix::unistd::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

impl Server {
    /// `initdb` and start.
    pub async fn start(directory: &Path) -> Self {
        let port = free_port();
        let data = directory.join("pg");
        if nix::unistd::geteuid().is_root() {
            let made = std::fs::create_dir_all(&data).is_ok();
            let given = Command::new("chown").arg("-R").arg("postgres").arg(directory).status().is_ok_and(|status| status.success());
            assert!(made && given, "a directory for the user postgres");
        }
        let made = as_postgres(&tool("initdb"))
            .args(["-A", "trust", "-U", "root", "-E", "UTF8", "--locale=C", "-D"])
            .arg(&data)
            .output()
            .expect("initdb is installed");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let server = Self { program: Self::launch(directory, &data, port), port, data, directory: directory.to_owned() };
        server.answering().await;
        server
    }

    fn launch(directory: &Path, data: &Path, port: u16) -> Program {
        let mut command = as_postgres(&tool("postgres"));
        command.arg("-D").arg(data).args(["-h", "127.0.0.1", "-k", "", "-p", &port.to_string()]);
        Program::start("postgres", directory, &mut command)
    }

    async fn answering(&self) {
        let connected = || async { PgConnection::connect(&self.admin_url()).await.map(drop).map_err(|error| error.to_string()) };
        let _ = wait::until("PostgreSQL to answer", Duration::from_secs(60), connected, Result::is_ok).await;
    }

    /// For making databases.
    pub fn admin_url(&self) -> String {
        format!("postgres://root@127.0.0.1:{}/postgres", self.port)
    }

    /// `kill -9` of the postmaster, as a power cut would have it, and a new start on the same files.
    pub async fn crash_and_restart(&mut self, down: Duration) {
        self.program.kill_9();
        tokio::time::sleep(down).await;
        // Its children notice that the postmaster is gone and end; until then the new one refuses to start.
        for _ in 0..100 {
            let _ = std::fs::remove_file(self.data.join("postmaster.pid"));
            self.program = Self::launch(&self.directory, &self.data, self.port);
            tokio::time::sleep(Duration::from_millis(300)).await;
            if self.program.is_running() {
                break;
            }
        }
        self.answering().await;
    }
}
