//! Standard output and standard error, and the form in which results are printed.

use std::io::{IsTerminal as _, Write};

use comfy_table::{Cell, Color};
use serde::Serialize;
use time::OffsetDateTime;

use super::{Listed, Sheet, plain, table};
use crate::args::{ColorWhen, Look};
use crate::failure::Failure;

/// Narrowest width a table is squeezed into.
const MIN_WIDTH: u16 = 40;

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Form {
    /// Aligned columns for people (default on a terminal).
    Table,
    /// One JSON document.
    Json,
    /// One JSON object per line (default in a pipe).
    Ndjson,
    /// Ids only, one per line.
    Name,
}

/// Colours with a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    /// It worked.
    Good,
    /// Worth a look.
    Warn,
    /// It did not work.
    Bad,
}

/// Where output goes and how it looks.
pub(crate) struct Out {
    form: Form,
    chosen: Option<Form>,
    color: bool,
    width: Option<u16>,
    terminal: bool,
    now: OffsetDateTime,
    sink: Box<dyn Write + Send>,
}

impl Out {
    /// Looks at the terminal, the environment and the flags.
    pub(crate) fn new(look: &Look) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color = match look.color {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => terminal && !no_color && std::env::var_os("TERM").is_none_or(|term| term != "dumb"),
        };
        let form = look.output.unwrap_or(if terminal { Form::Table } else { Form::Ndjson });
        let width = if terminal { comfy_table::Table::new().width().map(|width| width.max(MIN_WIDTH)) } else { None };
        Self { form, chosen: look.output, color, width, terminal, now: OffsetDateTime::now_utc(), sink: Box::new(std::io::stdout()) }
    }

    /// No terminal, no colour, a fixed instant.
    #[cfg(test)]
    pub(crate) fn for_test(width: Option<u16>) -> Self {
        Self {
            form: Form::Table,
            chosen: None,
            color: false,
            width,
            terminal: false,
            now: time::macros::datetime!(2026-11-21 12:00:00 UTC),
            sink: Box::new(std::io::sink()),
        }
    }

    /// The form asked for, or the one that fits where the output goes.
    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// The form, when it was asked for.
    pub(crate) fn chosen_form(&self) -> Option<Form> {
        self.chosen
    }

    /// Whether standard output is a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Columns of the terminal.
    pub(crate) fn width(&self) -> Option<u16> {
        self.width
    }

    /// Whether colours are used.
    pub(crate) fn colored(&self) -> bool {
        self.color
    }

    /// The instant that "ago" is counted from.
    pub(crate) fn now(&self) -> OffsetDateTime {
        self.now
    }

    /// Writes bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.sink.write_all(bytes)?)
    }

    /// Writes text that is ours or already harmless.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.raw(text.as_bytes())
    }

    /// Writes what is still buffered.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.sink.flush()?)
    }

    /// One JSON value: pretty when a document was asked for, one line otherwise.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let written = if self.form == Form::Json { serde_json::to_vec_pretty(value) } else { serde_json::to_vec(value) };
        let mut bytes = written.expect("the bodies of the API are JSON");
        bytes.push(b'\n');
        self.raw(&bytes)
    }

    /// One thing: a sheet for people, JSON for programs, its name for scripts.
    pub(crate) fn one(&mut self, value: &impl Serialize, name: &str, sheet: impl FnOnce(&Self) -> Sheet) -> Result<(), Failure> {
        match self.form {
            Form::Table => {
                let text = sheet(self).render(self);
                self.text(&text)
            }
            Form::Json | Form::Ndjson => self.json(value),
            Form::Name => self.text(&format!("{}\n", plain(name))),
        }
    }

    /// A whole list.
    pub(crate) fn list<T: Listed>(&mut self, items: &[T]) -> Result<(), Failure> {
        match self.form {
            Form::Table => {
                let rows: Vec<Vec<String>> = items.iter().map(|item| item.cells(self.now)).collect();
                let text = table(T::COLUMNS, &rows, self);
                self.text(&text)
            }
            Form::Json => self.json(&items),
            Form::Ndjson => items.iter().try_for_each(|item| self.json(item)),
            Form::Name => items.iter().try_for_each(|item| self.text(&format!("{}\n", plain(&item.name())))),
        }
    }

    /// A word to people, beside the results: standard error. Nothing sensible can be done when that is closed.
    pub(crate) fn note(&self, text: &str) {
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    /// A cell whose colour follows from its word.
    pub(crate) fn cell(&self, text: &str) -> Cell {
        let cell = Cell::new(text);
        match paint_of(text).filter(|_| self.color) {
            Some(Paint::Good) => cell.fg(Color::Green),
            Some(Paint::Warn) => cell.fg(Color::Yellow),
            Some(Paint::Bad) => cell.fg(Color::Red),
            None => cell,
        }
    }

    /// Text in a colour.
    pub(crate) fn paint(&self, text: &str, paint: Paint) -> String {
        let code = match paint {
            Paint::Good => 32,
            Paint::Warn => 33,
            Paint::Bad => 31,
        };
        if self.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// Text in the colour of its word, when it has one.
    pub(crate) fn paint_word(&self, text: &str) -> String {
        match paint_of(text) {
            Some(paint) => self.paint(text, paint),
            None => text.to_owned(),
        }
    }

    /// Text that stands back.
    pub(crate) fn dim(&self, text: &str) -> String {
        if self.color { format!("\u{1b}[2m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// Text that stands out.
    pub(crate) fn bold(&self, text: &str) -> String {
        if self.color { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// The words of the product that have a colour.
fn paint_of(word: &str) -> Option<Paint> {
    match word {
        "verified" | "complete" | "online" | "finished" | "intact" | "ok" | "yes" => Some(Paint::Good),
        "partial" | "waiting" | "offline" | "cancelled" | "expired" | "skipped" | "unknown" => Some(Paint::Warn),
        "failed" | "refused" | "damaged" => Some(Paint::Bad),
        no if no.starts_with("NO, ") => Some(Paint::Bad),
        _ => None,
    }
}

/// What a test reads back.
#[cfg(test)]
#[derive(Clone, Default)]
pub(crate) struct SharedBuffer(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

#[cfg(test)]
impl SharedBuffer {
    /// An output that is kept, and the place where it is kept.
    pub(crate) fn out(form: Form) -> (Out, Self) {
        let buffer = Self::default();
        (Out { form, chosen: Some(form), sink: Box::new(buffer.clone()), ..Out::for_test(None) }, buffer)
    }

    /// What was written so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no writer panicked").clone()).expect("UTF-8")
    }
}

#[cfg(test)]
impl Write for SharedBuffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no writer panicked").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_wire::http::BundleFile;

    fn files() -> Vec<BundleFile> {
        let file = |path: &str, size_bytes| BundleFile { path: path.into(), size_bytes };
        vec![file("bundle.zip", 1234), file("bundle.zip!logs/\u{1b}[31medgeHub.txt", 56)]
    }

    #[test]
    fn a_list_in_every_form() {
        for form in [Form::Table, Form::Json, Form::Ndjson, Form::Name] {
            let (mut out, buffer) = SharedBuffer::out(form);
            out.list(&files()).expect("printed");
            insta::with_settings!({ snapshot_suffix => format!("{form:?}").to_lowercase(), omit_expression => true }, {
                insta::assert_snapshot!("list", buffer.text());
            });
        }
    }

    #[test]
    fn one_thing_in_every_form() {
        for form in [Form::Table, Form::Json, Form::Ndjson, Form::Name] {
            let (mut out, buffer) = SharedBuffer::out(form);
            out.one(&files()[0], "bundle.zip", |_| Sheet::default().line("path", "bundle.zip").line("size", "1.2 kB")).expect("printed");
            insta::with_settings!({ snapshot_suffix => format!("{form:?}").to_lowercase(), omit_expression => true }, {
                insta::assert_snapshot!("one", buffer.text());
            });
        }
    }

    #[test]
    fn a_closed_pipe_is_its_own_failure() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut out = Out { sink: Box::new(Closed), ..Out::for_test(None) };
        assert!(matches!(out.text("x"), Err(Failure::BrokenPipe)));
    }
}
