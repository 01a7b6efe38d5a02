//! Which patterns may make a device burn. Real devices match without a limit, so a controller asks before it sends.

use super::token::{Token, read};
use super::{MAX_PATTERN_BYTES, PatternError};

/// Most quantifiers without an end in one pattern.
pub const MAX_REPEATS: usize = 10;
/// Largest count in braces; beyond it the pattern is as good as endless and expensive to compile.
pub const MAX_BOUNDED_REPEAT: u32 = 1000;
/// A count up to this is not yet a loop.
const HARMLESS_REPEAT: u32 = 8;

/// Why a pattern should not be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Risk {
    /// A device would refuse it, or read it differently.
    #[error("{0}")]
    Refused(#[from] PatternError),
    /// `(a+)+`: time doubles with every character.
    #[error("a repeated group contains a repetition, as in (a+)+; the time to match doubles with every character")]
    NestedRepeat,
    /// `(a|ab)+`: likewise.
    #[error("the branches of a repeated group can begin alike, as in (a|ab)+; the time to match doubles with every character")]
    AmbiguousRepeat,
    /// Over [`MAX_REPEATS`].
    #[error("the pattern has {0} open-ended repetitions; at most {MAX_REPEATS} are sent")]
    TooManyRepeats(usize),
    /// Over [`MAX_BOUNDED_REPEAT`].
    #[error("a repeat count of {0}; at most {MAX_BOUNDED_REPEAT} is sent")]
    LargeRepeat(u32),
}

#[derive(Default)]
struct Level {
    /// Something in here repeats without an end.
    loops: bool,
    /// First thing of each branch; the inner `None` is "could be anything".
    branches: Vec<Option<char>>,
    /// The current branch has begun.
    begun: bool,
}

impl Level {
    fn begin(&mut self, first: Option<char>) {
        if !self.begun {
            self.begun = true;
            self.branches.push(first);
        }
    }

    fn is_ambiguous(&self) -> bool {
        let alike = |a: &Option<char>, b: &Option<char>| match (a, b) {
            (Some(a), Some(b)) => a.to_lowercase().eq(b.to_lowercase()),
            _ => true,
        };
        self.branches.iter().enumerate().any(|(index, a)| self.branches[..index].iter().any(|b| alike(a, b)))
    }
}

/// Why this pattern should not be sent to a device, if there is a reason.
pub fn risky(pattern: &str) -> Option<Risk> {
    if pattern.len() > MAX_PATTERN_BYTES {
        return Some(PatternError::TooLong(pattern.len()).into());
    }
    if let Err(error) = super::check(pattern) {
        return Some(error.into());
    }
    let tokens = match read(pattern, false) {
        Ok(tokens) => tokens,
        Err(error) => return Some(error.into()),
    };
    let mut levels = vec![Level::default()];
    let mut closed: Option<Level> = None;
    let mut repeats = 0;
    for token in &tokens {
        let just_closed = closed.take();
        let Some(level) = levels.last_mut() else { break };
        match token {
            Token::Open(_) | Token::Condition { .. } => {
                level.begin(None);
                levels.push(Level::default());
            }
            Token::Close => {
                level.begin(None);
                let inner = levels.pop().unwrap_or_default();
                if let Some(outer) = levels.last_mut() {
                    outer.loops |= inner.loops;
                }
                closed = Some(inner);
            }
            Token::Alternative => {
                level.begin(None);
                level.begun = false;
            }
            Token::Repeat { max, .. } => {
                if let Some(large) = max.filter(|&max| max > MAX_BOUNDED_REPEAT) {
                    return Some(Risk::LargeRepeat(large));
                }
                if max.is_some_and(|max| max <= HARMLESS_REPEAT) {
                    continue;
                }
                if let Some(inner) = just_closed {
                    if inner.loops {
                        return Some(Risk::NestedRepeat);
                    }
                    if inner.is_ambiguous() {
                        return Some(Risk::AmbiguousRepeat);
                    }
                }
                level.loops = true;
                repeats += 1;
                if repeats > MAX_REPEATS {
                    return Some(Risk::TooManyRepeats(
                        tokens.iter().filter(|t| matches!(t, Token::Repeat { max: None, .. })).count().max(repeats),
                    ));
                }
            }
            Token::Atom { literal, .. } => level.begin(*literal),
            Token::End | Token::Number { .. } | Token::Reference { .. } => level.begin(None),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_patterns_pass() {
        for pattern in [
            "",
            "ERR",
            r"\bedgeHub\b",
            "^(?!edgeAgent$|edgeHub$)",
            "(foo|bar)+",
            r"\d{3}",
            "a.*b.*c",
            "(?<!not )found",
            "(a{1,3})+",
            "(ab)*",
            r"(?i)time(d)?\s+out",
        ] {
            assert_eq!(risky(pattern), None, "{pattern:?}");
        }
    }

    #[test]
    fn patterns_that_burn_are_named() {
        for pattern in ["(a+)+", "(a*)*b", "((a+)b?)+", "(.*,)*", "(a{2,}){9}", "(?:x+x+)+y"] {
            assert_eq!(risky(pattern), Some(Risk::NestedRepeat), "{pattern:?}");
        }
        for pattern in ["(a|ab)+", "(a|A)*", r"(\w|a)+", "(|a)+", "(a|a)*"] {
            assert_eq!(risky(pattern), Some(Risk::AmbiguousRepeat), "{pattern:?}");
        }
    }

    #[test]
    fn every_limit_holds() {
        assert_eq!(risky(&"a*".repeat(MAX_REPEATS)), None);
        assert_eq!(risky(&"a*".repeat(MAX_REPEATS + 1)), Some(Risk::TooManyRepeats(MAX_REPEATS + 1)));
        assert_eq!(risky(&format!("a{{{MAX_BOUNDED_REPEAT}}}")), None);
        assert_eq!(risky(&format!("a{{{}}}", MAX_BOUNDED_REPEAT + 1)), Some(Risk::LargeRepeat(MAX_BOUNDED_REPEAT + 1)));
        assert!(matches!(risky(&"a".repeat(MAX_PATTERN_BYTES + 1)), Some(Risk::Refused(PatternError::TooLong(_)))));
        assert!(matches!(risky("["), Some(Risk::Refused(_))));
    }
}
