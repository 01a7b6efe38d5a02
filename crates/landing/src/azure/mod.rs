//! The landing zone in Azure Blob Storage: devices write straight into the account, we read what they wrote.
//!
//! ```text
//! {prefix}inbox-{attempt's stem}                                    one container for each attempt
//! {prefix}bundles/{collection}/{ordinal}/{attempt}/{name}           what we sealed
//! ```
//!
//! Sealing reads an object and writes it to the other container in blocks while hashing, a few blocks in memory at a
//! time. Closing deletes the inbox's container, and with it every grant for it.

mod account;
mod pages;
mod seal;
mod shared_key;

use std::num::NonZero;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use azure_core::credentials::{Secret, TokenCredential};
use azure_core::error::ErrorKind;
use azure_core::http::{ClientOptions, Etag, ExponentialRetryOptions, RetryOptions, StatusCode, Transport};
use azure_identity::{
    ClientAssertionCredentialOptions, ClientSecretCredential, ClientSecretCredentialOptions, ManagedIdentityCredential,
    ManagedIdentityCredentialOptions, UserAssignedId, WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};
use azure_storage_blob::models::{
    BlobClientDownloadOptions, BlobClientGetPropertiesResultHeaders as _, BlobContainerClientListBlobsOptions, HttpRange, KeyInfo,
    ListBlobsIncludeItem,
};
use azure_storage_blob::{BlobClient, BlobContainerClient, BlobServiceClient, BlobServiceClientOptions};
use futures_util::{StreamExt as _, TryStreamExt as _};
use muster_wire::AttemptId;
use secrecy::ExposeSecret as _;
use time::OffsetDateTime;
use tokio::sync::{Mutex, OnceCell};

use account::Account;
pub use account::{AzureCredential, AzureOptions, MAX_CONTAINER_PREFIX_CHARS};
pub(crate) use pages::BlobPages;
use shared_key::SharedKeyPolicy;

use crate::error::LandingError;
use crate::grant::{self, Grant};
use crate::limits::{Limits, MAX_GRANT_SECONDS};
use crate::listing::{Download, InboxListing, InboxObject, clamp};
use crate::name::ObjectName;
use crate::reader::SealedReader;
use crate::sas::{self, DelegationKey, Protocols, SigningKey};

const BUNDLES_CONTAINER: &str = "bundles";
/// How much is asked of the account in one request, reading or writing.
const BLOCK_BYTES: usize = 4 * 1024 * 1024;
/// Requests in flight for one object that is read.
const PARALLEL_READS: usize = 2;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence within an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_RETRIES: u32 = 4;
const MAX_RETRY_SECONDS: i64 = 30;
/// A delegation key is asked for this long at least, so that it serves many grants.
const DELEGATION_KEY_SECONDS: i64 = 24 * 3600;
/// Clocks differ: a delegation key starts this much in the past and is not used up to its last moment.
const CLOCK_SKEW_SECONDS: i64 = 15 * 60;
const LIST_PAGE: i32 = 1_000;

/// Bundles in an Azure storage account.
#[derive(Clone)]
pub struct AzureLanding {
    shared: Arc<Shared>,
}

struct Shared {
    service: BlobServiceClient,
    account: String,
    signer: Signer,
    protocols: Protocols,
    prefix: String,
    limits: Limits,
    /// Set once the bundles' container is known to exist.
    bundles: OnceCell<()>,
    /// For the probe, which uploads as a device would.
    http: reqwest::Client,
}

enum Signer {
    Key(SigningKey),
    Delegated(Mutex<Option<DelegationKey>>),
}

impl std::fmt::Debug for AzureLanding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AzureLanding").field("account", &self.shared.account).field("prefix", &self.shared.prefix).finish_non_exhaustive()
    }
}

impl AzureLanding {
    pub(crate) fn sealed_location(&self, attempt: AttemptId) -> String {
        self.shared.sealed_location(attempt)
    }

