//! From the lines of a source to what a caller gets: filtered, rendered, packed.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use muster_wire::method::answer::LogPayload;
use muster_wire::method::filter::{Flow, Kept, Pipeline, Plan, Record, TailTooLarge};
use muster_wire::method::render::{Origin, Renderer};
use muster_wire::method::size::{MAX_COUNTED, SizeCheck, counted_gzip, counted_text};
use muster_wire::method::{ContentType, Encoding, MethodError};

use crate::modules::{LogLine, SourceError};

/// Rendered bytes that are gathered before they are written on.
const WRITE_BYTES: usize = 64 * 1024;
/// A UTF-16 unit is at most three bytes of UTF-8, so more bytes than this are too large whatever they are.
const SURELY_TOO_LARGE_BYTES: usize = 3 * MAX_COUNTED + 1;

/// Why a log could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Tail(#[from] TailTooLarge),
    #[error("writing: {0}")]
    Write(#[from] std::io::Error),
    #[error(transparent)]
    Method(#[from] MethodError),
}

impl From<LogError> for MethodError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Method(error) => error,
            LogError::Source(source) if source.is_request() => Self::bad_request(source.to_string()),
            LogError::Tail(tail) => Self::bad_request(tail.to_string()),
            other => Self::failed(other.to_string()),
        }
    }
}

/// Plain bytes or one gzip stream of them.
enum Packer<W: Write> {
    Plain(W),
    Gzip(Box<GzEncoder<W>>),
}

impl<W: Write> Packer<W> {
    fn new(encoding: Encoding, out: W) -> Self {
        match encoding {
            Encoding::None => Self::Plain(out),
            Encoding::Gzip => Self::Gzip(Box::new(GzEncoder::new(out, Compression::default()))),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(out) => out.write_all(bytes),
            Self::Gzip(encoder) => encoder.write_all(bytes),
        }
    }

    fn out(&self) -> &W {
        match self {
            Self::Plain(out) => out,
            Self::Gzip(encoder) => encoder.get_ref(),
        }
    }

    fn finish(self) -> std::io::Result<W> {
        match self {
            Self::Plain(out) => Ok(out),
            Self::Gzip(encoder) => encoder.finish(),
        }
    }
}

/// What one module's log becomes.
#[derive(Debug)]
pub(crate) struct Form<'a> {
    pub origin: Origin<'a>,
    pub content_type: ContentType,
    pub encoding: Encoding,
}

enum Rendering {
    /// As `GetModuleLogs` and all JSON have it.
    Rendered(Renderer),
    /// Lines as they are, blank ones too.
    Raw,
}

/// Runs the lines through the plan and writes what passes; `check` may stop it after every batch.
fn write_log<W: Write>(
    plan: &Plan,
    form: &Form<'_>,
    mut rendering: Rendering,
    lines: impl Iterator<Item = Result<Vec<LogLine>, SourceError>>,
    out: W,
    check: impl Fn(&W) -> Result<(), MethodError>,
) -> Result<W, LogError> {
    let mut packer = Packer::new(form.encoding, out);
    let mut pipeline = Pipeline::new(plan);
    let mut rendered = Vec::with_capacity(WRITE_BYTES);
    'source: for batch in lines {
        for line in batch? {
            let record = Record::new(line.stream, line.received_unix_nanos, &line.payload);
            let flow = pipeline.push(record, &mut |kept| rendering.push(&kept, &mut rendered))?;
            if rendered.len() >= WRITE_BYTES {
                packer.write(&rendered)?;
                rendered.clear();
                check(packer.out())?;
            }
            if flow == Flow::Done {
                break 'source;
            }
        }
    }
    // What a tail held back is written as it comes, not gathered first.
    let (mut failed, mut too_large) = (None, None);
    pipeline.finish(&mut |kept| {
        rendering.push(&kept, &mut rendered);
        if rendered.len() >= WRITE_BYTES && failed.is_none() && too_large.is_none() {
            failed = packer.write(&rendered).err();
            too_large = check(packer.out()).err();
            rendered.clear();
        }
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    if let Some(error) = too_large {
        return Err(error.into());
    }
    if let Rendering::Rendered(renderer) = rendering {
        renderer.finish(&mut rendered);
    }
    packer.write(&rendered)?;
    if plan.exhausted_matches() > 0 {
        tracing::warn!(matches = plan.exhausted_matches(), "a pattern ran out of steps; those lines were taken as not matching");
    }
    Ok(packer.finish()?)
}

impl Rendering {
    fn push(&mut self, kept: &Kept<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Rendered(renderer) => renderer.push(kept, out),
            Self::Raw => out.extend_from_slice(kept.record.payload.as_bytes()),
        }
    }
}

