//! A client we did not write uploads with a grant of ours: Python's `azure-storage-blob`, small, in blocks, streamed and appended.

#![expect(clippy::unwrap_used, reason = "in a test an error is a failure, and the place says which")]

mod rig;

use std::path::{Path, PathBuf};
use std::process::Command;

use muster_landing::Limits;
use rig::{Rig, name};

const CLIENT: &str = "azure-storage-blob==12.31.1";

/// A Python with the client, made once under the workspace's cache.
fn python() -> PathBuf {
    let home = rig::workspace().join(".cache/stranger");
    let (python, done) = (home.join("bin/python"), home.join(CLIENT));
    std::fs::create_dir_all(home.parent().unwrap()).unwrap();
    let lock = std::fs::File::create(home.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    if !done.exists() {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home));
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", CLIENT]));
        std::fs::write(done, "").unwrap();
    }
    python
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

async fn uploads_unchanged(rig: Rig) {
    use secrecy::ExposeSecret as _;
    let (attempt, grant) = rig.inbox().await;
    let url = grant.url().expose_secret().to_owned();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stranger/upload.py");
    let report = tokio::task::spawn_blocking(move || run(Command::new(python()).env("PYTHONIOENCODING", "utf-8").arg(script).arg(url)))
        .await
        .unwrap();
    let mut sent: Vec<(String, u64)> = Vec::new();
    for line in report.lines() {
        let mut words = line.rsplitn(3, ' ');
        let (digest, size, object) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        let sealed = rig.landing.seal(attempt, &name(object)).await.unwrap();
        assert_eq!((sealed.size_bytes.to_string().as_str(), sealed.sha256.to_string().as_str()), (size, digest), "{object}");
        sent.push((object.to_owned(), sealed.size_bytes));
    }
    sent.sort();
    assert_eq!(sent.len(), 6);
    assert_eq!(rig.listed(attempt).await, sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_uploads_to_our_endpoint() {
    uploads_unchanged(Rig::directory(Limits::default()).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_uploads_to_an_account() {
    uploads_unchanged(Rig::azure(Limits::default()).await).await;
}
