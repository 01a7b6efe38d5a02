//! From a filter to lines, in the order of the real pipeline:
//!
//! 1. the container runtime: `tail` of the raw lines (unless `tail`, `since` and `until` are all given), then `since`, then it
//!    stops at the first line later than `until`;
//! 2. the agent: parse, level equal, pattern found in the text;
//! 3. `tail` again, only if all three are given, and on real devices not for text uploads.
//!
//! A [`Plan`] is the filter, understood; a [`Pipeline`] runs it over a stream of records. A source that can do the first part
//! itself (a container engine's log API) takes [`Plan::runtime`] and starts the pipeline behind it.

use std::borrow::Cow;
use std::collections::VecDeque;

use super::frames::Stream;
use super::line::{self, Line};
use super::pattern::{LinePattern, Outcome};
use super::request::{ContentType, LogFilter};
use super::{MethodError, since};

/// Most memory that one `tail` may hold, in bytes of payload.
pub const MAX_TAIL_BYTES: usize = 256 * 1024 * 1024;
/// What a held record costs beside its payload.
const RECORD_OVERHEAD_BYTES: usize = std::mem::size_of::<Record<'static>>();

/// Which method asks, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `GetModuleLogs` with `contentType: text`.
    GetText,
    /// `GetModuleLogs` with `contentType: json`.
    GetJson,
    /// `UploadModuleLogs` with `contentType: text`.
    UploadText,
    /// `UploadModuleLogs` with `contentType: json`.
    UploadJson,
}

impl Mode {
    /// The mode of `GetModuleLogs`.
    pub fn get(content_type: ContentType) -> Self {
        match content_type {
            ContentType::Json => Self::GetJson,
            ContentType::Text => Self::GetText,
        }
    }

    /// The mode of `UploadModuleLogs`.
    pub fn upload(content_type: ContentType) -> Self {
        match content_type {
            ContentType::Json => Self::UploadJson,
            ContentType::Text => Self::UploadText,
        }
    }

    /// Whether lines are parsed with the runtime's stamp before them.
    pub fn is_json(self) -> bool {
        matches!(self, Self::GetJson | Self::UploadJson)
    }
}

/// One raw line as a source has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where it was written to.
    pub stream: Stream,
    /// When the runtime received it, in nanoseconds since the epoch.
    pub received_unix_nanos: i64,
    /// The line with its newline; bad UTF-8 already replaced.
    pub payload: Cow<'a, str>,
}

impl<'a> Record<'a> {
    /// From the bytes of a frame or a file; bad UTF-8 is replaced.
    pub fn new(stream: Stream, received_unix_nanos: i64, payload: &'a [u8]) -> Self {
        Self { stream, received_unix_nanos, payload: String::from_utf8_lossy(payload) }
    }

    /// The same record, holding its own payload.
    pub fn into_owned(self) -> Record<'static> {
        Record { stream: self.stream, received_unix_nanos: self.received_unix_nanos, payload: Cow::Owned(self.payload.into_owned()) }
    }

    fn held_bytes(&self) -> usize {
        self.payload.len() + RECORD_OVERHEAD_BYTES
    }
}

/// What a source may do by itself before it hands records over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuntimeWindow {
    /// The last so many raw lines, before the window is looked at.
    pub tail: Option<u32>,
    /// Unix second of the first line, inclusive.
    pub since: Option<i64>,
    /// Unix second of the last line, inclusive. Never 0: runtimes read that as "not set".
    pub until: Option<i64>,
}

/// A filter that has been understood.
#[derive(Debug)]
pub struct Plan {
    runtime: RuntimeWindow,
    level: Option<i32>,
    pattern: Option<LinePattern>,
    final_tail: Option<usize>,
    json: bool,
}

/// A record that passed, with its parsed form if there was a reason to parse it.
#[derive(Debug)]
pub struct Kept<'a> {
    /// The record.
    pub record: &'a Record<'a>,
    /// Its parsed form; always there in the JSON modes.
    pub line: Option<Line<'a>>,
}

