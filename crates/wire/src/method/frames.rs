//! The stream format of the container runtime: 8 bytes of header (stream, three unused, length big endian), then the payload.

use serde::{Deserialize, Serialize};

/// Bytes before each payload.
pub const HEADER_BYTES: usize = 8;
/// Largest payload that is held in memory. Runtimes split at 16 KiB; a length beyond this means that the bytes are no frames.
pub const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;

/// Where a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output, and every stream number that is not 2.
    Stdout,
    /// Standard error: stream number 2.
    Stderr,
}

impl Stream {
    /// From the first byte of a frame.
    pub fn from_byte(byte: u8) -> Self {
        if byte == 2 { Self::Stderr } else { Self::Stdout }
    }

    /// `stdout` or `stderr`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// One payload, as bytes. Bad UTF-8 is replaced per payload, so a character split over two frames is damaged in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its stream.
    pub stream: Stream,
    /// Its bytes, normally one line with its newline.
    pub payload: &'a [u8],
}

/// The bytes are not frames. A container with a terminal sends none, and an error body in place of a log looks the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The stream ended inside a frame.
    #[error("the log stream ends inside a frame (truncated final frame); containers with a terminal send no frames")]
    TruncatedFinalFrame,
    /// A length beyond [`MAX_FRAME_BYTES`].
    #[error("a frame of {0} bytes is announced, more than {MAX_FRAME_BYTES}; containers with a terminal send no frames")]
    TooLarge(u32),
}

/// Decodes frames out of chunks of any size.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    /// The beginning of a frame that is not complete yet.
    partial: Vec<u8>,
}

fn header(bytes: &[u8]) -> Option<(Stream, u32)> {
    let &[stream, _, _, _, a, b, c, d] = bytes.get(..HEADER_BYTES)? else { return None };
    Some((Stream::from_byte(stream), u32::from_be_bytes([a, b, c, d])))
}

impl FrameDecoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a chunk and hands every frame that is complete now to `out`.
    pub fn push(&mut self, mut chunk: &[u8], mut out: impl FnMut(Frame<'_>)) -> Result<(), FrameError> {
        while !self.partial.is_empty() && !chunk.is_empty() {
            let wanted = match header(&self.partial) {
                None => HEADER_BYTES,
                Some((_, length)) => HEADER_BYTES + checked(length)?,
            };
            let taken = chunk.len().min(wanted - self.partial.len());
            self.partial.extend_from_slice(&chunk[..taken]);
            chunk = &chunk[taken..];
            if let Some((stream, length)) = header(&self.partial)
                && self.partial.len() == HEADER_BYTES + checked(length)?
            {
                out(Frame { stream, payload: &self.partial[HEADER_BYTES..] });
                self.partial.clear();
            }
        }
        while let Some((stream, length)) = header(chunk) {
            let end = HEADER_BYTES + checked(length)?;
            let Some(frame) = chunk.get(HEADER_BYTES..end) else { break };
            out(Frame { stream, payload: frame });
            chunk = &chunk[end..];
        }
        self.partial.extend_from_slice(chunk);
        Ok(())
    }

    /// The stream has ended.
    pub fn finish(self) -> Result<(), FrameError> {
        if self.partial.is_empty() { Ok(()) } else { Err(FrameError::TruncatedFinalFrame) }
    }
}

fn checked(length: u32) -> Result<usize, FrameError> {
    let bytes = length as usize;
    if bytes > MAX_FRAME_BYTES { Err(FrameError::TooLarge(length)) } else { Ok(bytes) }
}

/// All frames of a stream that is in memory as a whole.
pub fn decode_all(mut bytes: &[u8]) -> Result<Vec<Frame<'_>>, FrameError> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (stream, length) = header(bytes).ok_or(FrameError::TruncatedFinalFrame)?;
        let end = HEADER_BYTES.saturating_add(length as usize);
        frames.push(Frame { stream, payload: bytes.get(HEADER_BYTES..end).ok_or(FrameError::TruncatedFinalFrame)? });
        bytes = &bytes[end..];
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(frames: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (stream, payload) in frames {
            bytes.extend_from_slice(&[*stream, 0, 0, 0]);
            bytes.extend_from_slice(&u32::try_from(payload.len()).expect("small").to_be_bytes());
            bytes.extend_from_slice(payload);
        }
        bytes
    }

    #[test]
    fn an_announced_giant_is_refused_before_it_is_held() {
        let mut decoder = FrameDecoder::new();
        let first = u32::try_from(MAX_FRAME_BYTES).expect("fits") + 1;
        let mut bytes = vec![1, 0, 0, 0];
        bytes.extend_from_slice(&first.to_be_bytes());
        assert_eq!(decoder.push(&bytes, |_| ()), Err(FrameError::TooLarge(first)));
        assert_eq!(FrameDecoder::new().push(b"hello from a tty container\n", |_| ()), Err(FrameError::TooLarge(0x6f20_6672)));
    }

    proptest! {
        #[test]
        fn chunks_make_no_difference(frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..8), cut in 1_usize..50) {
            let bytes = encode(&frames);
            let whole: Vec<_> = decode_all(&bytes).expect("well-formed").iter().map(|f| (f.stream, f.payload.to_vec())).collect();
            let expected: Vec<_> = frames.iter().map(|(s, p)| (Stream::from_byte(*s), p.clone())).collect();
            prop_assert_eq!(&whole, &expected);
            let (mut decoder, mut streamed) = (FrameDecoder::new(), Vec::new());
            for chunk in bytes.chunks(cut) {
                decoder.push(chunk, |f| streamed.push((f.stream, f.payload.to_vec()))).expect("well-formed");
            }
            decoder.finish().expect("complete");
            prop_assert_eq!(streamed, expected);
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 1_usize..50) {
            let _ = decode_all(&bytes);
            let mut decoder = FrameDecoder::new();
            for chunk in bytes.chunks(cut) {
                if decoder.push(chunk, |_| ()).is_err() { break; }
            }
            let _ = decoder.finish();
        }
    }
}
