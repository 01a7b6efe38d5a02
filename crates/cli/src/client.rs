//! The HTTP client: asks, and turns whatever comes back into a value or a [`Failure`] that says what to do.

use std::time::Duration;

use bytes::BytesMut;
use futures_util::StreamExt as _;
use muster_wire::http::{MAX_PAGE, Page, Problem};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::Connection;
use crate::failure::{Failure, chain};

/// Time to open a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest silence of a controller that works on an answer: reading a large bundle again takes minutes.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(600);
/// Largest JSON answer taken into memory.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// Largest token file.
const MAX_TOKEN_BYTES: u64 = 16 * 1024;
/// Tries for a request that may be repeated safely.
const TRIES: u32 = 3;
/// Pause before the second try; doubled for the third.
const RETRY_PAUSE: Duration = Duration::from_millis(300);
/// The header that makes a create repeatable.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A connection to one controller.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
}

/// Query parameters.
pub(crate) type Query = Vec<(&'static str, String)>;

impl Client {
    /// Prepares a client; nothing is sent yet.
    pub(crate) fn new(connection: &Connection) -> Result<Self, Failure> {
        let base = parse_url(&connection.url)?;
        let mut headers = HeaderMap::new();
        if let Some(token) = token(connection)? {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| Failure::usage("--token", "a token is one line of visible ASCII characters"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("muster/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none());
        if is_loopback(&base) {
            // A proxy of the environment would look for this address on its own machine.
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| Failure::local_error("prepare the HTTP client", &error))?;
        Ok(Self { http, base })
    }

    /// The address of the controller.
    pub(crate) fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Gets a JSON value.
    pub(crate) async fn get<T: DeserializeOwned>(&self, intent: &str, path: &[&str], query: &[(&str, String)]) -> Result<T, Failure> {
        let url = self.endpoint(path, query);
        let mut tries = 1;
        loop {
            let sent = self.http.request(Method::GET, url.clone()).header(ACCEPT, "application/json").send().await;
            match sent {
                // Nothing was changed, so a connection that broke under way is tried again; one that was refused is not.
                Err(error) if tries < TRIES && !error.is_connect() && !error.is_timeout() => pause(&mut tries).await,
                other => return self.json(intent, self.checked(intent, other).await?).await,
            }
        }
    }

    /// Posts a body and gets a JSON value. With a key the controller answers a repeat with what it did the first time, so it is tried again.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        intent: &str,
        path: &[&str],
        body: &impl Serialize,
        key: Option<&str>,
    ) -> Result<T, Failure> {
        let url = self.endpoint(path, &[]);
        let mut tries = 1;
        loop {
            let mut request = self.http.request(Method::POST, url.clone()).header(ACCEPT, "application/json").json(body);
            if let Some(key) = key {
                let value = HeaderValue::from_str(key)
                    .map_err(|_| Failure::usage("--idempotency-key", "a key is one line of visible ASCII characters"))?;
                request = request.header(IDEMPOTENCY_KEY, value);
            }
            match request.send().await {
                Err(error) if key.is_some() && tries < TRIES && !error.is_connect() && !error.is_timeout() => pause(&mut tries).await,
                other => return self.json(intent, self.checked(intent, other).await?).await,
            }
        }
    }

    /// Deletes a thing.
    pub(crate) async fn delete(&self, intent: &str, path: &[&str]) -> Result<(), Failure> {
        let sent = self.http.request(Method::DELETE, self.endpoint(path, &[])).send().await;
        self.checked(intent, sent).await.map(|_| ())
    }

    /// Changes or deletes what is there, and gets a JSON value. The same change twice is the same as once, and still it is not repeated
    /// unasked: who else changed it in between would be undone.
    pub(crate) async fn change<T: DeserializeOwned>(
        &self,
        intent: &str,
        method: Method,
        path: &[&str],
        body: Option<&impl Serialize>,
    ) -> Result<T, Failure> {
        let mut request = self.http.request(method, self.endpoint(path, &[])).header(ACCEPT, "application/json");
        if let Some(body) = body {
            request = request.json(body);
        }
        let sent = request.send().await;
        self.json(intent, self.checked(intent, sent).await?).await
    }

    /// Posts a stream of bytes and gets a JSON value.
    pub(crate) async fn upload<T: DeserializeOwned>(
        &self,
        intent: &str,
        path: &[&str],
        query: &[(&str, String)],
        content_type: &'static str,
        body: reqwest::Body,
    ) -> Result<T, Failure> {
        let request = self.http.request(Method::POST, self.endpoint(path, query)).header(ACCEPT, "application/json");
        let sent = request.header(CONTENT_TYPE, content_type).body(body).send().await;
        self.json(intent, self.checked(intent, sent).await?).await
    }

    /// Opens a stream of bytes.
    pub(crate) async fn open(
        &self,
        intent: &str,
        path: &[&str],
        query: &[(&str, String)],
        headers: HeaderMap,
    ) -> Result<Response, Failure> {
        let sent = self.http.request(Method::GET, self.endpoint(path, query)).headers(headers).send().await;
        self.checked(intent, sent).await
    }

    /// Gets pages until there are no more, `limit` is reached, or `each` has had enough; `Ok(true)` when more was left behind.
    pub(crate) async fn pages<T, F>(
        &self,
        intent: &str,
        path: &[&str],
        query: &Query,
        limit: Option<u64>,
        mut each: F,
    ) -> Result<bool, Failure>
    where
        T: DeserializeOwned,
        F: FnMut(Vec<T>) -> Result<(), Failure>,
    {
        let mut left = limit.unwrap_or(u64::MAX);
        let mut after: Option<String> = None;
        loop {
            let mut query = query.clone();
            query.push(("limit", left.min(u64::from(MAX_PAGE)).to_string()));
            query.extend(after.take().map(|cursor| ("after", cursor)));
            let mut page: Page<T> = self.get(intent, path, &query).await?;
            page.items.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            let got = page.items.len();
            left -= got as u64;
            each(page.items)?;
            match page.next {
                None => return Ok(false),
                Some(_) if left == 0 => return Ok(true),
                // A page without items but with a cursor would go on for ever.
                Some(_) if got == 0 => return Err(self.strange(intent, "an empty page that says there is more")),
                Some(next) => after = Some(next),
            }
        }
    }

    fn endpoint(&self, path: &[&str], query: &[(&str, String)]) -> Url {
        let mut url = self.base.clone();
        url.path_segments_mut().expect("http addresses have a path").pop_if_empty().extend(["api", "v1"]).extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// A good answer, or the failure it stands for.
    async fn checked(&self, intent: &str, sent: Result<Response, reqwest::Error>) -> Result<Response, Failure> {
        let response = sent.map_err(|error| self.transport(intent, error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.body(intent, response).await?;
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(Failure::Refused { intent: intent.to_owned(), problem: Box::new(problem) }),
            Err(_) => Err(self.strange(intent, &format!("HTTP {status} without a problem document"))),
        }
    }

    async fn json<T: DeserializeOwned>(&self, intent: &str, response: Response) -> Result<T, Failure> {
        let body = self.body(intent, response).await?;
        serde_json::from_slice(&body).map_err(|error| self.strange(intent, &format!("an answer of another shape ({error})")))
    }

    /// A whole body, up to 64 MiB.
    pub(crate) async fn body(&self, intent: &str, response: Response) -> Result<BytesMut, Failure> {
        let mut stream = response.bytes_stream();
        let mut body = BytesMut::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| self.transport(intent, error))?;
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(self.strange(intent, "an answer larger than 64 MiB"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// The failure for an answer that makes no sense.
    pub(crate) fn strange(&self, intent: &str, what: &str) -> Failure {
        Failure::Strange { intent: intent.to_owned(), why: format!("{} answered with {what}", self.url()) }
    }

    /// The failure for a connection that could not be made or broke.
    pub(crate) fn transport(&self, intent: &str, error: reqwest::Error) -> Failure {
        // The address may carry more than the host; the failure names it once, from our own settings.
        let error = error.without_url();
        if error.is_connect() {
            Failure::Unreachable { url: self.url().to_owned(), why: chain(&error) }
        } else if error.is_timeout() {
            Failure::local(intent, format!("{} did not answer in time", self.url())).with_next("muster doctor, on the controller's machine")
        } else {
            Failure::local(intent, format!("the connection to {} broke: {}", self.url(), chain(&error))).with_next("try again")
        }
    }
}

async fn pause(tries: &mut u32) {
    tokio::time::sleep(RETRY_PAUSE * 2u32.pow(*tries - 1)).await;
    *tries += 1;
}

fn parse_url(text: &str) -> Result<Url, Failure> {
    let wrong = |why: &str| Failure::usage(format!("--url {text:?}"), why).with_next("an address looks like http://127.0.0.1:7300");
    let url = Url::parse(text.trim()).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong("it has to start with http:// or https:// and name a host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("a token goes into --token-file or MUSTER_TOKEN, not into the address"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("it has to end with the host, the port, or a path prefix"));
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => {
            host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        None => false,
    }
}

fn token(connection: &Connection) -> Result<Option<String>, Failure> {
    let Some(path) = &connection.token_file else {
        return Ok(connection.token.clone().map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()));
    };
    let intent = format!("read the token file {}", path.display());
    let size = std::fs::metadata(path).map_err(|error| Failure::local_error(intent.as_str(), &error))?.len();
    if size > MAX_TOKEN_BYTES {
        return Err(Failure::local(intent, format!("it has {size} bytes; a token is one short line")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| Failure::local_error(intent.as_str(), &error))?;
    let token = text.trim();
    if token.is_empty() { Err(Failure::local(intent, "it is empty")) } else { Ok(Some(token.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(url: &str) -> Connection {
        Connection { url: url.to_owned(), token: None, token_file: None }
    }

    fn client(url: &str) -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::new(&connection(url)).expect("a good address")
    }

    #[test]
    fn paths_are_encoded_and_keep_a_prefix() {
        let endpoint = |url: &str, path: &[&str]| client(url).endpoint(path, &[]).to_string();
        assert_eq!(endpoint("http://h:1", &["devices", "a:b"]), "http://h:1/api/v1/devices/a:b");
        assert_eq!(endpoint("http://h:1/muster/", &["bundles"]), "http://h:1/muster/api/v1/bundles");
        assert_eq!(endpoint("http://h:1", &["objects", "a b?c#d%"]), "http://h:1/api/v1/objects/a%20b%3Fc%23d%25");
        let with_query = client("http://h:1").endpoint(&["bundles"], &[("path", "x!a&b".to_owned())]);
        assert_eq!(with_query.as_str(), "http://h:1/api/v1/bundles?path=x%21a%26b");
    }

    #[test]
    fn addresses_that_cannot_work_are_usage_errors() {
        for url in ["", "127.0.0.1:7300", "ftp://h", "http://", "http://u:p@h", "http://h/?x=1", "http://h/#x"] {
            let failure = Client::new(&connection(url)).expect_err(url);
            assert!(matches!(failure, Failure::Usage { .. }), "{url}: {failure}");
        }
    }

    #[test]
    fn loopback_is_recognised() {
        for (url, loopback) in
            [("http://127.0.0.1:1", true), ("http://[::1]:1", true), ("http://localhost", true), ("http://10.0.0.1", false)]
        {
            assert_eq!(is_loopback(&parse_url(url).expect(url)), loopback, "{url}");
        }
    }

    #[test]
    fn a_token_file_wins_and_must_hold_a_token() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("token");
        let with =
            |path: &std::path::Path| Connection { token: Some("flag".into()), token_file: Some(path.into()), ..connection("http://h") };
        std::fs::write(&path, " secret\n").expect("written");
        assert_eq!(token(&with(&path)).expect("a token").as_deref(), Some("secret"));
        std::fs::write(&path, "\n").expect("written");
        assert!(token(&with(&path)).is_err());
        std::fs::write(&path, "x".repeat(MAX_TOKEN_BYTES as usize + 1)).expect("written");
        assert!(token(&with(&path)).is_err());
        assert!(token(&with(&dir.path().join("absent"))).is_err());
    }

    #[tokio::test]
    async fn nobody_at_the_address_is_unreachable() {
        // Bound and dropped: the port was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let client = client(&format!("http://127.0.0.1:{port}"));
        let failure = client.get::<serde_json::Value>("list the devices", &["devices"], &[]).await.expect_err("nobody there");
        assert!(matches!(&failure, Failure::Unreachable { url, .. } if url.ends_with(&port.to_string())), "{failure:?}");
    }
}
