//! An Azurite of our own, installed by `scripts/azurite.sh` on first use.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::program::Program;
use crate::{free_port, root, wait};

/// Azurite's one well-known account.
pub const ACCOUNT: &str = "devstoreaccount1";
/// Its published key; it protects nothing.
pub const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A running Azurite.
#[derive(Debug)]
pub struct Azurite {
    /// Its process.
    pub program: Program,
    /// Its port on loopback.
    pub port: u16,
}

impl Azurite {
    /// Starts one and waits until it listens.
    pub async fn start(directory: &Path) -> Self {
        let port = free_port();
        let mut command = Command::new("bash");
        command.arg(root().join("scripts/azurite.sh")).arg(port.to_string()).current_dir(directory);
        let program = Program::start("azurite", directory, &mut command);
        wait::for_port(port, Duration::from_secs(240), || program.tail()).await;
        Self { program, port }
    }

    /// Endpoint of the account, path style.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{ACCOUNT}", self.port)
    }
}
