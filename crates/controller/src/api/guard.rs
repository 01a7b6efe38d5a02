//! Who may ask at all.
//!
//! * With tokens configured: every route needs one of them, except `/healthz` and `/readyz` (probes have none and learn nothing but up or
//!   down) and `/landing` (the grant in the URL is the credential there). `/metrics` needs one too: it names routes and counts work.
//! * Without tokens the server listens on loopback only and is open to everybody on the machine. A browser is on the machine as well, so
//!   requests that a web page elsewhere could have caused are refused: the `Host` must be this server's, and an `Origin`, when there is one.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode, header};
use sha2::{Digest, Sha256};

use super::problem::ApiError;
use crate::broker::same;
use crate::settings::{Settings, host_name, is_loopback_host};

/// Who makes things where no token is needed.
pub(crate) const LOCAL: &str = "local";

/// Who asks: stands in what they make.
#[derive(Debug, Clone)]
pub(crate) struct Caller(pub(crate) Arc<str>);

/// What requests are held against.
pub(crate) struct Guard {
    /// Digest of each token, and the name it acts under. Digests have one length, so that comparing tells nothing about it.
    tokens: Vec<([u8; 32], Arc<str>)>,
    public_host: Option<String>,
}

impl Guard {
    pub(crate) fn new(settings: &Settings) -> Self {
        let digest = |token: &str| <[u8; 32]>::from(Sha256::digest(token.as_bytes()));
        let tokens = settings.auth.tokens.iter().map(|token| (digest(token.token.expose()), Arc::from(token.name.as_str()))).collect();
        let public_host = settings
            .server
            .public_url
            .split("://")
            .nth(1)
            .and_then(|rest| rest.split('/').next())
            .map(|host| host_name(host).to_ascii_lowercase());
        Self { tokens, public_host }
    }

    /// The caller of a request, or why there is none.
    fn admit(&self, request: &Request) -> Result<Caller, ApiError> {
        if self.tokens.is_empty() {
            self.is_meant_for_us(request)?;
            return Ok(Caller(LOCAL.into()));
        }
        let given = bearer(request.headers()).ok_or_else(|| {
            ApiError::new(
                StatusCode::UNAUTHORIZED,
                "token_missing",
                "A token is needed",
                "this server answers only requests with a bearer token",
            )
            .next_step("send the header Authorization: Bearer TOKEN (muster: --token-file, or MUSTER_TOKEN)")
        })?;
        let digest = Sha256::digest(given.as_bytes());
        // All are compared, always: how long it takes does not tell which one was near.
        let mut found = None;
        for (expected, name) in &self.tokens {
            if same(&digest, expected) {
                found = Some(name.clone());
            }
        }
        found.map(Caller).ok_or_else(|| {
            ApiError::new(
                StatusCode::UNAUTHORIZED,
                "token_unknown",
                "The token is not known",
                "the bearer token is none of those configured here",
            )
            .next_step("ask the operator of this server for one (setting auth.tokens)")
        })
    }

    fn is_meant_for_us(&self, request: &Request) -> Result<(), ApiError> {
        let is_ours = |host: &str| {
            let name = host_name(host).to_ascii_lowercase();
            is_loopback_host(&name) || self.public_host.as_deref() == Some(name.as_str())
        };
        let host = request
            .headers()
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .or_else(|| request.uri().authority().map(|authority| authority.as_str()));
        if !host.is_some_and(is_ours) {
            return Err(ApiError::new(
                StatusCode::MISDIRECTED_REQUEST,
                "host_not_allowed",
                "Not for this server",
                "this server is open on loopback only, and the request names another host",
            )
            .next_step("call it as 127.0.0.1 or localhost, or set server.public_url"));
        }
        if let Some(origin) = request.headers().get(header::ORIGIN) {
            let from = origin.to_str().ok().and_then(|origin| origin.split("://").nth(1));
            if !from.is_some_and(is_ours) {
                return Err(ApiError::new(
                    StatusCode::FORBIDDEN,
                    "cross_origin",
                    "Not from another site",
                    "a page of another site may not use this server",
                ));
            }
        }
        Ok(())
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim()).filter(|token| !token.is_empty())
}

/// Routes that answer without a token.
pub(crate) fn is_open(method: &Method, path: &str) -> bool {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    let is_probe = matches!(path, "/healthz" | "/readyz");
    is_read && (is_probe || is_published(path)) || path == "/landing" || path.starts_with("/landing/")
}

