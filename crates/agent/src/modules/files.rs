//! Log files: by path or pattern, with their rotated predecessors, oldest first.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use flate2::read::MultiGzDecoder;
use muster_wire::method::frames::Stream;
use time::OffsetDateTime;

use super::{LineSink, LogLine, MAX_LINE_BYTES, SourceError, Window, glob, stamp};

/// Most predecessors of one file that are read.
pub const MAX_ROTATED: usize = 100;
/// First lines of a file that wait for one with a time.
pub const MAX_UNDATED: usize = 256;

/// Files of one module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSource {
    /// Paths or patterns.
    pub paths: Vec<String>,
}

/// Oldest first, so the greatest number first; then dates in their order; the file itself is last.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Age {
    Numbered(std::cmp::Reverse<u32>),
    Dated(String),
    Current,
}

impl FileSource {
    /// Files in the order they are read.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> = Vec::new();
        for pattern in &self.paths {
            for path in glob::expand(pattern) {
                for file in with_rotated(&path) {
                    if !all.contains(&file) {
                        all.push(file);
                    }
                }
            }
        }
        all
    }

    /// Reads all files from the first line to the last.
    pub(crate) fn read(&self, window: Window, sink: &mut LineSink) -> Result<(), SourceError> {
        let now = OffsetDateTime::now_utc();
        for path in self.files() {
            let error = |source| SourceError::File { path: path.clone(), source };
            let file = match File::open(&path) {
                Ok(file) => file,
                // Rotated away between the listing and now: the next file has its lines.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound && self.files().iter().any(|p| p.exists()) => continue,
                Err(e) => return Err(error(e)),
            };
            let changed = file.metadata().and_then(|m| m.modified()).map_err(error)?;
            if window.tail.is_none() && is_older(changed, window.since) {
                continue;
            }
            let is_gzip = path.extension().is_some_and(|extension| extension == "gz");
            let reader: Box<dyn Read> = if is_gzip { Box::new(MultiGzDecoder::new(BufReader::new(file))) } else { Box::new(file) };
            if !read_lines(BufReader::with_capacity(64 * 1024, reader), changed, now, sink).map_err(error)? {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Nothing in a file is newer than its last change.
fn is_older(changed: SystemTime, since_unix: Option<i64>) -> bool {
    let (Some(since), Ok(changed)) = (since_unix, changed.duration_since(SystemTime::UNIX_EPOCH)) else { return false };
    i64::try_from(changed.as_secs()).is_ok_and(|changed| changed + 1 < since)
}

/// False when nobody reads any more. A line without a time belongs to the one before it (a stack trace, a blank line); the
/// first lines of a file to the first that has one; and where no line has one, all of them to the file's last change.
fn read_lines(mut reader: impl BufRead, changed: SystemTime, now: OffsetDateTime, sink: &mut LineSink) -> std::io::Result<bool> {
    let mut received = None;
    let mut undated: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut payload = Vec::new();
        let ended = (&mut reader).take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut payload)? == 0;
        if !ended && !payload.ends_with(b"\n") && payload.len() < MAX_LINE_BYTES {
            payload.push(b'\n');
        }
        received = stamp::of_line(&payload, now).or(received);
        if received.is_none() && (ended || undated.len() >= MAX_UNDATED) {
            received = Some(nanos_of(changed));
        }
        let Some(received_unix_nanos) = received else {
            undated.push(payload);
            continue;
        };
        let last = if ended { None } else { Some(payload) };
        for payload in undated.drain(..).chain(last) {
            if !sink.push_blocking(LogLine { stream: Stream::Stdout, received_unix_nanos, payload }) {
                return Ok(false);
            }
        }
        if ended {
            return Ok(true);
        }
    }
}

fn nanos_of(moment: SystemTime) -> i64 {
    moment.duration_since(SystemTime::UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_nanos()).ok()).unwrap_or(0)
}

/// The predecessors of a file that logrotate left beside it, oldest first, then the file.
fn with_rotated(path: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else { return vec![path.to_owned()] };
    let directory_listed = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let mut found = vec![(Age::Current, path.to_owned())];
    for entry in std::fs::read_dir(directory_listed).into_iter().flatten().flatten() {
        let file = entry.file_name();
        if let Some(age) = file.to_str().and_then(|file| file.strip_prefix(name)).and_then(age_of) {
            found.push((age, entry.path()));
        }
    }
    found.sort();
    let skip = found.len().saturating_sub(MAX_ROTATED + 1);
    found.into_iter().skip(skip).map(|(_, path)| path).collect()
}

