//! Where a page ends, opaque to the caller: what is in it may change, what comes back may be anything.

use std::fmt::Display;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use muster_wire::http::{DEFAULT_PAGE, MAX_PAGE, Page};

use super::problem::{ApiError, ApiResult};

/// Longest cursor that is looked at, in bytes.
const MAX_CURSOR_BYTES: usize = 512;

/// A cursor of one kind of list: a cursor of another list is refused rather than misread.
pub(crate) fn encode(kind: &str, last: &impl Display) -> String {
    URL_SAFE_NO_PAD.encode(format!("{kind}:{last}"))
}

/// Reads a cursor back.
pub(crate) fn decode<T: FromStr>(kind: &str, cursor: Option<&str>) -> ApiResult<Option<T>> {
    let Some(cursor) = cursor else { return Ok(None) };
    let read = || {
        let bytes = URL_SAFE_NO_PAD.decode(Some(cursor).filter(|text| text.len() <= MAX_CURSOR_BYTES)?).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        text.strip_prefix(kind)?.strip_prefix(':')?.parse().ok()
    };
    read().map(Some).ok_or_else(invalid)
}

/// A cursor that does not belong to the list.
pub(crate) fn invalid() -> ApiError {
    ApiError::new(
        StatusCode::BAD_REQUEST,
        "invalid_cursor",
        "Not a cursor of this list",
        "the cursor in \"after\" was not made by this list",
    )
    .next_step("give back \"next\" of the page before, unchanged, or leave \"after\" out to begin again")
    .field("after", "is not a cursor of this list")
}

/// The page size asked for.
pub(crate) fn page_size(limit: Option<u32>) -> ApiResult<u32> {
    let limit = limit.unwrap_or(DEFAULT_PAGE);
    if (1..=MAX_PAGE).contains(&limit) {
        return Ok(limit);
    }
    Err(ApiError::new(StatusCode::BAD_REQUEST, "invalid_query", "Query cannot be used", "a parameter is outside its bounds")
        .field("limit", format!("is {limit}; it lies between 1 and {MAX_PAGE}")))
}

/// A page out of `limit` items or fewer. A full page may be the last one; then the next is empty.
pub(crate) fn page<T, K: Display>(kind: &str, items: Vec<T>, limit: u32, key: impl Fn(&T) -> K) -> Page<T> {
    let next = items.last().filter(|_| items.len() >= limit as usize).map(|last| encode(kind, &key(last)));
    Page { items, next }
}

#[cfg(test)]
mod tests {
    use muster_wire::{CollectionId, TaskId};

    use super::*;

    #[test]
    fn a_cursor_comes_back_and_nothing_else_does() {
        let id = CollectionId::new();
        let cursor = encode("collections", &id);
        assert_eq!(decode("collections", Some(&cursor)).expect("ours"), Some(id));
        assert_eq!(decode::<CollectionId>("collections", None).expect("none"), None);
        for other in [
            "",
            "x",
            "col_01jd8k2m3n4p5q6r7s",
            "////",
            &"A".repeat(MAX_CURSOR_BYTES + 1),
            &URL_SAFE_NO_PAD.encode("collections:nonsense"),
            &URL_SAFE_NO_PAD.encode([255, 254]),
        ] {
            assert_eq!(decode::<CollectionId>("collections", Some(other)).expect_err(other).problem().code, "invalid_cursor");
        }
        assert!(decode::<TaskId>("tasks", Some(&cursor)).is_err(), "a cursor of another list");
    }

    #[test]
    fn page_sizes_are_bounded() {
        assert_eq!(
            (page_size(None).ok(), page_size(Some(1)).ok(), page_size(Some(MAX_PAGE)).ok()),
            (Some(DEFAULT_PAGE), Some(1), Some(MAX_PAGE))
        );
        for bad in [0, MAX_PAGE + 1, u32::MAX] {
            assert!(page_size(Some(bad)).is_err(), "{bad}");
        }
        let full = page("numbers", vec![1, 2], 2, |n| *n);
        assert_eq!(decode::<u32>("numbers", full.next.as_deref()).expect("ours"), Some(2));
        assert_eq!(page("numbers", vec![1], 2, |n| *n).next, None);
    }
}
