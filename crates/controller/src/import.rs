//! Rows of a device list, CSV or one JSON object per line, read from a stream of any length in bounded memory.
//!
//! A cell of a CSV is text unless its column says otherwise (`tags.line:number`, `tags.lab:boolean`): an id like `007` stays what it is. An
//! empty cell says nothing.

use std::io::{BufRead, BufReader, Read};

use bytes::Bytes;
use muster_domain::tags::{self, MAX_TAG_DEPTH};
use muster_store::DeviceEntry;
use muster_wire::DeviceId;
use muster_wire::http::{ImportRow, MAX_IMPORT_COLUMNS, MAX_IMPORT_ROW_BYTES, Refusal};
use serde_json::{Map, Value};
use tokio::sync::mpsc;

/// Longest piece of a bad value that is repeated in an answer, in characters.
const MAX_SHOWN_CHARS: usize = 60;

/// A list of devices, by its content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// A header, then one device per row.
    Csv,
    /// One JSON object per line.
    Ndjson,
}

/// A row that was read.
#[derive(Debug)]
pub(crate) enum ReadRow {
    /// What it says, and the line it begins on.
    Entry(u64, DeviceEntry),
    /// Why it cannot be used.
    Refused(Refusal),
}

/// Why reading ended before the list did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    /// On this line.
    pub(crate) line: u64,
    /// Why.
    pub(crate) reason: String,
    /// What to do.
    pub(crate) next_step: String,
}

/// The body of a request as something a parser can read from, on a thread of its own.
pub(crate) struct Pieces {
    pieces: mpsc::Receiver<std::io::Result<Bytes>>,
    current: Bytes,
    limit: u64,
    left: u64,
}

