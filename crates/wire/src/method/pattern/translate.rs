//! Writes the tokens of a .NET pattern in the words of `fancy-regex`.

use super::class::octal;
use super::token::{Group, Token, escaped, invalid, read};
use super::{MAX_REPEAT_PRODUCT, PatternError};

/// `$`: the end, or before a final newline. As the very last thing it may consume the newline, which keeps simple patterns
/// simple enough for the library's fast engine.
const END: &str = r"(?=\n?\z)";
const LAST_END: &str = r"\n?\z";

/// The pattern in the library's words.
pub(super) fn translate(pattern: &str, ignore_case: bool) -> Result<String, PatternError> {
    let tokens = read(pattern, ignore_case)?;
    if repeat_product(&tokens) > MAX_REPEAT_PRODUCT {
        return Err(PatternError::TooComplex);
    }
    let groups = Groups::of(&tokens);
    let mut out = Writer { text: String::with_capacity(pattern.len() * 2), ignores_case: false, open: Vec::new() };
    for (index, token) in tokens.iter().enumerate() {
        match token {
            Token::Atom { written, ignore_case, .. } => {
                out.switch(*ignore_case);
                out.text.push_str(written);
            }
            Token::End if index + 1 == tokens.len() => out.text.push_str(LAST_END),
            Token::End => out.text.push_str(END),
            Token::Open(Group::Unnamed | Group::Named(_)) => out.open("(", None),
            Token::Open(Group::Plain(written)) => out.open(written, None),
            Token::Condition { name } => {
                let group = groups.by_name(name)?;
                out.open(&format!("(?({group})"), Some(0));
            }
            Token::Close => out.close(),
            Token::Alternative => out.alternative()?,
            Token::Repeat { written, .. } => out.text.push_str(written),
            Token::Number { digits, ignore_case } => {
                out.switch(*ignore_case);
                match groups.by_digits(digits)? {
                    Some(group) => out.text.push_str(&format!("(?:\\{group})")),
                    None => {
                        let (c, rest) = octal(digits);
                        out.text.push_str(&escaped(c));
                        out.text.push_str(rest);
                    }
                }
            }
            Token::Reference { name, ignore_case } => {
                out.switch(*ignore_case);
                let group = groups.by_name(name)?;
                out.text.push_str(&format!("(?:\\{group})"));
            }
        }
    }
    Ok(out.text)
}

/// The largest product of repeat counts that stand around one place.
fn repeat_product(tokens: &[Token]) -> u64 {
    let mut levels = vec![1_u64];
    let mut inner = 1;
    for token in tokens {
        inner = match token {
            Token::Open(_) | Token::Condition { .. } => {
                levels.push(1);
                1
            }
            Token::Close => levels.pop().unwrap_or(1),
            Token::Repeat { max, .. } => inner.saturating_mul(u64::from(max.unwrap_or(1).max(1))),
            _ => 1,
        };
        if let Some(level) = levels.last_mut() {
            *level = inner.max(*level);
        }
    }
    levels.into_iter().max().unwrap_or(1)
}

struct Writer {
    text: String,
    /// The library's state at this point: its flags run on through the text, and end only with a `(?:`.
    ignores_case: bool,
    open: Vec<Opened>,
}

struct Opened {
    /// What the library returns to at the closing parenthesis, if it returns at all.
    restores: Option<bool>,
    /// Alternatives so far, if this is a condition.
    alternatives: Option<usize>,
}

impl Writer {
    fn switch(&mut self, ignore_case: bool) {
        if self.ignores_case != ignore_case {
            self.text.push_str(if ignore_case { "(?i)" } else { "(?-i)" });
            self.ignores_case = ignore_case;
        }
    }

    fn open(&mut self, written: &str, alternatives: Option<usize>) {
        self.text.push_str(written);
        self.open.push(Opened { restores: (written == "(?:").then_some(self.ignores_case), alternatives });
    }

    fn close(&mut self) {
        self.text.push(')');
        if let Some(Opened { restores: Some(ignores_case), .. }) = self.open.pop() {
            self.ignores_case = ignores_case;
        }
    }

    fn alternative(&mut self) -> Result<(), PatternError> {
        if let Some(Opened { alternatives: Some(count), .. }) = self.open.last_mut() {
            *count += 1;
            if *count > 1 {
                return invalid("a condition has more than two branches");
            }
        }
        self.text.push('|');
        Ok(())
    }
}

/// Which groups there are. .NET numbers the unnamed ones first and the named ones after them; the library goes from left to right.
struct Groups {
    /// For each capturing group from left to right its .NET number and its name.
    all: Vec<(u32, Option<String>)>,
}

impl Groups {
    fn of(tokens: &[Token]) -> Self {
        let mut all: Vec<(u32, Option<String>)> = Vec::new();
        let mut next = 1;
        for token in tokens {
            match token {
                Token::Open(Group::Unnamed) => {
                    all.push((next, None));
                    next += 1;
                }
                Token::Open(Group::Named(name)) => all.push((name.parse().unwrap_or(0), Some(name.clone()))),
                _ => {}
            }
        }
        let mut known: Vec<(String, u32)> = Vec::new();
        for index in 0..all.len() {
            if let (0, Some(name)) = all[index].clone() {
                let number = known.iter().find(|(other, _)| *other == name).map(|(_, number)| *number).unwrap_or_else(|| {
                    while all.iter().any(|(taken, _)| *taken == next) {
                        next += 1;
                    }
                    known.push((name, next));
                    next
                });
                all[index].0 = number;
            }
        }
        Self { all }
    }

    /// Position from the left, from 1, of the group with a .NET number.
    fn by_number(&self, number: u32) -> Result<Option<usize>, PatternError> {
        let mut found = self.all.iter().enumerate().filter(|(_, (taken, _))| *taken == number).map(|(index, _)| index + 1);
        match (found.next(), found.next()) {
            (first, None) => Ok(first),
            _ => Err(PatternError::Unsupported("a reference to a group that is there more than once")),
        }
    }

    fn by_name(&self, name: &str) -> Result<usize, PatternError> {
        let number = match name.parse::<u32>() {
            Ok(number) => Some(number),
            Err(_) => self.all.iter().find(|(_, own)| own.as_deref() == Some(name)).map(|(number, _)| *number),
        };
        match number.map(|number| self.by_number(number)).transpose()?.flatten() {
            Some(group) => Ok(group),
            None => invalid(format!("there is no group {name}")),
        }
    }

    /// A group, or `None` for an octal escape.
    fn by_digits(&self, digits: &str) -> Result<Option<usize>, PatternError> {
        let found = digits.parse::<u32>().ok().map(|number| self.by_number(number)).transpose()?.flatten();
        if found.is_none() && (digits.len() == 1 || digits.starts_with(['8', '9'])) {
            return invalid(format!("there is no group {digits}"));
        }
        Ok(found)
    }
}