    /// Prepare the clients; nothing is sent yet. The program must have installed a TLS provider for the process.
    pub fn open(options: AzureOptions) -> Result<Self, LandingError> {
        let Account { endpoint, name, key } = Account::from_options(&options)?;
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| LandingError::Settings { setting: "kind", reason: format!("the HTTP client cannot be built: {error}") })?;
        let mut client_options = ClientOptions {
            transport: Some(Transport::new(Arc::new(http.clone()))),
            retry: RetryOptions::exponential(ExponentialRetryOptions {
                max_retries: MAX_RETRIES,
                max_total_elapsed: azure_core::time::Duration::seconds(MAX_RETRY_SECONDS),
                ..Default::default()
            }),
            ..Default::default()
        };
        let token = token_credential(&options.credential, &client_options)
            .map_err(|source| LandingError::Settings { setting: "credential", reason: source.to_string() })?;
        let protocols = Protocols::of_scheme(endpoint.scheme());
        let signer = match key {
            Some(key) => {
                client_options.per_try_policies.push(Arc::new(SharedKeyPolicy::new(&name, key.clone())));
                Signer::Key(key)
            }
            None => Signer::Delegated(Mutex::default()),
        };
        let service_options = BlobServiceClientOptions { client_options, ..Default::default() };
        let service = BlobServiceClient::new(endpoint, token, Some(service_options))
            .map_err(|source| LandingError::Settings { setting: "endpoint", reason: source.to_string() })?;
        let shared = Shared {
            service,
            account: name,
            signer,
            protocols,
            prefix: options.container_prefix,
            limits: options.limits,
            bundles: OnceCell::new(),
            http,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    pub(crate) async fn open_inbox(&self, attempt: AttemptId, expires_at: OffsetDateTime) -> Result<Grant, LandingError> {
        grant::check_lifetime(attempt, expires_at)?;
        let name = self.shared.inbox_name(attempt);
        create(&self.shared.service.blob_container_client(&name), "create an inbox").await?;
        let resource = sas::container_resource(&self.shared.account, &name);
        let query = match &self.shared.signer {
            Signer::Key(key) => sas::service_grant(key, &resource, expires_at, self.shared.protocols),
            Signer::Delegated(cache) => {
                let key = self.shared.delegation_key(cache, expires_at).await?;
                sas::delegated_grant(&key, &resource, expires_at, self.shared.protocols)
            }
        };
        let endpoint = self.shared.service.url().as_str().trim_end_matches('/');
        Ok(Grant::new(format!("{endpoint}/{name}?{query}"), expires_at))
    }

    pub(crate) async fn list_inbox(&self, attempt: AttemptId) -> Result<InboxListing, LandingError> {
        let limit = self.shared.limits.max_objects;
        let container = self.shared.inbox(attempt);
        let listed = list(&container, None, limit).await.map_err(|error| match error {
            ListError::TooMany => LandingError::TooManyObjects { attempt, limit },
            ListError::Azure(source) if is_gone(&source) => LandingError::InboxNotFound { attempt },
            ListError::Azure(source) => failed("list an inbox")(source),
        })?;
        let limit_bytes = self.shared.limits.max_inbox_bytes;
        if listed.iter().map(|(_, size_bytes, _)| size_bytes).sum::<u64>() > limit_bytes {
            return Err(LandingError::InboxTooLarge { attempt, limit_bytes });
        }
        let mut listing = InboxListing { objects: Vec::with_capacity(listed.len()), begun: false, refused_names: 0 };
        for (name, size_bytes, modified_at) in listed {
            match ObjectName::from_device(&name) {
                Ok(name) => listing.objects.push(InboxObject { name, size_bytes, modified_at }),
                Err(_) => listing.refused_names += 1,
            }
        }
        listing.objects.sort_by(|a, b| a.name.cmp(&b.name));
        if listing.objects.is_empty() {
            listing.begun = has_uncommitted(&container).await.map_err(failed("list an inbox"))?;
        }
        Ok(listing)
    }

    pub(crate) async fn list_sealed(&self, attempt: AttemptId, limit: usize) -> Result<Vec<InboxObject>, LandingError> {
        let prefix = sealed_prefix(attempt);
        let listed = match list(&self.shared.bundles(), Some(&prefix), limit).await {
            Ok(listed) => listed,
            Err(ListError::TooMany) => return Err(LandingError::TooManyObjects { attempt, limit }),
            Err(ListError::Azure(source)) if is_gone(&source) => Vec::new(),
            Err(ListError::Azure(source)) => return Err(failed("list a bundle")(source)),
        };
        let mut objects = Vec::with_capacity(listed.len());
        for (name, size_bytes, modified_at) in listed {
            let name = ObjectName::parse(name.strip_prefix(&prefix).unwrap_or(&name))?;
            objects.push(InboxObject { name, size_bytes, modified_at });
        }
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(objects)
    }

    pub(crate) async fn open_sealed(
        &self,
        attempt: AttemptId,
        name: &ObjectName,
        range: Option<Range<u64>>,
    ) -> Result<Download, LandingError> {
        let blob = self.shared.sealed_blob(attempt, name);
        let (total_bytes, etag) = stat(&blob, attempt, name).await?;
        let range = clamp(range, total_bytes)?;
        if range.is_empty() {
            return Ok(Download { total_bytes, range, body: futures_util::stream::empty().boxed() });
        }
        let download = blob.download(Some(ranged(range.clone(), etag))).await.map_err(object_error("read", attempt, name))?;
        Ok(Download { total_bytes, range, body: download.body.map_err(std::io::Error::other).boxed() })
    }

    pub(crate) async fn reader(&self, attempt: AttemptId, name: &ObjectName) -> Result<SealedReader, LandingError> {
        let blob = self.shared.sealed_blob(attempt, name);
        let (size_bytes, etag) = stat(&blob, attempt, name).await?;
        let pages = BlobPages::new(blob, size_bytes, etag, tokio::runtime::Handle::current());
        Ok(SealedReader::blob(pages, size_bytes))
    }

    pub(crate) async fn close_inbox(&self, attempt: AttemptId) -> Result<(), LandingError> {
        match self.shared.inbox(attempt).delete(None).await {
            Ok(_) => Ok(()),
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) => Err(failed("close an inbox")(error)),
        }
    }