fn age_of(rest: &str) -> Option<Age> {
    let rest = rest.strip_suffix(".gz").unwrap_or(rest);
    if let Some(number) = rest.strip_prefix('.') {
        return number.parse().ok().map(|n| Age::Numbered(std::cmp::Reverse(n)));
    }
    let date = rest.strip_prefix('-')?;
    (date.len() >= 8 && date.bytes().all(|b| b.is_ascii_digit() || b == b'-')).then(|| Age::Dated(date.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gz(text: &str) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text.as_bytes()).expect("compressed");
        encoder.finish().expect("compressed")
    }

    async fn read(source: FileSource, window: Window) -> Result<Vec<LogLine>, SourceError> {
        let (mut sink, mut lines) = LineSink::channel();
        tokio::task::spawn_blocking(move || {
            let result = source.read(window, &mut sink);
            sink.end_blocking(result);
        });
        let mut all = Vec::new();
        while let Some(batch) = lines.recv().await {
            all.extend(batch?);
        }
        Ok(all)
    }

    fn texts(lines: &[LogLine]) -> Vec<String> {
        lines.iter().map(|line| String::from_utf8_lossy(&line.payload).trim_end().to_owned()).collect()
    }

    #[tokio::test]
    async fn rotated_files_are_read_in_the_order_they_were_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).expect("written");
        file("app.log", b"2026-01-03 00:00:00 five\nsix");
        file("app.log.1", b"2026-01-02 00:00:00 three\n\nfour\n");
        file("app.log.2.gz", &gz("two\n"));
        file("app.log.10.gz", &gz("2026-01-01 00:00:00 one\n"));
        file("app.log.bak", b"not ours\n");
        file("app.logger", b"not ours\n");
        let source = FileSource { paths: vec![format!("{}/app.log", directory.path().display())] };
        let lines = read(source.clone(), Window::default()).await.expect("read");
        assert_eq!(
            texts(&lines),
            ["2026-01-01 00:00:00 one", "two", "2026-01-02 00:00:00 three", "", "four", "2026-01-03 00:00:00 five", "six"]
        );
        let since_changed = OffsetDateTime::now_utc().unix_timestamp() - lines[1].received_unix_nanos / 1_000_000_000;
        assert!((0..60).contains(&since_changed), "no line of that file has a time, so it is the time of its last change");
        assert_eq!(lines[4].received_unix_nanos, lines[2].received_unix_nanos, "the time of the line before it");
        let future = Window { since: Some(OffsetDateTime::now_utc().unix_timestamp() + 100), ..Window::default() };
        assert!(read(source, future).await.expect("read").is_empty(), "files that did not change since are not opened");
    }

    #[tokio::test]
    async fn a_missing_file_is_an_error_that_names_it_and_long_lines_are_cut() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = format!("{}/none.log", directory.path().display());
        let error = read(FileSource { paths: vec![path.clone()] }, Window::default()).await.expect_err("missing").to_string();
        assert!(error.contains(&path), "{error}");
        std::fs::write(&path, vec![b'x'; MAX_LINE_BYTES + 10]).expect("written");
        let lines = read(FileSource { paths: vec![path] }, Window::default()).await.expect("read");
        assert_eq!(lines.iter().map(|l| l.payload.len()).collect::<Vec<_>>(), [MAX_LINE_BYTES, 11]);
    }

    #[tokio::test]
    async fn first_lines_without_a_time_take_the_next_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("x.log");
        let head: String = "header\n".repeat(3);
        std::fs::write(&path, format!("{head}2026-01-01 00:00:00 x\n")).expect("written");
        let source = FileSource { paths: vec![path.display().to_string()] };
        let lines = read(source.clone(), Window::default()).await.expect("read");
        assert!(lines.iter().all(|l| l.received_unix_nanos == 1_767_225_600_000_000_000));
        std::fs::write(&path, "header\n".repeat(MAX_UNDATED + 2)).expect("written");
        assert_eq!(read(source.clone(), Window::default()).await.expect("read").len(), MAX_UNDATED + 2);
        std::fs::write(&path, "").expect("written");
        assert!(read(source, Window::default()).await.expect("read").is_empty());
    }

    #[test]
    fn dated_rotations_sort_by_date() {
        assert_eq!(age_of("-20260101.gz"), Some(Age::Dated("20260101".to_owned())));
        assert!(age_of(".2") < age_of(".1") && age_of(".1") < Some(Age::Current));
        for other in [".bak", "-old", "ger", ".1.xz", ".gz"] {
            assert_eq!(age_of(other), None, "{other}");
        }
    }
}
