//! What a request asks for, taken from its path, query and headers. All of it is hostile.

use std::collections::HashMap;
use std::time::SystemTime;

use axum::http::{HeaderMap, Uri, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use percent_encoding::percent_decode_str;

use super::refusal::Refusal;
use crate::checksum::Expected;
use crate::directory::Object;
use crate::limits::MAX_BLOCK_ID_BYTES;
use crate::name::{ObjectName, invalid};

const MAX_QUERY_PARAMETERS: usize = 64;
const CONTAINER_CHARS: std::ops::RangeInclusive<usize> = 3..=63;
/// Headers that change what the bytes mean or where they come from: storing them as if nothing were said would be wrong.
const UNSUPPORTED_HEADERS: [&str; 7] = [
    "x-ms-copy-source",
    "x-ms-structured-body",
    "x-ms-encryption-key",
    "x-ms-lease-id",
    "x-ms-if-tags",
    "if-modified-since",
    "if-unmodified-since",
];

/// Container and object of a path.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) container: String,
    /// `None` when the path ends at the container.
    pub(crate) name: Option<ObjectName>,
}

impl Target {
    /// Decoded once, and refused whatever the result could be mistaken for.
    pub(crate) fn parse(uri: &Uri) -> Result<Self, Refusal> {
        let path = uri.path().strip_prefix('/').unwrap_or(uri.path());
        let (container, name) = match path.split_once('/') {
            Some((container, name)) => (container, Some(name)),
            None => (path, None),
        };
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !CONTAINER_CHARS.contains(&container.len()) || !container.chars().all(plain) {
            return Err(Refusal::Uri(invalid(container, "it is not a container").to_string()));
        }
        let name = match name.filter(|name| !name.is_empty()) {
            None => None,
            Some(encoded) => {
                let decoded = percent_decode_str(encoded).decode_utf8();
                let decoded = decoded.map_err(|_| Refusal::Uri(invalid(encoded, "it is not UTF-8").to_string()))?;
                Some(ObjectName::from_device(&decoded).map_err(|error| Refusal::Uri(error.to_string()))?)
            }
        };
        Ok(Self { container: container.to_owned(), name })
    }
}

/// The query, each parameter once.
pub(crate) fn parameters(uri: &Uri) -> Result<HashMap<String, String>, Refusal> {
    let mut parameters = HashMap::new();
    for (name, value) in url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        if parameters.len() >= MAX_QUERY_PARAMETERS {
            return Err(Refusal::Query("there are too many parameters"));
        }
        if parameters.insert(name.into_owned(), value.into_owned()).is_some() {
            return Err(Refusal::Query("a parameter is given twice"));
        }
    }
    Ok(parameters)
}

/// What to do with the body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    PutBlockBlob,
    PutAppendBlob,
    PutBlock { id: Vec<u8> },
    PutBlockList,
    AppendBlock,
}

impl Operation {
    pub(crate) fn parse(parameters: &HashMap<String, String>, headers: &HeaderMap) -> Result<Self, Refusal> {
        if let Some(name) = UNSUPPORTED_HEADERS.iter().find(|name| headers.contains_key(**name)) {
            return Err(Refusal::UnsupportedHeader(name));
        }
        match parameters.get("comp").map(String::as_str) {
            None if parameters.contains_key("restype") => Err(Refusal::Permission),
            None => match text(headers, "x-ms-blob-type")? {
                None => Err(Refusal::MissingHeader("x-ms-blob-type")),
                Some("BlockBlob") => Ok(Self::PutBlockBlob),
                Some("AppendBlob") => Ok(Self::PutAppendBlob),
                Some(_) => Err(Refusal::Header("x-ms-blob-type")),
            },
            Some("block") => {
                let id = parameters.get("blockid").ok_or(Refusal::MissingQuery("blockid"))?;
                Ok(Self::PutBlock { id: block_id(id)? })
            }
            Some("blocklist") => Ok(Self::PutBlockList),
            Some("appendblock") => Ok(Self::AppendBlock),
            Some(_) => Err(Refusal::UnsupportedOperation),
        }
    }

    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::PutBlockBlob | Self::PutAppendBlob => "put_blob",
            Self::PutBlock { .. } => "put_block",
            Self::PutBlockList => "put_block_list",
            Self::AppendBlock => "append_block",
        }
    }
}

pub(crate) fn block_id(text: &str) -> Result<Vec<u8>, Refusal> {
    match BASE64.decode(text) {
        Ok(id) if (1..=MAX_BLOCK_ID_BYTES).contains(&id.len()) => Ok(id),
        _ => Err(Refusal::BlockId),
    }
}

/// Conditions on the object that is there already.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    if_match: Option<String>,
    if_none_match: Option<String>,
}

impl Conditions {
    pub(crate) fn parse(headers: &HeaderMap) -> Result<Self, Refusal> {
        let owned = |name| Ok::<_, Refusal>(text(headers, name)?.map(str::to_owned));
        Ok(Self { if_match: owned("if-match")?, if_none_match: owned("if-none-match")? })
    }

