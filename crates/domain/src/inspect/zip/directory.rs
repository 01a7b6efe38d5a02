//! The records of a zip: the end, the central directory, the local headers. All numbers are little-endian and none is believed.

use std::collections::HashSet;
use std::io::{Read, Seek};

use crate::inspect::source::Source;
use crate::inspect::{Fault, InspectLimits, entry_name};

use super::{END_RECORD, LOCAL_HEADER};

const CENTRAL_HEADER: [u8; 4] = *b"PK\x01\x02";
const END_RECORD_64: [u8; 4] = *b"PK\x06\x06";
const LOCATOR_64: [u8; 4] = *b"PK\x06\x07";
const DESCRIPTOR: [u8; 4] = *b"PK\x07\x08";

const END_RECORD_BYTES: usize = 22;
const END_RECORD_64_BYTES: usize = 56;
const LOCATOR_64_BYTES: usize = 20;
const CENTRAL_HEADER_BYTES: usize = 46;
const LOCAL_HEADER_BYTES: usize = 30;
const MAX_COMMENT_BYTES: usize = u16::MAX as usize;

const FLAG_ENCRYPTED: u16 = 1;
const FLAG_DESCRIPTOR: u16 = 1 << 3;
/// Patched data, strong encryption, masked headers.
const FLAGS_UNREADABLE: u16 = 1 << 5 | 1 << 6 | 1 << 13;

const EXTRA_ZIP64: u16 = 0x0001;
const EXTRA_UNICODE_PATH: u16 = 0x7075;

/// Systems whose external attributes hold a Unix mode.
const UNIX_SYSTEMS: [u8; 2] = [3, 19];
const MODE_KIND: u32 = 0o170_000;
const MODE_FILE: u32 = 0o100_000;
const MODE_DIRECTORY: u32 = 0o040_000;

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// What the end record, or its 64-bit form, says.
#[derive(Debug)]
pub(super) struct End {
    count: u64,
    directory_start: u64,
    directory_bytes: u64,
}

/// Finds the end record; `None` when there is none at all.
pub(super) fn find_end<R: Read + Seek>(source: &mut Source<R>) -> Result<Option<End>, Fault> {
    let size = source.size();
    let tail_bytes = size.min((END_RECORD_BYTES + MAX_COMMENT_BYTES) as u64);
    let tail_start = size - tail_bytes;
    let mut tail = vec![0; tail_bytes as usize];
    source.read_at(tail_start, &mut tail)?;

    let (mut found, mut beyond, mut before) = (None, false, false);
    for at in 0..tail.len().saturating_sub(END_RECORD_BYTES - 1) {
        if !tail[at..].starts_with(&END_RECORD) {
            continue;
        }
        let end = at + END_RECORD_BYTES + usize::from(u16_at(&tail, at + 20));
        if end == tail.len() && found.replace(at).is_some() {
            return Err(Fault::damaged("the zip has two ends; programs would differ in which they take"));
        }
        beyond |= end > tail.len();
        before |= end < tail.len();
    }
    let Some(at) = found else {
        return match (beyond, before) {
            (true, _) => Err(Fault::truncated("the zip ends within its comment")),
            (_, true) => Err(Fault::damaged("something follows the end of the zip")),
            (false, false) => Ok(None),
        };
    };
    let record_start = tail_start + at as u64;
    let record = &tail[at..at + END_RECORD_BYTES];
    let (end, directory_end) = match read_locator(source, record_start)? {
        Some(locator) => (read_end_64(source, record, &locator, record_start)?, locator.record_start),
        None => (read_end_32(record)?, record_start),
    };
    match end.directory_start.checked_add(end.directory_bytes) {
        Some(claimed) if claimed == directory_end => Ok(Some(end)),
        Some(claimed) if claimed < directory_end => Err(Fault::damaged("the zip's directory is not where its end record says")),
        _ => Err(Fault::truncated("bytes are missing before the zip's end record")),
    }
}

fn read_end_32(record: &[u8]) -> Result<End, Fault> {
    let (disk, directory_disk, here, count) = (u16_at(record, 4), u16_at(record, 6), u16_at(record, 8), u16_at(record, 10));
    if disk != 0 || directory_disk != 0 || here != count {
        return Err(Fault::damaged("the zip is one part of several, or its end record is damaged"));
    }
    Ok(End { count: count.into(), directory_bytes: u32_at(record, 12).into(), directory_start: u32_at(record, 16).into() })
}

/// Where the 64-bit end record stands.
struct Locator {
    record_start: u64,
}