    pub(crate) async fn delete_sealed(&self, attempt: AttemptId) -> Result<(), LandingError> {
        // One more than an inbox holds: the manifest.
        let limit = self.shared.limits.max_objects + 1;
        for object in self.list_sealed(attempt, limit).await? {
            match self.shared.sealed_blob(attempt, &object.name).delete(None).await {
                Ok(_) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(failed("delete a bundle")(error)),
            }
        }
        Ok(())
    }

    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.shared.http
    }
}

impl Shared {
    fn inbox_name(&self, attempt: AttemptId) -> String {
        format!("{}{}", self.prefix, grant::container(attempt))
    }

    fn inbox(&self, attempt: AttemptId) -> BlobContainerClient {
        self.service.blob_container_client(&self.inbox_name(attempt))
    }

    fn bundles(&self) -> BlobContainerClient {
        self.service.blob_container_client(&format!("{}{BUNDLES_CONTAINER}", self.prefix))
    }

    fn sealed_blob(&self, attempt: AttemptId, name: &ObjectName) -> BlobClient {
        self.bundles().blob_client(&format!("{}{name}", sealed_prefix(attempt)))
    }

    pub(crate) fn sealed_location(&self, attempt: AttemptId) -> String {
        let endpoint = self.service.url().as_str().trim_end_matches('/');
        format!("{endpoint}/{}{BUNDLES_CONTAINER}/{}", self.prefix, sealed_prefix(attempt))
    }

