//! The systemd journal, through `journalctl`: its own format changes, its program's does not.

use std::process::Stdio;

use muster_wire::method::frames::Stream;
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

use super::{LineSink, LogLine, MAX_LINE_BYTES, SourceError, Window};

/// Longest record that is read; beyond it the record is left out.
pub const MAX_RECORD_BYTES: usize = 1024 * 1024;
/// Most of what `journalctl` complains that is kept.
const MAX_COMPLAINT_BYTES: u64 = 4096;

/// What of the journal is a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journald {
    /// The program.
    pub program: String,
    /// Units; none means the whole journal.
    pub units: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Record {
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    micros: String,
    #[serde(rename = "MESSAGE", default)]
    message: Value,
    #[serde(rename = "PRIORITY", default)]
    priority: Option<String>,
    #[serde(rename = "SYSLOG_IDENTIFIER", default)]
    identifier: Option<String>,
}

impl Journald {
    fn command(&self, window: Window) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--output=json", "--no-pager", "--quiet", "--output-fields=MESSAGE,PRIORITY,SYSLOG_IDENTIFIER"]);
        for unit in &self.units {
            command.arg(format!("--unit={unit}"));
        }
        match window.tail {
            // The last lines first of all, then the bounds: the bounds are applied by the reader.
            Some(tail) => {
                command.arg(format!("--lines={tail}"));
            }
            None => {
                command.args(window.since.map(|second| format!("--since=@{second}")));
                command.args(window.until.map(|second| format!("--until=@{}", second.saturating_add(1))));
            }
        }
        command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    pub(crate) async fn read(&self, window: Window, sink: &mut LineSink) -> Result<(), SourceError> {
        let failed = |reason: String| SourceError::Journald(reason);
        let mut child = self.command(window).spawn().map_err(|e| failed(format!("{} cannot be started: {e}", self.program)))?;
        let mut output = BufReader::with_capacity(64 * 1024, child.stdout.take().expect("piped"));
        let mut complaints = child.stderr.take().expect("piped").take(MAX_COMPLAINT_BYTES);
        while let Some(record) = next_record(&mut output).await.map_err(|e| failed(e.to_string()))? {
            if let Some(line) = record.as_deref().and_then(line_of)
                && !sink.push(line).await
            {
                return Ok(());
            }
        }
        let mut complaint = String::new();
        let _ = complaints.read_to_string(&mut complaint).await;
        let status = child.wait().await.map_err(|e| failed(e.to_string()))?;
        if status.success() { Ok(()) } else { Err(failed(format!("{status}: {}", complaint.trim()))) }
    }
}

/// The next line of output: `Some(None)` for one that is too long, which is read past and forgotten.
async fn next_record(output: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<Option<Vec<u8>>>> {
    let (mut record, mut seen) = (Vec::new(), 0_usize);
    loop {
        let chunk = output.fill_buf().await?;
        if chunk.is_empty() {
            return Ok((seen > 0).then_some(Some(record)));
        }
        let (taken, complete) = match chunk.iter().position(|&b| b == b'\n') {
            Some(at) => (at + 1, true),
            None => (chunk.len(), false),
        };
        seen += taken;
        if seen <= MAX_RECORD_BYTES {
            record.extend_from_slice(&chunk[..taken]);
        }
        output.consume(taken);
        if complete {
            return Ok(Some((seen <= MAX_RECORD_BYTES).then_some(record)));
        }
    }
}

/// `<3> 2026-01-02 03:04:05.678 +00:00 [sshd] text`: the shape of edgeAgent's own lines, so that level and time are understood.
fn line_of(record: &[u8]) -> Option<LogLine> {
    let record: Record = serde_json::from_slice(record).ok()?;
    let micros: i64 = record.micros.parse().ok()?;
    let text = match record.message {
        Value::String(text) => text,
        // Not UTF-8: journalctl writes the bytes as numbers.
        Value::Array(bytes) => {
            String::from_utf8_lossy(&bytes.iter().filter_map(|b| u8::try_from(b.as_u64()?).ok()).collect::<Vec<_>>()).into_owned()
        }
        _ => return None,
    };
    let nanos = micros.checked_mul(1000)?;
    let at = OffsetDateTime::from_unix_timestamp_nanos(nanos.into()).ok()?;
    let priority = record.priority.as_deref().filter(|p| matches!(p.as_bytes(), [b'0'..=b'7'])).unwrap_or("6");
    let mut payload = format!(
        "<{priority}> {:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:03} +00:00 ",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.millisecond()
    );
    if let Some(identifier) = record.identifier {
        payload.push_str(&format!("[{identifier}] "));
    }
    payload.push_str(&text);
    let mut end = payload.len().min(MAX_LINE_BYTES);
    while !payload.is_char_boundary(end) {
        end -= 1;
    }
    payload.truncate(end);
    payload.push('\n');
    Some(LogLine { stream: Stream::Stdout, received_unix_nanos: nanos, payload: payload.into_bytes() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_become_lines_with_level_and_time() {
        let line =
            line_of(br#"{"__REALTIME_TIMESTAMP":"1767225600123456","MESSAGE":"it stalled","PRIORITY":"3","SYSLOG_IDENTIFIER":"pump"}"#)
                .expect("a line");
        assert_eq!(String::from_utf8_lossy(&line.payload), "<3> 2026-01-01 00:00:00.123 +00:00 [pump] it stalled\n");
        assert_eq!(line.received_unix_nanos, 1_767_225_600_123_456_000);
        let bytes = line_of(br#"{"__REALTIME_TIMESTAMP":"1767225600000000","MESSAGE":[104,105,255]}"#).expect("a line");
        assert_eq!(String::from_utf8_lossy(&bytes.payload), "<6> 2026-01-01 00:00:00.000 +00:00 hi\u{fffd}\n");
        for bad in
            [&b"{}"[..], b"not json", br#"{"__REALTIME_TIMESTAMP":"x","MESSAGE":"m"}"#, br#"{"__REALTIME_TIMESTAMP":"1","MESSAGE":null}"#]
        {
            assert_eq!(line_of(bad), None);
        }
    }

    #[tokio::test]
    async fn a_giant_record_is_left_out_and_the_next_one_is_read() {
        let bytes = [vec![b'x'; MAX_RECORD_BYTES + 1], b"\nsmall\n".to_vec()].concat();
        let mut output = BufReader::new(&bytes[..]);
        assert_eq!(next_record(&mut output).await.expect("read"), Some(None));
        assert_eq!(next_record(&mut output).await.expect("read"), Some(Some(b"small\n".to_vec())));
        assert_eq!(next_record(&mut output).await.expect("read"), None);
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_or_fails_is_named() {
        for (program, expected) in [("/nowhere/journalctl", "cannot be started"), ("/bin/false", "exit status: 1")] {
            let (mut sink, _lines) = LineSink::channel();
            let journal = Journald { program: program.to_owned(), units: Vec::new() };
            let error = journal.read(Window::default(), &mut sink).await.expect_err(program).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn the_machines_own_journal_can_be_read() {
        let (mut sink, mut lines) = LineSink::channel();
        let journal = Journald { program: "journalctl".to_owned(), units: Vec::new() };
        let reading = tokio::spawn(async move { journal.read(Window { tail: Some(5), ..Window::default() }, &mut sink).await });
        while lines.recv().await.is_some() {}
        reading.await.expect("no panic").expect("journalctl answers, even where the journal is empty");
    }
}
