//! .NET patterns, as far as they can be had: `fancy-regex` with a step limit, behind a translation of what it reads differently.
//!
//! The library accepts several .NET shapes and means something else by them (class subtraction, `$` before a final newline,
//! flags that leak out of groups, group numbers). A pattern is therefore read here token by token, as .NET reads it, and
//! written anew in the library's own words. What has no equivalent is refused with a sentence, never guessed at.

mod class;
mod risk;
mod token;
mod translate;

use std::sync::atomic::{AtomicU64, Ordering};

use fancy_regex::{CompileError, Regex, RegexBuilder};

pub use risk::{MAX_BOUNDED_REPEAT, MAX_REPEATS, Risk, risky};

/// Longest pattern that is compiled, in bytes.
pub const MAX_PATTERN_BYTES: usize = 1024;
/// Deepest nesting of groups.
pub const MAX_PATTERN_DEPTH: usize = 40;
/// Backtracking steps one match may take. Real devices have no limit, and burn.
pub const BACKTRACK_LIMIT: usize = 100_000;
/// After so many matches that ran out of steps a [`LinePattern`] gives up for good: it would only burn on.
pub const MAX_EXHAUSTED_MATCHES: u64 = 100;
/// Size limit of the compiled automata of one pattern, in bytes.
pub const MAX_COMPILED_BYTES: usize = 8 * 1024 * 1024;
/// Largest product of nested repeat counts: `(a{50}){50}` has 2500. A step of such a pattern costs that much.
pub const MAX_REPEAT_PRODUCT: u64 = 10_000;

/// Why a pattern is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Over [`MAX_PATTERN_BYTES`].
    #[error("the pattern has {0} bytes; at most {MAX_PATTERN_BYTES} are allowed")]
    TooLong(usize),
    /// Not a .NET regular expression.
    #[error("the pattern is not a regular expression: {0}")]
    Invalid(String),
    /// A .NET regular expression that this implementation does not offer.
    #[error("the pattern uses {0}, which is not supported here")]
    Unsupported(&'static str),
    /// Over [`MAX_REPEAT_PRODUCT`] or [`MAX_COMPILED_BYTES`].
    #[error("the pattern is too complex: its repeat counts multiply, or it compiles to too much")]
    TooComplex,
}

/// What came of a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It matches.
    Match,
    /// It does not.
    NoMatch,
    /// The step limit was hit; counts as no match, and the caller should warn.
    Exhausted,
}

/// Refuses a pattern that no device of ours would take, without keeping the result.
pub fn check(pattern: &str) -> Result<(), PatternError> {
    compile(pattern, false).map(drop)
}

fn compile(pattern: &str, ignore_case: bool) -> Result<Regex, PatternError> {
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(PatternError::TooLong(pattern.len()));
    }
    let translated = translate::translate(pattern, ignore_case)?;
    RegexBuilder::new(&translated).backtrack_limit(BACKTRACK_LIMIT).delegate_size_limit(MAX_COMPILED_BYTES).build().map_err(refusal)
}

fn refusal(error: fancy_regex::Error) -> PatternError {
    match &error {
        fancy_regex::Error::CompileError(inner) => match inner.as_ref() {
            CompileError::InnerError(built) if built.size_limit().is_some() => PatternError::TooComplex,
            CompileError::DfaBuildError(..) | CompileError::PatternTooComplex => PatternError::TooComplex,
            _ => PatternError::Invalid(error.to_string()),
        },
        _ => PatternError::Invalid(error.to_string()),
    }
}

fn outcome(regex: &Regex, text: &str) -> Outcome {
    match regex.is_match(text) {
        Ok(true) => Outcome::Match,
        Ok(false) => Outcome::NoMatch,
        Err(_) => Outcome::Exhausted,
    }
}

/// A pattern over the text of log lines: case-sensitive, unanchored.
#[derive(Debug)]
pub struct LinePattern {
    regex: Regex,
    exhausted: AtomicU64,
}