    async fn ensure_bundles(&self) -> Result<(), LandingError> {
        self.bundles.get_or_try_init(async || create(&self.bundles(), "create the container of bundles").await).await.map(drop)
    }

    async fn delegation_key(
        &self,
        cache: &Mutex<Option<DelegationKey>>,
        expires_at: OffsetDateTime,
    ) -> Result<DelegationKey, LandingError> {
        let mut cached = cache.lock().await;
        let skew = time::Duration::seconds(CLOCK_SKEW_SECONDS);
        if let Some(key) = cached.as_ref().filter(|key| key.expires_at >= expires_at + skew || key.lives_longest()) {
            return Ok(key.clone());
        }
        let now = OffsetDateTime::now_utc();
        let longest = now + time::Duration::seconds(MAX_GRANT_SECONDS) - skew;
        let wanted = (expires_at + skew).max(now + time::Duration::seconds(DELEGATION_KEY_SECONDS)).min(longest);
        let info = KeyInfo { start: Some(now - skew), expiry: Some(wanted), ..Default::default() };
        let asked = async { self.service.get_user_delegation_key(info.try_into()?, None).await?.into_model() };
        let answer = asked.await.map_err(failed("get a user delegation key"))?;
        // The answer's type has no name that we could write here, so it is taken apart on the spot.
        let made = || {
            Some(DelegationKey {
                key: SigningKey::new(&answer.value?),
                object_id: answer.signed_oid?,
                tenant_id: answer.signed_tid?,
                starts_at: answer.signed_start.unwrap_or(now - skew),
                expires_at: answer.signed_expiry.unwrap_or(wanted),
                service: answer.signed_service?,
                version: answer.signed_version?,
            })
        };
        let key = made().ok_or_else(|| LandingError::Settings {
            setting: "credential",
            reason: "the account's user delegation key lacks a field; is its service version too old?".to_owned(),
        })?;
        *cached = Some(key.clone());
        Ok(key)
    }
}

impl DelegationKey {
    /// Made for as long as the account permits: asking again would not give more yet.
    fn lives_longest(&self) -> bool {
        let life = self.expires_at - OffsetDateTime::now_utc();
        life >= time::Duration::seconds(MAX_GRANT_SECONDS - 3 * CLOCK_SKEW_SECONDS)
    }
}

fn token_credential(credential: &AzureCredential, client: &ClientOptions) -> azure_core::Result<Option<Arc<dyn TokenCredential>>> {
    let client_options = client.clone();
    Ok(match credential {
        AzureCredential::SharedKey(_) | AzureCredential::ConnectionString(_) => None,
        AzureCredential::ManagedIdentity { client_id } => {
            let user_assigned_id = client_id.clone().map(UserAssignedId::ClientId);
            Some(ManagedIdentityCredential::new(Some(ManagedIdentityCredentialOptions { user_assigned_id, client_options }))?)
        }
        AzureCredential::WorkloadIdentity { tenant_id, client_id, token_file } => {
            Some(WorkloadIdentityCredential::new(Some(WorkloadIdentityCredentialOptions {
                credential_options: ClientAssertionCredentialOptions { client_options },
                tenant_id: tenant_id.clone(),
                client_id: client_id.clone(),
                token_file_path: token_file.clone(),
            }))?)
        }
        AzureCredential::ClientSecret { tenant_id, client_id, secret } => {
            let secret = Secret::new(secret.expose_secret().to_owned());
            let options = ClientSecretCredentialOptions { client_options };
            Some(ClientSecretCredential::new(tenant_id, client_id.clone(), secret, Some(options))?)
        }
    })
}

/// `{collection}/{ordinal}/{attempt}/`
fn sealed_prefix(attempt: AttemptId) -> String {
    let task = attempt.task();
    format!("{}/{}/{}/", task.collection(), task.ordinal(), attempt.number())
}

