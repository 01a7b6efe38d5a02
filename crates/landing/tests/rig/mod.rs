//! A landing zone of each kind with everything around it, and a device's view of it: plain HTTP with the grant's URL.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use muster_landing::{
    AzureCredential, AzureLanding, AzureOptions, DirectoryLanding, DirectoryOptions, Grant, Landing, Limits, ObjectName, endpoint,
};
use muster_wire::{AttemptId, CollectionId};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use secrecy::ExposeSecret as _;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;

pub(crate) const MIB: usize = 1024 * 1024;
pub(crate) const AZURITE_ACCOUNT: &str = "devstoreaccount1";
/// Azurite's published key.
pub(crate) const AZURITE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const AZURITE_START: Duration = Duration::from_secs(180);

pub(crate) struct Rig {
    pub(crate) landing: Landing,
    pub(crate) http: reqwest::Client,
    /// The directory, if it is one.
    pub(crate) root: Option<PathBuf>,
    _directory: Option<tempfile::TempDir>,
}

impl Rig {
    pub(crate) async fn directory(limits: Limits) -> Self {
        let directory = tempfile::tempdir().expect("a private directory");
        let root = directory.path().join("landing");
        let landing = serve_directory(&root, limits).await;
        Self { landing: Landing::Directory(landing), http: client(), root: Some(root), _directory: Some(directory) }
    }

    pub(crate) async fn azure(limits: Limits) -> Self {
        let base = azurite().await;
        let options = AzureOptions {
            endpoint: Some(format!("{base}/{AZURITE_ACCOUNT}").parse().expect("a URL")),
            account: Some(AZURITE_ACCOUNT.into()),
            credential: AzureCredential::SharedKey(AZURITE_KEY.into()),
            container_prefix: String::new(),
            limits,
        };
        let http = client();
        Self { landing: Landing::Azure(AzureLanding::open(options).expect("settings that work")), http, root: None, _directory: None }
    }

    /// The same directory in another process, as far as it can tell.
    pub(crate) async fn restarted(self, limits: Limits) -> Self {
        let landing = serve_directory(self.root.as_ref().expect("a directory"), limits).await;
        Self { landing: Landing::Directory(landing), ..self }
    }

    /// Another process on the same directory, while this one goes on.
    pub(crate) async fn beside(&self, limits: Limits) -> Landing {
        Landing::Directory(serve_directory(self.root.as_ref().expect("a directory"), limits).await)
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.root.is_some()
    }

    /// An attempt of its own and a grant for it that lives for an hour.
    pub(crate) async fn inbox(&self) -> (AttemptId, Grant) {
        let attempt = attempt();
        let grant = self.landing.open_inbox(attempt, in_an_hour()).await.expect("an inbox opens");
        (attempt, grant)
    }

    pub(crate) fn request(&self, method: Method, grant: &Grant, name: &str, query: &str) -> RequestBuilder {
        self.http.request(method, object_url(grant, name, query)).header("x-ms-version", "2022-11-02")
    }

    pub(crate) async fn put(&self, grant: &Grant, name: &str, bytes: impl Into<reqwest::Body>) -> Response {
        with_length(self.request(Method::PUT, grant, name, "").header("x-ms-blob-type", "BlockBlob"), bytes)
            .send()
            .await
            .expect("an answer")
    }

    pub(crate) async fn put_ok(&self, grant: &Grant, name: &str, bytes: impl Into<reqwest::Body>) {
        created(self.put(grant, name, bytes).await).await;
    }

    pub(crate) async fn put_block(&self, grant: &Grant, name: &str, id: &str, bytes: impl Into<reqwest::Body>) -> Response {
        let id: String = url::form_urlencoded::byte_serialize(BASE64.encode(id).as_bytes()).collect();
        with_length(self.request(Method::PUT, grant, name, &format!("comp=block&blockid={id}")), bytes).send().await.expect("an answer")
    }

    pub(crate) async fn put_block_list(&self, grant: &Grant, name: &str, elements: &[(&str, &str)]) -> Response {
        let elements: String = elements.iter().map(|(element, id)| format!("<{element}>{}</{element}>", BASE64.encode(id))).collect();
        let xml = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{elements}</BlockList>");
        self.request(Method::PUT, grant, name, "comp=blocklist").body(xml).send().await.expect("an answer")
    }

    pub(crate) async fn create_append(&self, grant: &Grant, name: &str) -> Response {
        let request = self.request(Method::PUT, grant, name, "").header("x-ms-blob-type", "AppendBlob").header("content-length", "0");
        request.send().await.expect("an answer")
    }

    pub(crate) async fn append(&self, grant: &Grant, name: &str, bytes: impl Into<reqwest::Body>, headers: &[(&str, &str)]) -> Response {
        let mut request = with_length(self.request(Method::PUT, grant, name, "comp=appendblock"), bytes);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.expect("an answer")
    }

    /// Names and sizes in the inbox.
    pub(crate) async fn listed(&self, attempt: AttemptId) -> Vec<(String, u64)> {
        let listing = self.landing.list_inbox(attempt).await.expect("an inbox lists");
        listing.objects.into_iter().map(|object| (object.name.to_string(), object.size_bytes)).collect()
    }

    pub(crate) async fn sealed_bytes(&self, attempt: AttemptId, name: &str) -> Vec<u8> {
        let mut download = self.landing.open_sealed(attempt, &self::name(name), None).await.expect("a sealed object opens");
        collect(&mut download).await
    }
}

/// The HTTP client leaves the length of an empty body out, no storage client does.
fn with_length(request: RequestBuilder, bytes: impl Into<reqwest::Body>) -> RequestBuilder {
    let body = bytes.into();
    let request = if body.as_bytes().is_some_and(<[u8]>::is_empty) { request.header("content-length", "0") } else { request };
    request.body(body)
}

