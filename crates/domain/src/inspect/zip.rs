//! Zip archives, read strictly: a device made it a moment ago, so there is no old or foreign dialect to be lenient with.
//!
//! The end record is found and must end the file; the central directory must lie right before it and is read whole (bounded); every
//! local header must say the same as the directory; no two entries may share a byte or a name; then every entry is expanded, and its
//! length and CRC computed. Archives inside the archive are files like any other.

mod contents;
mod directory;

use std::io::{Read, Seek};

use flate2::{Crc, Decompress, FlushDecompress, Status};
use muster_wire::Reason;

use super::source::Source;
use super::{Depth, Fault, InspectLimits, MAX_AGENT_MANIFEST_BYTES, ZipContents, json, shown};
use directory::{Directory, Entry, Method};

const LOCAL_HEADER: [u8; 4] = *b"PK\x03\x04";
const END_RECORD: [u8; 4] = *b"PK\x05\x06";
const BUFFER_BYTES: usize = 64 << 10;

/// Whether the first bytes are those of a zip.
pub(super) fn looks_like_one(head: &[u8]) -> bool {
    head.starts_with(&LOCAL_HEADER) || head.starts_with(&END_RECORD)
}

/// Reads a zip.
pub(super) fn read<R: Read + Seek>(source: &mut Source<R>, head: &[u8], limits: &InspectLimits) -> Result<ZipContents, Fault> {
    if let Some(fault) = json::error_document(head, source.size()) {
        return Err(fault);
    }
    let Some(end) = directory::find_end(source)? else {
        let begins = [LOCAL_HEADER, END_RECORD].iter().any(|magic| magic.starts_with(&head[..head.len().min(magic.len())]));
        return Err(if begins {
            Fault::truncated("the zip has no end: its directory is missing")
        } else {
            Fault::new(Reason::UploadNotAZip, "the name says zip and the content is something else")
        });
    };
    let directory = Directory::read(source, &end, limits)?;
    let mut entries = directory.entries(limits)?;
    directory::check_expansion(&entries, source.size(), limits)?;
    directory::check_local_headers(source, &directory, &mut entries)?;

    let mut expander = Expander::new();
    let mut manifest = None;
    for entry in &entries {
        let wanted = directory.name(entry) == contents::AGENT_MANIFEST && entry.expanded_size <= MAX_AGENT_MANIFEST_BYTES;
        if limits.depth == Depth::Structure && !wanted {
            continue;
        }
        let mut kept = Vec::new();
        expander.check(source, entry, wanted.then_some(&mut kept)).map_err(|fault| named(&directory, entry, fault))?;
        if wanted {
            manifest = Some(kept);
        }
    }
    Ok(contents::summarise(&directory, &entries, manifest.as_deref(), limits))
}

/// Puts the entry's name before what is wrong with it.
fn named(directory: &Directory, entry: &Entry, fault: Fault) -> Fault {
    let name = shown(&String::from_utf8_lossy(directory.name(entry)));
    Fault { detail: format!("{name}: {}", fault.detail), ..fault }
}

/// Expands entries one after the other through the same two buffers.
struct Expander {
    inflate: Decompress,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Expander {
    fn new() -> Self {
        Self { inflate: Decompress::new(false), input: vec![0; BUFFER_BYTES], output: vec![0; BUFFER_BYTES] }
    }

    /// Expands one entry, never beyond the size it declares, and compares length and CRC with the directory.
    fn check<R: Read + Seek>(&mut self, source: &mut Source<R>, entry: &Entry, keep: Option<&mut Vec<u8>>) -> Result<(), Fault> {
        let mut sum = Sum { crc: Crc::new(), count: 0, declared: entry.expanded_size, keep };
        match entry.method {
            Method::Stored => self.stored(source, entry, &mut sum)?,
            Method::Deflated => self.deflated(source, entry, &mut sum)?,
        }
        if sum.count != entry.expanded_size {
            return Err(Fault::damaged(format!("{} bytes, {} were declared", sum.count, entry.expanded_size)));
        }
        if sum.crc.sum() != entry.crc {
            return Err(Fault::damaged("the checksum does not fit the content"));
        }
        Ok(())
    }

    fn stored<R: Read + Seek>(&mut self, source: &mut Source<R>, entry: &Entry, sum: &mut Sum<'_>) -> Result<(), Fault> {
        let mut data = source.range(entry.data_start, entry.stored_size)?;
        loop {
            match fill(&mut data, &mut self.input)? {
                0 => return Ok(()),
                count => sum.add(&self.input[..count])?,
            }
        }
    }

    fn deflated<R: Read + Seek>(&mut self, source: &mut Source<R>, entry: &Entry, sum: &mut Sum<'_>) -> Result<(), Fault> {
        self.inflate.reset(false);
        let mut data = source.range(entry.data_start, entry.stored_size)?;
        let (mut filled, mut used) = (0, 0);
        loop {
            if used == filled {
                filled = fill(&mut data, &mut self.input)?;
                used = 0;
            }
            let (in_before, out_before) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self
                .inflate
                .decompress(&self.input[used..filled], &mut self.output, FlushDecompress::None)
                .map_err(|_| Fault::damaged("the compressed data is damaged"))?;
            let consumed = (self.inflate.total_in() - in_before) as usize;
            let produced = (self.inflate.total_out() - out_before) as usize;
            used += consumed;
            sum.add(&self.output[..produced])?;
            match status {
                Status::StreamEnd if self.inflate.total_in() == entry.stored_size => return Ok(()),
                Status::StreamEnd => return Err(Fault::damaged("more bytes are stored than the compressed data has")),
                Status::Ok | Status::BufError if consumed == 0 && produced == 0 && filled == 0 => {
                    return Err(Fault::damaged("the compressed data ends too early"));
                }
                Status::Ok | Status::BufError if consumed == 0 && produced == 0 && used < filled => {
                    return Err(Fault::damaged("the compressed data cannot be expanded"));
                }
                Status::Ok | Status::BufError => {}
            }
        }
    }
}

/// Length and checksum of what comes out, and the bytes themselves where they are wanted.
struct Sum<'a> {
    crc: Crc,
    count: u64,
    declared: u64,
    keep: Option<&'a mut Vec<u8>>,
}

impl Sum<'_> {
    fn add(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.count += bytes.len() as u64;
        if self.count > self.declared {
            return Err(Fault::hostile(format!("it expands beyond the {} bytes it declares", self.declared)));
        }
        self.crc.update(bytes);
        if let Some(keep) = &mut self.keep {
            keep.extend_from_slice(bytes);
        }
        Ok(())
    }
}

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> Result<usize, Fault> {
    loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Fault::new(Reason::LandingUnavailable, error.to_string())),
            Ok(count) => return Ok(count),
        }
    }
}
