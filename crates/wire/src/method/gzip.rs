//! Gzip in memory: one stream out, one or more members in, never more than asked for.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

/// Why compressed bytes could not be read.
#[derive(Debug, thiserror::Error)]
pub enum GunzipError {
    /// Not gzip, cut off, or damaged.
    #[error("the gzip stream is damaged: {0}")]
    Damaged(std::io::Error),
    /// More than the limit comes out.
    #[error("the gzip stream holds more than {0} bytes")]
    TooLarge(usize),
}

/// One gzip stream.
pub fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8 + 32), Compression::default());
    encoder.write_all(bytes).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

/// All members of a gzip stream, refused once more than `max_bytes` come out.
pub fn decompress(bytes: &[u8], max_bytes: usize) -> Result<Vec<u8>, GunzipError> {
    let mut out = Vec::new();
    let limit = u64::try_from(max_bytes).unwrap_or(u64::MAX).saturating_add(1);
    MultiGzDecoder::new(bytes).take(limit).read_to_end(&mut out).map_err(GunzipError::Damaged)?;
    if out.len() > max_bytes { Err(GunzipError::TooLarge(max_bytes)) } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_members_are_read_up_to_the_limit() {
        let mut two = compress(b"hello ");
        two.extend(compress(b"world"));
        assert_eq!(decompress(&two, 11).expect("two members"), b"hello world");
        assert!(matches!(decompress(&two, 10), Err(GunzipError::TooLarge(10))));
        assert!(matches!(decompress(&two[..two.len() - 1], 100), Err(GunzipError::Damaged(_))));
        assert!(matches!(decompress(b"plain", 100), Err(GunzipError::Damaged(_))));
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let bomb = compress(&vec![0; 10_000_000]);
        assert!(matches!(decompress(&bomb, 1000), Err(GunzipError::TooLarge(1000))));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decompress(&bytes, 1000);
            let _ = decompress(&[&[0x1f, 0x8b, 8], bytes.as_slice()].concat(), 1000);
        }
    }
}