fn read_locator<R: Read + Seek>(source: &mut Source<R>, record_start: u64) -> Result<Option<Locator>, Fault> {
    let Some(locator_start) = record_start.checked_sub(LOCATOR_64_BYTES as u64) else { return Ok(None) };
    let mut locator = [0; LOCATOR_64_BYTES];
    source.read_at(locator_start, &mut locator)?;
    if !locator.starts_with(&LOCATOR_64) {
        return Ok(None);
    }
    let start = u64_at(&locator, 8);
    let fits = start.checked_add(END_RECORD_64_BYTES as u64).is_some_and(|end| end <= locator_start);
    if u32_at(&locator, 4) != 0 || u32_at(&locator, 16) > 1 || !fits {
        return Err(Fault::damaged("the locator of the zip's 64-bit end record is damaged"));
    }
    Ok(Some(Locator { record_start: start }))
}

fn read_end_64<R: Read + Seek>(source: &mut Source<R>, short: &[u8], locator: &Locator, short_start: u64) -> Result<End, Fault> {
    let mut record = [0; END_RECORD_64_BYTES];
    source.read_at(locator.record_start, &mut record)?;
    let length = u64_at(&record, 4).checked_add(12);
    let ends_at = length.and_then(|length| locator.record_start.checked_add(length));
    if !record.starts_with(&END_RECORD_64) || ends_at != short_start.checked_sub(LOCATOR_64_BYTES as u64) {
        return Err(Fault::damaged("the zip's 64-bit end record is damaged"));
    }
    let count = u64_at(&record, 32);
    if u32_at(&record, 16) != 0 || u32_at(&record, 20) != 0 || u64_at(&record, 24) != count {
        return Err(Fault::damaged("the zip is one part of several, or its 64-bit end record is damaged"));
    }
    let end = End { count, directory_bytes: u64_at(&record, 40), directory_start: u64_at(&record, 48) };
    // A member of the short record that is not "look there" must say the same.
    let same = |short: u64, none: u64, long: u64| short == none || short == long;
    let agree = same(u16_at(short, 8).into(), u16::MAX.into(), count)
        && same(u16_at(short, 10).into(), u16::MAX.into(), count)
        && same(u32_at(short, 12).into(), u32::MAX.into(), end.directory_bytes)
        && same(u32_at(short, 16).into(), u32::MAX.into(), end.directory_start);
    if agree { Ok(end) } else { Err(Fault::damaged("the zip's two end records contradict each other")) }
}

/// How an entry is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Stored,
    Deflated,
}

/// One entry, as the central directory has it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    name_start: usize,
    name_bytes: usize,
    flags: u16,
    pub(super) method: Method,
    pub(super) crc: u32,
    pub(super) stored_size: u64,
    pub(super) expanded_size: u64,
    header_start: u64,
    /// Known once the local header was read.
    pub(super) data_start: u64,
}

/// The central directory, in memory.
#[derive(Debug)]
pub(super) struct Directory {
    bytes: Vec<u8>,
    start: u64,
    count: u64,
}

impl Directory {
    pub(super) fn read<R: Read + Seek>(source: &mut Source<R>, end: &End, limits: &InspectLimits) -> Result<Self, Fault> {
        if end.count > limits.entries {
            return Err(Fault::hostile(format!("the zip has {} entries, {} are allowed", end.count, limits.entries)));
        }
        if end.directory_bytes > limits.directory_bytes {
            let detail = format!("the zip's directory has {} bytes, {} are allowed", end.directory_bytes, limits.directory_bytes);
            return Err(Fault::hostile(detail));
        }
        let mut bytes = vec![0; end.directory_bytes as usize];
        source.read_at(end.directory_start, &mut bytes)?;
        Ok(Self { bytes, start: end.directory_start, count: end.count })
    }

    /// Name of an entry, as stored.
    pub(super) fn name(&self, entry: &Entry) -> &[u8] {
        &self.bytes[entry.name_start..entry.name_start + entry.name_bytes]
    }

    /// All entries; their names are unique and safe.
    pub(super) fn entries(&self, limits: &InspectLimits) -> Result<Vec<Entry>, Fault> {
        let mut entries = Vec::with_capacity(self.count.min(limits.entries) as usize);
        let mut names = HashSet::new();
        let mut at = 0;
        for _ in 0..self.count {
            let (entry, next) = self.entry(at)?;
            if !names.insert(self.name(&entry)) {
                return Err(Fault::damaged("two entries of the zip have the same name"));
            }
            entries.push(entry);
            at = next;
        }
        if at != self.bytes.len() {
            return Err(Fault::damaged("the zip's directory holds more than its entries"));
        }
        Ok(entries)
    }

