//! Whose answer gives reason for the next step: a .NET pattern over the lines of an answer or of sealed objects, within bounds.
//!
//! Lines come from a device, and so does what makes a pattern slow. Each look has a pattern of its own, so that a device that makes it give
//! up costs only itself, and reads no more than [`MAX_MATCH_BYTES`].

use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::read::MultiGzDecoder;
use muster_wire::method::pattern::{LinePattern, Outcome};

/// Most bytes of one object, unpacked, in which a pattern is looked for.
const MAX_MATCH_BYTES: u64 = 256 << 20;
/// Most bytes of one line; what is longer is looked at in pieces of this length.
const MAX_LINE_BYTES: u64 = 64 * 1024;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Whether a line of an object matches; a gzip is unpacked. One that is damaged has no line behind the damage: judging said so already.
pub(crate) fn any_line_of_object(mut object: impl Read, pattern: &str) -> io::Result<bool> {
    let mut magic = Vec::with_capacity(GZIP_MAGIC.len());
    object.by_ref().take(GZIP_MAGIC.len() as u64).read_to_end(&mut magic)?;
    let is_gzip = magic == GZIP_MAGIC;
    let whole = Cursor::new(magic).chain(object);
    if is_gzip {
        any_line(MultiGzDecoder::new(whole), pattern).or_else(|error| match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => Ok(false),
            _ => Err(error),
        })
    } else {
        any_line(whole, pattern)
    }
}

/// Whether a line of a text matches. A pattern that cannot be read, which none of a collection is, matches nothing.
pub(crate) fn any_line(text: impl Read, pattern: &str) -> io::Result<bool> {
    any_line_within(MAX_MATCH_BYTES, text, pattern)
}

fn any_line_within(bound: u64, text: impl Read, pattern: &str) -> io::Result<bool> {
    let Ok(pattern) = LinePattern::new(pattern) else { return Ok(false) };
    let mut lines = BufReader::new(text.take(bound));
    let mut line = Vec::new();
    loop {
        line.clear();
        if lines.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let text = String::from_utf8_lossy(&line);
        if pattern.find(text.trim_end_matches(['\r', '\n'])) == Outcome::Match {
            return Ok(true);
        }
    }
    if pattern.exhausted() > 0 {
        tracing::warn!(
            matches = pattern.exhausted(),
            "the pattern of a next step ran out of steps on some lines; they count as not matching"
        );
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use muster_wire::method::pattern::MAX_EXHAUSTED_MATCHES;

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(text).expect("memory");
        packed.finish().expect("memory")
    }

    fn found(object: &[u8], pattern: &str) -> bool {
        any_line_of_object(object, pattern).expect("memory")
    }

    #[test]
    fn each_line_is_looked_at_by_itself() {
        let text = b"<6> all is well\r\n<3> ERR the pump stands still\n<6> bye";
        assert!(found(text, "ERR"));
        assert!(found(text, "^<3>.*still$"), "without its end of line");
        assert!(found(text, "bye$"), "the last line needs no end");
        assert!(!found(text, "well.*ERR"), "not over two lines");
        assert!(!found(text, "err"), "letter case counts, as with devices");
        assert!(!found(b"", "."));
    }

    #[test]
    fn a_gzip_is_unpacked_and_damage_ends_it() {
        let packed = gzip(b"one\nERR two\n");
        assert!(found(&packed, "^ERR two$"));
        let members = [gzip(b"one\n"), gzip(b"ERR two\n")].concat();
        assert!(found(&members, "^ERR"), "all members");
        assert!(!found(&packed[..packed.len() / 2], "never there"), "cut off is no error");
        assert!(!found(&GZIP_MAGIC, "x") && !found(&GZIP_MAGIC[..1], "x"));
    }

    #[test]
    fn the_bounds_hold_at_their_edges() {
        let line = MAX_LINE_BYTES as usize;
        let long = [vec![b'x'; line], b"END".to_vec()].concat();
        assert!(found(&long, "^END$"), "the rest of a long line is a piece of its own");
        assert!(!found(&long, "xEND"), "so nothing is found across the cut");
        let text = b"one\ntwo\nthree\n";
        assert!(any_line_within(13, &text[..], "three").expect("memory"));
        assert!(!any_line_within(12, &text[..], "three").expect("memory"), "behind the bound nothing is read");
        let bomb = gzip(&vec![b'a'; 8 << 20]);
        assert!(!found(&bomb, "b") && bomb.len() < 100_000);
    }

    #[test]
    fn a_line_that_burns_steps_costs_no_more_than_its_bound() {
        // Every line runs out of steps; after a hundred of them the pattern has given up, and the match behind them is not found.
        let burning = format!("{}\n", "a".repeat(40));
        let lines = burning.repeat(usize::try_from(MAX_EXHAUSTED_MATCHES).expect("small"));
        let pattern = r"(?=(a+a+a+a+a+)+\1z)|b";
        assert!(found(b"b", pattern), "it is a pattern like any other");
        assert!(!found(format!("{lines}b").as_bytes(), pattern));
    }
}