impl Plan {
    /// Understands a filter. Errors are 400 for `GetModuleLogs`; for an upload they are found inside the task, which then fails.
    ///
    /// `tail_in_text_uploads`: real devices ignore `tail` for text uploads when `since` and `until` are given too; with `true`
    /// it is kept, which is what everybody means.
    pub fn new(filter: &LogFilter, mode: Mode, now_unix_seconds: i64, tail_in_text_uploads: bool) -> Result<Self, MethodError> {
        let bound = |name: &str, text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => match since::parse(text, now_unix_seconds) {
                Ok(unix) => Ok(Some(unix)),
                Err(error) => Err(MethodError::bad_request(format!("{name}: {error}"))),
            },
        };
        let (since, until) = (bound("since", &filter.since)?, bound("until", &filter.until)?);
        let all_three = filter.tail.is_some() && since.is_some() && until.is_some();
        let (tail, final_tail) = match filter.tail {
            None => (None, None),
            Some(_) if all_three && mode == Mode::UploadText && !tail_in_text_uploads => (None, None),
            // A negative count takes the last "fewer than none".
            Some(tail) if all_three => (None, Some(usize::try_from(tail).unwrap_or(0))),
            Some(tail) => match u32::try_from(tail) {
                Ok(tail) => (Some(tail), None),
                Err(_) => return Err(MethodError::bad_request(format!("tail: {tail} is negative"))),
            },
        };
        let pattern = match &filter.regex {
            None => None,
            Some(pattern) => Some(LinePattern::new(pattern).map_err(|error| MethodError::bad_request(format!("regex: {error}")))?),
        };
        let runtime = RuntimeWindow { tail, since, until: until.filter(|&until| until != 0) };
        Ok(Self { runtime, level: filter.loglevel, pattern, final_tail, json: mode.is_json() })
    }

    /// What the source may do by itself.
    pub fn runtime(&self) -> RuntimeWindow {
        self.runtime
    }

    /// Matches of the pattern that ran out of steps and were taken for "no match"; a caller warns if this is not 0.
    pub fn exhausted_matches(&self) -> u64 {
        self.pattern.as_ref().map_or(0, LinePattern::exhausted)
    }

    /// The record's parsed form in this mode.
    pub fn parse<'a>(&self, record: &'a Record<'_>) -> Line<'a> {
        if self.json { line::parse_received(&record.payload, record.received_unix_nanos) } else { line::parse(&record.payload) }
    }

    /// The second part: level and pattern.
    pub fn keep<'a>(&self, record: &'a Record<'a>) -> Option<Kept<'a>> {
        if !self.json && self.level.is_none() && self.pattern.is_none() {
            return Some(Kept { record, line: None });
        }
        let line = self.parse(record);
        if self.level.is_some_and(|level| level != i32::from(line.level)) {
            return None;
        }
        if self.pattern.as_ref().is_some_and(|pattern| pattern.find(&line.text) != Outcome::Match) {
            return None;
        }
        Some(Kept { record, line: Some(line) })
    }
}

/// Whether a source should go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// More records may matter.
    Continue,
    /// No later record can pass: the window is over.
    Done,
}

/// More lines than can be held were asked for with `tail`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lines that tail asks for take more than {0} bytes of memory; ask for fewer")]
pub struct TailTooLarge(pub usize);

/// Runs a plan over records, oldest first.
#[derive(Debug)]
pub struct Pipeline<'p> {
    plan: &'p Plan,
    window: RuntimeWindow,
    raw: Option<Tail>,
    last: Option<Tail>,
    done: bool,
}

impl<'p> Pipeline<'p> {
    /// For a source that hands over every record it has.
    pub fn new(plan: &'p Plan) -> Self {
        Self::with(plan, plan.runtime)
    }

    /// For a source that has done [`Plan::runtime`] already.
    pub fn after_runtime(plan: &'p Plan) -> Self {
        Self::with(plan, RuntimeWindow::default())
    }

    fn with(plan: &'p Plan, window: RuntimeWindow) -> Self {
        let raw = window.tail.map(|tail| Tail::new(usize::try_from(tail).unwrap_or(usize::MAX), MAX_TAIL_BYTES));
        let last = plan.final_tail.map(|tail| Tail::new(tail, MAX_TAIL_BYTES));
        Self { plan, window, raw, last, done: false }
    }

    /// Takes a record; what passes, and is not held back by a `tail`, goes to `out`.
    pub fn push(&mut self, record: Record<'_>, out: &mut impl FnMut(Kept<'_>)) -> Result<Flow, TailTooLarge> {
        match &mut self.raw {
            Some(raw) => raw.push(record).map(|()| Flow::Continue),
            None => self.window(record, out),
        }
    }

    /// The source has no more records; what was held back goes to `out`.
    pub fn finish(mut self, out: &mut impl FnMut(Kept<'_>)) -> Result<(), TailTooLarge> {
        if let Some(raw) = self.raw.take() {
            for record in raw.records {
                if self.window(record, out)? == Flow::Done {
                    break;
                }
            }
        }
        for record in self.last.into_iter().flat_map(|last| last.records) {
            let line = self.plan.json.then(|| self.plan.parse(&record));
            out(Kept { record: &record, line });
        }
        Ok(())
    }

    fn window(&mut self, record: Record<'_>, out: &mut impl FnMut(Kept<'_>)) -> Result<Flow, TailTooLarge> {
        const SECOND: i64 = 1_000_000_000;
        // Bounds fit 32 bits, so the products fit 64.
        self.done |= self.window.until.is_some_and(|until| record.received_unix_nanos > until.saturating_mul(SECOND));
        if self.done {
            return Ok(Flow::Done);
        }
        if self.window.since.is_some_and(|since| record.received_unix_nanos < since.saturating_mul(SECOND)) {
            return Ok(Flow::Continue);
        }
        if let Some(kept) = self.plan.keep(&record) {
            match &mut self.last {
                None => out(kept),
                Some(last) => {
                    drop(kept);
                    last.push(record)?;
                }
            }
        }
        Ok(Flow::Continue)
    }
}

