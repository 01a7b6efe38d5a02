//! The last of our own log, kept in memory for bundles.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;

/// Most bytes that are kept.
pub const MAX_RECENT_BYTES: usize = 256 * 1024;

/// A ring of log text; cheap to clone, all clones are one.
#[derive(Debug, Clone, Default)]
pub struct RecentLog(Arc<Mutex<VecDeque<u8>>>);

impl RecentLog {
    /// What is kept, from the first whole line on.
    pub fn text(&self) -> String {
        let ring = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let bytes: Vec<u8> = ring.iter().copied().collect();
        let from = if bytes.len() < MAX_RECENT_BYTES { 0 } else { bytes.iter().position(|&b| b == b'\n').map_or(0, |at| at + 1) };
        String::from_utf8_lossy(&bytes[from..]).into_owned()
    }
}

impl Write for RecentLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut ring = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let tail = &bytes[bytes.len().saturating_sub(MAX_RECENT_BYTES)..];
        let excess = (ring.len() + tail.len()).saturating_sub(MAX_RECENT_BYTES);
        ring.drain(..excess);
        ring.extend(tail);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for RecentLog {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_whole_lines_are_kept() {
        let mut log = RecentLog::default();
        for n in 0..100_000 {
            writeln!(log, "line {n}").expect("written");
        }
        let text = log.text();
        assert!(text.len() <= MAX_RECENT_BYTES && text.starts_with("line ") && text.ends_with("line 99999\n"));
        log.write_all(&vec![b'x'; 2 * MAX_RECENT_BYTES]).expect("written");
        assert!(log.text().len() <= MAX_RECENT_BYTES);
    }
}
