//! Our own storage endpoint: the part of the Azure Blob protocol that devices use to upload.
//!
//! A device gets a URL and does not care whose it is. So with a directory as landing zone the controller mounts this
//! router under `/landing` and takes Put Blob, Put Block, Put Block List and Append Block, with the signature in the query
//! as Azure has it and with Azure's answers, so that any Azure client library works unchanged.
//!
//! What differs, on purpose: a grant permits nothing but those four; there are no leases, snapshots, tags, encryption
//! keys or copies from URLs, and the headers that ask for them are refused; metadata and content properties are accepted
//! and not kept; the headers of a block list's blob say nothing about its bytes. `Content-MD5` and `x-ms-content-crc64`
//! are checked where they are sent.
//!
//! The query holds the grant: whoever logs requests must leave it out.

mod block_list;
mod blocks;
mod objects;
mod receive;
mod refusal;
mod request;
mod small_reads;

use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use uuid::Uuid;

use crate::directory::{DirectoryLanding, Inbox, Shared, resource};
use crate::grant::attempt_of;
use crate::limits::MAX_BLOCK_LIST_BYTES;
use crate::name::ObjectName;
use crate::sas;
use block_list::BlockList;
use blocks::append::Position;
use objects::{Kind, Written};
use receive::Plan;
use refusal::Refusal;
use request::{Conditions, Operation, Target};
pub use small_reads::{MAX_READ_BYTES, SmallReads, SmallReadsIo};

/// How much of a refused body is still read so that the client hears why, when its grant was good.
const DRAIN_GRANTED_BYTES: u64 = 64 * 1024 * 1024;
/// The same when it was not.
const DRAIN_STRANGER_BYTES: u64 = 1024 * 1024;
const MAX_ECHO_BYTES: usize = 1_024;
const HTTP_DATE: &[BorrowedFormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

const REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-request-id");
const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-client-request-id");
const VERSION: HeaderName = HeaderName::from_static("x-ms-version");
const ENCRYPTED: HeaderName = HeaderName::from_static("x-ms-request-server-encrypted");
const APPEND_OFFSET: HeaderName = HeaderName::from_static("x-ms-blob-append-offset");
const APPEND_BLOCKS: HeaderName = HeaderName::from_static("x-ms-blob-committed-block-count");
const FORWARDED_PROTO: &str = "x-forwarded-proto";

/// The endpoint of a directory, to be nested under `/landing`.
pub fn router(landing: &DirectoryLanding) -> Router {
    Router::new().fallback(answer).with_state(Arc::clone(&landing.shared))
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let mut body = Some(body);
    let mut seen = Seen::default();
    let result = serve(&shared, &parts, &mut body, &mut seen).await;
    let code = result.as_ref().err().map_or("Created", |refusal| refusal.code());
    metrics::counter!("muster_landing_requests_total", "operation" => seen.operation, "code" => code).increment(1);
    let mut response = match result {
        Ok(written) => created(written),
        Err(refusal) => {
            match &refusal {
                Refusal::Disk(error) => tracing::error!(%error, operation = seen.operation, "the landing directory failed an upload"),
                refusal => tracing::debug!(code = refusal.code(), operation = seen.operation, "an upload was refused"),
            }
            // A client that asked first has not sent anything yet, and reading would tell it to.
            if let Some(unread) = body.filter(|_| !parts.headers.contains_key(header::EXPECT)) {
                let most = if seen.granted { DRAIN_GRANTED_BYTES } else { DRAIN_STRANGER_BYTES };
                receive::drain(&shared.limits, unread, most).await;
            }
            refusal.into_response()
        }
    };
    common_headers(&parts.headers, response.headers_mut());
    response
}

/// What is known about a request when it is refused.
struct Seen {
    granted: bool,
    operation: &'static str,
}

impl Default for Seen {
    fn default() -> Self {
        Self { granted: false, operation: "none" }
    }
}

/// `body` is taken once it is going to be read.
async fn serve(shared: &Arc<Shared>, parts: &Parts, body: &mut Option<Body>, seen: &mut Seen) -> Result<Option<Written>, Refusal> {
    let target = Target::parse(&parts.uri)?;
    let parameters = request::parameters(&parts.uri)?;
    let plain = parts.headers.get(FORWARDED_PROTO).is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"http"));
    sas::check(&shared.key, &resource(&target.container), &parameters, OffsetDateTime::now_utc(), plain)?;
    seen.granted = true;
    let Some(name) = target.name.filter(|_| parts.method == Method::PUT) else { return Err(Refusal::Permission) };
    let operation = Operation::parse(&parameters, &parts.headers)?;
    seen.operation = operation.label();

    let attempt = attempt_of(&target.container).ok_or(Refusal::NoContainer)?;
    let queue = shared.limits.upload_queue;
    let _place = tokio::time::timeout(queue, shared.uploads.acquire()).await.map_err(|_| Refusal::Busy)?;
    let inbox = shared.inbox(attempt).await.map_err(Refusal::Disk)?.ok_or(Refusal::NoContainer)?;
    let _own_place = tokio::time::timeout(queue, inbox.uploads.acquire()).await.map_err(|_| Refusal::Busy)?;

    let result = upload(shared, &inbox, name, operation, &parts.headers, body).await;
    if matches!(result, Err(Refusal::NoContainer)) {
        shared.forget(attempt);
    }
    result
}

