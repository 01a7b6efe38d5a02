//! Tags: what people write on a device, and how a change is laid over them.
//!
//! A change is a JSON merge patch (RFC 7396): members named are set, `null` removes, what is not named stays. So a row of a file, a word of
//! the command line and a body of the API are the same thing.

use serde_json::{Map, Value};

/// Most bytes of all tags of a device, as JSON.
pub const MAX_TAGS_BYTES: usize = 8 * 1024;
/// Deepest nesting of tags: `tags.a.b` is two.
pub const MAX_TAG_DEPTH: usize = 8;
/// Longest name of a tag, in bytes.
pub const MAX_TAG_NAME_BYTES: usize = 128;

/// Why tags, or a change of them, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTags {
    /// Not a JSON object.
    #[error("tags are a JSON object, like {{\"site\":\"oslo\"}}")]
    NotAnObject,
    /// A name that no condition could ask for.
    #[error("{place}: a tag's name has 1 to {MAX_TAG_NAME_BYTES} bytes, no dot and no control character")]
    Name {
        /// Where it stands.
        place: String,
    },
    /// A NUL inside a text.
    #[error("{place}: a tag's text holds no NUL")]
    Nul {
        /// Where it stands.
        place: String,
    },
    /// Nested too deeply.
    #[error("{place}: tags are nested at most {MAX_TAG_DEPTH} deep")]
    Depth {
        /// Where it becomes too deep.
        place: String,
    },
    /// Too many bytes.
    #[error("the tags would have {0} bytes as JSON, at most {MAX_TAGS_BYTES} fit")]
    Size(usize),
}

/// Checks a change before it is laid over anything.
///
/// # Errors
/// The first thing found, with its place.
pub fn check(patch: &Value) -> Result<(), BadTags> {
    let Value::Object(members) = patch else { return Err(BadTags::NotAnObject) };
    check_members("tags", members, 1)?;
    check_size(patch)
}

/// Checks how large tags have become.
///
/// # Errors
/// [`BadTags::Size`].
pub fn check_size(tags: &Value) -> Result<(), BadTags> {
    let bytes = tags.to_string().len();
    if bytes > MAX_TAGS_BYTES { Err(BadTags::Size(bytes)) } else { Ok(()) }
}

fn check_members(place: &str, members: &Map<String, Value>, depth: usize) -> Result<(), BadTags> {
    for (name, value) in members {
        let shown: String = name.chars().take(MAX_TAG_NAME_BYTES).flat_map(char::escape_default).collect();
        let place = format!("{place}.{shown}");
        if name.is_empty() || name.len() > MAX_TAG_NAME_BYTES || name.contains(|c: char| c == '.' || c.is_control()) {
            return Err(BadTags::Name { place });
        }
        check_value(place, value, depth)?;
    }
    Ok(())
}

fn check_value(place: String, value: &Value, depth: usize) -> Result<(), BadTags> {
    match value {
        Value::Object(_) | Value::Array(_) if depth >= MAX_TAG_DEPTH => Err(BadTags::Depth { place }),
        Value::Object(members) => check_members(&place, members, depth + 1),
        Value::Array(items) => {
            items.iter().enumerate().try_for_each(|(index, item)| check_value(format!("{place}[{index}]"), item, depth + 1))
        }
        Value::String(text) if text.contains('\0') => Err(BadTags::Nul { place }),
        _ => Ok(()),
    }
}

/// Lays a change over tags (RFC 7396).
pub fn merge(tags: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *tags = patch.clone();
        return;
    };
    if !tags.is_object() {
        *tags = Value::Object(Map::new());
    }
    let Value::Object(members) = tags else { return };
    for (name, change) in changes {
        if change.is_null() {
            members.remove(name);
        } else {
            merge(members.entry(name.clone()).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The examples of RFC 7396, appendix A, that have an object for a patch, and those that have not.
    #[test]
    fn a_patch_is_laid_over_as_the_rfc_says() {
        for (before, patch, after) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a":"foo"}), json!("bar"), json!("bar")),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ] {
            let mut tags = before.clone();
            merge(&mut tags, &patch);
            assert_eq!(tags, after, "{before} + {patch}");
        }
    }

    #[test]
    fn what_no_condition_could_ask_for_is_refused_with_its_place() {
        let deep = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!({ "a": inner }));
        assert_eq!(check(&deep(MAX_TAG_DEPTH)), Ok(()));
        for (patch, words) in [
            (json!([]), "are a JSON object"),
            (json!({"a.b": 1}), "tags.a.b: a tag's name"),
            (json!({"": 1}), "tags.: a tag's name"),
            (json!({"x": {"a\nb": 1}}), "tags.x.a\\nb: a tag's name"),
            (json!({"x".repeat(MAX_TAG_NAME_BYTES + 1): 1}), "1 to 128 bytes"),
            (json!({"x": ["ok", "a\0"]}), "tags.x[1]: a tag's text holds no NUL"),
            (deep(MAX_TAG_DEPTH + 1), "tags.a.a.a.a.a.a.a.a: tags are nested"),
            (json!({"x": "y".repeat(MAX_TAGS_BYTES)}), "at most 8192 fit"),
        ] {
            let refused = check(&patch).expect_err(words).to_string();
            assert!(refused.contains(words), "{refused:?} lacks {words:?}");
        }
        assert_eq!(check(&json!({"x".repeat(MAX_TAG_NAME_BYTES): null})), Ok(()));
        let fits = json!({ "x": "y".repeat(MAX_TAGS_BYTES - r#"{"x":""}"#.len()) });
        assert_eq!(check(&fits), Ok(()));
    }
}
