//! JSON as edgeAgent's library reads it: member names in any letter case, the last repeat wins, scalars turned into what is
//! wanted, and single quotes, comments and trailing commas accepted. A controller relies on none of it.

use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};

use super::MethodError;

/// Deepest nesting, as in the real library.
pub(super) const MAX_DEPTH: usize = 64;

/// A JSON value that still knows what stood there.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    Array(Vec<Node>),
    Object(Vec<(String, Node)>),
}

static NULL: Node = Node::Null;

/// Reads a payload: strict JSON first, then the forgiving form.
pub(super) fn read(payload: &[u8]) -> Result<Node, MethodError> {
    let text = std::str::from_utf8(payload).map_err(|_| MethodError::bad_request("the payload is not UTF-8"))?;
    let mut strict = serde_json::Deserializer::from_str(text);
    let strict = Seed(0).deserialize(&mut strict).and_then(|node| strict.end().map(|()| node));
    strict.or_else(|strict_error| {
        json5::from_str::<Root>(text)
            .map(|root| root.0)
            .map_err(|_| MethodError::bad_request(format!("the payload is not JSON: {strict_error}")))
    })
}

impl Node {
    /// The value of a member, in any letter case.
    pub(super) fn find(&self, name: &str) -> Option<&Node> {
        match self {
            Self::Object(members) => members.iter().rev().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value),
            _ => None,
        }
    }

    /// As [`Self::find`]; what is missing reads as null.
    pub(super) fn member(&self, name: &str) -> &Node {
        self.find(name).unwrap_or(&NULL)
    }

    /// Null, or the empty string where an object or a number is wanted.
    pub(super) fn is_nothing(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Text(text) => text.is_empty(),
            _ => false,
        }
    }

    /// A string member of the request itself: a number keeps its point.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, MethodError> {
        match self {
            Self::Float(number) => Ok(Some(format!("{number:?}"))),
            Self::Bool(value) => Ok(Some(value.to_string())),
            _ => self.converted_text(name),
        }
    }

    /// A string inside an item or behind an optional value, where the library has already made a number of it.
    pub(super) fn converted_text(&self, name: &str) -> Result<Option<String>, MethodError> {
        match self {
            Self::Null => Ok(None),
            Self::Text(text) => Ok(Some(text.clone())),
            Self::Integer(number) => Ok(Some(number.to_string())),
            Self::Float(number) => Ok(Some(number.to_string())),
            Self::Bool(value) => Ok(Some(if *value { "True" } else { "False" }.to_owned())),
            Self::Array(_) | Self::Object(_) => Err(self.wrong(name, "a string")),
        }
    }

    /// A 32-bit integer; fractions are rounded, halves to the even side.
    pub(super) fn integer(&self, name: &str) -> Result<Option<i32>, MethodError> {
        let read = match self {
            _ if self.is_nothing() => return Ok(None),
            Self::Integer(number) => i32::try_from(*number).ok(),
            Self::Float(number) => {
                let rounded = number.round_ties_even();
                (rounded >= f64::from(i32::MIN) && rounded <= f64::from(i32::MAX)).then_some(rounded as i32)
            }
            Self::Text(text) => text.trim_matches(is_number_blank).parse().ok(),
            _ => None,
        };
        read.map(Some).ok_or_else(|| self.wrong(name, "a whole number of 32 bits"))
    }

    /// A yes or no.
    pub(super) fn boolean(&self, name: &str) -> Result<Option<bool>, MethodError> {
        let read = match self {
            _ if self.is_nothing() => return Ok(None),
            Self::Bool(value) => Some(*value),
            Self::Integer(number) => Some(*number != 0),
            Self::Float(number) => Some(*number != 0.0),
            Self::Text(text) => match text.trim() {
                word if word.eq_ignore_ascii_case("true") => Some(true),
                word if word.eq_ignore_ascii_case("false") => Some(false),
                _ => None,
            },
            _ => None,
        };
        read.map(Some).ok_or_else(|| self.wrong(name, "true or false"))
    }

    /// One of a list of words, by word in any letter case or by number; the number may lie outside the list.
    pub(super) fn word(&self, name: &str, words: &[&str]) -> Result<Option<i64>, MethodError> {
        let read = match self {
            _ if self.is_nothing() => return Ok(None),
            Self::Bool(value) => Some(i64::from(*value)),
            Self::Integer(number) => i64::try_from(*number).ok(),
            Self::Text(text) => {
                let word = text.trim();
                let known = words.iter().position(|known| known.eq_ignore_ascii_case(word)).and_then(|index| i64::try_from(index).ok());
                known.or_else(|| word.parse::<i32>().ok().map(i64::from))
            }
            _ => None,
        };
        read.map(Some).ok_or_else(|| self.wrong(name, &format!("one of {}", words.join(", "))))
    }

    fn wrong(&self, name: &str, wanted: &str) -> MethodError {
        let found = match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Text(_) => "another string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        };
        MethodError::bad_request(format!("{name} must be {wanted}, not {found}"))
    }
}