    fn entry(&self, at: usize) -> Result<(Entry, usize), Fault> {
        let cut = || Fault::damaged("the zip's directory is damaged");
        let header = self.bytes.get(at..at + CENTRAL_HEADER_BYTES).filter(|h| h.starts_with(&CENTRAL_HEADER)).ok_or_else(cut)?;
        let name_start = at + CENTRAL_HEADER_BYTES;
        let name_bytes = usize::from(u16_at(header, 28));
        let extra_start = name_start + name_bytes;
        let extra_end = extra_start + usize::from(u16_at(header, 30));
        let next = extra_end + usize::from(u16_at(header, 32));
        let name = self.bytes.get(name_start..extra_start).ok_or_else(cut)?;
        let extra = self.bytes.get(extra_start..extra_end).ok_or_else(cut)?;
        if next > self.bytes.len() {
            return Err(cut());
        }
        check_name(name, extra)?;

        let flags = u16_at(header, 8);
        if flags & (FLAG_ENCRYPTED | FLAGS_UNREADABLE) != 0 {
            return Err(Fault::damaged("an entry of the zip is encrypted or patched and cannot be read"));
        }
        let method = method(u16_at(header, 10))?;
        let sizes = Sizes { stored: u32_at(header, 20), expanded: u32_at(header, 24) };
        let (stored_size, expanded_size, header_start) = sizes.resolve(extra, Some(u32_at(header, 42)))?;
        let disk = u16_at(header, 34);
        if disk != 0 && disk != u16::MAX {
            return Err(Fault::damaged("an entry of the zip lies in another part"));
        }
        check_kind(header[5], u32_at(header, 38))?;
        if method == Method::Stored && stored_size != expanded_size {
            return Err(Fault::damaged("a stored entry of the zip has two sizes"));
        }
        let crc = u32_at(header, 16);
        let entry = Entry { name_start, name_bytes, flags, method, crc, stored_size, expanded_size, header_start, data_start: 0 };
        Ok((entry, next))
    }
}

fn method(number: u16) -> Result<Method, Fault> {
    match number {
        0 => Ok(Method::Stored),
        8 => Ok(Method::Deflated),
        other => Err(Fault::damaged(format!("an entry of the zip is compressed by method {other}, which cannot be checked"))),
    }
}

fn check_name(name: &[u8], extra: &[u8]) -> Result<(), Fault> {
    let hostile = |why: entry_name::UnsafeName| Fault::hostile(why.to_string());
    entry_name::check(name).map_err(hostile)?;
    // Some programs prefer the name in here: version, CRC of the other name, name.
    if let Some(path) = extra_field(extra, EXTRA_UNICODE_PATH).and_then(|field| field.get(5..)) {
        entry_name::check(path).map_err(hostile)?;
    }
    Ok(())
}

/// Only files and directories: a link is a way out of the archive.
fn check_kind(made_by: u8, attributes: u32) -> Result<(), Fault> {
    let kind = (attributes >> 16) & MODE_KIND;
    if UNIX_SYSTEMS.contains(&made_by) && !matches!(kind, 0 | MODE_FILE | MODE_DIRECTORY) {
        return Err(Fault::hostile("an entry of the zip is a link or a device"));
    }
    Ok(())
}

fn extra_field(mut extra: &[u8], wanted: u16) -> Option<&[u8]> {
    while extra.len() >= 4 {
        let (id, length) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
        let field = extra.get(4..4 + length)?;
        if id == wanted {
            return Some(field);
        }
        extra = &extra[4 + length..];
    }
    None
}

/// The 32-bit sizes of a header; `u32::MAX` stands for "in the 64-bit extra field".
struct Sizes {
    stored: u32,
    expanded: u32,
}

impl Sizes {
    /// Stored size, expanded size, and the offset where the header has one.
    fn resolve(&self, extra: &[u8], offset: Option<u32>) -> Result<(u64, u64, u64), Fault> {
        let mut field = extra_field(extra, EXTRA_ZIP64).unwrap_or_default();
        let mut widen = |short: u32| {
            if short != u32::MAX {
                return Ok(u64::from(short));
            }
            if field.len() < 8 {
                return Err(Fault::damaged("an entry of the zip lacks its 64-bit sizes"));
            }
            let (value, rest) = field.split_at(8);
            field = rest;
            Ok(u64_at(value, 0))
        };
        // The order in the extra field is fixed.
        let expanded = widen(self.expanded)?;
        let stored = widen(self.stored)?;
        let offset = widen(offset.unwrap_or(0))?;
        Ok((stored, expanded, offset))
    }
}

