//! One thing shown in full: names on the left, values on the right.

use std::fmt::Write as _;

use super::{one_line, out::Out};

/// Names and values of one thing.
#[derive(Debug, Default)]
pub(crate) struct Sheet {
    lines: Vec<(String, String)>,
}

impl Sheet {
    /// Adds a line.
    pub(crate) fn line(mut self, name: &str, value: impl Into<String>) -> Self {
        self.lines.push((name.to_owned(), value.into()));
        self
    }

    /// Adds a line when there is a value.
    pub(crate) fn maybe(self, name: &str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.line(name, value),
            None => self,
        }
    }

    /// As text. Values are one line each.
    pub(crate) fn render(&self, out: &Out) -> String {
        let width = self.lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        self.lines.iter().fold(String::new(), |mut text, (name, value)| {
            let pad = " ".repeat(width - name.chars().count());
            let value = one_line(value);
            let _ = writeln!(text, "{}{pad}  {}", out.dim(name), out.paint_word(&value));
            text
        })
    }
}
