//! Everything that is printed passes here: the choice of form, tables, JSON, colour, and what makes foreign text harmless.

mod listed;
mod out;
mod raised;
mod sheet;
mod table;
pub(crate) mod units;

pub(crate) use listed::{Listed, clock_word, collection_word, ping_word, task_detail, task_word};
#[cfg(test)]
pub(crate) use out::SharedBuffer;
pub(crate) use out::{Form, Out, Paint};
pub(crate) use raised::spoken;
#[cfg(test)]
pub(crate) use raised::tests::alert as an_alert;
pub(crate) use sheet::Sheet;
pub(crate) use table::{Column, fit, table};

/// Text from outside, made harmless for a terminal: control characters other than newline and tab become visible escapes.
pub(crate) fn plain(text: &str) -> String {
    if !text.chars().any(is_control) {
        return text.to_owned();
    }
    text.chars().fold(String::with_capacity(text.len() + 8), |mut clean, c| {
        if is_control(c) {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
        clean
    })
}

/// The same on one line.
pub(crate) fn one_line(text: &str) -> String {
    plain(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// C0 without newline and tab, DEL, C1, and the marks that reorder text.
fn is_control(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_become_visible() {
        assert_eq!(plain("a\tb\nc"), "a\tb\nc");
        assert_eq!(plain("\u{1b}]0;title\u{7}"), "\\u{1b}]0;title\\u{7}");
        assert_eq!(plain("x\u{9b}1m\u{202e}y\r"), "x\\u{9b}1m\\u{202e}y\\r");
        assert_eq!(one_line("a\n  b\r\n c"), "a b c");
    }
}
