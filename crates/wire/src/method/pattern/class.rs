//! Character classes and escapes, read as .NET reads them.

use super::PatternError;
use super::token::invalid;

/// What an escape stands for.
pub(super) enum Escape {
    Char(char),
    /// A set, in the library's words.
    Set(String),
}

/// Deepest nesting of class subtractions.
const MAX_SUBTRACTIONS: usize = 10;

/// The general categories, the only `\p` names that both sides mean alike.
const CATEGORIES: &[&str] = &[
    "L", "Lu", "Ll", "Lt", "Lm", "Lo", "M", "Mn", "Mc", "Me", "N", "Nd", "Nl", "No", "P", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S",
    "Sm", "Sc", "Sk", "So", "Z", "Zs", "Zl", "Zp", "C", "Cc", "Cf", "Co", "Cn",
];

/// Reads an escape after its backslash; gives the rest of the text.
pub(super) fn escape(text: &str, in_class: bool) -> Result<(Escape, &str), PatternError> {
    let mut chars = text.chars();
    let Some(c) = chars.next() else { return invalid("a backslash at the end") };
    let rest = chars.as_str();
    let simple = |c| Ok((Escape::Char(c), rest));
    match c {
        'd' | 'D' | 'w' | 'W' | 's' | 'S' => Ok((Escape::Set(format!("\\{c}")), rest)),
        'p' | 'P' => property(c, rest),
        'a' => simple('\x07'),
        'b' if in_class => simple('\x08'),
        't' => simple('\t'),
        'r' => simple('\r'),
        'v' => simple('\x0b'),
        'f' => simple('\x0c'),
        'n' => simple('\n'),
        'e' => simple('\x1b'),
        'x' => hex(rest, 2).map(|(value, rest)| (Escape::Char(char::from_u32(value).unwrap_or('\0')), rest)),
        'u' => unicode(rest),
        'c' => control(rest),
        '0'..='7' => {
            let (c, rest) = octal(text);
            Ok((Escape::Char(c), rest))
        }
        c if c.is_alphanumeric() || c == '_' => invalid(format!("the escape \\{c} is unknown")),
        c => simple(c),
    }
}

/// Up to three octal digits, of which the last eight bits count.
pub(super) fn octal(text: &str) -> (char, &str) {
    let length = text.bytes().take(3).take_while(|digit| matches!(digit, b'0'..=b'7')).count();
    let value = text.bytes().take(length).fold(0_u32, |sum, digit| sum * 8 + u32::from(digit - b'0'));
    (char::from((value & 0xff) as u8), &text[length..])
}

fn hex(text: &str, digits: usize) -> Result<(u32, &str), PatternError> {
    match text.get(..digits) {
        Some(number) if number.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Ok((u32::from_str_radix(number, 16).unwrap_or_default(), &text[digits..]))
        }
        _ => invalid(format!("\\x needs two hexadecimal digits and \\u four, found {:?}", text.chars().take(digits).collect::<String>())),
    }
}

fn unicode(text: &str) -> Result<(Escape, &str), PatternError> {
    let (high, rest) = hex(text, 4)?;
    if let Some(c) = char::from_u32(high) {
        return Ok((Escape::Char(c), rest));
    }
    if let Some(low_digits) = rest.strip_prefix("\\u")
        && let Ok((low, rest)) = hex(low_digits, 4)
        && let Ok(high) = u16::try_from(high)
        && let Ok(low) = u16::try_from(low)
        && let Some(Ok(c)) = char::decode_utf16([high, low]).next()
    {
        return Ok((Escape::Char(c), rest));
    }
    Err(PatternError::Unsupported("half of a surrogate pair"))
}

fn control(text: &str) -> Result<(Escape, &str), PatternError> {
    let mut chars = text.chars();
    match chars.next().map(|c| c.to_ascii_uppercase()) {
        Some(c @ '@'..='_') => Ok((Escape::Char(char::from(c as u8 - b'@')), chars.as_str())),
        _ => invalid("\\c needs a control character, as in \\cC"),
    }
}