impl LinePattern {
    /// Compiles a pattern.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        Ok(Self { regex: compile(pattern, false)?, exhausted: AtomicU64::new(0) })
    }

    /// Looks for the pattern in a text.
    pub fn find(&self, text: &str) -> Outcome {
        if self.exhausted.load(Ordering::Relaxed) >= MAX_EXHAUSTED_MATCHES {
            return Outcome::Exhausted;
        }
        let outcome = outcome(&self.regex, text);
        if outcome == Outcome::Exhausted {
            self.exhausted.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    /// How many matches ran out of steps so far.
    pub fn exhausted(&self) -> u64 {
        self.exhausted.load(Ordering::Relaxed)
    }
}

/// The word that means every module, in any letter case. It is a keyword, not a pattern.
pub const ALL_MODULES: &str = "all";

/// A pattern over module names: unanchored, without regard to case, or the word [`ALL_MODULES`].
#[derive(Debug)]
pub struct ModulePattern(Option<Regex>);

impl ModulePattern {
    /// Compiles an item's id.
    pub fn new(id: &str) -> Result<Self, PatternError> {
        if id.eq_ignore_ascii_case(ALL_MODULES) { Ok(Self(None)) } else { compile(id, true).map(Some).map(Self) }
    }

    /// Looks for the pattern in a module's name.
    pub fn find(&self, module: &str) -> Outcome {
        self.0.as_ref().map_or(Outcome::Match, |regex| outcome(regex, module))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn finds(pattern: &str, text: &str) -> bool {
        LinePattern::new(pattern).unwrap_or_else(|error| panic!("{pattern:?}: {error}")).find(text) == Outcome::Match
    }

    #[test]
    fn shapes_that_the_library_reads_differently_mean_what_dotnet_means() {
        for (pattern, text, expected) in [
            // Class subtraction.
            ("^[a-z-[aeiou]]+$", "xyz", true),
            ("^[a-z-[aeiou]]+$", "abc", false),
            ("^[^a-z-[0-9]]$", "5", false),
            ("^[^a-z-[0-9]]$", "#", true),
            ("^[a-z-[d-w-[m]]]$", "m", true),
            ("^[a-z-[d-w-[m]]]$", "n", false),
            // A hyphen after a shorthand, brackets and set operators inside a class.
            (r"^[\w-.]+$", "a-b.c", true),
            (r"^[\w-]+$", "a-b", true),
            ("^[a-]+$", "a-", true),
            ("^[[a]+$", "[a", true),
            ("^[a&&b]+$", "&", true),
            ("^[a~~b]+$", "~", true),
            ("^[]a]+$", "]a", true),
            ("^[^]a]+$", "b", true),
            (r"^[\x41-\x43]+$", "ABC", true),
            (r"^[\b]$", "\u{8}", true),
            // `$` and `\Z` before a final newline, and only before one.
            ("a$", "a\n", true),
            ("a$", "a\n\n", false),
            (r"a\Z", "a\n", true),
            (r"a\Z", "a\n\n", false),
            (r"a\z", "a\n", false),
            ("a$|b", "a\n", true),
            ("(a$)b?", "a\n", true),
            ("(?m)a$", "a\nb", true),
            ("(?m)^b", "a\nb", true),
            ("^b", "a\nb", false),
            // Flags end with their group.
            ("((?i)a)b", "Ab", true),
            ("((?i)a)b", "AB", false),
            ("(?i:a)b", "AB", false),
            ("(?:(?i)a)b", "AB", false),
            ("(?:(?i)a|b)c", "Bc", true),
            ("a(?i)b|c", "C", true),
            ("(?i)a(?-i)b", "Ab", true),
            ("(?i)a(?-i)b", "AB", false),
            ("((?i)a)*b$", "AaB", false),
            ("(?=(?i)a)A", "A", true),
            ("(?s)a.b", "a\nb", true),
            ("a.b", "a\nb", false),
            ("(?n)(a)(?<x>b)", "ab", true),
            ("(?x) a b # comment\n c", "abc", true),
            ("(?x:a b)c d", "abc d", true),
            ("a(?#comment)b", "ab", true),
            (r"(?x)a\ b[ ]c", "a b c", true),
            // Group numbers: unnamed first, then named.
            (r"(?<n>a)(b)\1", "abb", true),
            (r"(?<n>a)(b)\2", "aba", true),
            (r"(?<n>a)(b)\2", "abb", false),
            (r"(a)\1", "aa", true),
            (r"(a)\k<1>", "aa", true),
            (r"(?'q'a)\k'q'", "aa", true),
            (r"(?i)(a)\1", "aA", true),
            (r"(a)\10", "a\u{8}", true),
            (r"(?n)(a)(?<x>b)\1", "abb", true),
            (r"(a)?(?(1)b|c)", "ab", true),
            (r"^(a)?(?(1)b|c)$", "c", true),
            (r"^(?<q>a)?(?(q)b|c)$", "b", false),
            // Literal braces.
            ("a{,3}", "a{,3}", true),
            ("a{x}", "a{x}", true),
            ("^a{2}$", "aa", true),
            ("{", "{", true),
            ("a]", "a]", true),
            ("a}", "a}", true),
            // Escapes.
            (r"\<a\>", "<a>", true),
            (r"\x41\u0042\cJ\101\0", "AB\nA\0", true),
            (r"\uD83D\uDE00", "😀", true),
            (r"\-\#\ \&\~\/", "-# &~/", true),
            (r"\p{Lu}\P{Lu}", "Aa", true),
            (r"\bedge\b", "the edge of", true),
            (r"\b{2}x", "a x", true),
            // Atomic groups, look-around, laziness.
            ("(?>a+)a", "aaa", false),
            ("(?<=a|bc)d", "bcd", true),
            ("a+?b", "aab", true),
            ("a{1,2}?b", "aab", true),
            ("(?<!^)a", "ba", true),
        ] {
            assert_eq!(finds(pattern, text), expected, "{pattern:?} in {text:?}");
        }
    }

    #[test]
    fn what_dotnet_refuses_is_refused() {
        for pattern in [
            "[",
            "(",
            ")",
            "*",
            "+a",
            "?",
            "a**",
            "a++",
            "a?+",
            "a{2}{3}",
            "a*??",
            "|*",
            "(*)",
            "(?i)*",
            "[z-a]",
            r"[a-\w]",
            r"\",
            r"\y",
            r"\_",
            r"\h",
            r"\K",
            r"\R",
            r"\N",
            r"\X",
            r"\g<1>",
            r"\1",
            r"\k<x>",
            r"\k",
            r"(?P<x>a)",
            "(?R)",
            "(?~a)",
            "(?",
            "(?<",
            "(?<>a)",
            "(?<1a>b)",
            "a{3,2}",
            "{2}",
            r"\x4",
            r"\x{41}",
            r"\u12",
            r"\pL",
            r"\p{Latin}",
            r"\p{Nope}",
            r"\c",
            r"\c1",
            "[a",
            "[]",
            "[^]",
            "(?u)a",
            "(?U)a",
            "(?i",
            "(?#a",
            "(?(1)a|b)",
            "[a-z-[b]c]",
            "(a)(?(1)a|b|c)",
            "a{99999999999}",
            r"(a)\9",
            "(*FAIL)",
        ] {
            assert!(matches!(check(pattern), Err(PatternError::Invalid(_))), "{pattern:?}: {:?}", check(pattern));
        }
    }

    #[test]
    fn what_cannot_be_had_is_refused_by_name() {
        for pattern in [r"(?<-o>a)", r"(?<o>a)(?<c-o>b)", r"\p{IsGreek}", "[[:alpha:]]", "(?(a+)b|c)", r"(?<x>a)(?<x>b)\k<x>", r"\uD83D"] {
            assert!(matches!(check(pattern), Err(PatternError::Unsupported(_))), "{pattern:?}: {:?}", check(pattern));
        }
    }

    #[test]
    fn length_and_depth_are_limited() {
        assert_eq!(check(&"a".repeat(MAX_PATTERN_BYTES)), Ok(()));
        assert_eq!(check(&"a".repeat(MAX_PATTERN_BYTES + 1)), Err(PatternError::TooLong(MAX_PATTERN_BYTES + 1)));
        let nested = |depth: usize| "(".repeat(depth) + "a" + &")".repeat(depth);
        assert_eq!(check(&nested(MAX_PATTERN_DEPTH)), Ok(()));
        assert!(check(&nested(MAX_PATTERN_DEPTH + 1)).is_err());
        assert_eq!(check(r"\w{999}"), Err(PatternError::TooComplex), "compiled size");
        assert_eq!(check("(?:a{100}){100}"), Ok(()));
        for pattern in ["(?:a{100}){101}", "(?:b|(?:a{100})?c){101}", "a{10001}", "(a{999}){999}\\1"] {
            assert_eq!(check(pattern), Err(PatternError::TooComplex), "{pattern}");
        }
    }

    #[test]
    fn running_out_of_steps_is_no_match_and_is_counted() {
        let pattern = LinePattern::new(r"^(a|aa)+(?=b)\1c$").expect("a valid pattern");
        let text = "a".repeat(60);
        assert_eq!(pattern.find(&text), Outcome::Exhausted);
        assert_eq!(pattern.exhausted(), 1);
        for _ in 0..3 {
            pattern.find(&text);
        }
        pattern.exhausted.store(MAX_EXHAUSTED_MATCHES, Ordering::Relaxed);
        assert_eq!(pattern.find("b"), Outcome::Exhausted, "gives up for good");
    }

    #[test]
    fn the_keyword_is_the_whole_word() {
        for id in ["all", "ALL", "aLL"] {
            assert_eq!(ModulePattern::new(id).expect("a keyword").find("anything"), Outcome::Match);
        }
        for id in [" all", "all ", "a[l]l", "^all$"] {
            assert_eq!(
                ModulePattern::new(id).expect("a pattern").find("small"),
                if id == "a[l]l" { Outcome::Match } else { Outcome::NoMatch },
                "{id:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn never_panics(pattern in "\\PC{0,30}", text in "\\PC{0,30}") {
            if let Ok(compiled) = LinePattern::new(&pattern) { compiled.find(&text); }
            let _ = ModulePattern::new(&pattern);
            risky(&pattern);
        }

        #[test]
        fn never_panics_near_the_grammar(pattern in "(\\(\\?|\\(|\\)|\\[|\\]|\\^|-|\\\\|\\{|\\}|[0-9]|,|[*+?|$.#<>=!:'ixnsmkpuUcbdwZ ]|a|é){0,24}", text in "[ab1 \n]{0,12}") {
            if let Ok(compiled) = LinePattern::new(&pattern) { compiled.find(&text); }
            risky(&pattern);
        }

        /// A text, escaped, finds itself.
        #[test]
        fn literals_are_literal(text in "[ -~é☃]{0,20}", flags in "(\\(\\?i\\)|\\(\\?s\\))?") {
            let escaped: String = text.chars().flat_map(|c| (!c.is_alphanumeric() && c.is_ascii() && c != '_').then_some('\\').into_iter().chain([c])).collect();
            let pattern = format!("^{flags}{escaped}$");
            prop_assert!(finds(&pattern, &text), "{}", pattern);
        }
    }
}