impl Pieces {
    pub(crate) fn new(pieces: mpsc::Receiver<std::io::Result<Bytes>>, limit: u64) -> Self {
        Self { pieces, current: Bytes::new(), limit, left: limit }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or_else(|| std::io::Error::other(format!("the list is larger than {} bytes", self.limit)))?;
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}

/// Reads all rows and hands each to `each`, until it says that it has had enough.
///
/// # Errors
/// [`Broken`] when what follows cannot be read at all.
pub(crate) fn read(format: Format, input: impl Read, each: impl FnMut(ReadRow) -> bool) -> Result<(), Broken> {
    match format {
        Format::Csv => read_csv(input, each),
        Format::Ndjson => read_ndjson(input, each),
    }
}

fn stopped(line: u64, error: &std::io::Error) -> Broken {
    Broken {
        line,
        reason: error.to_string(),
        next_step: "split the list, or send the rest again: rows already entered are unchanged then".to_owned(),
    }
}

fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_SHOWN_CHARS).flat_map(char::escape_default).collect();
    if text.chars().nth(MAX_SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

fn refusal(line: u64, column: Option<&str>, device: Option<&DeviceId>, reason: String, next_step: &str) -> ReadRow {
    ReadRow::Refused(Refusal {
        line: Some(line),
        column: column.map(shown),
        device: device.cloned(),
        reason,
        next_step: next_step.to_owned(),
    })
}

/// What both forms have to keep.
pub(crate) fn check(entry: &DeviceEntry) -> Result<(), (&'static str, String, &'static str)> {
    if let Some(patch) = &entry.tags {
        tags::check(patch).map_err(|error| ("tags", error.to_string(), "change the tag in this row"))?;
    }
    match &entry.parent {
        Some(Some(parent)) if *parent == entry.device => {
            Err(("parent", "a device is not behind itself".to_owned(), "name its gateway, or leave the parent out"))
        }
        _ => Ok(()),
    }
}

fn checked(line: u64, entry: DeviceEntry) -> ReadRow {
    match check(&entry) {
        Ok(()) => ReadRow::Entry(line, entry),
        Err((column, reason, next_step)) => refusal(line, Some(column), Some(&entry.device), reason, next_step),
    }
}

fn read_ndjson(input: impl Read, mut each: impl FnMut(ReadRow) -> bool) -> Result<(), Broken> {
    let mut input = BufReader::new(input);
    let mut row = Vec::new();
    let mut line = 0;
    loop {
        line += 1;
        row.clear();
        let most = MAX_IMPORT_ROW_BYTES as u64 + 1;
        let count = (&mut input).take(most).read_until(b'\n', &mut row).map_err(|error| stopped(line, &error))?;
        if count == 0 {
            return Ok(());
        }
        if count as u64 == most && row.last() != Some(&b'\n') {
            skip_line(&mut input).map_err(|error| stopped(line, &error))?;
            let reason = format!("the row is longer than {MAX_IMPORT_ROW_BYTES} bytes");
            if !each(refusal(line, None, None, reason, "one device per line, with fewer or shorter tags")) {
                return Ok(());
            }
            continue;
        }
        let text = row.strip_prefix(b"\xef\xbb\xbf").filter(|_| line == 1).unwrap_or(&row).trim_ascii();
        if text.is_empty() {
            continue;
        }
        let read = match serde_json::from_slice::<ImportRow>(text) {
            Ok(row) => checked(line, DeviceEntry { device: row.id, tags: row.tags, parent: row.parent }),
            Err(error) => {
                let column = format!("character {}", error.column());
                refusal(
                    line,
                    Some(&column),
                    None,
                    shown(&error.to_string()),
                    "a row is like {\"id\":\"press-0042\",\"tags\":{\"site\":\"oslo\"}}",
                )
            }
        };
        if !each(read) {
            return Ok(());
        }
    }
}

fn skip_line(input: &mut impl BufRead) -> std::io::Result<()> {
    loop {
        let buffer = input.fill_buf()?;
        let (count, ended) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        input.consume(count);
        if ended {
            return Ok(());
        }
    }
}

/// What a column of a CSV means.
#[derive(Debug, PartialEq, Eq)]
enum Column {
    Id,
    Parent,
    Tag(Vec<String>, Kind),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Boolean,
}

fn column(name: &str) -> Result<Column, String> {
    match name {
        "id" => return Ok(Column::Id),
        "parent" => return Ok(Column::Parent),
        _ => {}
    }
    let path = name.strip_prefix("tags.").ok_or_else(|| format!("the column {:?} is none of id, parent, tags.NAME", shown(name)))?;
    let (path, kind) = match path.rsplit_once(':') {
        None => (path, Kind::Text),
        Some((path, "text")) => (path, Kind::Text),
        Some((path, "number")) => (path, Kind::Number),
        Some((path, "boolean")) => (path, Kind::Boolean),
        Some((_, other)) => {
            return Err(format!("the column {:?} ends in {:?}; a column is :text, :number or :boolean", shown(name), shown(other)));
        }
    };
    let path: Vec<String> = path.split('.').map(str::to_owned).collect();
    if path.len() > MAX_TAG_DEPTH || path.iter().any(String::is_empty) {
        return Err(format!("the column {:?} is no place of a tag: names between dots, at most {MAX_TAG_DEPTH}", shown(name)));
    }
    Ok(Column::Tag(path, kind))
}

fn header(record: &csv::StringRecord) -> Result<Vec<(String, Column)>, String> {
    if record.len() > MAX_IMPORT_COLUMNS {
        return Err(format!("the header has {} columns, at most {MAX_IMPORT_COLUMNS} fit", record.len()));
    }
    let mut columns: Vec<(String, Column)> = Vec::with_capacity(record.len());
    for name in record.iter().map(str::trim) {
        let meaning = column(name)?;
        let taken = columns.iter().any(|(_, other)| match (other, &meaning) {
            (Column::Tag(a, _), Column::Tag(b, _)) => a.starts_with(b) || b.starts_with(a),
            (a, b) => a == b,
        });
        if taken {
            return Err(format!("the column {:?} stands where another one stands", shown(name)));
        }
        columns.push((name.to_owned(), meaning));
    }
    if !columns.iter().any(|(_, column)| *column == Column::Id) {
        return Err("the header has no column id".to_owned());
    }
    Ok(columns)
}

/// Counts what was read since the last row: a quote that is never closed would make the rest of the list one row.
struct Fenced<R> {
    input: R,
    left: std::rc::Rc<std::cell::Cell<usize>>,
}

/// Read ahead by the parser, beside the row it is at.
const READ_AHEAD_BYTES: usize = 8 * 1024;

impl<R: Read> Read for Fenced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.input.read(buffer)?;
        let left = self.left.get().checked_sub(count);
        self.left.set(
            left.ok_or_else(|| std::io::Error::other(format!("the row is longer than {MAX_IMPORT_ROW_BYTES} bytes; is a quote open?")))?,
        );
        Ok(count)
    }
}

