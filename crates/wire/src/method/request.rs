//! What a caller sends. Two directions: [`to_json`](GetModuleLogsRequest::to_json) writes every member whose default would
//! surprise, and `parse` reads what any caller of a real device may have written.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::MethodError;
use super::lenient::{self, Node};
use super::pattern::LinePattern;

/// Largest request that is read, in bytes.
pub const MAX_REQUEST_BYTES: usize = 128 * 1024;
/// Most items in one request; each costs a compiled pattern.
pub const MAX_ITEMS: usize = 100;
/// The schema version we send, and the one whose first number must agree.
pub const SCHEMA_VERSION: &str = "1.0";

/// A container grant. Prints as `***`: it is a permission, and logs are read by many.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SasUrl(String);

impl SasUrl {
    /// Wraps a grant. Any text passes, as on the device; what is no URL fails when it is used.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The grant itself. Never log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SasUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How the logs are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// As they are.
    #[default]
    None,
    /// Gzip.
    Gzip,
}

/// What the logs look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ContentType {
    /// An array of objects, one per line. The real default, whatever the public documentation says.
    #[default]
    Json,
    /// The lines.
    Text,
}

impl Encoding {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
        }
    }
}

impl ContentType {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
        }
    }
}

/// Which lines of a module. All members are optional; what they mean together is in [`super::filter`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogFilter {
    /// The last so many lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<i32>,
    /// Not older than this; the grammar is in [`super::since`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Not newer than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Lines of exactly this level; not "at least as severe".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loglevel: Option<i32>,
    /// Lines whose text matches this .NET pattern.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
}

/// Which modules, and which of their lines.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogItem {
    /// A .NET pattern over module names, without regard to case, or the word `all`.
    pub id: String,
    /// Which lines.
    #[serde(default)]
    pub filter: LogFilter,
}

/// Logs in the answer itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetModuleLogsRequest {
    /// For each module the first item that matches supplies the filter.
    pub items: Vec<LogItem>,
    /// How the logs are packed.
    pub encoding: Encoding,
    /// What the logs look like.
    pub content_type: ContentType,
}

/// Logs to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadModuleLogsRequest {
    /// Where to.
    pub sas_url: SasUrl,
    /// For each module the first item that matches supplies the filter.
    pub items: Vec<LogItem>,
    /// How the logs are packed.
    pub encoding: Encoding,
    /// What the logs look like.
    pub content_type: ContentType,
}

/// A support bundle to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadSupportBundleRequest {
    /// Where to.
    pub sas_url: SasUrl,
    /// Lower bound of all logs; `None` is from the beginning, not the one day of the command line.
    pub since: Option<String>,
    /// Upper bound. Real devices put the value of `since` in its place: a controller leaves it out and cuts in the cloud.
    pub until: Option<String>,
    /// Only the runtime's own modules.
    pub edge_runtime_only: bool,
}

/// What became of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetTaskStatusRequest {
    /// The id the device gave; compared exactly.
    pub correlation_id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LogsOut<'a> {
    schema_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sas_url: Option<&'a SasUrl>,
    items: Vec<ItemOut<'a>>,
    encoding: Encoding,
    content_type: ContentType,
}

#[derive(Serialize)]
struct ItemOut<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<&'a LogFilter>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BundleOut<'a> {
    schema_version: &'static str,
    sas_url: &'a SasUrl,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<&'a str>,
    edge_runtime_only: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusOut<'a> {
    schema_version: &'static str,
    correlation_id: &'a str,
}

fn write(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings and numbers are always JSON")
}

fn items_out(items: &[LogItem]) -> Vec<ItemOut<'_>> {
    items.iter().map(|item| ItemOut { id: &item.id, filter: (item.filter != LogFilter::default()).then_some(&item.filter) }).collect()
}

impl GetModuleLogsRequest {
    /// The payload to send.
    pub fn to_json(&self) -> Vec<u8> {
        write(&LogsOut {
            schema_version: SCHEMA_VERSION,
            sas_url: None,
            items: items_out(&self.items),
            encoding: self.encoding,
            content_type: self.content_type,
        })
    }

    /// Reads a payload as edgeAgent does.
    pub fn parse(payload: &[u8]) -> Result<Self, MethodError> {
        let (node, version) = head(payload)?;
        let (items, encoding) = (items(&node)?, encoding(&node)?);
        // A number outside the list is answered as text by the real device.
        let content_type = match content_type_number(&node)? {
            None | Some(0) => ContentType::Json,
            Some(_) => ContentType::Text,
        };
        check_version(&version)?;
        Ok(Self { items: no_null_items(items)?, encoding, content_type })
    }
}

