//! The words of a condition.

use super::{ConditionError, MAX_NUMBER};

/// Characters of a word that an error repeats.
const FOUND_CHARS: usize = 20;

/// One word, or one sign.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A keyword, a function, or a part of a path.
    Word(String),
    Text(String),
    Number(f64),
    /// An operator, a bracket, a comma or a dot.
    Sign(&'static str),
    End,
}

/// Two characters before one, so that `<=` is not read as `<`.
const SIGNS: &[&str] = &["!=", "<>", "<=", ">=", "=", "<", ">", "(", ")", "[", "]", ",", "."];

pub(super) fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// Reads word after word.
pub(super) struct Reader<'a> {
    rest: &'a str,
    column: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { rest: text, column: 1 }
    }

    /// The next word and the column where it begins. Right behind a dot a number is a name.
    pub(super) fn next(&mut self, is_key: bool) -> Result<(usize, Token), ConditionError> {
        let blank = self.rest.len() - self.rest.trim_start().len();
        self.take(blank);
        let column = self.column;
        let Some(first) = self.rest.chars().next() else { return Ok((column, Token::End)) };
        let followed_by_digit = self.rest[first.len_utf8()..].starts_with(|c: char| c.is_ascii_digit() || c == '.');
        let token = if first == '\'' || first == '"' {
            self.text(first)?
        } else if !is_key && (first.is_ascii_digit() || (matches!(first, '-' | '+') && followed_by_digit)) {
            self.number()?
        } else if is_name(first) {
            let end = self.rest.find(|c| !is_name(c)).unwrap_or(self.rest.len());
            Token::Word(self.take(end).to_owned())
        } else if let Some(sign) = SIGNS.iter().find(|sign| self.rest.starts_with(**sign)) {
            self.take(sign.len());
            Token::Sign(sign)
        } else {
            let expected = "a path, a value, an operator or a parenthesis; other names of keys are written in brackets, like tags['a-b']";
            return Err(error(column, quoted(&first.to_string()), expected));
        };
        Ok((column, token))
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        self.column += taken.chars().count();
        taken
    }

    fn text(&mut self, quote: char) -> Result<Token, ConditionError> {
        let opened = self.column;
        self.take(quote.len_utf8());
        let mut text = String::new();
        loop {
            let column = self.column;
            let Some(c) = self.rest.chars().next() else {
                return Err(error(opened, "a string without end".to_owned(), &format!("a closing {quote}")));
            };
            self.take(c.len_utf8());
            let meant = match c {
                _ if c == quote => return Ok(Token::Text(text)),
                '\\' => self.escape(column)?,
                plain => plain,
            };
            if meant == '\0' {
                return Err(error(column, "a NUL character".to_owned(), "a character that a stored text can hold"));
            }
            text.push(meant);
        }
    }

    fn escape(&mut self, column: usize) -> Result<char, ConditionError> {
        const EXPECTED: &str = r#"one of \\ \/ \' \" \b \f \n \r \t, or \u and four hexadecimal digits of a character"#;
        let wrong = |what: &str| error(column, quoted(&format!("\\{what}")), EXPECTED);
        let Some(c) = self.rest.chars().next() else { return Err(wrong("")) };
        self.take(c.len_utf8());
        Ok(match c {
            '\\' | '/' | '\'' | '"' => c,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let digits = self.rest.get(..4).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
                let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
                let meant = code.and_then(char::from_u32).ok_or_else(|| wrong("u"))?;
                self.take(4);
                meant
            }
            other => return Err(wrong(&other.to_string())),
        })
    }

    fn number(&mut self) -> Result<Token, ConditionError> {
        let column = self.column;
        let mut end = 0;
        let mut before = ' ';
        for c in self.rest.chars() {
            let goes_on = is_name(c) || c == '.' || (matches!(c, '-' | '+') && (end == 0 || matches!(before, 'e' | 'E')));
            if !goes_on {
                break;
            }
            before = c;
            end += c.len_utf8();
        }
        let text = self.take(end);
        let digits = text.trim_start_matches(['-', '+']);
        let is_plain = digits.starts_with(|c: char| c.is_ascii_digit()) && !digits.ends_with('.') && !digits.contains(['_', '$']);
        let Some(number) = text.parse::<f64>().ok().filter(|_| is_plain) else {
            return Err(error(column, quoted(text), "a number, like 15, -0.5 or 1e3"));
        };
        if number.abs() > MAX_NUMBER {
            return Err(error(column, quoted(text), &format!("a number from -{MAX_NUMBER} to {MAX_NUMBER}")));
        }
        Ok(Token::Number(number))
    }
}

impl Token {
    /// How an error names it.
    pub(super) fn named(&self) -> String {
        match self {
            Self::Word(word) => quoted(word),
            Self::Text(text) => format!("the string {}", quoted(text)),
            Self::Number(number) => format!("the number {number}"),
            Self::Sign(sign) => quoted(sign),
            Self::End => "the end".to_owned(),
        }
    }

    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(self, Self::Word(found) if found.eq_ignore_ascii_case(word))
    }
}

pub(super) fn error(column: usize, found: String, expected: &str) -> ConditionError {
    ConditionError { column, found, expected: expected.to_owned() }
}

fn quoted(text: &str) -> String {
    let shown: String = text.chars().take(FOUND_CHARS).flat_map(char::escape_debug).collect();
    let more = if text.chars().nth(FOUND_CHARS).is_some() { "…" } else { "" };
    format!("`{shown}{more}`")
}
