//! Log windows as the clock of a device shows them.
//!
//! A collection asks for the lines between two real instants. A device compares them with its own timestamps, so a device whose clock is
//! three hours ahead is told instants three hours later: the lines that come back are those of the real time that was asked for.

use std::borrow::Cow;

use muster_wire::http::CollectionRequest;
use muster_wire::method::since;
use time::Duration;

/// A clock that is wrong by no more than this counts as right: so late may a birth message arrive that tells the time, and a moved window
/// would be worse than none.
pub(crate) const CLOCK_TOLERANCE: Duration = Duration::seconds(30);

/// How far to move a window for a device; `None` when its clock is right, or when it never said what it shows.
pub(crate) fn shift(clock_skew_ms: Option<i64>) -> Option<Duration> {
    let skew = Duration::milliseconds(clock_skew_ms?);
    (skew.abs() > CLOCK_TOLERANCE).then_some(skew)
}

/// The request as it is told to a device with such a clock.
pub(crate) fn told(request: &CollectionRequest, clock_skew_ms: Option<i64>) -> Cow<'_, CollectionRequest> {
    let Some(shift) = shift(clock_skew_ms) else { return Cow::Borrowed(request) };
    let mut told = request.clone();
    match &mut told {
        CollectionRequest::Bundle { since, .. } => moved(since, shift),
        CollectionRequest::UploadLogs { items, .. } | CollectionRequest::Logs { items, .. } => {
            for filter in items.iter_mut().map(|item| &mut item.filter) {
                moved(&mut filter.since, shift);
                moved(&mut filter.until, shift);
            }
        }
        CollectionRequest::Ping {} => {}
    }
    Cow::Owned(told)
}

/// The instant later by so much. What cannot be told in the portable form, before 1970 or after 9999, stays as it is.
fn moved(text: &mut Option<String>, shift: Duration) {
    let unix = text.as_deref().and_then(|text| since::parse(text, 0).ok());
    if let Some(moved) = unix.and_then(|unix| unix.checked_add(shift.whole_seconds())).filter(|unix| *unix > 0).and_then(since::portable) {
        *text = Some(moved);
    }
}

#[cfg(test)]
mod tests {
    use muster_wire::method::request::{ContentType, LogFilter, LogItem};

    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn logs(since: &str, until: &str) -> CollectionRequest {
        let filter = LogFilter { since: Some(since.to_owned()), until: Some(until.to_owned()), ..LogFilter::default() };
        CollectionRequest::Logs { items: vec![LogItem { id: "all".to_owned(), filter }], content_type: ContentType::Text }
    }

    #[test]
    fn a_window_moves_with_the_clock_of_the_device() {
        let asked = logs("2026-11-25T10:00:00Z", "2026-11-25T11:00:00Z");
        assert_eq!(*told(&asked, Some(3 * HOUR_MS)), logs("2026-11-25T13:00:00Z", "2026-11-25T14:00:00Z"), "three hours ahead");
        assert_eq!(*told(&asked, Some(-11 * HOUR_MS)), logs("2026-11-24T23:00:00Z", "2026-11-25T00:00:00Z"), "eleven behind");
        let bundle = |since: &str| CollectionRequest::Bundle { since: Some(since.to_owned()), edge_runtime_only: false };
        assert_eq!(*told(&bundle("2026-11-25T10:00:00Z"), Some(HOUR_MS)), bundle("2026-11-25T11:00:00Z"));
    }

    #[test]
    fn a_clock_that_is_right_moves_nothing() {
        let asked = logs("2026-11-25T10:00:00Z", "2026-11-25T11:00:00Z");
        let edge = i64::try_from(CLOCK_TOLERANCE.whole_milliseconds()).expect("small");
        for skew in [None, Some(0), Some(edge), Some(-edge)] {
            assert_eq!(shift(skew), None, "{skew:?}");
            assert!(matches!(told(&asked, skew), Cow::Borrowed(_)), "{skew:?}");
        }
        assert_eq!(shift(Some(edge + 1)), Some(Duration::milliseconds(edge + 1)), "just past the tolerance");
        assert_eq!(shift(Some(-edge - 1)), Some(Duration::milliseconds(-edge - 1)));
    }

    #[test]
    fn a_clock_beyond_reason_breaks_nothing() {
        let asked = logs("2026-11-25T10:00:00Z", "2026-11-25T11:00:00Z");
        for skew in [i64::MIN, i64::MAX, -1_800_000_000_000, 400_000_000_000_000] {
            assert_eq!(*told(&asked, Some(skew)), asked, "{skew}");
        }
    }
}
