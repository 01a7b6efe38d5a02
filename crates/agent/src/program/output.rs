//! The one place that prints.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use muster_agent::Stats;
use serde::Serialize;

/// Prints text; a reader that went away is no error.
pub(super) fn text(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

pub(super) fn error(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "muster-agent: {text}");
}

#[derive(Serialize)]
struct Line<'a> {
    seconds: f64,
    devices: usize,
    #[serde(flatten)]
    stats: &'a Stats,
}

/// One line per second on a terminal, NDJSON in a pipe, and NDJSON in a file where one was asked for.
#[derive(Debug)]
pub(super) struct Progress {
    began: Instant,
    devices: usize,
    terminal: bool,
    file: Option<File>,
}

impl Progress {
    pub(super) fn new(file: Option<&Path>, devices: usize) -> anyhow::Result<Self> {
        let open = |path: &Path| {
            OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("statistics file {}", path.display()))
        };
        Ok(Self { began: Instant::now(), devices, terminal: std::io::stdout().is_terminal(), file: file.map(open).transpose()? })
    }

    fn json(&self, stats: &Stats) -> String {
        let line = Line { seconds: self.began.elapsed().as_secs_f64(), devices: self.devices, stats };
        serde_json::to_string(&line).expect("numbers are always JSON") + "\n"
    }

    pub(super) fn show(&mut self, stats: &Stats) -> anyhow::Result<()> {
        let json = self.json(stats);
        if let Some(file) = &mut self.file {
            file.write_all(json.as_bytes()).context("statistics file")?;
        }
        if !self.terminal {
            return text(&json);
        }
        text(&format!(
            "\r\x1b[K{:5.0} s  {}/{} connected  {} requests  {} answers  {} uploads of {}  {:.1} MB",
            self.began.elapsed().as_secs_f64(),
            stats.connected,
            self.devices,
            stats.requests,
            stats.answers,
            stats.uploads_completed,
            stats.uploads_started,
            stats.bytes_uploaded as f64 / 1e6
        ))?;
        Ok(std::io::stdout().flush()?)
    }

    pub(super) fn end(&mut self, stats: &Stats) -> anyhow::Result<()> {
        self.show(stats)?;
        if self.terminal { text("\n") } else { Ok(()) }
    }
}
