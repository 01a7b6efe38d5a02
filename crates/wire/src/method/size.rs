//! How large a `GetModuleLogs` answer may be, counted as edgeAgent counts.
//!
//! What is counted is not what goes out: UTF-8 growth, JSON escapes and base64 come on top. A caller that wants its answer to
//! pass a 128 KB transport must ask for less.

use super::{Encoding, MethodError};

/// The most that the logs of all modules may sum up to.
pub const MAX_COUNTED: usize = 127_000;

/// What one module adds with `encoding: none`: UTF-16 code units, before any escaping.
pub fn counted_text(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.encode_utf16().count() }
}

/// What one module adds with `encoding: gzip`: compressed bytes, before base64.
pub fn counted_gzip(compressed: &[u8]) -> usize {
    compressed.len()
}

/// The running sum over all modules.
#[derive(Debug, Clone, Copy)]
pub struct SizeCheck {
    encoding: Encoding,
    sum: usize,
}

impl SizeCheck {
    /// Nothing counted yet.
    pub fn new(encoding: Encoding) -> Self {
        Self { encoding, sum: 0 }
    }

    /// Adds one module's count, [`counted_text`] or [`counted_gzip`]; 400 once the sum is over [`MAX_COUNTED`].
    pub fn add(&mut self, counted: usize) -> Result<(), MethodError> {
        self.sum = self.sum.saturating_add(counted);
        if self.sum <= MAX_COUNTED {
            return Ok(());
        }
        let hint = match self.encoding {
            Encoding::None => "ask for fewer lines (tail, since, until), use encoding gzip, or use UploadModuleLogs",
            Encoding::Gzip => "ask for fewer lines (tail, since, until) or use UploadModuleLogs",
        };
        Err(MethodError::bad_request(format!("the logs are too large for an answer: {} of at most {MAX_COUNTED}; {hint}", self.sum)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_inclusive_and_over_all_modules() {
        let mut check = SizeCheck::new(Encoding::None);
        assert!(check.add(100_000).is_ok());
        assert!(check.add(27_000).is_ok());
        assert_eq!(check.add(1).expect_err("one too many").status(), 400);
        assert!(SizeCheck::new(Encoding::Gzip).add(usize::MAX).is_err());
    }

    #[test]
    fn astral_characters_count_twice() {
        assert_eq!(counted_text("aé☃😀"), 5);
        assert_eq!(counted_text("abc"), 3);
        assert_eq!(counted_gzip(&[0; 7]), 7);
    }
}
