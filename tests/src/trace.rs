//! What a trace of the devices says: how many requests arrived within any span of time, how many devices were at work at once.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use muster_agent::trace::{Happened, Line};
use muster_wire::method::Method;
use uuid::Uuid;

/// Arrivals and ends of the attempts at devices, by one method.
#[derive(Debug, Default)]
pub struct Trace {
    /// When each attempt first arrived, and when its device was done with it.
    attempts: HashMap<Uuid, (i64, Option<i64>)>,
    /// Requests that came again.
    pub repeated: usize,
    /// Attempts per device.
    pub per_device: BTreeMap<String, usize>,
}

impl Trace {
    /// Reads the trace files of some fleets. A line that is not whole yet is left out.
    pub fn read(files: &[PathBuf], method: Method) -> Self {
        let mut trace = Self::default();
        for file in files {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            for line in text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok()) {
                trace.take(&line, method);
            }
        }
        trace
    }

    fn take(&mut self, line: &Line, method: Method) {
        match line.what {
            Happened::Arrived if line.method.as_deref().and_then(Method::find) != Some(method) => {}
            Happened::Arrived if self.attempts.contains_key(&line.attempt) => self.repeated += 1,
            Happened::Arrived => {
                self.attempts.insert(line.attempt, (line.at_ms, None));
                *self.per_device.entry(line.device.to_string()).or_default() += 1;
            }
            Happened::Done => {
                if let Some((_, done)) = self.attempts.get_mut(&line.attempt) {
                    done.get_or_insert(line.at_ms);
                }
            }
        }
    }

    /// Attempts that arrived.
    pub fn arrived(&self) -> usize {
        self.attempts.len()
    }

    /// Most attempts that arrived within any span of this length.
    pub fn most_within(&self, span: Duration) -> usize {
        most_within(self.attempts.values().map(|(arrived, _)| *arrived).collect(), span)
    }

    /// Most attempts devices were at work on at the same time. One that never ended counts to the end.
    pub fn most_at_once(&self) -> i64 {
        // Ends before arrivals of the same millisecond.
        let mut steps: Vec<(i64, i64)> =
            self.attempts.values().flat_map(|(arrived, done)| [(*arrived, 1), (done.unwrap_or(i64::MAX), -1)]).collect();
        steps.sort_unstable();
        let (mut now, mut most) = (0, 0);
        for (_, step) in steps {
            now += step;
            most = most.max(now);
        }
        most
    }
}

/// Most of these moments, in milliseconds, within any span of this length.
pub fn most_within(mut moments: Vec<i64>, span: Duration) -> usize {
    moments.sort_unstable();
    let span = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    let (mut first, mut most) = (0, 0);
    for (index, moment) in moments.iter().enumerate() {
        while moment - moments[first] >= span {
            first += 1;
        }
        most = most.max(index + 1 - first);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at_ms: i64, what: Happened, attempt: u128, method: Option<&str>) -> Line {
        let device = format!("d{attempt}").parse().expect("an id");
        Line { at_ms, what, device, attempt: Uuid::from_u128(attempt), method: method.map(str::to_owned) }
    }

    #[test]
    fn a_trace_is_counted_by_attempt() {
        let mut trace = Trace::default();
        let bundle = Some("UploadSupportBundle");
        for line in [
            line(0, Happened::Arrived, 1, bundle),
            line(5, Happened::Arrived, 2, bundle),
            line(6, Happened::Arrived, 2, bundle),
            line(7, Happened::Arrived, 3, Some("ping")),
            line(9, Happened::Done, 1, None),
            line(9, Happened::Arrived, 4, bundle),
            line(20, Happened::Done, 2, None),
        ] {
            trace.take(&line, Method::UploadSupportBundle);
        }
        assert_eq!((trace.arrived(), trace.repeated, trace.most_at_once()), (3, 1, 2));
        assert_eq!(trace.most_within(Duration::from_millis(5)), 2);
        assert_eq!(trace.most_within(Duration::from_millis(100)), 3);
    }
}