/// Refuses a bomb by what it declares; what it does not declare it never gets to expand.
pub(super) fn check_expansion(entries: &[Entry], size: u64, limits: &InspectLimits) -> Result<(), Fault> {
    let total = entries.iter().fold(0u64, |sum, entry| sum.saturating_add(entry.expanded_size));
    let most = limits.expanded_from(size);
    if total > most {
        return Err(Fault::hostile(format!("{size} bytes of zip expand to {total}, {most} are allowed")));
    }
    Ok(())
}

/// Reads every local header, compares it with the directory, notes where the data begins, and refuses entries that share bytes.
pub(super) fn check_local_headers<R: Read + Seek>(
    source: &mut Source<R>,
    directory: &Directory,
    entries: &mut [Entry],
) -> Result<(), Fault> {
    let mut ranges = Vec::with_capacity(entries.len());
    for entry in entries.iter_mut() {
        let end = check_local_header(source, directory, entry).map_err(|fault| super::named(directory, entry, fault))?;
        ranges.push((entry.header_start, end));
    }
    ranges.sort_unstable();
    if ranges.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Err(Fault::hostile("entries of the zip overlap"));
    }
    if ranges.last().is_some_and(|(_, end)| *end > directory.start) {
        return Err(Fault::damaged("an entry of the zip reaches into the directory"));
    }
    Ok(())
}

/// Where the entry ends, descriptor included.
fn check_local_header<R: Read + Seek>(source: &mut Source<R>, directory: &Directory, entry: &mut Entry) -> Result<u64, Fault> {
    let mut header = [0; LOCAL_HEADER_BYTES];
    source.read_at(entry.header_start, &mut header)?;
    let name = directory.name(entry);
    if !header.starts_with(&LOCAL_HEADER) || usize::from(u16_at(&header, 26)) != name.len() {
        return Err(Fault::damaged("its header is not where the directory says"));
    }
    let mut rest = vec![0; name.len() + usize::from(u16_at(&header, 28))];
    source.read_at(entry.header_start + LOCAL_HEADER_BYTES as u64, &mut rest)?;
    let (local_name, extra) = rest.split_at(name.len());
    let flags = u16_at(&header, 6);
    let compared = FLAG_ENCRYPTED | FLAG_DESCRIPTOR | FLAGS_UNREADABLE;
    let contradicts = || Fault::damaged("its header and the directory contradict each other");
    if local_name != name || flags & compared != entry.flags & compared || method(u16_at(&header, 8))? != entry.method {
        return Err(contradicts());
    }
    entry.data_start = entry.header_start + (LOCAL_HEADER_BYTES + rest.len()) as u64;
    let data_end = entry.data_start.checked_add(entry.stored_size).filter(|end| *end <= directory.start);
    let data_end = data_end.ok_or_else(|| Fault::damaged("its data reaches into the directory"))?;
    let crc = u32_at(&header, 14);
    if flags & FLAG_DESCRIPTOR != 0 {
        return check_descriptor(source, entry, data_end);
    }
    let (stored, expanded, _) = Sizes { stored: u32_at(&header, 18), expanded: u32_at(&header, 22) }.resolve(extra, None)?;
    if (crc, stored, expanded) != (entry.crc, entry.stored_size, entry.expanded_size) {
        return Err(contradicts());
    }
    Ok(data_end)
}

/// The descriptor behind the data of an entry that was written as a stream: with or without a signature, 32 or 64 bits wide.
fn check_descriptor<R: Read + Seek>(source: &mut Source<R>, entry: &Entry, data_end: u64) -> Result<u64, Fault> {
    let mut wide = entry.crc.to_le_bytes().to_vec();
    wide.extend(entry.stored_size.to_le_bytes());
    wide.extend(entry.expanded_size.to_le_bytes());
    let mut narrow = entry.crc.to_le_bytes().to_vec();
    narrow.extend((entry.stored_size as u32).to_le_bytes());
    narrow.extend((entry.expanded_size as u32).to_le_bytes());
    let layouts = [[&DESCRIPTOR[..], &wide].concat(), [&DESCRIPTOR[..], &narrow].concat(), wide, narrow];

    let room = (source.size() - data_end).min(layouts[0].len() as u64) as usize;
    let mut found = vec![0; room];
    source.read_at(data_end, &mut found)?;
    match layouts.iter().find(|layout| found.starts_with(layout)) {
        Some(layout) => Ok(data_end + layout.len() as u64),
        None => Err(Fault::damaged("what stands behind its data does not fit the directory")),
    }
}