impl UploadModuleLogsRequest {
    /// The payload to send.
    pub fn to_json(&self) -> Vec<u8> {
        write(&LogsOut {
            schema_version: SCHEMA_VERSION,
            sas_url: Some(&self.sas_url),
            items: items_out(&self.items),
            encoding: self.encoding,
            content_type: self.content_type,
        })
    }

    /// Reads a payload as edgeAgent does; the time window is looked at only inside the task.
    pub fn parse(payload: &[u8]) -> Result<Self, MethodError> {
        let (node, version) = head(payload)?;
        let (items, encoding, sas_url) = (items(&node)?, encoding(&node)?, sas_url(&node)?);
        let content_type = match content_type_number(&node)? {
            None | Some(0) => ContentType::Json,
            Some(1) => ContentType::Text,
            // The real device uploads nothing and says Completed; nobody can want that.
            Some(_) => return Err(MethodError::bad_request("contentType must be json or text")),
        };
        check_version(&version)?;
        Ok(Self { sas_url, items: no_null_items(items)?, encoding, content_type })
    }
}

impl UploadSupportBundleRequest {
    /// The payload to send.
    pub fn to_json(&self) -> Vec<u8> {
        write(&BundleOut {
            schema_version: SCHEMA_VERSION,
            sas_url: &self.sas_url,
            since: self.since.as_deref(),
            until: self.until.as_deref(),
            edge_runtime_only: self.edge_runtime_only,
        })
    }

    /// Reads a payload as edgeAgent does: the schema version must be there, and is not looked at.
    pub fn parse(payload: &[u8]) -> Result<Self, MethodError> {
        let (node, _) = head(payload)?;
        Ok(Self {
            sas_url: sas_url(&node)?,
            since: node.member("since").converted_text("since")?,
            until: node.member("until").converted_text("until")?,
            edge_runtime_only: node.member("edgeRuntimeOnly").boolean("edgeRuntimeOnly")?.unwrap_or_default(),
        })
    }
}

impl GetTaskStatusRequest {
    /// The payload to send.
    pub fn to_json(&self) -> Vec<u8> {
        write(&StatusOut { schema_version: SCHEMA_VERSION, correlation_id: &self.correlation_id })
    }

    /// Reads a payload as edgeAgent does; the id may have any form.
    pub fn parse(payload: &[u8]) -> Result<Self, MethodError> {
        let (node, version) = head(payload)?;
        let correlation_id = not_blank(node.member("correlationId").text("correlationId")?, "correlationId")?;
        check_version(&version)?;
        Ok(Self { correlation_id })
    }
}

/// The request object and its schema version, which every method wants to be there.
fn head(payload: &[u8]) -> Result<(Node, String), MethodError> {
    if payload.len() > MAX_REQUEST_BYTES {
        return Err(MethodError::bad_request(format!("the payload has {} bytes; at most {MAX_REQUEST_BYTES} are read", payload.len())));
    }
    if payload.trim_ascii().is_empty() {
        return Err(MethodError::bad_request("the payload is empty; a JSON object is expected"));
    }
    let node = lenient::read(payload)?;
    if !matches!(node, Node::Object(_)) {
        return Err(MethodError::bad_request("the payload is not a JSON object"));
    }
    let version = not_blank(node.member("schemaVersion").text("schemaVersion")?, "schemaVersion")?;
    Ok((node, version))
}

fn not_blank(text: Option<String>, name: &str) -> Result<String, MethodError> {
    text.filter(|text| !text.trim().is_empty()).ok_or_else(|| MethodError::bad_request(format!("{name} is missing or blank")))
}

/// 500 unless the text is a version whose first number is ours; a different second number passes.
fn check_version(version: &str) -> Result<(), MethodError> {
    let parts: Vec<_> = version.split('.').map(version_number).collect();
    match parts.as_slice() {
        [Some(1), rest @ ..] if (1..=3).contains(&rest.len()) && rest.iter().all(Option::is_some) => Ok(()),
        _ => Err(MethodError::failed(format!(
            "schemaVersion {:?} is not supported; this device speaks {SCHEMA_VERSION}",
            version.chars().take(32).collect::<String>()
        ))),
    }
}

fn version_number(text: &str) -> Option<i32> {
    text.trim_matches(lenient::is_number_blank).parse::<i32>().ok().filter(|&number| number >= 0)
}

fn sas_url(node: &Node) -> Result<SasUrl, MethodError> {
    node.member("sasUrl").text("sasUrl")?.map(SasUrl).ok_or_else(|| MethodError::bad_request("sasUrl is missing"))
}

fn encoding(node: &Node) -> Result<Encoding, MethodError> {
    // A number outside the list packs nothing, on the real device too.
    Ok(match node.member("encoding").word("encoding", &["none", "gzip"])? {
        Some(1) => Encoding::Gzip,
        _ => Encoding::None,
    })
}

