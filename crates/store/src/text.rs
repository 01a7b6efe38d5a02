//! Texts from outside, made fit for both databases. Postgres stores no NUL, neither in text nor in JSON, and one such byte from one device
//! would otherwise fail the batch it shares with a thousand others.

use std::borrow::Cow;

use serde_json::Value;

/// Longest detail of a task or attempt, in characters.
pub const MAX_DETAIL_CHARS: usize = 500;
/// Longest id a device may give its upload, in characters.
pub const MAX_CORRELATION_ID_CHARS: usize = 256;

/// The text without NUL, cut to so many characters.
pub(crate) fn bounded(text: &str, max_chars: usize) -> Cow<'_, str> {
    let cut = text.char_indices().nth(max_chars).map_or(text, |(end, _)| &text[..end]);
    if cut.contains('\0') { Cow::Owned(cut.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(cut) }
}

/// The JSON without NUL in any text or name.
pub(crate) fn clean_json(value: &Value) -> String {
    let text = value.to_string();
    if !text.contains("\\u0000") {
        return text;
    }
    cleaned(value).to_string()
}

fn cleaned(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace('\0', "\u{fffd}")),
        Value::Array(items) => Value::Array(items.iter().map(cleaned).collect()),
        Value::Object(members) => {
            Value::Object(members.iter().map(|(name, value)| (name.replace('\0', "\u{fffd}"), cleaned(value))).collect())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_text_is_cut_at_a_character_and_loses_nul() {
        assert_eq!(bounded("äöü", 2), "äö");
        assert_eq!(bounded("äöü", 3), "äöü");
        assert_eq!(bounded("a\0b", 9), "a\u{fffd}b");
        assert_eq!(clean_json(&json!({"a\0": ["\0", 1, {"b": "\\u0000"}]})), "{\"a\u{fffd}\":[\"\u{fffd}\",1,{\"b\":\"\\\\u0000\"}]}");
    }
}
