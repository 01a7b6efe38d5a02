//! JSON that may be believed: not too deep, no name twice, no NUL, all in the one pass that reads it.
//!
//! A reader that silently takes the last of two members sees another event than one that takes the first; whoever checks and whoever acts
//! must not differ. A NUL is a character the database cannot hold as text.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{MAX_ALERT_DEPTH, Poison, Refused, quoted};

/// Reads a document. `what` is its name in refusals: "the body", "data_base64".
pub(super) fn read(bytes: &[u8], what: &str) -> Result<Value, Refused> {
    if bytes.is_empty() {
        return Err(Refused::new(Poison::NotJson, format!("{what} is empty")));
    }
    // Some writers put a byte order mark in front; it says nothing in UTF-8.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes)
        .map_err(|error| Refused::new(Poison::NotJson, format!("{what} is not UTF-8 from byte {}", error.valid_up_to())))?;
    let fault = Cell::new(Poison::NotJson);
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Node { depth: 0, fault: &fault }
        .deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value))
        .map_err(|error| Refused::new(fault.get(), format!("{what}: {error}")))?;
    Ok(value)
}

/// One value that stands inside `depth` others.
#[derive(Clone, Copy)]
struct Node<'a> {
    depth: usize,
    /// What to call the error that is on its way; the reader itself knows only errors of syntax.
    fault: &'a Cell<Poison>,
}

impl Node<'_> {
    fn inside<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == MAX_ALERT_DEPTH {
            self.fault.set(Poison::TooDeep);
            return Err(E::custom(format_args!("deeper than {MAX_ALERT_DEPTH} levels")));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }

    fn checked<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        if text.contains('\0') {
            self.fault.set(Poison::Malformed);
            return Err(E::custom("a text holds the character NUL"));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number is out of range"))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        self.checked(text)?;
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Value, E> {
        self.checked(&text)?;
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inside)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            self.checked(&name)?;
            if object.contains_key(&name) {
                self.fault.set(Poison::DuplicateKey);
                return Err(A::Error::custom(format_args!("{} stands twice in one object", quoted(&name))));
            }
            let value = members.next_value_seed(inside)?;
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(text: &[u8]) -> Poison {
        read(text, "the body").expect_err("refused").reason
    }

    #[test]
    fn what_it_reads_is_what_the_library_reads() {
        for text in [r#"{"a":[1,-2,3.5,true,null,"x\u00e4\n"],"b":{"a":18446744073709551615}}"#, "[]", "\"x\"", " 7 ", "null"] {
            let expected: Value = serde_json::from_str(text).expect("JSON");
            assert_eq!(read(text.as_bytes(), "the body"), Ok(expected));
        }
        assert_eq!(read(b"\xef\xbb\xbf{}", "the body"), Ok(Value::Object(Map::new())), "a byte order mark");
    }

    #[test]
    fn depth_has_an_edge() {
        let nested = |levels: usize| [vec![b'['; levels], vec![b']'; levels]].concat();
        assert!(read(&nested(MAX_ALERT_DEPTH), "the body").is_ok());
        assert_eq!(reason(&nested(MAX_ALERT_DEPTH + 1)), Poison::TooDeep);
        assert_eq!(reason(&[vec![b'['; 100_000]].concat()), Poison::TooDeep, "and never the stack");
        let objects = |levels: usize| format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels)).into_bytes();
        assert!(read(&objects(MAX_ALERT_DEPTH), "the body").is_ok());
        assert_eq!(reason(&objects(MAX_ALERT_DEPTH + 1)), Poison::TooDeep);
    }

    #[test]
    fn a_name_stands_once_in_an_object() {
        for twice in [r#"{"id":1,"id":2}"#, r#"{"a":[{"b":{"x":1,"x":1}}]}"#, r#"{"id":1,"\u0069d":2}"#] {
            assert_eq!(reason(twice.as_bytes()), Poison::DuplicateKey, "{twice}");
        }
        assert!(read(br#"{"a":{"x":1},"b":{"x":1},"A":1}"#, "the body").is_ok(), "in different objects, and in another case");
    }

    #[test]
    fn nonsense_is_no_json() {
        for nonsense in [&b""[..], b" ", b"{", b"{}x", b"{'a':1}", b"\xff", b"{\"a\":\"\xc3\"}", b"1e999", br#""\ud800""#, b"NaN"] {
            assert_eq!(reason(nonsense), Poison::NotJson, "{nonsense:?}");
        }
        for nul in [&br#"{"a":"\u0000"}"#[..], br#"{"\u0000":1}"#, br#"["x\u0000"]"#] {
            assert_eq!(reason(nul), Poison::Malformed);
        }
    }
}