fn content_type_number(node: &Node) -> Result<Option<i64>, MethodError> {
    node.member("contentType").word("contentType", &["json", "text"])
}

/// Items as they stand there; a null among them is an error of a later stage.
fn items(node: &Node) -> Result<Vec<Option<LogItem>>, MethodError> {
    let Some(value) = node.find("items") else {
        return Err(MethodError::bad_request("items is missing"));
    };
    match value {
        Node::Array(items) if items.len() > MAX_ITEMS => {
            Err(MethodError::bad_request(format!("items has {} elements; at most {MAX_ITEMS} are read", items.len())))
        }
        Node::Array(items) => items.iter().map(item).collect(),
        single => Ok(vec![item(single)?]),
    }
}

fn item(node: &Node) -> Result<Option<LogItem>, MethodError> {
    if node.is_nothing() {
        return Ok(None);
    }
    if !matches!(node, Node::Object(_)) {
        return Err(MethodError::bad_request("an element of items must be an object with an id"));
    }
    let id = not_blank(node.member("id").converted_text("id")?, "id")?;
    Ok(Some(LogItem { id, filter: filter(node.member("filter"))? }))
}

fn filter(node: &Node) -> Result<LogFilter, MethodError> {
    if node.is_nothing() {
        return Ok(LogFilter::default());
    }
    if !matches!(node, Node::Object(_)) {
        return Err(MethodError::bad_request("filter must be an object"));
    }
    let filter = LogFilter {
        tail: node.member("tail").integer("tail")?,
        since: node.member("since").converted_text("since")?,
        until: node.member("until").converted_text("until")?,
        loglevel: node.member("loglevel").integer("loglevel")?,
        regex: node.member("regex").converted_text("regex")?,
    };
    if let Some(pattern) = &filter.regex {
        LinePattern::new(pattern).map_err(|error| MethodError::bad_request(format!("regex: {error}")))?;
    }
    Ok(filter)
}