/// Create a container that may be there already.
async fn create(container: &BlobContainerClient, doing: &'static str) -> Result<(), LandingError> {
    match container.create(None).await {
        Ok(_) => Ok(()),
        Err(error) if error_code(&error) == Some("ContainerAlreadyExists") => Ok(()),
        Err(error) => Err(failed(doing)(error)),
    }
}

enum ListError {
    TooMany,
    Azure(azure_core::Error),
}

async fn list(
    container: &BlobContainerClient,
    prefix: Option<&str>,
    limit: usize,
) -> Result<Vec<(String, u64, OffsetDateTime)>, ListError> {
    let options =
        BlobContainerClientListBlobsOptions { prefix: prefix.map(str::to_owned), maxresults: Some(LIST_PAGE), ..Default::default() };
    let mut pages = container.list_blobs(Some(options)).map_err(ListError::Azure)?.into_pages();
    let mut found = Vec::new();
    while let Some(page) = pages.try_next().await.map_err(ListError::Azure)? {
        for blob in page.into_model().map_err(ListError::Azure)?.blob_items {
            let properties = blob.properties.unwrap_or_default();
            let modified_at = properties.last_modified.unwrap_or(OffsetDateTime::UNIX_EPOCH);
            found.push((blob.name.unwrap_or_default(), properties.content_length.unwrap_or(0), modified_at));
            if found.len() > limit {
                return Err(ListError::TooMany);
            }
        }
    }
    Ok(found)
}

/// Whether there is a blob of which only blocks were written.
async fn has_uncommitted(container: &BlobContainerClient) -> azure_core::Result<bool> {
    let include = Some(vec![ListBlobsIncludeItem::UncommittedBlobs]);
    let options = BlobContainerClientListBlobsOptions { include, maxresults: Some(1), ..Default::default() };
    let mut pages = container.list_blobs(Some(options))?.into_pages();
    match pages.try_next().await? {
        Some(page) => Ok(!page.into_model()?.blob_items.is_empty()),
        None => Ok(false),
    }
}

async fn stat(blob: &BlobClient, attempt: AttemptId, name: &ObjectName) -> Result<(u64, Option<Etag>), LandingError> {
    let properties = blob.get_properties(None).await.map_err(object_error("look at", attempt, name))?;
    let size = properties.content_length().map_err(failed("look at an object"))?.unwrap_or(0);
    Ok((size, properties.etag().map_err(failed("look at an object"))?))
}

fn ranged(range: Range<u64>, etag: Option<Etag>) -> BlobClientDownloadOptions<'static> {
    BlobClientDownloadOptions {
        range: Some(HttpRange::from(range)),
        if_match: etag,
        parallel: NonZero::new(PARALLEL_READS),
        partition_size: NonZero::new(BLOCK_BYTES),
        ..Default::default()
    }
}

fn error_code(error: &azure_core::Error) -> Option<&str> {
    match error.kind() {
        ErrorKind::HttpResponse { error_code, .. } => error_code.as_deref(),
        _ => None,
    }
}

fn is_gone(error: &azure_core::Error) -> bool {
    error.http_status() == Some(StatusCode::NotFound) || error_code(error) == Some("ContainerBeingDeleted")
}

fn failed(doing: &'static str) -> impl Fn(azure_core::Error) -> LandingError {
    move |error| {
        let denied =
            matches!(error.http_status(), Some(StatusCode::Unauthorized | StatusCode::Forbidden)) || *error.kind() == ErrorKind::Credential;
        let source = Box::new(error);
        if denied { LandingError::Denied { doing, source } } else { LandingError::Azure { doing, source } }
    }
}

fn object_error<'a>(doing: &'static str, attempt: AttemptId, name: &'a ObjectName) -> impl Fn(azure_core::Error) -> LandingError + use<'a> {
    move |error| match error.http_status() {
        Some(StatusCode::NotFound) => LandingError::ObjectNotFound { attempt, name: name.clone() },
        Some(StatusCode::PreconditionFailed) => LandingError::ObjectChanged { attempt, name: name.clone() },
        _ => failed(doing)(error),
    }
}