async fn upload(
    shared: &Arc<Shared>,
    inbox: &Arc<Inbox>,
    name: ObjectName,
    operation: Operation,
    headers: &HeaderMap,
    body: &mut Option<Body>,
) -> Result<Option<Written>, Refusal> {
    let limits = &shared.limits;
    let conditions = Conditions::parse(headers)?;
    let expected = request::expected(headers)?;
    let declared = request::content_length(headers)?;
    let (what, max_bytes) = match operation {
        Operation::PutBlockBlob => ("an object", limits.max_object_bytes),
        Operation::PutAppendBlob if declared.unwrap_or(0) > 0 => return Err(Refusal::Header("Content-Length")),
        Operation::PutAppendBlob => ("a new append object", 0),
        Operation::PutBlock { .. } | Operation::AppendBlock if declared == Some(0) => return Err(Refusal::Header("Content-Length")),
        Operation::PutBlock { .. } | Operation::AppendBlock => ("a block", limits.max_block_bytes),
        Operation::PutBlockList => ("a block list", MAX_BLOCK_LIST_BYTES as u64),
    };
    // Refuse before the bytes travel, where the client says how many there will be; a body without a length is counted.
    if declared.is_some_and(|declared| declared > max_bytes) {
        return Err(Refusal::TooLarge { what, limit: max_bytes });
    }
    early_checks(inbox, &name, &operation, &conditions).await?;

    let mut take_body = || body.take().expect("the body is taken once");
    if operation == Operation::PutBlockList {
        // A list is here before it waits for its turn: turns are few and everybody's, and one peer's slow list must not hold one.
        let list = {
            let _own_turn = tokio::time::timeout(limits.upload_queue, inbox.lists.acquire()).await.map_err(|_| Refusal::Busy)?;
            let text = receive::receive_text(limits, take_body(), MAX_BLOCK_LIST_BYTES, expected).await?;
            BlockList::parse(&text, limits.max_committed_blocks + 1)?
        };
        let _turn = shared.commits.acquire().await.map_err(|_| Refusal::Busy)?;
        return blocks::put_block_list(shared, inbox, name, conditions, list).await.map(Some);
    }
    // Only bytes that become an object now have to be on the disk now.
    let sync = shared.fsync && operation == Operation::PutBlockBlob;
    let received = receive::receive(inbox, limits, take_body(), Plan { what, max_bytes, declared, expected, sync }).await?;
    match operation {
        Operation::PutBlockBlob => objects::put_blob(shared, inbox, name, conditions, received, Kind::Whole).await.map(Some),
        Operation::PutAppendBlob => objects::put_blob(shared, inbox, name, conditions, received, Kind::Append).await.map(Some),
        Operation::PutBlock { .. } | Operation::AppendBlock if received.size_bytes == 0 => Err(Refusal::Header("Content-Length")),
        Operation::PutBlock { id } => blocks::put_block(shared, inbox, name, id, received).await.map(|()| None),
        Operation::AppendBlock => {
            let position = Position {
                at: request::number(headers, "x-ms-blob-condition-appendpos")?,
                max_size: request::number(headers, "x-ms-blob-condition-maxsize")?,
            };
            blocks::append::append_block(shared, inbox, name, conditions, position, received).await.map(Some)
        }
        Operation::PutBlockList => unreachable!("answered above"),
    }
}

/// Say early what would be said at the end anyway, before a gigabyte travels for nothing. The end checks again.
async fn early_checks(inbox: &Arc<Inbox>, name: &ObjectName, operation: &Operation, conditions: &Conditions) -> Result<(), Refusal> {
    let index = inbox.index().await;
    if index.closed {
        return Err(Refusal::NoContainer);
    }
    let existing = index.objects.get(name);
    match operation {
        Operation::PutBlock { .. } => Ok(()),
        Operation::AppendBlock if existing.is_none() => Err(Refusal::NoObject),
        _ => conditions.check(existing),
    }
}

fn created(written: Option<Written>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::CREATED;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    headers.insert(ENCRYPTED, HeaderValue::from_static("false"));
    if let Some(Written { etag, modified_at, append }) = written {
        headers.insert(header::ETAG, value(&etag));
        headers.insert(header::LAST_MODIFIED, value(&http_date(modified_at)));
        if let Some(append) = append {
            headers.insert(APPEND_OFFSET, HeaderValue::from(append.offset));
            headers.insert(APPEND_BLOCKS, HeaderValue::from(append.blocks));
        }
    }
    response
}

/// Clients compare the version and the id they sent with what comes back.
fn common_headers(request: &HeaderMap, response: &mut HeaderMap) {
    response.insert(REQUEST_ID, value(&Uuid::new_v4().to_string()));
    let version = request.get(VERSION).filter(|version| version.len() <= MAX_ECHO_BYTES).cloned();
    response.insert(VERSION, version.unwrap_or_else(|| HeaderValue::from_static(sas::SAS_VERSION)));
    if let Some(id) = request.get(CLIENT_REQUEST_ID).filter(|id| id.len() <= MAX_ECHO_BYTES) {
        response.insert(CLIENT_REQUEST_ID, id.clone());
    }
}

fn http_date(at: SystemTime) -> String {
    OffsetDateTime::from(at).format(HTTP_DATE).expect("a date formats")
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("ids, dates and tags are plain ASCII")
}
