//! `/api/v1/bundles`

use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use muster_landing::MANIFEST_NAME;
use muster_store::{BundleFilter, BundleRecord};
use muster_wire::http::{BundleCheck, BundleFile, BundleManifest, BundleView, ObjectKind, Page, Problem};
use muster_wire::{CollectionId, DeviceId, TaskId};
use serde::Deserialize;

use super::extract::{Id, Json, Name, Query};
use super::problem::{ApiError, ApiResult};
use super::{Api, cursor, task_not_found};
use crate::contents::object_name;

const LIST: &str = "bundles";
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
/// A browser that shows an object after all runs nothing in it.
const SANDBOX: HeaderValue = HeaderValue::from_static("default-src 'none'; sandbox");

/// Which bundles.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// `next` of the page before.
    after: Option<String>,
    /// Items per page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// Only of this collection.
    #[param(value_type = Option<String>)]
    collection: Option<CollectionId>,
    /// Only of this device.
    #[param(value_type = Option<String>)]
    device: Option<DeviceId>,
}

/// Which file.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct CatQuery {
    /// `object`, or `object!entry` for an entry of an archive.
    #[param(example = "support_bundle_2026-11-21.zip!logs/edgeAgent_log.txt")]
    path: String,
}

async fn bundle(api: &Api, id: TaskId) -> ApiResult<BundleRecord> {
    if let Some(bundle) = api.store.bundle(id).await? {
        return Ok(bundle);
    }
    match api.store.task(id).await? {
        None => Err(task_not_found(id)),
        Some(detail) => {
            Err(ApiError::not_found("bundle_not_found", "No bundle", format!("{id} has no bundle: it is {}", detail.task.state))
                .next_step(format!("look at the task: /api/v1/tasks/{id}")))
        }
    }
}

