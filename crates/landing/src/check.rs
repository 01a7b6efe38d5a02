//! The doctor's probe: do with an attempt nobody made what is done with every attempt, and clean up.

use std::io::Read as _;

use bytes::Bytes;
use muster_wire::{AttemptId, CollectionId};
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::error::LandingError;
use crate::listing::Digest;
use crate::name::ObjectName;
use crate::{Grant, Landing};

const PROBE_NAME: &str = "probe.txt";
const PROBE_BYTES: &[u8] = b"muster landing probe\n";
const PROBE_GRANT: Duration = Duration::minutes(5);
const SHOWN_BYTES: usize = 300;

impl Landing {
    /// Whether inboxes can be opened, written to with a grant (a storage account only: our own endpoint may not be served
    /// yet), sealed, read and removed. The error names the step.
    pub async fn check(&self) -> Result<(), LandingError> {
        // The last attempt of a random task: nobody else's.
        let attempt = CollectionId::new().task(Uuid::new_v4().as_fields().0).attempt(u8::MAX);
        let checked = self.probe(attempt).await;
        // Clean up whatever happened; the first failure is the one to report.
        let closed = step("close an inbox", self.close_inbox(attempt).await);
        let deleted = step("delete a sealed object", self.delete_sealed(attempt).await);
        checked.and(closed).and(deleted)
    }

    async fn probe(&self, attempt: AttemptId) -> Result<(), LandingError> {
        let name = ObjectName::parse(PROBE_NAME)?;
        let grant = step("open an inbox", self.open_inbox(attempt, OffsetDateTime::now_utc() + PROBE_GRANT).await)?;
        if let Self::Azure(azure) = self {
            step("upload with a grant", upload(azure.http(), &grant).await)?;
            step("list an inbox", self.list_inbox(attempt).await)?;
            let sealed = step("seal an object", self.seal(attempt, &name).await)?;
            step("compare a digest", same(sealed.sha256.0 == *Sha256::digest(PROBE_BYTES)))?;
        } else {
            step("list an inbox", self.list_inbox(attempt).await)?;
            let written = step("write a sealed object", self.put_sealed(attempt, &name, Bytes::from_static(PROBE_BYTES)).await)?;
            step("compare a digest", same(written.sha256 == Digest(Sha256::digest(PROBE_BYTES).into())))?;
        }
        let mut reader = step("open a sealed object", self.reader(attempt, &name).await)?;
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map(|_| bytes)
        });
        let read = read.await.unwrap_or_else(|stopped| Err(std::io::Error::other(stopped)));
        let read = read.map_err(|source| LandingError::Io { doing: "read", path: PROBE_NAME.into(), source });
        let bytes = step("read a sealed object", read)?;
        step("compare bytes", same(bytes == PROBE_BYTES))
    }
}

/// As a device would: the URL, and nothing else that we know.
async fn upload(http: &reqwest::Client, grant: &Grant) -> Result<(), LandingError> {
    let request = http.put(grant.object_url(PROBE_NAME)).header("x-ms-blob-type", "BlockBlob").body(PROBE_BYTES);
    let answer = request.send().await.map_err(|error| LandingError::GrantUnreachable { source: error.without_url() })?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let body = answer.text().await.unwrap_or_default();
    Err(LandingError::GrantRefused { status: status.as_u16(), body: body.chars().take(SHOWN_BYTES).collect() })
}

fn same(same: bool) -> Result<(), LandingError> {
    if same { Ok(()) } else { Err(LandingError::Corrupt) }
}

fn step<T>(step: &'static str, result: Result<T, LandingError>) -> Result<T, LandingError> {
    result.map_err(|source| LandingError::Check { step, source: Box::new(source) })
}
