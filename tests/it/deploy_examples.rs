//! The example settings in `deploy/` are accepted by the programs they are for, so nobody starts from a file that is out of date.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use muster_tests::program::built;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate stands in the workspace").join("deploy")
}

/// The example with its secrets in a directory of ours: each file it names below `/run/credentials` is made, with a long enough secret.
fn with_secrets(example: &str, service: &str, directory: &Path) -> Result<PathBuf> {
    let credentials = format!("/run/credentials/{service}/");
    let text = fs::read_to_string(deploy().join(example))?;
    let mut secrets = 0;
    for piece in text.split(&credentials).skip(1) {
        let name: String = piece.chars().take_while(|c| *c != '"').collect();
        let secret = match name.as_str() {
            "database-url" => "postgres://muster:secret@db.example.com/muster".to_owned(),
            // Each its own: the same token twice is refused.
            _ => format!("{name}-of-more-than-sixteen-characters"),
        };
        fs::write(directory.join(&name), secret)?;
        secrets += 1;
    }
    ensure!(secrets > 0, "{example} names no credentials of {service}");
    let unit = fs::read_to_string(deploy().join("systemd").join(service))?;
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        ensure!(unit.contains(&format!("LoadCredential={name}:")), "{service} does not hand over {name}, which {example} reads");
    }
    let copy = directory.join(example);
    fs::write(&copy, text.replace(&credentials, &format!("{}/", directory.display())))?;
    Ok(copy)
}

fn accepted(program: &str, example: &str, service: &str) -> Result<String> {
    let directory = tempfile::tempdir()?;
    let copy = with_secrets(example, service, directory.path())?;
    let output =
        Command::new(built(program)).arg("check-config").arg("--config").arg(&copy).output().with_context(|| program.to_owned())?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{program} check-config refuses {example}: {out}{err}");
    ensure!(!out.contains("sixteen-characters") && !out.contains("muster:secret"), "a secret was printed: {out}");
    Ok(out)
}

#[test]
fn the_controllers_example_is_accepted() -> Result<()> {
    let effective = accepted("muster", "muster.toml", "muster.service")?;
    ensure!(effective.contains("examplebundles") && effective.contains("mqtts://broker.example.com"), "{effective}");
    Ok(())
}

#[test]
fn the_agents_example_is_accepted() -> Result<()> {
    let effective = accepted("muster-agent", "muster-agent.toml", "muster-agent.service")?;
    ensure!(effective.contains("press-0042"), "{effective}");
    Ok(())
}