pub(crate) async fn collect(download: &mut muster_landing::Download) -> Vec<u8> {
    use futures_util::TryStreamExt as _;
    let mut bytes = Vec::new();
    while let Some(piece) = download.body.try_next().await.expect("bytes") {
        bytes.extend_from_slice(&piece);
    }
    bytes
}

/// Serve a directory on a port of its own, as the controller would.
pub(crate) async fn serve_directory(root: &Path, limits: Limits) -> DirectoryLanding {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let public_url = format!("http://{}", listener.local_addr().expect("bound")).parse().expect("a URL");
    let signing_key = "0123456789abcdef0123456789abcdef".into();
    let options = DirectoryOptions { path: root.to_owned(), public_url, signing_key, fsync: false, limits };
    let landing = DirectoryLanding::open(options).await.expect("a directory opens");
    let router = axum::Router::new().nest("/landing", endpoint::router(&landing));
    tokio::spawn(async move { axum::serve(endpoint::SmallReads(listener), router).await });
    landing
}

pub(crate) fn client() -> reqwest::Client {
    // The program does this first thing; a second time it is refused, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(Duration::from_secs(120)).build().expect("a client")
}

pub(crate) fn attempt() -> AttemptId {
    static ORDINAL: AtomicU32 = AtomicU32::new(0);
    CollectionId::new().task(ORDINAL.fetch_add(1, Ordering::Relaxed)).attempt(1)
}

pub(crate) fn in_an_hour() -> OffsetDateTime {
    OffsetDateTime::now_utc() + Duration::from_secs(3600)
}

pub(crate) fn name(text: &str) -> ObjectName {
    text.parse().expect("a good name")
}

pub(crate) fn object_url(grant: &Grant, name: &str, query: &str) -> String {
    let (container, signature) = grant.url().expose_secret().split_once('?').expect("a grant has a query");
    let slash = if name.is_empty() { "" } else { "/" };
    let and = if query.is_empty() { "" } else { "&" };
    format!("{container}{slash}{name}?{query}{and}{signature}")
}

pub(crate) async fn created(response: Response) -> Response {
    if response.status() != StatusCode::CREATED {
        panic!("{}: {}", response.status(), response.text().await.unwrap_or_default());
    }
    response
}

/// Status and code of a refusal.
pub(crate) async fn refused(response: Response) -> (u16, String) {
    let status = response.status();
    assert!(!status.is_success(), "{status}");
    let code = response.headers().get("x-ms-error-code").map(|code| code.to_str().expect("ASCII").to_owned()).unwrap_or_default();
    let body = response.text().await.expect("a body");
    assert!(body.is_empty() || body.contains(&format!("<Code>{code}</Code>")), "{code}: {body}");
    (status.as_u16(), code)
}

/// Bytes that are not all alike, cheap to make and to make again.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Wait until something is so; panics with the description when it does not become so in time.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Exactly these bytes over a connection of their own; what comes back until the other side closes or `wait` is over.
pub(crate) async fn raw(grant: &Grant, request: &[u8], wait: Duration) -> String {
    let mut stream = connect(grant).await;
    stream.write_all(request).await.expect("sent");
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(wait, stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

pub(crate) async fn connect(grant: &Grant) -> TcpStream {
    let url: url::Url = grant.url().expose_secret().parse().expect("a URL");
    let address = (url.host_str().expect("a host").to_owned(), url.port_or_known_default().expect("a port"));
    TcpStream::connect(address).await.expect("a connection")
}

/// Path and query of an object's URL, as they stand in a request line.
pub(crate) fn request_target(grant: &Grant, name: &str, query: &str) -> String {
    let url = object_url(grant, name, query);
    let after_scheme = url.split_once("://").expect("a scheme").1;
    after_scheme[after_scheme.find('/').expect("a path")..].to_owned()
}

pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace")
}

/// The base URL of Azurite: the one that is named, if it answers, or one of our own that ends with this process.
pub(crate) async fn azurite() -> &'static str {
    static AZURITE: OnceCell<(String, Option<Child>)> = OnceCell::const_new();
    let start = async || {
        if let Ok(named) = std::env::var("MUSTER_TEST_AZURITE")
            && answers(&named)
        {
            return (named.trim_end_matches('/').to_owned(), None);
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        // The pipe to the script stays open as long as we live; its end tells the script to stop.
        let mut command = Command::new(workspace().join("scripts/azurite.sh"));
        let child = command.arg(port.to_string()).arg("--with-stdin").stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let mut child = child.expect("scripts/azurite.sh starts");
        let base = format!("http://127.0.0.1:{port}");
        let deadline = Instant::now() + AZURITE_START;
        while !answers(&base) {
            assert!(child.try_wait().expect("a child").is_none(), "scripts/azurite.sh ended");
            assert!(Instant::now() < deadline, "azurite does not answer");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        (base, Some(child))
    };
    &AZURITE.get_or_init(start).await.0
}

/// Whether an HTTP server is there.
fn answers(base: &str) -> bool {
    use std::io::{Read as _, Write as _};
    let Some(address) = base.strip_prefix("http://").map(|rest| rest.trim_end_matches('/')) else { return false };
    let Ok(mut stream) = std::net::TcpStream::connect(address) else { return false };
    let asked = stream.set_read_timeout(Some(Duration::from_secs(2))).and_then(|()| {
        stream.write_all(format!("GET /{AZURITE_ACCOUNT} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())
    });
    let mut start = [0; 5];
    asked.and_then(|()| stream.read_exact(&mut start)).is_ok() && &start == b"HTTP/"
}