fn property(c: char, text: &str) -> Result<(Escape, &str), PatternError> {
    let Some((name, rest)) = text.strip_prefix('{').and_then(|text| text.split_once('}')) else {
        return invalid(format!("\\{c} needs a name in braces, as in \\{c}{{Lu}}"));
    };
    if CATEGORIES.contains(&name) {
        Ok((Escape::Set(format!("\\{c}{{{name}}}")), rest))
    } else if name.starts_with("Is") {
        Err(PatternError::Unsupported("a Unicode block in \\p"))
    } else {
        invalid(format!("the category {name:?} is unknown"))
    }
}

/// Reads a class after its opening bracket; gives it in the library's words, and the rest of the text.
pub(super) fn read(text: &str) -> Result<(String, &str), PatternError> {
    read_nested(text, 0)
}

fn read_nested(text: &str, depth: usize) -> Result<(String, &str), PatternError> {
    if depth > MAX_SUBTRACTIONS {
        return invalid("class subtractions are nested too deeply");
    }
    let (negated, mut rest) = match text.strip_prefix('^') {
        Some(rest) => ("^", rest),
        None => ("", text),
    };
    let mut members = String::new();
    let mut subtracted = None;
    let mut from: Option<char> = None;
    let mut first = true;
    loop {
        let mut chars = rest.chars();
        let Some(c) = chars.next() else { return invalid("a class [ is not closed") };
        rest = chars.as_str();
        if c == ']' && !first {
            break;
        }
        if let Some(closed) = rest.strip_prefix(':').filter(|_| c == '[' && from.is_none())
            && closed.trim_start_matches(char::is_alphanumeric).starts_with(":]")
        {
            return Err(PatternError::Unsupported("a POSIX class such as [:alpha:]"));
        }
        let (c, escaped) = if c == '\\' {
            let (escape, after) = escape(rest, true)?;
            rest = after;
            match escape {
                Escape::Char(c) => (c, true),
                Escape::Set(_) if from.is_some() => return invalid("a range in a class ends with a set"),
                Escape::Set(set) => {
                    members.push_str(&set);
                    first = false;
                    continue;
                }
            }
        } else {
            (c, false)
        };
        if let Some(start) = from.take() {
            if c == '[' && !escaped && !first {
                push(&mut members, start);
                subtracted = Some(subtraction(&mut rest, depth)?);
            } else if start > c {
                return invalid(format!("the range {start}-{c} runs backwards"));
            } else {
                push(&mut members, start);
                members.push('-');
                push(&mut members, c);
            }
        } else if rest.starts_with('-') && !rest.starts_with("-]") && rest.len() > 1 {
            rest = &rest[1..];
            from = Some(c);
        } else if c == '-' && !escaped && !first && rest.starts_with('[') {
            rest = &rest[1..];
            subtracted = Some(subtraction(&mut rest, depth)?);
        } else {
            push(&mut members, c);
        }
        first = false;
    }
    let class = match subtracted {
        // .NET negates the class before it subtracts.
        Some(subtracted) => format!("[[{negated}{members}]--{subtracted}]"),
        None => format!("[{negated}{members}]"),
    };
    Ok((class, rest))
}

/// Reads what is subtracted, after its opening bracket; the class must end right behind it.
fn subtraction(rest: &mut &str, depth: usize) -> Result<String, PatternError> {
    let (class, after) = read_nested(rest, depth + 1)?;
    *rest = after;
    if after.starts_with(']') { Ok(class) } else { invalid("a subtraction must be the last thing in a class") }
}

/// A member that stands for itself. The escapes are those of the library's classes, where doubled signs are operators.
fn push(members: &mut String, c: char) {
    if matches!(c, '\\' | '[' | ']' | '^' | '-' | '&' | '~') {
        members.push('\\');
    }
    members.push(c);
}
