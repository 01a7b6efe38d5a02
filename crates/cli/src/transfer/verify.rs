//! Files on disk against a manifest.

use std::path::{Path, PathBuf};

use muster_wire::TaskId;
use muster_wire::http::{BundleCheck, BundleManifest, ObjectCheck};

use super::MANIFEST;
use super::fetch::digest_of;
use super::name::safe_path;
use crate::client::Client;
use crate::failure::Failure;
use crate::progress;

/// Largest manifest read from disk, in bytes.
const MAX_MANIFEST_BYTES: u64 = 64 * 1024 * 1024;

/// Checks what was downloaded into `dir`: the bundle in it, or every bundle in its directories. For the tasks named, the manifest is the
/// controller's; otherwise it is the one that lies there.
pub(crate) async fn verify_local(client: &Client, dir: &Path, tasks: &[TaskId]) -> Result<Vec<BundleCheck>, Failure> {
    let found = progress::waiting("looking for bundles", bundles_in(dir)).await?;
    let mut checks = Vec::new();
    for (place, local) in found {
        if !tasks.is_empty() && !tasks.contains(&local.task) {
            continue;
        }
        let manifest =
            if tasks.is_empty() { local } else { client.get("get the manifest", &["bundles", &local.task.to_string()], &[]).await? };
        checks.push(progress::waiting(&format!("reading {}", place.display()), check(&place, &manifest)).await);
    }
    let missing: Vec<String> =
        tasks.iter().filter(|task| !checks.iter().any(|check| check.task == **task)).map(TaskId::to_string).collect();
    if missing.is_empty() {
        Ok(checks)
    } else {
        Err(Failure::local(format!("verify {}", dir.display()), format!("it does not hold {}", missing.join(", "))).with_next(format!(
            "muster bundles download {} --dir {}",
            missing.join(" "),
            dir.display()
        )))
    }
}

async fn bundles_in(dir: &Path) -> Result<Vec<(PathBuf, BundleManifest)>, Failure> {
    let intent = || format!("verify {}", dir.display());
    if let Some(manifest) = manifest_in(dir).await? {
        return Ok(vec![(dir.to_owned(), manifest)]);
    }
    let mut entries = tokio::fs::read_dir(dir).await.map_err(|error| Failure::local(intent(), error.to_string()))?;
    let mut found = Vec::new();
    while let Some(entry) = entries.next_entry().await.map_err(|error| Failure::local(intent(), error.to_string()))? {
        if entry.file_type().await.is_ok_and(|kind| kind.is_dir())
            && let Some(manifest) = manifest_in(&entry.path()).await?
        {
            found.push((entry.path(), manifest));
        }
    }
    if found.is_empty() {
        return Err(Failure::local(intent(), format!("there is no {MANIFEST} in it or in its directories"))
            .with_next("name the directory given to `muster bundles download` or `muster collections download`"));
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found)
}

async fn manifest_in(dir: &Path) -> Result<Option<BundleManifest>, Failure> {
    let path = dir.join(MANIFEST);
    let intent = || format!("read {}", path.display());
    let size = match tokio::fs::metadata(&path).await {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::local(intent(), error.to_string())),
    };
    if size > MAX_MANIFEST_BYTES {
        return Err(Failure::local(intent(), format!("it has {size} bytes; no manifest has")));
    }
    let bytes = tokio::fs::read(&path).await.map_err(|error| Failure::local(intent(), error.to_string()))?;
    serde_json::from_slice(&bytes).map(Some).map_err(|error| Failure::local(intent(), format!("it is not a manifest: {error}")))
}

async fn check(dir: &Path, manifest: &BundleManifest) -> BundleCheck {
    let mut objects = Vec::with_capacity(manifest.objects.len());
    for object in &manifest.objects {
        let path = dir.join(safe_path(&object.name));
        let (found_sha256, problem) = match digest_of(&path).await {
            Ok((size, found)) if size == object.size_bytes && found == object.sha256 => (Some(found), None),
            Ok((size, found)) if size != object.size_bytes => {
                (Some(found), Some(format!("it has {size} bytes, the manifest says {}", object.size_bytes)))
            }
            Ok((_, found)) => (Some(found), Some("its SHA-256 is another".to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (None, Some(format!("{} is not there", path.display()))),
            Err(error) => (None, Some(error.to_string())),
        };
        objects.push(ObjectCheck { name: object.name.clone(), expected_sha256: object.sha256.clone(), found_sha256, problem });
    }
    BundleCheck { task: manifest.task, intact: objects.iter().all(|object| object.problem.is_none()), objects }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::fetch::hex;
    use muster_wire::Reason;
    use muster_wire::http::{BundleObject, Depth, ObjectKind, Verdict};
    use sha2::{Digest as _, Sha256};

    fn manifest(objects: &[(&str, &[u8])]) -> BundleManifest {
        let task: TaskId = "tsk_01jd8k2m3n4p5q6r7s-17".parse().expect("an id");
        let object = |(name, bytes): &(&str, &[u8])| BundleObject {
            name: (*name).to_owned(),
            size_bytes: bytes.len() as u64,
            sha256: hex(&Sha256::digest(bytes)),
            kind: ObjectKind::Text,
            entries: None,
            depth: Depth::Full,
        };
        BundleManifest {
            version: "1.0".into(),
            task,
            attempt: task.attempt(1),
            collection: task.collection(),
            device: "press-0042".parse().expect("an id"),
            correlation_id: None,
            case: None,
            consent: None,
            verdict: Verdict::Complete,
            reason: Reason::Collected,
            missing: vec![],
            objects: objects.iter().map(object).collect(),
            sealed_at: time::macros::datetime!(2026-01-01 00:00 UTC),
        }
    }

    #[tokio::test]
    async fn every_kind_of_damage_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let manifest = manifest(&[("good", b"abc"), ("../evil", b"abc"), ("short", b"abc"), ("other", b"abc"), ("gone", b"abc")]);
        for (name, bytes) in [("good", "abc"), ("%2E%2E/evil", "abc"), ("short", "ab"), ("other", "xyz")] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, bytes).expect("written");
        }
        let check = check(dir.path(), &manifest).await;
        assert!(!check.intact);
        let problems: Vec<Option<String>> = check.objects.into_iter().map(|object| object.problem).collect();
        assert_eq!(problems[..2], [None, None]);
        assert!(problems[2].as_deref().expect("short").contains("2 bytes"));
        assert!(problems[3].as_deref().expect("other").contains("SHA-256"));
        assert!(problems[4].as_deref().expect("gone").contains("not there"));
    }

    #[tokio::test]
    async fn bundles_are_found_in_the_directory_or_below_it() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(bundles_in(dir.path()).await.is_err(), "nothing there");
        let below = dir.path().join("press-0042");
        std::fs::create_dir(&below).expect("made");
        std::fs::write(below.join(MANIFEST), serde_json::to_vec(&manifest(&[])).expect("JSON")).expect("written");
        assert_eq!(bundles_in(dir.path()).await.expect("found").len(), 1);
        assert_eq!(bundles_in(&below).await.expect("found").len(), 1);
        std::fs::write(below.join(MANIFEST), "{}").expect("written");
        assert!(bundles_in(dir.path()).await.is_err(), "not a manifest");
    }
}
