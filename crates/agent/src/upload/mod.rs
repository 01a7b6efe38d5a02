//! Writing objects into a container with the Blob REST calls: Put Blob, Put Block and Put Block List, Append Block.
//!
//! Every call can be repeated: a block staged twice is one block, a blob put twice is one blob, and an append names the
//! place it belongs to. Server trouble and silence are tried again with back-off; a refused grant is not.

pub mod content;
pub mod grant;

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use muster_wire::method::object_name::{BlobKind, ObjectProperties};
use muster_wire::presence::ReportedObject;
use rand::Rng;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use tokio::sync::Semaphore;
use url::Url;

use content::Content;
use grant::{Grant, GrantError, block_id, block_list, block_query};

/// Version of the storage protocol we speak: old enough for every service and emulator in use.
pub const STORAGE_VERSION: &str = "2021-08-06";
/// Up to this size an object is one Put Blob.
pub const SINGLE_PUT_BYTES: u64 = 4 * 1024 * 1024;
/// Size of a block, and of one append.
pub const BLOCK_BYTES: usize = 4 * 1024 * 1024;
/// Most blocks of one object, by the storage's own rule.
pub const MAX_BLOCKS: u64 = 50_000;

/// How hard to try.
#[derive(Debug, Clone)]
pub struct UploadOptions {
    /// Tries of one call.
    pub tries: u32,
    /// Wait after the first failure; doubled each time, with jitter.
    pub first_wait: Duration,
    /// Longest wait.
    pub longest_wait: Duration,
    /// Longest one call may take.
    pub call_timeout: Duration,
    /// Calls at once, over all devices of the process.
    pub connections: usize,
    /// Blocks of one object at once.
    pub parallel_blocks: usize,
}

impl Default for UploadOptions {
    fn default() -> Self {
        Self {
            tries: 8,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(20),
            call_timeout: Duration::from_secs(120),
            connections: 64,
            parallel_blocks: 3,
        }
    }
}

/// Why an upload failed. Never quotes the grant.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The grant cannot be used at all.
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// 403: no retry can help.
    #[error("the storage refused the grant (403 {code}): it has expired, or does not allow this")]
    Forbidden {
        /// The storage's own word.
        code: String,
    },
    /// Another answer that will not change.
    #[error("the storage refused {call} ({status} {code})")]
    Refused {
        /// Which call.
        call: &'static str,
        /// Its status.
        status: u16,
        /// The storage's own word.
        code: String,
    },
    /// Trouble that did not end.
    #[error("{call} failed {tries} times, last: {last}")]
    GaveUp {
        /// Which call.
        call: &'static str,
        /// How often.
        tries: u32,
        /// What happened last.
        last: String,
    },
    /// Our own temporary file.
    #[error("the temporary file cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// Beyond [`MAX_BLOCKS`].
    #[error("{0} bytes are more than {MAX_BLOCKS} blocks hold")]
    TooLarge(u64),
    /// Cut on purpose, by a scripted fault.
    #[error("the connection was cut in the middle of the upload")]
    Cut,
}

/// An object to be written.
#[derive(Debug)]
pub(crate) struct Object<'a> {
    pub name: &'a str,
    pub properties: ObjectProperties,
}

/// Stops an upload on purpose after some blocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StopAfter {
    pub blocks: usize,
    pub block_bytes: usize,
}

/// Writes objects; one per process, shared by all devices.
#[derive(Debug)]
pub struct Uploader {
    http: reqwest::Client,
    calls: Semaphore,
    options: UploadOptions,
}

enum Outcome {
    Done,
    /// Status and the storage's word.
    Status(StatusCode, String, Option<Duration>),
    Silence(String),
}

const fn header(name: &'static str) -> HeaderName {
    HeaderName::from_static(name)
}

impl Uploader {
    /// An uploader with its own connections; `roots` are trusted beside the system's.
    ///
    /// # Errors
    /// When the TLS set-up fails.
    pub fn new(options: UploadOptions, roots: Vec<reqwest::Certificate>) -> Result<Self, reqwest::Error> {
        crate::session::broker::use_ring();
        let builder = reqwest::Client::builder()
            .user_agent(concat!("muster-agent/", env!("CARGO_PKG_VERSION")))
            .timeout(options.call_timeout)
            .connect_timeout(Duration::from_secs(10))
            .pool_max_idle_per_host(options.connections)
            .tcp_nodelay(true)
            // A redirect would carry the grant to another host.
            .redirect(reqwest::redirect::Policy::none());
        let builder = if roots.is_empty() { builder } else { builder.tls_certs_merge(roots) };
        Ok(Self { http: builder.build()?, calls: Semaphore::new(options.connections), options })
    }

    /// Writes an object whole and says what was written.
    pub(crate) async fn put(&self, grant: &Grant, object: &Object<'_>, content: &Content) -> Result<ReportedObject, UploadError> {
        match object.properties.kind {
            BlobKind::Append => self.append(grant, object, content).await?,
            BlobKind::Block if content.size() <= SINGLE_PUT_BYTES => {
                let body = content.read(0, usize::MAX).await?;
                let mut headers = described(&object.properties);
                headers.insert(header("x-ms-blob-type"), HeaderValue::from_static("BlockBlob"));
                self.call("Put Blob", grant.object(object.name, "")?, headers, body).await?;
            }
            BlobKind::Block => {
                let blocks = self.stage(grant, object, content, BLOCK_BYTES, None).await?;
                let headers = described(&object.properties);
                self.call("Put Block List", grant.object(object.name, "comp=blocklist")?, headers, block_list(blocks).into()).await?;
            }
        }
        Ok(ReportedObject { name: object.name.to_owned(), size: content.size(), sha256: Some(content.sha256().await?) })
    }