/// White space around a number in a string, as the library's number reader has it.
pub(super) fn is_number_blank(c: char) -> bool {
    matches!(c, '\t'..='\r' | ' ')
}

struct Root(Node);

impl<'de> serde::Deserialize<'de> for Root {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Seed(0).deserialize(deserializer).map(Self)
    }
}

/// Reads a value at this depth.
struct Seed(usize);

impl<'de> DeserializeSeed<'de> for Seed {
    type Value = Node;
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Seed {
    fn deeper<E: serde::de::Error>(&self) -> Result<usize, E> {
        if self.0 >= MAX_DEPTH { Err(E::custom(format_args!("nested deeper than {MAX_DEPTH}"))) } else { Ok(self.0 + 1) }
    }
}

impl<'de> Visitor<'de> for Seed {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Node, E> {
        Ok(Node::Integer(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Node, E> {
        Ok(i128::try_from(value).map_or(Node::Float(value as f64), Node::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let depth = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Seed(depth))? {
            items.push(item);
        }
        Ok(Node::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let depth = self.deeper()?;
        let mut members = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            members.push((key, map.next_value_seed(Seed(depth))?));
        }
        Ok(Node::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forgiving_forms_are_read() {
        let strict = read(br#"{"a":[1,"x"],"b":null}"#).expect("JSON");
        for text in ["{'a':[1,'x'],'b':null}", "{\"a\":[1,\"x\",],\"b\":null,}", "/* c */ {a:[1,'x'], // d\n b:null}"] {
            assert_eq!(read(text.as_bytes()), Ok(strict.clone()), "{text}");
        }
        for text in ["", "  ", "{", "{}}", "{} {}", "nope", "{\"a\"}", "\u{feff}"] {
            assert_eq!(read(text.as_bytes()).expect_err(text).status(), 400);
        }
        assert_eq!(read(b"{\"a\":\"\xff\"}").expect_err("not UTF-8").status(), 400);
    }

    #[test]
    fn nesting_is_limited() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(read(nested(MAX_DEPTH).as_bytes()).is_ok());
        for depth in [MAX_DEPTH + 1, 1000, 60_000] {
            assert!(read(nested(depth).as_bytes()).is_err());
            assert!(read("{\"a\":".repeat(depth).as_bytes()).is_err());
        }
    }

    #[test]
    fn the_last_repeat_wins_in_any_case() {
        let node = read(br#"{"a":1,"A":2}"#).expect("JSON");
        assert_eq!(node.member("a"), &Node::Integer(2));
        assert_eq!(node.member("b"), &Node::Null);
    }

    #[test]
    fn scalars_become_what_is_wanted() {
        let text = |s: &str| Node::Text(s.to_owned());
        assert_eq!(Node::Float(10.5).integer("tail"), Ok(Some(10)));
        assert_eq!(Node::Float(11.5).integer("tail"), Ok(Some(12)));
        assert_eq!(text(" 10 ").integer("tail"), Ok(Some(10)));
        assert_eq!(text("").integer("tail"), Ok(None));
        for wrong in [
            text("ten"),
            text("10.5"),
            Node::Bool(true),
            Node::Integer(3_000_000_000),
            Node::Float(f64::NAN),
            Node::Float(3e9),
            Node::Array(vec![]),
        ] {
            assert_eq!(wrong.integer("tail").expect_err("not a number").status(), 400);
        }
        assert_eq!(text("TRUE").boolean("x"), Ok(Some(true)));
        assert_eq!(Node::Integer(0).boolean("x"), Ok(Some(false)));
        assert!(text("yes").boolean("x").is_err());
        assert_eq!(Node::Float(1.0).text("x"), Ok(Some("1.0".into())));
        assert_eq!(Node::Float(1.0).converted_text("x"), Ok(Some("1".into())));
        assert_eq!(Node::Bool(true).converted_text("x"), Ok(Some("True".into())));
        assert_eq!(text("GZIP").word("x", &["none", "gzip"]), Ok(Some(1)));
        assert_eq!(text("1").word("x", &["none", "gzip"]), Ok(Some(1)));
        assert_eq!(Node::Integer(7).word("x", &["none", "gzip"]), Ok(Some(7)));
        assert!(Node::Float(1.0).word("x", &["none", "gzip"]).is_err());
        assert!(text("xml").word("x", &["none", "gzip"]).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(payload in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = read(&payload);
        }

        #[test]
        fn never_panics_near_json(payload in "[\\[\\]{}:,'\"a1.\\-+eExX/*\\\\ \nuNI]{0,60}") {
            let _ = read(payload.as_bytes());
        }
    }
}
