//! Reads a pattern the way .NET reads it, into tokens.

use super::class::{self, Escape};
use super::{MAX_PATTERN_DEPTH, PatternError};

/// A piece of a pattern.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// Something that matches by itself, already in the library's words.
    Atom {
        written: String,
        ignore_case: bool,
        /// The one character it stands for, if it is that simple.
        literal: Option<char>,
    },
    /// `$` or `\Z`.
    End,
    Open(Group),
    Close,
    Alternative,
    Repeat {
        written: String,
        /// `None` is without end.
        max: Option<u32>,
    },
    /// `\1` to `\9…`: a group if there is one of that number, else an octal escape.
    Number {
        digits: String,
        ignore_case: bool,
    },
    /// `\k<name>`.
    Reference {
        name: String,
        ignore_case: bool,
    },
    /// `(?(name)`; closed by `Close`.
    Condition {
        name: String,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Group {
    /// Captures; by number only.
    Unnamed,
    /// Captures; the name may be a number.
    Named(String),
    /// Everything else, in the library's words: `(?:`, `(?=`, `(?<!`, `(?>` …
    Plain(&'static str),
}

#[derive(Debug, Clone, Copy)]
struct Flags {
    ignore_case: bool,
    multiline: bool,
    explicit_capture: bool,
    single_line: bool,
    free_spacing: bool,
}

/// What may come before a quantifier.
#[derive(PartialEq)]
enum Before {
    Nothing,
    Atom,
    Repeat,
}

pub(super) struct Reader<'a> {
    rest: &'a str,
    flags: Flags,
    /// Flags to return to, one for each open group.
    open: Vec<Flags>,
    tokens: Vec<Token>,
    before: Before,
}

pub(super) fn invalid<T>(what: impl Into<String>) -> Result<T, PatternError> {
    Err(PatternError::Invalid(what.into()))
}

pub(super) fn read(pattern: &str, ignore_case: bool) -> Result<Vec<Token>, PatternError> {
    let flags = Flags { ignore_case, multiline: false, explicit_capture: false, single_line: false, free_spacing: false };
    let mut reader = Reader { rest: pattern, flags, open: Vec::new(), tokens: Vec::new(), before: Before::Nothing };
    while !reader.rest.is_empty() {
        reader.step()?;
    }
    if reader.open.is_empty() { Ok(reader.tokens) } else { invalid("a group is not closed") }
}

impl<'a> Reader<'a> {
    fn take(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn take_if(&mut self, prefix: &str) -> bool {
        self.rest.strip_prefix(prefix).map(|rest| self.rest = rest).is_some()
    }

    fn take_while(&mut self, accepts: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !accepts(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn atom(&mut self, written: impl Into<String>, literal: Option<char>) {
        self.tokens.push(Token::Atom { written: written.into(), ignore_case: self.flags.ignore_case, literal });
        self.before = Before::Atom;
    }

    fn literal(&mut self, c: char) {
        self.atom(escaped(c), Some(c));
    }

    fn step(&mut self) -> Result<(), PatternError> {
        if self.skip_blanks()? {
            return Ok(());
        }
        let Some(c) = self.take() else { return Ok(()) };
        match c {
            '.' => self.atom(if self.flags.single_line { r"[\s\S]" } else { "." }, None),
            '^' => self.atom(if self.flags.multiline { "(?m:^)" } else { "^" }, None),
            '$' if self.flags.multiline => self.atom("(?m:$)", None),
            '$' => self.end(),
            '[' => {
                let (class, rest) = class::read(self.rest)?;
                self.rest = rest;
                self.atom(class, None);
            }
            '|' => {
                self.tokens.push(Token::Alternative);
                self.before = Before::Nothing;
            }
            '(' => self.group()?,
            ')' => {
                self.flags = self.open.pop().map_or_else(|| invalid("a ) has no ("), Ok)?;
                self.tokens.push(Token::Close);
                self.before = Before::Atom;
            }
            '\\' => self.escape()?,
            '*' => self.repeat("*", None)?,
            '+' => self.repeat("+", None)?,
            '?' => self.repeat("?", Some(1))?,
            '{' => match counts(self.rest) {
                Some(count) => {
                    let written = format!("{{{}", &self.rest[..count.length]);
                    self.rest = &self.rest[count.length..];
                    let max = count.check()?;
                    self.repeat(&written, max)?;
                }
                None => self.literal('{'),
            },
            other => self.literal(other),
        }
        Ok(())
    }

    fn end(&mut self) {
        self.tokens.push(Token::End);
        self.before = Before::Atom;
    }

    /// Comments, and blanks where they do not count.
    fn skip_blanks(&mut self) -> Result<bool, PatternError> {
        if self.rest.starts_with("(?#") {
            let end = self.rest.find(')').map_or_else(|| invalid("a comment is not closed"), Ok)?;
            self.rest = &self.rest[end + 1..];
            return Ok(true);
        }
        if !self.flags.free_spacing {
            return Ok(false);
        }
        if self.rest.starts_with('#') {
            self.take_while(|c| c != '\n');
            return Ok(true);
        }
        Ok(!self.take_while(|c| matches!(c, '\t'..='\r' | ' ')).is_empty())
    }

    fn repeat(&mut self, written: &str, max: Option<u32>) -> Result<(), PatternError> {
        match self.before {
            Before::Nothing => return invalid(format!("{written} follows nothing")),
            Before::Repeat => return invalid(format!("{written} follows another quantifier")),
            Before::Atom => {}
        }
        while self.skip_blanks()? {}
        let lazy = if self.take_if("?") { "?" } else { "" };
        self.tokens.push(Token::Repeat { written: format!("{written}{lazy}"), max });
        self.before = Before::Repeat;
        Ok(())
    }

    fn open_group(&mut self, token: Token) -> Result<(), PatternError> {
        if self.open.len() >= MAX_PATTERN_DEPTH {
            return invalid(format!("groups are nested deeper than {MAX_PATTERN_DEPTH}"));
        }
        self.open.push(self.flags);
        self.tokens.push(token);
        self.before = Before::Nothing;
        Ok(())
    }

    fn group(&mut self) -> Result<(), PatternError> {
        if !self.take_if("?") {
            let group = if self.flags.explicit_capture { Group::Plain("(?:") } else { Group::Unnamed };
            return self.open_group(Token::Open(group));
        }
        for (sign, written) in [(":", "(?:"), ("=", "(?="), ("!", "(?!"), (">", "(?>"), ("<=", "(?<="), ("<!", "(?<!")] {
            if self.take_if(sign) {
                return self.open_group(Token::Open(Group::Plain(written)));
            }
        }
        if self.take_if("<") {
            return self.named('>');
        }
        if self.take_if("'") {
            return self.named('\'');
        }
        if self.take_if("(") {
            return self.condition();
        }
        self.options()
    }

    fn named(&mut self, close: char) -> Result<(), PatternError> {
        let name = self.take_while(is_word);
        if self.rest.starts_with('-') {
            return Err(PatternError::Unsupported("a balancing group"));
        }
        if name.is_empty() || !self.rest.starts_with(close) || !is_group_name(name) {
            return invalid("a group name is made of word characters, or is a number from 1 on");
        }
        self.take();
        self.open_group(Token::Open(Group::Named(name.to_owned())))
    }

    fn condition(&mut self) -> Result<(), PatternError> {
        let name = self.take_while(is_word);
        if name.is_empty() || !self.take_if(")") {
            return Err(PatternError::Unsupported("a condition that is not a group"));
        }
        self.open_group(Token::Condition { name: name.to_owned() })
    }

    fn options(&mut self) -> Result<(), PatternError> {
        let (before, mut on) = (self.flags, true);
        loop {
            match self.take() {
                Some('i' | 'I') => self.flags.ignore_case = on,
                Some('m' | 'M') => self.flags.multiline = on,
                Some('n' | 'N') => self.flags.explicit_capture = on,
                Some('s' | 'S') => self.flags.single_line = on,
                Some('x' | 'X') => self.flags.free_spacing = on,
                Some('-') => on = false,
                Some('+') => on = true,
                Some(')') => {
                    self.before = Before::Nothing;
                    return Ok(());
                }
                Some(':') => {
                    let inside = std::mem::replace(&mut self.flags, before);
                    self.open_group(Token::Open(Group::Plain("(?:")))?;
                    self.flags = inside;
                    return Ok(());
                }
                _ => return invalid("an unknown kind of group"),
            }
        }
    }

    fn escape(&mut self) -> Result<(), PatternError> {
        let ignore_case = self.flags.ignore_case;
        let token = match self.rest.chars().next() {
            Some('b' | 'B' | 'A' | 'G' | 'z') => {
                let c = self.take().unwrap_or_default();
                // The group keeps a brace that follows from being read as part of the escape.
                self.atom(format!(r"(?:\{c})"), None);
                return Ok(());
            }
            Some('Z') => {
                self.take();
                self.end();
                return Ok(());
            }
            Some('1'..='9') => Token::Number { digits: self.take_while(|c| c.is_ascii_digit()).to_owned(), ignore_case },
            Some('k') => {
                self.take();
                let close = match self.take() {
                    Some('<') => '>',
                    Some('\'') => '\'',
                    _ => return invalid(r"\k needs a name, as in \k<name>"),
                };
                let name = self.take_while(is_word).to_owned();
                if name.is_empty() || self.take() != Some(close) {
                    return invalid(r"\k needs a name, as in \k<name>");
                }
                Token::Reference { name, ignore_case }
            }
            _ => {
                let (escape, rest) = class::escape(self.rest, false)?;
                self.rest = rest;
                match escape {
                    Escape::Char(c) => self.literal(c),
                    Escape::Set(set) => self.atom(set, None),
                }
                return Ok(());
            }
        };
        self.tokens.push(token);
        self.before = Before::Atom;
        Ok(())
    }
}

/// A character that stands for itself, in the library's words.
pub(super) fn escaped(c: char) -> String {
    let special = matches!(c, '\\' | '.' | '+' | '*' | '?' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '^' | '$');
    if special { format!("\\{c}") } else { c.to_string() }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// A name, or a number that is not zero.
fn is_group_name(name: &str) -> bool {
    if name.starts_with(|c: char| c.is_ascii_digit()) { name.parse::<u32>().is_ok_and(|number| number > 0) } else { true }
}

struct Counts {
    min: Option<u32>,
    /// `None` is without end; `Some(None)` does not fit.
    max: Option<Option<u32>>,
    /// Bytes up to and with the closing brace.
    length: usize,
}

impl Counts {
    fn check(&self) -> Result<Option<u32>, PatternError> {
        // .NET counts in signed 32 bits.
        let fits = |count: Option<u32>| count.filter(|&count| i32::try_from(count).is_ok());
        match (fits(self.min), self.max.map(fits)) {
            (None, _) | (_, Some(None)) => invalid("a repeat count is too large"),
            (Some(min), Some(Some(max))) if min > max => invalid("a repeat count runs backwards"),
            (Some(_), Some(Some(max))) => Ok(Some(max)),
            (Some(_), None) => Ok(None),
        }
    }
}

/// `n}`, `n,}` or `n,m}` at the beginning of a text; anything else leaves the brace a literal.
fn counts(text: &str) -> Option<Counts> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let first = digits(text);
    if first == 0 {
        return None;
    }
    let min: Option<u32> = text[..first].parse().ok();
    let rest = &text[first..];
    if rest.starts_with('}') {
        return Some(Counts { min, max: Some(min), length: first + 1 });
    }
    let rest = rest.strip_prefix(',')?;
    let second = digits(rest);
    rest[second..].starts_with('}').then(|| Counts {
        min,
        max: if second == 0 { None } else { Some(rest[..second].parse().ok()) },
        length: first + 1 + second + 1,
    })
}
