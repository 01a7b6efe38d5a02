//! The checksums a client may send with its bytes, so that a broken transfer is refused instead of stored.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::{Digest as _, Md5};

/// CRC-64 as Azure Storage computes it (`x-ms-content-crc64`): reflected, all ones in and out.
const CRC64_POLYNOMIAL: u64 = 0x9a6c_9329_ac4b_c9b5;
const CRC64_TABLES: [[u64; 256]; 8] = crc64_tables();

const fn crc64_tables() -> [[u64; 256]; 8] {
    let mut tables = [[0u64; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ CRC64_POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut lane = 1;
    while lane < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[lane - 1][byte];
            tables[lane][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        lane += 1;
    }
    tables
}

/// A running CRC-64, eight bytes at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crc64(u64);

impl Crc64 {
    pub(crate) fn new() -> Self {
        Self(u64::MAX)
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        let (chunks, rest) = bytes.as_chunks::<8>();
        for chunk in chunks {
            let mixed = (self.0 ^ u64::from_le_bytes(*chunk)).to_le_bytes();
            self.0 = mixed.iter().zip(CRC64_TABLES.iter().rev()).fold(0, |crc, (byte, table)| crc ^ table[usize::from(*byte)]);
        }
        for byte in rest {
            self.0 = (self.0 >> 8) ^ CRC64_TABLES[0][((self.0 ^ u64::from(*byte)) & 0xff) as usize];
        }
    }

    pub(crate) fn finish(self) -> u64 {
        !self.0
    }
}

/// What the client says its bytes add up to, and the sums so far. Costs nothing when it said nothing.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    md5: Option<([u8; 16], Md5)>,
    crc64: Option<(u64, Crc64)>,
}

/// Which checksum of the client does not match its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mismatch {
    Md5,
    Crc64,
}

impl Expected {
    /// From the headers' base64 values; `Err` names the header that is not one.
    pub(crate) fn from_headers(md5: Option<&str>, crc64: Option<&str>) -> Result<Self, &'static str> {
        let md5 = md5.map(|text| decode::<16>(text).ok_or("Content-MD5")).transpose()?;
        let crc64 = crc64.map(|text| decode::<8>(text).ok_or("x-ms-content-crc64")).transpose()?;
        Ok(Self { md5: md5.map(|sum| (sum, Md5::new())), crc64: crc64.map(|sum| (u64::from_le_bytes(sum), Crc64::new())) })
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        if let Some((_, md5)) = &mut self.md5 {
            md5.update(bytes);
        }
        if let Some((_, crc64)) = &mut self.crc64 {
            crc64.update(bytes);
        }
    }

    pub(crate) fn verify(self) -> Result<(), Mismatch> {
        if let Some((expected, md5)) = self.md5
            && md5.finalize().as_slice() != expected
        {
            return Err(Mismatch::Md5);
        }
        if let Some((expected, crc64)) = self.crc64
            && crc64.finish() != expected
        {
            return Err(Mismatch::Crc64);
        }
        Ok(())
    }
}

fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    BASE64.decode(text.trim()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc64_matches_the_published_check_value_however_it_is_cut() {
        // The check value of CRC-64/NVME, which is Azure's.
        let mut whole = Crc64::new();
        whole.update(b"123456789");
        assert_eq!(whole.finish(), 0xae8b_1486_0a79_9888);
        let mut cut = Crc64::new();
        for part in [&b"1"[..], b"2345", b"", b"6789"] {
            cut.update(part);
        }
        assert_eq!(cut.finish(), 0xae8b_1486_0a79_9888);
    }

    #[test]
    fn a_wrong_sum_is_named_and_a_right_one_passes() {
        let md5 = BASE64.encode(Md5::digest(b"hello"));
        let check = |md5: Option<&str>, crc64: Option<&str>, bytes: &[u8]| {
            let mut expected = Expected::from_headers(md5, crc64).unwrap();
            expected.update(bytes);
            expected.verify()
        };
        assert_eq!(check(Some(&md5), None, b"hello"), Ok(()));
        assert_eq!(check(Some(&md5), None, b"hellO"), Err(Mismatch::Md5));
        assert_eq!(check(None, Some(&BASE64.encode(0u64.to_le_bytes())), b"hello"), Err(Mismatch::Crc64));
        assert_eq!(check(None, None, b"hello"), Ok(()));
        assert_eq!(Expected::from_headers(Some("not base64"), None).err(), Some("Content-MD5"));
        assert_eq!(Expected::from_headers(None, Some(&md5)).err(), Some("x-ms-content-crc64"));
    }
}
