//! A bundle from IoT Edge's own program.

use std::io::Read;
use std::process::Stdio;
use std::sync::Arc;

use tokio::process::Command;

use super::{BundleError, Window};
use crate::upload::content::Content;

/// Most of what the program says that is kept.
const MAX_COMPLAINT_BYTES: usize = 2000;

/// Runs `iotedge support-bundle`; `Ok(None)` where there is no such program.
pub(crate) async fn from_iotedge(
    program: &str,
    temp: &std::path::Path,
    window: &Window,
    limit_bytes: u64,
) -> Result<Option<Content>, BundleError> {
    let failed = |reason: String| BundleError::IotEdge { program: program.to_owned(), reason };
    let place = tempfile::Builder::new().prefix("iotedge-").tempdir_in(temp)?;
    let path = place.path().join("bundle.zip");
    let mut command = Command::new(program);
    command.arg("support-bundle").arg("--quiet").arg("--output").arg(&path);
    // Without a bound the program takes one day; the method's default is everything.
    command.arg("--since").arg(window.since.as_deref().unwrap_or("10years"));
    if let Some(until) = &window.until {
        command.arg("--until").arg(until);
    }
    if window.edge_runtime_only {
        command.arg("--include-edge-runtime-only");
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = match command.output().await {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(format!("cannot be started: {error}"))),
    };
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr[..output.stderr.len().min(MAX_COMPLAINT_BYTES)]).trim().to_owned();
        return Err(failed(format!("{}: {complaint}", output.status)));
    }
    let mut file = std::fs::File::open(&path).map_err(|error| failed(format!("left no file: {error}")))?;
    let size = file.metadata()?.len();
    if size > limit_bytes {
        return Err(failed(format!("made {size} bytes, more than the {limit_bytes} allowed")));
    }
    // Its own error documents must not travel under a zip's name.
    let mut magic = [0; 2];
    if file.read_exact(&mut magic).is_err() || magic != *b"PK" {
        return Err(failed("made something that is not a zip".to_owned()));
    }
    // The directory goes now, the open file stays until it is uploaded.
    Ok(Some(Content::File { file: Arc::new(file), size }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    async fn run(script: &str, window: &Window) -> Result<Option<Content>, BundleError> {
        let directory = tempfile::tempdir().expect("a directory");
        let program = directory.path().join("iotedge");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("written");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("executable");
        from_iotedge(program.to_str().expect("text"), directory.path(), window, 200).await
    }

    #[tokio::test]
    async fn what_the_program_makes_is_taken_if_it_is_a_zip() {
        let window = Window { until: Some("1h".to_owned()), edge_runtime_only: true, ..Window::default() };
        let content = run("echo PK $* > $4", &window).await.expect("made").expect("there");
        let text = String::from_utf8_lossy(&content.read(0, 1000).await.expect("read though unlinked")).into_owned();
        assert!(text.contains("--since 10years --until 1h --include-edge-runtime-only"), "{text}");
    }

    #[tokio::test]
    async fn errors_never_become_bundles() {
        for (script, expected) in [
            ("echo '{\"message\":\"x\"}' > $4", "not a zip"),
            ("echo no such window >&2; exit 3", "no such window"),
            ("true", "left no file"),
            ("printf 'PK%0300d' 1 > $4", "more than the 200"),
        ] {
            let error = run(script, &Window::default()).await.expect_err(script).to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(from_iotedge("/nowhere/iotedge", std::path::Path::new("/tmp"), &Window::default(), 100).await.expect("no error").is_none());
    }
}
