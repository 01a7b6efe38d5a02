//! What a collection will cost, from what bundles cost before: for each model of device from its own bundles of the same window, as far as
//! there are any.

use muster_wire::http::{CollectionRequest, Estimate};
use muster_wire::method::request::{LogFilter, LogItem};
use muster_wire::method::since;

/// Windows whose lengths differ by no more than this factor are the same, in percent.
const SAME_WINDOW_PERCENT: u64 = 150;

/// How far back a request reaches: its widest item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reach {
    /// Seconds of logs; `None`: from the beginning.
    pub seconds: Option<u64>,
    /// The last lines of each module; `None`: all.
    pub lines: Option<u64>,
}

impl Reach {
    /// Of a request with absolute times, asked at `at` (seconds since 1970).
    pub fn of(request: &CollectionRequest, at: i64) -> Self {
        let nothing = Self { seconds: Some(0), lines: None };
        match request {
            CollectionRequest::Ping {} => nothing,
            CollectionRequest::Bundle { since, .. } => Self { seconds: length(since.as_deref(), None, at), lines: None },
            CollectionRequest::UploadLogs { items, .. } | CollectionRequest::Logs { items, .. } => {
                let one = |LogItem { filter: LogFilter { since, until, tail, .. }, .. }: &LogItem| Self {
                    seconds: length(since.as_deref(), until.as_deref(), at),
                    lines: tail.map(|lines| u64::try_from(lines).unwrap_or(0)),
                };
                items.iter().map(one).reduce(Self::wider).unwrap_or(nothing)
            }
        }
    }

    fn wider(self, other: Self) -> Self {
        let wider = |a: Option<u64>, b: Option<u64>| Some(a?.max(b?));
        Self { seconds: wider(self.seconds, other.seconds), lines: wider(self.lines, other.lines) }
    }

    /// The same window.
    pub fn is_like(self, other: Self) -> bool {
        let alike = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => a.max(b).saturating_mul(100) <= a.min(b).saturating_mul(SAME_WINDOW_PERCENT),
            _ => false,
        };
        alike(self.seconds, other.seconds) && alike(self.lines, other.lines)
    }
}

fn length(since: Option<&str>, until: Option<&str>, at: i64) -> Option<u64> {
    let begin = since::parse(since?, at).ok()?;
    let end = until.and_then(|until| since::parse(until, at).ok()).unwrap_or(at);
    Some(u64::try_from(end - begin).unwrap_or(0))
}

/// Past bundles of one kind of request that are alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// Model of the devices.
    pub model: Option<String>,
    /// How far back they reach.
    pub reach: Reach,
    /// How many.
    pub count: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// From dispatch to the sealed bundle, summed over all of them, in milliseconds.
    pub ms: u64,
}