    /// Stages some blocks and commits nothing.
    pub(crate) async fn put_part(&self, grant: &Grant, object: &Object<'_>, content: &Content, stop: StopAfter) -> Result<(), UploadError> {
        self.stage(grant, object, content, stop.block_bytes, Some(stop.blocks)).await.map(|_| ())
    }

    async fn stage(
        &self,
        grant: &Grant,
        object: &Object<'_>,
        content: &Content,
        block_bytes: usize,
        only: Option<usize>,
    ) -> Result<usize, UploadError> {
        let blocks = content.size().div_ceil(block_bytes as u64);
        if blocks > MAX_BLOCKS {
            return Err(UploadError::TooLarge(content.size()));
        }
        let blocks = usize::try_from(blocks).expect("at most MAX_BLOCKS");
        stream::iter(0..only.unwrap_or(blocks).min(blocks))
            .map(|number| async move {
                let body = content.read(number as u64 * block_bytes as u64, block_bytes).await?;
                let url = grant.object(object.name, &block_query(&block_id(number)))?;
                self.call("Put Block", url, HeaderMap::new(), body).await
            })
            .buffer_unordered(self.options.parallel_blocks)
            .try_collect::<()>()
            .await?;
        Ok(blocks)
    }

    async fn append(&self, grant: &Grant, object: &Object<'_>, content: &Content) -> Result<(), UploadError> {
        let mut headers = described(&object.properties);
        headers.insert(header("x-ms-blob-type"), HeaderValue::from_static("AppendBlob"));
        // Creating it again empties it: a restarted upload begins anew.
        self.call("Put Blob", grant.object(object.name, "")?, headers, Bytes::new()).await?;
        let mut offset = 0;
        while offset < content.size() {
            let body = content.read(offset, BLOCK_BYTES).await?;
            let length = body.len() as u64;
            let mut headers = HeaderMap::new();
            headers.insert(header("x-ms-blob-condition-appendpos"), HeaderValue::from(offset));
            self.call("Append Block", grant.object(object.name, "comp=appendblock")?, headers, body).await?;
            offset += length;
        }
        Ok(())
    }

    async fn call(&self, call: &'static str, url: Url, headers: HeaderMap, body: Bytes) -> Result<(), UploadError> {
        let mut last = String::new();
        for number in 1..=self.options.tries {
            let wait = match self.try_once(url.clone(), headers.clone(), body.clone()).await {
                Outcome::Done => return Ok(()),
                // An append that was carried out although its answer was lost: the place it names is taken, by itself.
                Outcome::Status(StatusCode::PRECONDITION_FAILED, ..) if call == "Append Block" && number > 1 => return Ok(()),
                Outcome::Status(StatusCode::FORBIDDEN, code, _) => return Err(UploadError::Forbidden { code }),
                Outcome::Status(status, code, wait) if may_pass(status) => {
                    last = format!("{} {code}", status.as_u16());
                    wait
                }
                Outcome::Status(status, code, _) => return Err(UploadError::Refused { call, status: status.as_u16(), code }),
                Outcome::Silence(reason) => {
                    last = reason;
                    None
                }
            };
            if number < self.options.tries {
                let wait = wait.unwrap_or_else(|| self.back_off(number)).min(self.options.longest_wait);
                tracing::debug!(call, number, wait_ms = wait.as_millis() as u64, "the storage call failed and is tried again: {last}");
                tokio::time::sleep(wait).await;
            }
        }
        Err(UploadError::GaveUp { call, tries: self.options.tries, last })
    }

    fn back_off(&self, failures: u32) -> Duration {
        let longest = self.options.first_wait.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(self.options.longest_wait);
        longest.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    async fn try_once(&self, url: Url, headers: HeaderMap, body: Bytes) -> Outcome {
        let _permit = self.calls.acquire().await.expect("the semaphore is never closed");
        let request = self
            .http
            .put(url)
            .headers(headers)
            .header(header("x-ms-version"), STORAGE_VERSION)
            .header(CONTENT_LENGTH, body.len())
            .body(body);
        match request.send().await {
            Ok(answer) if answer.status().is_success() => Outcome::Done,
            Ok(answer) => {
                let word = |name| answer.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
                let code = word(header("x-ms-error-code")).unwrap_or("no error code").chars().take(64).collect();
                let wait = word(RETRY_AFTER).and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
                Outcome::Status(answer.status(), code, wait)
            }
            // The URL is a secret: it holds the grant.
            Err(error) => Outcome::Silence(chain(&error.without_url())),
        }
    }
}

fn may_pass(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

fn described(properties: &ObjectProperties) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(properties.content_type));
    headers.insert(header("x-ms-blob-content-type"), HeaderValue::from_static(properties.content_type));
    if let Some(encoding) = properties.content_encoding {
        headers.insert(header("x-ms-blob-content-encoding"), HeaderValue::from_static(encoding));
    }
    headers
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests;