fn read_csv(input: impl Read, mut each: impl FnMut(ReadRow) -> bool) -> Result<(), Broken> {
    const NEXT: &str = "the first row is like id,parent,tags.site,tags.line:number";
    let left = std::rc::Rc::new(std::cell::Cell::new(MAX_IMPORT_ROW_BYTES + 2 * READ_AHEAD_BYTES));
    let fenced = Fenced { input, left: left.clone() };
    // Lines end where an editor ends them, so that their numbers agree; the CR of a spreadsheet is blank at the end of the last cell.
    let mut reader = csv::ReaderBuilder::new()
        .terminator(csv::Terminator::Any(b'\n'))
        .has_headers(false)
        .flexible(true)
        .buffer_capacity(READ_AHEAD_BYTES)
        .from_reader(fenced);
    let mut record = csv::StringRecord::new();
    let mut columns: Option<Vec<(String, Column)>> = None;
    loop {
        left.set(MAX_IMPORT_ROW_BYTES + 2 * READ_AHEAD_BYTES);
        let line = reader.position().line();
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) if columns.is_some() => return Ok(()),
            Ok(false) => return Err(Broken { line: 1, reason: "the list is empty".to_owned(), next_step: NEXT.to_owned() }),
            Err(error) => match error.kind() {
                csv::ErrorKind::Utf8 { .. } if columns.is_some() => {
                    if each(refusal(line, None, None, "the row is not UTF-8".to_owned(), "save the list as UTF-8")) {
                        continue;
                    }
                    return Ok(());
                }
                csv::ErrorKind::Io(error) => return Err(stopped(line, error)),
                _ => return Err(Broken { line, reason: error.to_string(), next_step: "save the list as UTF-8".to_owned() }),
            },
        }
        let line = record.position().map_or(line, csv::Position::line);
        if record.len() == 1 && record[0].trim().is_empty() {
            continue;
        }
        let Some(columns) = &columns else {
            columns = Some(header(&record).map_err(|reason| Broken { line: 1, reason, next_step: NEXT.to_owned() })?);
            continue;
        };
        if !each(row(line, columns, &record)) {
            return Ok(());
        }
    }
}

fn row(line: u64, columns: &[(String, Column)], record: &csv::StringRecord) -> ReadRow {
    if record.len() != columns.len() {
        let reason = format!("the row has {} cells, the header {}", record.len(), columns.len());
        return refusal(line, None, None, reason, "quote cells that hold a comma");
    }
    let (mut device, mut parent, mut patch) = (None, None, Map::new());
    for ((name, column), cell) in columns.iter().zip(record) {
        let wrong = |reason: String, next_step: &str| refusal(line, Some(name), None, reason, next_step);
        let cell = cell.trim();
        match column {
            Column::Id => match cell.parse::<DeviceId>() {
                Ok(id) => device = Some(id),
                Err(error) => return wrong(error.to_string(), "correct the id"),
            },
            _ if cell.is_empty() => {}
            Column::Parent => match cell.parse::<DeviceId>() {
                Ok(id) => parent = Some(Some(id)),
                Err(error) => return wrong(error.to_string(), "correct the id of the gateway"),
            },
            Column::Tag(path, kind) => match value(cell, *kind) {
                Ok(value) => put(&mut patch, path, value),
                Err(reason) => return wrong(reason, "correct the cell, or drop the type from the header: then cells are text"),
            },
        }
    }
    let Some(device) = device else {
        return refusal(line, Some("id"), None, "the row has no id".to_owned(), "name a device");
    };
    let tags = (!patch.is_empty()).then_some(Value::Object(patch));
    checked(line, DeviceEntry { device, tags, parent })
}

fn value(cell: &str, kind: Kind) -> Result<Value, String> {
    match (kind, cell) {
        (Kind::Text, text) => Ok(Value::from(text)),
        (Kind::Boolean, "true") => Ok(Value::from(true)),
        (Kind::Boolean, "false") => Ok(Value::from(false)),
        (Kind::Boolean, other) => Err(format!("{:?} is neither true nor false", shown(other))),
        (Kind::Number, text) => serde_json::from_str(text)
            .ok()
            .filter(Value::is_number)
            .ok_or_else(|| format!("{:?} is not a number like 4, -1.5 or 2e3", shown(text))),
    }
}

/// Columns never stand one inside the other, so there is always room.
fn put(members: &mut Map<String, Value>, path: &[String], value: Value) {
    let Some((name, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        members.insert(name.clone(), value);
    } else if let Value::Object(inner) = members.entry(name.clone()).or_insert_with(|| Value::Object(Map::new())) {
        put(inner, rest, value);
    }
}

#[cfg(test)]
mod tests;