/// The catalogue of indicators: what may be collected without being asked is for everybody to read.
fn is_published(path: &str) -> bool {
    let one = path.strip_prefix("/api/v1/indicators/");
    matches!(path, "/indicators" | "/api/v1/indicators") || one.is_some_and(|name| !name.is_empty() && !name.contains('/'))
}

/// The middleware.
pub(crate) async fn guard(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    if is_open(request.method(), request.uri().path()) {
        // Who says who they are is known here too; of a stranger nothing is asked.
        if is_published(request.uri().path())
            && let Ok(caller) = guard.admit(&request)
        {
            request.extensions_mut().insert(caller);
        }
        return next.run(request).await;
    }
    match guard.admit(&request) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn guard(flags: &[(&str, &str)]) -> Guard {
        let flags: Vec<_> = flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Guard::new(&Settings::load_from(None, [], &flags).expect("good settings"))
    }

    fn outcome(guard: &Guard, headers: &[(&str, &str)]) -> String {
        let mut request = Request::builder().uri("/api/v1/status");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        match guard.admit(&request.body(Body::empty()).expect("a request")) {
            Ok(caller) => caller.0.to_string(),
            Err(error) => error.problem().code.clone(),
        }
    }

    #[test]
    fn open_on_loopback_means_this_machine_and_no_web_page() {
        let open = guard(&[("server.public_url", "https://Muster.example.com/x")]);
        for host in ["127.0.0.1:7300", "localhost", "[::1]:7300", "muster.example.com", "127.8.8.8"] {
            assert_eq!(outcome(&open, &[("host", host)]), LOCAL, "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:7300", "", "169.254.169.254"] {
            assert_eq!(outcome(&open, &[("host", host)]), "host_not_allowed", "{host}");
        }
        assert_eq!(outcome(&open, &[]), "host_not_allowed");
        assert_eq!(outcome(&open, &[("host", "localhost"), ("origin", "http://localhost:7300")]), LOCAL);
        for origin in ["https://evil.example", "null", "http://localhost.evil.example"] {
            assert_eq!(outcome(&open, &[("host", "localhost"), ("origin", origin)]), "cross_origin", "{origin}");
        }
    }

    #[test]
    fn with_tokens_only_a_token_counts() {
        let closed = guard(&[("auth.tokens", "ops=0123456789abcdef,ci=fedcba9876543210")]);
        assert_eq!(outcome(&closed, &[("authorization", "Bearer 0123456789abcdef")]), "ops");
        assert_eq!(outcome(&closed, &[("authorization", "bearer  fedcba9876543210"), ("host", "anything")]), "ci");
        for header in ["Bearer 0123456789abcdeg", "Bearer 0123456789abcde", "Bearer 0123456789abcdef0"] {
            assert_eq!(outcome(&closed, &[("authorization", header)]), "token_unknown", "{header}");
        }
        for header in ["Basic 0123456789abcdef", "Bearer", "Bearer ", "0123456789abcdef"] {
            assert_eq!(outcome(&closed, &[("authorization", header)]), "token_missing", "{header}");
        }
        assert_eq!(outcome(&closed, &[("host", "localhost")]), "token_missing");
    }

    #[test]
    fn what_is_open_is_exactly_this() {
        for path in [
            "/healthz",
            "/readyz",
            "/landing",
            "/landing/inbox/x",
            "/indicators",
            "/api/v1/indicators",
            "/api/v1/indicators/AcsUnhealthyCondition",
        ] {
            assert!(is_open(&Method::GET, path), "{path}");
        }
        assert!(is_open(&Method::PUT, "/landing/x") && !is_open(&Method::POST, "/readyz"));
        for path in ["/indicators", "/api/v1/indicators", "/api/v1/indicators/x"] {
            assert!([Method::POST, Method::PUT, Method::DELETE].iter().all(|method| !is_open(method, path)), "{path}: only to be read");
        }
        for path in [
            "/",
            "/metrics",
            "/landingx",
            "/api/v1/status",
            "/api/openapi.json",
            "/healthz/",
            "//landing/",
            "/api/v1/../../landing/",
            "/indicators/",
            "/indicatorsx",
            "/api/v1/indicators/",
            "/api/v1/indicators/x/y",
        ] {
            assert!(!is_open(&Method::GET, path), "{path}");
        }
    }
}
