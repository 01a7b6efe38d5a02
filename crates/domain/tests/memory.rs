//! A zip of several gigabytes is read whole in a few megabytes. Its own program, so that nothing else counts into the peak.

use std::io::{self, Read, Seek, SeekFrom};

use flate2::Crc;
use muster_domain::inspect::{Condition, Depth, InspectLimits, inspect};

/// More than 32 bits can say.
const CONTENT_BYTES: u64 = 5 << 30;
const MAX_GROWTH_KIB: u64 = 16 << 10;

/// A zip whose one stored file is all zeros: only its ends exist.
struct Virtual {
    head: Vec<u8>,
    tail: Vec<u8>,
    position: u64,
}

impl Virtual {
    fn size(&self) -> u64 {
        self.head.len() as u64 + CONTENT_BYTES + self.tail.len() as u64
    }
}

impl Read for Virtual {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let head_end = self.head.len() as u64;
        let content_end = head_end + CONTENT_BYTES;
        let count = if self.position < head_end {
            (&self.head[self.position as usize..]).read(buffer)?
        } else if self.position < content_end {
            let count = buffer.len().min((content_end - self.position) as usize);
            buffer[..count].fill(0);
            count
        } else {
            let at = (self.position - content_end).min(self.tail.len() as u64);
            (&self.tail[at as usize..]).read(buffer)?
        };
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Virtual {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::End(by) => self.size().checked_add_signed(by).ok_or(io::ErrorKind::InvalidInput)?,
            SeekFrom::Current(by) => self.position.checked_add_signed(by).ok_or(io::ErrorKind::InvalidInput)?,
        };
        Ok(self.position)
    }
}

fn huge_zip() -> Virtual {
    let mut crc = Crc::new();
    let zeros = vec![0; 1 << 20];
    for _ in 0..CONTENT_BYTES >> 20 {
        crc.update(&zeros);
    }
    let name = b"logs/huge_log.txt";
    let mut wide = vec![1, 0, 16, 0];
    wide.extend(CONTENT_BYTES.to_le_bytes());
    wide.extend(CONTENT_BYTES.to_le_bytes());
    let mut common = vec![45, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    common.extend(crc.sum().to_le_bytes());
    common.extend([0xff; 8]);
    common.extend((name.len() as u16).to_le_bytes());
    common.extend((wide.len() as u16).to_le_bytes());

    let head = [&b"PK\x03\x04"[..], &common, name, &wide].concat();
    let directory = [&b"PK\x01\x02\x2d\x00"[..], &common, &[0; 14], name, &wide].concat();
    let start = head.len() as u64 + CONTENT_BYTES;
    let mut end = b"PK\x06\x06".to_vec();
    end.extend(44u64.to_le_bytes());
    end.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for number in [1, 1, directory.len() as u64, start] {
        end.extend(number.to_le_bytes());
    }
    end.extend(b"PK\x06\x07\0\0\0\0");
    end.extend((start + directory.len() as u64).to_le_bytes());
    end.extend([1, 0, 0, 0]);
    end.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0\xff\xff\xff\xff\xff\xff\xff\xff\0\0");
    Virtual { head, tail: [directory, end].concat(), position: 0 }
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("the peak");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

#[test]
fn a_zip_of_five_gigabytes_is_read_whole_in_little_memory() {
    let zip = huge_zip();
    let size = zip.size();
    let before = peak_kib();
    let finding = inspect("b.zip", zip, size, &InspectLimits::default());
    let growth = peak_kib() - before;
    assert_eq!((finding.condition, finding.depth), (Condition::Good, Depth::Full));
    assert_eq!(finding.zip.map(|zip| zip.expanded_bytes), Some(CONTENT_BYTES));
    assert!(growth < MAX_GROWTH_KIB, "the peak grew by {growth} KiB");
}