fn no_null_items(items: Vec<Option<LogItem>>) -> Result<Vec<LogItem>, MethodError> {
    items.into_iter().collect::<Option<_>>().ok_or_else(|| MethodError::failed("an element of items is null"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full() -> UploadModuleLogsRequest {
        UploadModuleLogsRequest {
            sas_url: SasUrl::new("https://x.blob.core.windows.net/c?sig=secret"),
            items: vec![
                LogItem {
                    id: "edge".into(),
                    filter: LogFilter {
                        tail: Some(10),
                        since: Some("2019-09-27T16:00:00Z".into()),
                        until: Some("2019-09-27T17:00:00Z".into()),
                        loglevel: Some(3),
                        regex: Some("x".into()),
                    },
                },
                LogItem { id: "all".into(), filter: LogFilter::default() },
            ],
            encoding: Encoding::Gzip,
            content_type: ContentType::Text,
        }
    }

    #[test]
    fn what_we_send_is_exact_and_comes_back() {
        let request = full();
        assert_eq!(
            String::from_utf8(request.to_json()).expect("text"),
            r#"{"schemaVersion":"1.0","sasUrl":"https://x.blob.core.windows.net/c?sig=secret","items":[{"id":"edge","filter":{"tail":10,"since":"2019-09-27T16:00:00Z","until":"2019-09-27T17:00:00Z","loglevel":3,"regex":"x"}},{"id":"all"}],"encoding":"gzip","contentType":"text"}"#
        );
        assert_eq!(UploadModuleLogsRequest::parse(&request.to_json()), Ok(request.clone()));
        let get = GetModuleLogsRequest { items: request.items, encoding: Encoding::None, content_type: ContentType::Json };
        assert_eq!(GetModuleLogsRequest::parse(&get.to_json()), Ok(get.clone()));
        assert!(String::from_utf8(get.to_json()).expect("text").ends_with(r#""encoding":"none","contentType":"json"}"#));
        let bundle =
            UploadSupportBundleRequest { sas_url: SasUrl::new("u"), since: Some("2h".into()), until: None, edge_runtime_only: false };
        assert_eq!(bundle.to_json(), br#"{"schemaVersion":"1.0","sasUrl":"u","since":"2h","edgeRuntimeOnly":false}"#);
        assert_eq!(UploadSupportBundleRequest::parse(&bundle.to_json()), Ok(bundle));
        let status = GetTaskStatusRequest { correlation_id: "0E".into() };
        assert_eq!(GetTaskStatusRequest::parse(&status.to_json()), Ok(status));
    }

    #[test]
    fn a_grant_does_not_print() {
        assert!(!format!("{:?}", full()).contains("secret"));
    }

    #[test]
    fn versions() {
        for good in ["1.0", "1.5", "1.0.0", "1.0.0.0", " 1.0 ", "+1.0", "01.0"] {
            assert_eq!(check_version(good), Ok(()), "{good:?}");
        }
        for bad in ["1", "2.0", "0.9", "v1.0", "abc", "1.0.0.0.0", "1.", ".1", "1.x", "1.-1", "-1.0", "1..0", "99999999999.0"] {
            assert_eq!(check_version(bad).expect_err(bad).status(), 500);
        }
    }

    #[test]
    fn all_400_reasons_come_before_a_500() {
        let status = |payload: &str| GetModuleLogsRequest::parse(payload.as_bytes()).expect_err(payload).status();
        assert_eq!(status(r#"{"schemaVersion":"2.0"}"#), 400);
        assert_eq!(status(r#"{"schemaVersion":"2.0","items":[{"id":""}]}"#), 400);
        assert_eq!(status(r#"{"schemaVersion":"2.0","items":null}"#), 500);
        assert_eq!(status(r#"{"schemaVersion":"1.0","items":[{"id":"a"},null]}"#), 500);
        assert_eq!(status(r#"{"schemaVersion":"1.0","items":[5]}"#), 400);
        assert_eq!(status(r#"{"schemaVersion":"1.0","items":[{"id":"a","filter":[]}]}"#), 400);
    }

    #[test]
    fn the_last_repeat_wins() {
        let request =
            UploadModuleLogsRequest::parse(br#"{"schemaVersion":"9.0","sasUrl":"a","sasURL":"b","items":[],"SCHEMAVERSION":"1.0"}"#)
                .expect("valid");
        assert_eq!(request.sas_url.expose(), "b");
    }

    #[test]
    fn size_and_number_of_items_are_limited() {
        let sized = |bytes: usize| {
            let mut payload = br#"{"schemaVersion":"1.0","items":[]}"#.to_vec();
            payload.resize(bytes, b' ');
            GetModuleLogsRequest::parse(&payload)
        };
        assert!(sized(MAX_REQUEST_BYTES).is_ok());
        assert_eq!(sized(MAX_REQUEST_BYTES + 1).expect_err("too large").status(), 400);
        let counted = |items: usize| {
            let payload = format!(r#"{{"schemaVersion":"1.0","items":[{}]}}"#, vec![r#"{"id":"a"}"#; items].join(","));
            GetModuleLogsRequest::parse(payload.as_bytes())
        };
        assert!(counted(MAX_ITEMS).is_ok());
        assert_eq!(counted(MAX_ITEMS + 1).expect_err("too many").status(), 400);
    }

    #[test]
    fn numbers_outside_the_word_list() {
        let get = |member: &str| GetModuleLogsRequest::parse(format!(r#"{{"schemaVersion":"1.0","items":[],{member}}}"#).as_bytes());
        assert_eq!(get(r#""encoding":5"#).expect("accepted").encoding, Encoding::None);
        assert_eq!(get(r#""contentType":5"#).expect("accepted").content_type, ContentType::Text);
        assert_eq!(get(r#""contentType":1.5"#).expect_err("refused").status(), 400);
        let upload = UploadModuleLogsRequest::parse(br#"{"schemaVersion":"1.0","items":[],"sasUrl":"u","contentType":5}"#);
        assert_eq!(upload.expect_err("would upload nothing").status(), 400);
    }

    proptest! {
        #[test]
        fn never_panics(payload in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = GetModuleLogsRequest::parse(&payload);
            let _ = UploadModuleLogsRequest::parse(&payload);
            let _ = UploadSupportBundleRequest::parse(&payload);
            let _ = GetTaskStatusRequest::parse(&payload);
        }

        #[test]
        fn never_panics_on_almost_requests(
            version in "(\"[ 0-9.v+-]{0,6}\"|null|1|1.5|true)", id in "(\"\\PC{0,12}\"|null|[0-9]{1,3}|\\{\\})",
            member in "(tail|since|until|loglevel|regex|Filter)", value in "(\"[a-z0-9(*\\[]{0,5}\"|-?[0-9]{1,12}(\\.[0-9])?|null|true|\\[\\]|\\{\\})",
        ) {
            let payload = format!(r#"{{"schemaVersion":{version},"items":[{{"id":{id},"filter":{{"{member}":{value}}}}}],"sasUrl":"u","correlationId":{value}}}"#);
            let _ = GetModuleLogsRequest::parse(payload.as_bytes());
            let _ = UploadModuleLogsRequest::parse(payload.as_bytes());
            let _ = UploadSupportBundleRequest::parse(payload.as_bytes());
            let _ = GetTaskStatusRequest::parse(payload.as_bytes());
        }
    }
}