/// The last so many records.
#[derive(Debug)]
struct Tail {
    records: VecDeque<Record<'static>>,
    count: usize,
    held_bytes: usize,
    max_bytes: usize,
}

impl Tail {
    fn new(count: usize, max_bytes: usize) -> Self {
        Self { records: VecDeque::new(), count, held_bytes: 0, max_bytes }
    }

    fn push(&mut self, record: Record<'_>) -> Result<(), TailTooLarge> {
        if self.count == 0 {
            return Ok(());
        }
        if self.records.len() == self.count
            && let Some(oldest) = self.records.pop_front()
        {
            self.held_bytes -= oldest.held_bytes();
        }
        self.held_bytes += record.held_bytes();
        if self.held_bytes > self.max_bytes {
            return Err(TailTooLarge(self.max_bytes));
        }
        self.records.push_back(record.into_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(second: i64, payload: &str) -> Record<'_> {
        Record::new(Stream::Stdout, second * 1_000_000_000, payload.as_bytes())
    }

    fn run(plan: &Plan, records: &[Record<'_>]) -> (Vec<String>, usize) {
        let (mut kept, mut pushed) = (Vec::new(), 0);
        let mut pipeline = Pipeline::new(plan);
        let mut out = |k: Kept<'_>| kept.push(k.record.payload.to_string());
        for record in records {
            pushed += 1;
            if pipeline.push(record.clone(), &mut out).expect("small") == Flow::Done {
                break;
            }
        }
        pipeline.finish(&mut out).expect("small");
        (kept, pushed)
    }

    #[test]
    fn a_source_is_told_when_the_window_is_over() {
        let filter = LogFilter { until: Some("2".into()), ..LogFilter::default() };
        let plan = Plan::new(&filter, Mode::GetText, 0, false).expect("a plan");
        let records = [record(1, "a"), record(2, "b"), record(3, "c"), record(2, "d")];
        assert_eq!(run(&plan, &records), (vec!["a".into(), "b".into()], 3));
    }

    #[test]
    fn the_runtime_part_can_be_left_to_the_source() {
        let filter = LogFilter { tail: Some(1), since: Some("5".into()), ..LogFilter::default() };
        let plan = Plan::new(&filter, Mode::GetJson, 0, false).expect("a plan");
        assert_eq!(plan.runtime(), RuntimeWindow { tail: Some(1), since: Some(5), until: None });
        let mut kept = 0;
        let mut pipeline = Pipeline::after_runtime(&plan);
        for second in 0..3 {
            pipeline.push(record(second, "x"), &mut |kept_now| kept += usize::from(kept_now.line.is_some())).expect("small");
        }
        assert_eq!(kept, 3);
    }

    #[test]
    fn text_uploads_can_keep_their_tail() {
        let filter = LogFilter { tail: Some(1), since: Some("0".into()), until: Some("9".into()), ..LogFilter::default() };
        let records = [record(1, "a"), record(2, "b")];
        for (keeps, expected) in [(false, vec!["a".to_owned(), "b".to_owned()]), (true, vec!["b".to_owned()])] {
            let plan = Plan::new(&filter, Mode::UploadText, 0, keeps).expect("a plan");
            assert_eq!(run(&plan, &records).0, expected);
        }
    }

    #[test]
    fn a_tail_holds_only_so_much() {
        let mut tail = Tail::new(2, 2 * (RECORD_OVERHEAD_BYTES + 4));
        for _ in 0..3 {
            tail.push(record(0, "four")).expect("two fit");
        }
        assert_eq!(tail.push(record(0, "five!")), Err(TailTooLarge(2 * (RECORD_OVERHEAD_BYTES + 4))));
        Tail::new(0, 0).push(record(0, "nothing is held")).expect("nothing is held");
    }

    #[test]
    fn patterns_that_run_out_of_steps_are_reported() {
        let filter = LogFilter { regex: Some(r"^(a|aa)+(?=b)\1c$".into()), ..LogFilter::default() };
        let plan = Plan::new(&filter, Mode::GetText, 0, false).expect("a plan");
        let text = "a".repeat(60);
        assert_eq!(run(&plan, &[record(0, &text)]).0, Vec::<String>::new());
        assert_eq!(plan.exhausted_matches(), 1);
    }

    proptest! {
        #[test]
        fn never_panics(
            tail in prop::option::of(any::<i32>()), since in prop::option::of("-?[0-9]{1,10}"), until in prop::option::of("-?[0-9]{1,10}"),
            loglevel in prop::option::of(0..8), nanos in prop::collection::vec(any::<i64>(), 0..6), now in any::<i64>(), keeps in any::<bool>(),
        ) {
            let filter = LogFilter { tail, since, until, loglevel, regex: Some("x?".into()) };
            for mode in [Mode::GetText, Mode::GetJson, Mode::UploadText, Mode::UploadJson] {
                if let Ok(plan) = Plan::new(&filter, mode, now, keeps) {
                    let records: Vec<_> = nanos.iter().map(|&nanos| Record::new(Stream::Stderr, nanos, b"<3> x\xff\n")).collect();
                    run(&plan, &records);
                }
            }
        }
    }
}