/// A log as it stands in an answer, counted against the limit of all modules of that answer.
pub(crate) fn for_answer(
    plan: &Plan,
    form: &Form<'_>,
    lines: impl Iterator<Item = Result<Vec<LogLine>, SourceError>>,
    sum: &mut SizeCheck,
) -> Result<LogPayload, LogError> {
    let encoding = form.encoding;
    let check = move |out: &Vec<u8>| {
        let surely = match encoding {
            Encoding::None => SURELY_TOO_LARGE_BYTES,
            Encoding::Gzip => MAX_COUNTED,
        };
        // Only the message needs the check's own words; it cannot pass any more.
        if out.len() > surely { SizeCheck::new(encoding).add(out.len()) } else { Ok(()) }
    };
    let rendering = Rendering::Rendered(Renderer::new(form.content_type, form.origin));
    let bytes = write_log(plan, form, rendering, lines, Vec::new(), check)?;
    match encoding {
        Encoding::None => {
            let text = String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
            sum.add(counted_text(&text))?;
            Ok(LogPayload::Plain(text))
        }
        Encoding::Gzip => {
            sum.add(counted_gzip(&bytes))?;
            Ok(LogPayload::Gzip(bytes))
        }
    }
}

/// A log as it is uploaded.
pub(crate) fn for_upload<W: Write>(
    plan: &Plan,
    form: &Form<'_>,
    lines: impl Iterator<Item = Result<Vec<LogLine>, SourceError>>,
    out: W,
) -> Result<W, LogError> {
    let rendering = match form.content_type {
        ContentType::Json => Rendering::Rendered(Renderer::new(ContentType::Json, form.origin)),
        ContentType::Text => Rendering::Raw,
    };
    write_log(plan, form, rendering, lines, out, |_| Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_wire::method::LogFilter;
    use muster_wire::method::filter::Mode;
    use muster_wire::method::frames::Stream;

    fn lines(count: usize, text: &str) -> Vec<Result<Vec<LogLine>, SourceError>> {
        let line = |n: usize| LogLine {
            stream: Stream::Stdout,
            received_unix_nanos: n as i64 * 1_000_000_000,
            payload: format!("{text}{n}\n").into_bytes(),
        };
        (0..count).map(|n| Ok(vec![line(n)])).collect()
    }

    fn form(content_type: ContentType, encoding: Encoding) -> Form<'static> {
        Form { origin: Origin { iothub: "hub", device: "dev", module: "m" }, content_type, encoding }
    }

    fn plan(filter: LogFilter, mode: Mode) -> Plan {
        Plan::new(&filter, mode, 1_000_000, true).expect("a plan")
    }

    #[test]
    fn an_answer_is_cut_off_long_before_the_log_ends() {
        let everything = plan(LogFilter::default(), Mode::GetText);
        let mut read = 0_u64;
        let endless = (0..).map(|n: i64| {
            read += 1;
            Ok(vec![LogLine { stream: Stream::Stdout, received_unix_nanos: n, payload: vec![b'x'; 1000] }])
        });
        let mut sum = SizeCheck::new(Encoding::None);
        let error = for_answer(&everything, &form(ContentType::Text, Encoding::None), endless, &mut sum).expect_err("too large");
        assert_eq!(MethodError::from(error).status(), 400);
        assert!(read < 1000, "{read} batches were read of an endless log");
    }

    #[test]
    fn the_limit_is_over_all_modules_and_inclusive() {
        let everything = plan(LogFilter::default(), Mode::GetText);
        let mut sum = SizeCheck::new(Encoding::None);
        let exact =
            || vec![Ok(vec![LogLine { stream: Stream::Stdout, received_unix_nanos: 0, payload: vec![b'x'; MAX_COUNTED] }])].into_iter();
        assert!(for_answer(&everything, &form(ContentType::Text, Encoding::None), exact(), &mut sum).is_ok());
        assert!(for_answer(&everything, &form(ContentType::Text, Encoding::None), lines(1, "").into_iter(), &mut sum).is_err());
    }

    #[test]
    fn uploads_keep_blank_lines_and_a_tail_is_written_whole() {
        let everything = plan(LogFilter::default(), Mode::UploadText);
        let blank = vec![Ok(vec![LogLine { stream: Stream::Stdout, received_unix_nanos: 0, payload: b"\n".to_vec() }])].into_iter();
        let out = for_upload(&everything, &form(ContentType::Text, Encoding::None), blank, Vec::new()).expect("written");
        assert_eq!(out, b"\n");
        let tail = plan(LogFilter { tail: Some(20_000), ..LogFilter::default() }, Mode::UploadText);
        let out =
            for_upload(&tail, &form(ContentType::Text, Encoding::Gzip), lines(30_000, "line ").into_iter(), Vec::new()).expect("written");
        let text = muster_wire::method::gzip::decompress(&out, 10_000_000).expect("gzip");
        assert_eq!(text.split(|&b| b == b'\n').count(), 20_001);
        assert!(text.starts_with(b"line 10000\n") && text.ends_with(b"line 29999\n"));
    }

    #[test]
    fn json_is_an_array_and_a_broken_source_is_an_error() {
        let everything = plan(LogFilter::default(), Mode::UploadJson);
        let out =
            for_upload(&everything, &form(ContentType::Json, Encoding::None), lines(3, "l").into_iter(), Vec::new()).expect("written");
        let parsed: Vec<serde_json::Value> = serde_json::from_slice(&out).expect("JSON");
        assert_eq!((parsed.len(), parsed[2]["text"].as_str()), (3, Some("l2")));
        let broken = lines(1, "l").into_iter().chain([Err(SourceError::Gone("m".to_owned()))]);
        assert!(for_upload(&everything, &form(ContentType::Json, Encoding::None), broken, Vec::new()).is_err());
    }
}