    pub(crate) fn check(&self, existing: Option<&Object>) -> Result<(), Refusal> {
        let tag = existing.map(|object| etag(object.modified_at, object.size_bytes));
        match (self.if_none_match.as_deref(), &tag) {
            (Some("*"), Some(_)) => return Err(Refusal::Exists),
            (Some(unwanted), Some(tag)) if unwanted == tag => return Err(Refusal::Condition),
            _ => {}
        }
        match (self.if_match.as_deref(), &tag) {
            (None, _) | (Some("*"), Some(_)) => Ok(()),
            (Some(wanted), Some(tag)) if wanted == tag => Ok(()),
            _ => Err(Refusal::Condition),
        }
    }
}

/// Changes whenever the object does.
pub(crate) fn etag(modified_at: SystemTime, size_bytes: u64) -> String {
    let nanoseconds = modified_at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    format!("\"0x{nanoseconds:016X}{size_bytes:X}\"")
}

/// How long the body says it is.
pub(crate) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    match text(headers, header::CONTENT_LENGTH.as_str())? {
        None => Ok(None),
        Some(length) => length.parse().map(Some).map_err(|_| Refusal::Header("Content-Length")),
    }
}

pub(crate) fn expected(headers: &HeaderMap) -> Result<Expected, Refusal> {
    Expected::from_headers(text(headers, "content-md5")?, text(headers, "x-ms-content-crc64")?).map_err(Refusal::Header)
}

/// A number in a header.
pub(crate) fn number(headers: &HeaderMap, name: &'static str) -> Result<Option<u64>, Refusal> {
    match text(headers, name)? {
        None => Ok(None),
        Some(value) => value.parse().map(Some).map_err(|_| Refusal::Header(name)),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Refusal> {
    headers.get(name).map(|value| value.to_str().map_err(|_| Refusal::Header(name))).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> Result<Target, Refusal> {
        Target::parse(&path.parse().expect("a URI"))
    }

    #[test]
    fn an_encoded_name_is_decoded_once() {
        assert_eq!(target("/inbox-x/a%20b/c%2Fd").unwrap().name.unwrap().as_str(), "a b/c/d");
        assert!(target("/inbox-x").unwrap().name.is_none());
        assert!(target("/inbox-x/").unwrap().name.is_none());
    }

    #[test]
    fn every_spelling_of_an_escape_is_a_bad_uri() {
        for path in [
            "/inbox-x/../inbox-y/f",
            "/inbox-x/%2e%2e/f",
            "/inbox-x/%2E%2e%2Ff",
            "/inbox-x/a/..%2ff",
            "/inbox-x/%252e%252e/f",
            "/inbox-x/a%252fb",
            "/inbox-x//etc/passwd",
            "/inbox-x/%2Fetc%2Fpasswd",
            "/inbox-x/a%5c..%5cb",
            "/inbox-x/a%00",
            "/inbox-x/%ff",
            "/inbox-x/./f",
            "/inbox-x/manifest.json",
            "/inbox-x/f/",
            "/../inbox-x/f",
            "/%2e%2e/f",
            "/Inbox/f",
            "/",
        ] {
            assert!(matches!(target(path), Err(Refusal::Uri(_))), "{path}");
        }
    }

    #[test]
    fn a_parameter_counts_once() {
        assert!(parameters(&"/x?comp=block&comp=blocklist".parse().unwrap()).is_err());
        let many: String = (0..=MAX_QUERY_PARAMETERS).map(|i| format!("p{i}=&")).collect();
        assert!(parameters(&format!("/x?{many}").parse().unwrap()).is_err());
    }

    #[test]
    fn block_ids_are_base64_of_bounded_length() {
        assert!(block_id(&BASE64.encode([1; MAX_BLOCK_ID_BYTES])).is_ok());
        for bad in ["", "***", &BASE64.encode([1; MAX_BLOCK_ID_BYTES + 1]), "YQ"] {
            assert!(block_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn conditions_look_at_what_is_there() {
        let object = Object { size_bytes: 5, modified_at: SystemTime::now(), append_blocks: None };
        let tag = etag(object.modified_at, object.size_bytes);
        let conditions = |m: Option<&str>, n: Option<&str>| Conditions { if_match: m.map(Into::into), if_none_match: n.map(Into::into) };
        assert!(matches!(conditions(None, Some("*")).check(Some(&object)), Err(Refusal::Exists)));
        assert!(conditions(None, Some("*")).check(None).is_ok());
        assert!(matches!(conditions(None, Some(&tag)).check(Some(&object)), Err(Refusal::Condition)));
        assert!(conditions(Some(&tag), None).check(Some(&object)).is_ok());
        assert!(matches!(conditions(Some("\"0x1\""), None).check(Some(&object)), Err(Refusal::Condition)));
        assert!(matches!(conditions(Some("*"), None).check(None), Err(Refusal::Condition)));
    }
}
