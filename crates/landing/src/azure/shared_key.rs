//! Signing requests with an account's key. The official client speaks Entra tokens and grants only; accounts without
//! Entra, and Azurite, want this.

use std::sync::Arc;

use async_trait::async_trait;
use azure_core::http::headers::{AUTHORIZATION, HeaderName, Headers};
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{Context, Request};
use azure_core::time::{OffsetDateTime, to_rfc7231};

use crate::sas::SigningKey;

const MS_DATE: HeaderName = HeaderName::from_static("x-ms-date");
/// Headers whose values are signed without their names, in this order, after the verb; the length comes from the body.
const SIGNED_HEADERS: [&str; 11] = [
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
];

/// Adds `Authorization: SharedKey …` to each try of each request.
#[derive(Debug)]
pub(crate) struct SharedKeyPolicy {
    account: String,
    key: SigningKey,
}

impl SharedKeyPolicy {
    pub(crate) fn new(account: &str, key: SigningKey) -> Self {
        Self { account: account.to_owned(), key }
    }

    fn text(&self, request: &Request) -> String {
        let headers = request.headers();
        let mut lines = vec![request.method().as_str().to_owned()];
        for name in SIGNED_HEADERS {
            lines.push(match name {
                "content-length" => request.body().len().filter(|length| *length > 0).map(|length| length.to_string()).unwrap_or_default(),
                name => header(headers, name),
            });
        }
        let mut own: Vec<(String, &str)> = headers
            .iter()
            .map(|(name, value)| (name.as_str().to_ascii_lowercase(), value.as_str().trim()))
            .filter(|(name, _)| name.starts_with("x-ms-"))
            .collect();
        own.sort();
        lines.extend(own.into_iter().map(|(name, value)| format!("{name}:{value}")));
        // The path follows the account even where it starts with the account, as it does at Azurite.
        lines.push(format!("/{}{}", self.account, request.url().path()));
        let mut query: Vec<(String, String)> =
            request.url().query_pairs().map(|(name, value)| (name.to_ascii_lowercase(), value.into_owned())).collect();
        query.sort();
        lines.extend(query.into_iter().map(|(name, value)| format!("{name}:{value}")));
        lines.join("\n")
    }
}

#[async_trait]
impl Policy for SharedKeyPolicy {
    async fn send(&self, ctx: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        request.insert_header(MS_DATE, to_rfc7231(&OffsetDateTime::now_utc()));
        let signature = self.key.sign(&self.text(request));
        request.insert_header(AUTHORIZATION, format!("SharedKey {}:{signature}", self.account));
        let (first, rest) = next.split_first().expect("the transport is always the last policy");
        first.send(ctx, request, rest).await
    }
}

fn header(headers: &Headers, name: &'static str) -> String {
    headers.get_optional_str(&HeaderName::from_static(name)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use azure_core::http::{Method, Url};

    #[test]
    fn the_text_to_sign_has_its_lines_in_order() {
        let url = Url::parse("http://127.0.0.1:10000/acct/box/a%20b?comp=block&blockid=QQ%3D%3D").unwrap();
        let mut request = Request::new(url, Method::Put);
        request.insert_header("x-ms-version", "2022-11-02");
        request.insert_header("x-ms-date", "Sat, 21 Nov 2026 08:15:00 GMT");
        request.insert_header("content-type", "application/octet-stream");
        request.insert_header("content-length", "5");
        request.set_body("hello");
        let policy = SharedKeyPolicy::new("acct", SigningKey::new(b"key"));
        let expected = "PUT\n\n\n5\n\napplication/octet-stream\n\n\n\n\n\n\nx-ms-date:Sat, 21 Nov 2026 08:15:00 GMT\nx-ms-version:2022-11-02\n\
                        /acct/acct/box/a%20b\nblockid:QQ==\ncomp:block";
        assert_eq!(policy.text(&request), expected);
    }
}