/// List bundles, newest collection first
#[utoipa::path(get, path = "/api/v1/bundles", tag = "bundles", params(ListQuery),
    responses((status = 200, body = Page<BundleView>), (status = 400, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(State(api): State<Arc<Api>>, Query(query): Query<ListQuery>) -> ApiResult<Json<Page<BundleView>>> {
    let limit = cursor::page_size(query.limit)?;
    let before = cursor::decode::<TaskId>(LIST, query.after.as_deref())?;
    let items = api.store.bundles(&BundleFilter { before, limit, collection: query.collection, device: query.device }).await?;
    Ok(Json(cursor::page(LIST, items, limit, |bundle| bundle.task)))
}

/// The manifest of a bundle
#[utoipa::path(get, path = "/api/v1/bundles/{id}", tag = "bundles", params(("id" = TaskId, Path)),
    responses((status = 200, body = BundleManifest), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show(State(api): State<Arc<Api>>, Id(id): Id<TaskId>) -> ApiResult<Json<BundleManifest>> {
    Ok(Json(bundle(&api, id).await?.manifest))
}

/// The files in a bundle, those inside archives included
#[utoipa::path(get, path = "/api/v1/bundles/{id}/files", tag = "bundles", params(("id" = TaskId, Path)),
    responses((status = 200, body = Vec<BundleFile>), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn files(State(api): State<Arc<Api>>, Id(id): Id<TaskId>) -> ApiResult<Json<Vec<BundleFile>>> {
    let bundle = bundle(&api, id).await?;
    api.contents.files(&bundle).await.map(Json)
}

/// One file of a bundle, expanded
///
/// An entry of an archive, a gzip expanded, or any other object as it is.
#[utoipa::path(get, path = "/api/v1/bundles/{id}/cat", tag = "bundles", params(("id" = TaskId, Path), CatQuery),
    responses(
        (status = 200, content_type = "application/octet-stream", body = Vec<u8>),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn cat(State(api): State<Arc<Api>>, Id(id): Id<TaskId>, Query(query): Query<CatQuery>) -> ApiResult<Response> {
    let bundle = bundle(&api, id).await?;
    let body = api.contents.print(&bundle, &query.path).await?;
    let name = query.path.rsplit(['/', '!']).next().unwrap_or_default();
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CONTENT_DISPOSITION, disposition(name)),
        (header::CONTENT_SECURITY_POLICY, SANDBOX),
    ];
    Ok((headers, until_stopped(&api, body)).into_response())
}

/// One object of a bundle, byte for byte; `manifest.json` is one of them
#[utoipa::path(get, path = "/api/v1/bundles/{id}/objects/{name}", tag = "bundles",
    params(("id" = TaskId, Path), ("name" = String, Path, description = "Name of the object; it may hold slashes"), ("Range" = Option<String>, Header)),
    responses(
        (status = 200, content_type = "application/octet-stream", body = Vec<u8>, headers(("Repr-Digest" = String, description = "SHA-256 of the whole object"), ("ETag" = String))),
        (status = 206, content_type = "application/octet-stream", body = Vec<u8>),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 416, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn download(State(api): State<Arc<Api>>, Id(id): Id<TaskId>, Name(name): Name, headers: HeaderMap) -> ApiResult<Response> {
    let bundle = bundle(&api, id).await?;
    let listed = bundle.manifest.objects.iter().find(|object| object.name == name);
    let (sha256, size, kind) = match listed {
        Some(object) => (object.sha256.clone(), Some(object.size_bytes), object.kind),
        None if name == MANIFEST_NAME => (bundle.view.manifest_sha256.clone(), None, ObjectKind::Json),
        None => {
            return Err(ApiError::not_found(
                "object_not_found",
                "No such object",
                format!("the bundle of {id} has no object {:?}", name.chars().take(200).collect::<String>()),
            ));
        }
    };
    let etag = HeaderValue::from_str(&format!("\"{sha256}\"")).expect("a digest is ASCII");
    if headers.get(header::IF_NONE_MATCH) == Some(&etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    // A range of another version of the object would not fit the part the caller has.
    let range_holds = headers.get(header::IF_RANGE).is_none_or(|given| *given == etag);
    let asked = headers.get(header::RANGE).and_then(|value| value.to_str().ok()).filter(|_| range_holds);
    let range = asked.zip(size).and_then(|(text, size)| parse_range(text, size));
    if let (Some(range), Some(size)) = (&range, size)
        && range.start >= size
    {
        let mut response = ApiError::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "range_not_satisfiable",
            "The range lies outside the object",
            format!("the object has {size} bytes"),
        )
        .into_response();
        response.headers_mut().insert(header::CONTENT_RANGE, HeaderValue::from_str(&format!("bytes */{size}")).expect("ASCII"));
        return Ok(response);
    }
    let object = object_name(&name)?;
    let file_name = format!("{}-{}", bundle.view.device, object.file_name());
    let download = api.landing.open_sealed(bundle.manifest.attempt, &object, range.clone()).await?;
    let part = download.range.clone();
    let mut response = until_stopped(&api, Body::from_stream(download.body)).into_response();
    *response.status_mut() = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let content_type = match kind {
        ObjectKind::Zip => "application/zip",
        ObjectKind::Gzip => "application/gzip",
        // Not as text or JSON: nothing a device made is shown by a browser.
        ObjectKind::Json | ObjectKind::Text => "application/octet-stream",
    };
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    out.insert(header::CONTENT_LENGTH, HeaderValue::from(part.end - part.start));
    out.insert(header::CONTENT_DISPOSITION, disposition(&file_name));
    out.insert(header::CONTENT_SECURITY_POLICY, SANDBOX);
    out.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    out.insert(header::ETAG, etag);
    if let Some(digest) = repr_digest(&sha256) {
        out.insert(REPR_DIGEST, digest);
    }
    if range.is_some() {
        let text = format!("bytes {}-{}/{}", part.start, part.end.saturating_sub(1), download.total_bytes);
        out.insert(header::CONTENT_RANGE, HeaderValue::from_str(&text).expect("ASCII"));
    }
    Ok(response)
}

/// Read a sealed bundle again and compare it with its manifest
#[utoipa::path(post, path = "/api/v1/bundles/{id}/verify", tag = "bundles", params(("id" = TaskId, Path)),
    responses((status = 200, body = BundleCheck), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn verify(State(api): State<Arc<Api>>, Id(id): Id<TaskId>) -> ApiResult<Json<BundleCheck>> {
    let bundle = bundle(&api, id).await?;
    api.contents.check(&bundle).await.map(Json)
}

/// A body that is cut when the server has waited long enough for it.
fn until_stopped(api: &Api, body: Body) -> Body {
    let stop = api.hard_stop.clone();
    Body::from_stream(body.into_data_stream().take_until(async move { stop.cancelled().await }))
}

/// A single range in bytes; anything else is as good as no range. An end beyond the object is cut by the landing zone.
fn parse_range(text: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    match (first.trim(), last.trim()) {
        ("", suffix) => {
            let suffix: u64 = digits(suffix)?;
            // The last no bytes: outside, as is every range of nothing.
            if suffix == 0 { Some(size..size) } else { Some(size.saturating_sub(suffix)..size) }
        }
        (first, "") => Some(digits(first)?..u64::MAX),
        (first, last) => {
            let (first, last) = (digits(first)?, digits(last)?);
            (first <= last).then_some(first..last.saturating_add(1))
        }
    }
}

fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// `attachment`, with a name that cannot break out of the header: plain ASCII for all, the real one encoded beside it.
fn disposition(name: &str) -> HeaderValue {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let ascii: String = name.chars().take(120).map(|c| if plain(c) { c } else { '_' }).collect();
    let ascii = ascii.trim_start_matches('.');
    let ascii = if ascii.is_empty() { "object" } else { ascii };
    let encoded: String = name
        .chars()
        .take(120)
        .collect::<String>()
        .bytes()
        .map(|byte| if plain(char::from(byte)) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    HeaderValue::from_str(&format!("attachment; filename=\"{ascii}\"; filename*=UTF-8''{encoded}")).expect("only plain ASCII is left")
}

/// RFC 9530 form of a digest that is given in hex.
fn repr_digest(hex: &str) -> Option<HeaderValue> {
    let bytes: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect();
    HeaderValue::from_str(&format!("sha-256=:{}:", STANDARD.encode(bytes?))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_or_left_alone() {
        assert_eq!(parse_range("bytes=0-9", 100), Some(0..10));
        assert_eq!(parse_range("bytes=90-", 100), Some(90..u64::MAX));
        assert_eq!(parse_range("bytes=-10", 100), Some(90..100));
        assert_eq!(parse_range("bytes=-1000", 100), Some(0..100));
        assert_eq!(parse_range("bytes=-0", 100), Some(100..100));
        assert_eq!(parse_range(&format!("bytes=0-{}", u64::MAX), 100), Some(0..u64::MAX));
        for ignored in
            ["bytes=9-1", "bytes=a-b", "bytes=+1-2", "bytes=1-2,4-5", "items=1-2", "bytes", "bytes=-", "bytes=99999999999999999999-"]
        {
            assert_eq!(parse_range(ignored, 100), None, "{ignored}");
        }
    }

    #[test]
    fn a_name_cannot_break_out_of_its_header() {
        let shown = disposition("a\"b\r\nSet-Cookie: x/ä;.zip").to_str().expect("ASCII").to_owned();
        assert_eq!(
            shown,
            "attachment; filename=\"a_b__Set-Cookie__x___.zip\"; filename*=UTF-8''a%22b%0D%0ASet-Cookie%3A%20x%2F%C3%A4%3B.zip"
        );
        assert!(disposition("...").to_str().expect("ASCII").starts_with("attachment; filename=\"object\""));
        assert!(disposition(&"ä".repeat(10_000)).len() < 1000);
    }

    #[test]
    fn a_digest_has_its_standard_form() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(repr_digest(empty).expect("hex"), "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:");
        assert_eq!(repr_digest("zz"), None);
        assert_eq!(repr_digest("abc"), None);
    }
}