/// What a collection of this reach costs that asks so many devices of each model, so many at the same time. `None` without any past.
///
/// Each model is judged by its own bundles of the same window; where there are none, by those of the same window, then by its own, then by
/// all. A model that nobody wrote down is a model too.
pub fn estimate(past: &[Past], reach: Reach, asked: &[(Option<String>, u64)], in_flight: u32) -> Option<Estimate> {
    let mut used = vec![false; past.len()];
    let (mut devices, mut own, mut bytes, mut ms) = (0_u64, 0_u64, 0_u64, 0_u64);
    for (model, count) in asked.iter().filter(|(_, count)| *count > 0) {
        let looks: [&dyn Fn(&Past) -> bool; 4] = [
            &|past| past.model == *model && past.reach.is_like(reach),
            &|past| past.reach.is_like(reach),
            &|past| past.model == *model,
            &|_| true,
        ];
        let (place, fitting) = looks.iter().enumerate().find_map(|(place, fits)| {
            let fitting: Vec<usize> = (0..past.len()).filter(|&n| past[n].count > 0 && fits(&past[n])).collect();
            (!fitting.is_empty()).then_some((place, fitting))
        })?;
        let sum = |of: &dyn Fn(&Past) -> u64| fitting.iter().map(|&n| of(&past[n])).sum::<u64>();
        let bundles = sum(&|past| past.count);
        devices += count;
        own += if place == 0 { *count } else { 0 };
        bytes = bytes.saturating_add((sum(&|past| past.bytes) / bundles).saturating_mul(*count));
        ms = ms.saturating_add((sum(&|past| past.ms) / bundles).saturating_mul(*count));
        fitting.into_iter().for_each(|n| used[n] = true);
    }
    if devices == 0 {
        return (past.iter().any(|past| past.count > 0)).then_some(Estimate {
            from_bundles: 0,
            same_model_and_window: 0,
            bytes: 0,
            seconds: 0,
        });
    }
    let rounds = devices.div_ceil(u64::from(in_flight.max(1)));
    Some(Estimate {
        from_bundles: past.iter().zip(used).filter(|(_, used)| *used).map(|(past, _)| past.count).sum(),
        same_model_and_window: own,
        bytes,
        seconds: (ms / devices / 1000).max(1).saturating_mul(rounds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    fn past(model: Option<&str>, hours: u64, count: u64, each: u64) -> Past {
        let reach = Reach { seconds: Some(hours * HOUR), lines: None };
        Past { model: model.map(str::to_owned), reach, count, bytes: each * count, ms: each * count }
    }

    fn asked(counts: &[(Option<&str>, u64)]) -> Vec<(Option<String>, u64)> {
        counts.iter().map(|(model, count)| (model.map(str::to_owned), *count)).collect()
    }

    #[test]
    fn each_model_is_judged_by_what_is_nearest_to_it() {
        let two_hours = Reach { seconds: Some(2 * HOUR), lines: None };
        let all = [past(Some("a"), 2, 4, 1_000), past(Some("a"), 24, 2, 9_000), past(Some("b"), 2, 4, 5_000), past(None, 24, 2, 70_000)];
        // own model and window | own window | own model | all
        let cases = [
            (&all[..], asked(&[(Some("a"), 10)]), Some((4, 10, 10_000, 1))),
            (&all[..], asked(&[(Some("a"), 10), (Some("b"), 1)]), Some((8, 11, 15_000, 1))),
            (&all[..], asked(&[(Some("new"), 3)]), Some((8, 0, 9_000, 3))),
            (&all[1..2], asked(&[(Some("a"), 2), (Some("b"), 1)]), Some((2, 0, 27_000, 9))),
            (&all[1..], asked(&[(None, 1)]), Some((4, 0, 5_000, 5))),
            (&all[..], asked(&[]), Some((0, 0, 0, 0))),
            (&[], asked(&[(None, 1)]), None),
        ];
        for (past, asked, wanted) in cases {
            let estimate = estimate(past, two_hours, &asked, 100);
            let found = estimate.map(|found| (found.from_bundles, found.same_model_and_window, found.bytes, found.seconds));
            assert_eq!(found, wanted, "{asked:?}");
        }
        // The window of in-flight requests makes rounds of it.
        assert_eq!(estimate(&all, two_hours, &asked(&[(Some("b"), 21)]), 10).map(|found| found.seconds), Some(15));
    }

    #[test]
    fn the_reach_of_a_request_is_that_of_its_widest_item() {
        let at = 1_800_000_000;
        let time = |hours: i64| since::portable(at - hours * 3600);
        let item = |since, until, tail| LogItem { id: "all".to_owned(), filter: LogFilter { since, until, tail, ..LogFilter::default() } };
        let logs = |items| CollectionRequest::Logs { items, content_type: muster_wire::method::request::ContentType::Text };
        let cases = [
            (CollectionRequest::Ping {}, Some(0), None),
            (CollectionRequest::Bundle { since: None, edge_runtime_only: false }, None, None),
            (CollectionRequest::Bundle { since: time(2), edge_runtime_only: false }, Some(2 * HOUR), None),
            (logs(vec![item(time(4), time(3), None), item(time(2), None, None)]), Some(2 * HOUR), None),
            (logs(vec![item(time(4), None, Some(10)), item(None, None, Some(500))]), None, Some(500)),
            (logs(vec![item(None, None, Some(10)), item(time(1), None, None)]), None, None),
        ];
        for (request, seconds, lines) in cases {
            assert_eq!(Reach::of(&request, at), Reach { seconds, lines }, "{request:?}");
        }
    }

    #[test]
    fn windows_are_the_same_up_to_half_as_long_again() {
        let of = |seconds| Reach { seconds, lines: None };
        for (a, b, alike) in [
            (Some(100), Some(150), true),
            (Some(100), Some(151), false),
            (None, None, true),
            (None, Some(1), false),
            (Some(0), Some(0), true),
        ] {
            assert_eq!((of(a).is_like(of(b)), of(b).is_like(of(a))), (alike, alike), "{a:?} {b:?}");
        }
    }
}
