//! Values in the encoding of AMQP 1.0, as RabbitMQ 3.x leaves them in a message that crosses to 0-9-1: application properties as one opaque
//! header, and a body that was sent as a value instead of as data. Only what occurs there is read; all else is known by its size and skipped.

use muster_wire::alert::AttributeValue;
use time::OffsetDateTime;

/// Most application properties of a message.
pub(crate) const MAX_PROPERTIES: usize = 256;

/// Why bytes are no such value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("it ends in the middle of a value")]
    Short,
    #[error("type code 0x{0:02x} is not known")]
    Code(u8),
    #[error("it is not a map from texts to simple values")]
    NotMap,
    #[error("a text is not UTF-8")]
    NotUtf8,
    #[error("it has more than {MAX_PROPERTIES} members")]
    TooMany,
}

/// A value, borrowed from the bytes it stands in.
#[derive(Debug, Clone, PartialEq)]
enum Item<'a> {
    Simple(AttributeValue),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// Count of items, and the items.
    Map(usize, &'a [u8]),
    Other(&'static str),
}

/// Application properties: a map, with or without the descriptor of its section.
pub(crate) fn properties(bytes: &[u8]) -> Result<Vec<(String, AttributeValue)>, Unreadable> {
    let mut rest = bytes;
    let Item::Map(count, mut items) = item(&mut rest)? else {
        return Err(Unreadable::NotMap);
    };
    if count % 2 != 0 {
        return Err(Unreadable::NotMap);
    }
    if count / 2 > MAX_PROPERTIES {
        return Err(Unreadable::TooMany);
    }
    let mut found = Vec::new();
    for _ in 0..count / 2 {
        let Item::Text(name) = item(&mut items)? else {
            return Err(Unreadable::NotMap);
        };
        let value = match item(&mut items)? {
            Item::Simple(value) => value,
            Item::Text(text) => AttributeValue::Text(text.to_owned()),
            Item::Bytes(bytes) => AttributeValue::Bytes(bytes.to_vec()),
            Item::Map(..) => AttributeValue::Foreign("a map"),
            Item::Other(kind) => AttributeValue::Foreign(kind),
        };
        found.push((name.to_owned(), value));
    }
    Ok(found)
}

/// A body sent as a value, if that value is bytes or a text.
pub(crate) fn body(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes;
    let value = match item(&mut rest).ok()? {
        Item::Text(text) => text.as_bytes(),
        Item::Bytes(bytes) => bytes,
        _ => return None,
    };
    rest.is_empty().then_some(value)
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8], Unreadable> {
    let (head, rest) = bytes.split_at_checked(count).ok_or(Unreadable::Short)?;
    *bytes = rest;
    Ok(head)
}

fn number<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Unreadable> {
    take(bytes, N)?.try_into().map_err(|_| Unreadable::Short)
}

/// A length or count of one byte or of four, as the code says.
fn length(bytes: &mut &[u8], is_wide: bool) -> Result<usize, Unreadable> {
    match is_wide {
        false => Ok(usize::from(number::<1>(bytes)?[0])),
        true => Ok(usize::try_from(u32::from_be_bytes(number(bytes)?)).unwrap_or(usize::MAX)),
    }
}

/// The next value. A descriptor in front of it says what it means, which the caller knows.
fn item<'a>(bytes: &mut &'a [u8]) -> Result<Item<'a>, Unreadable> {
    let mut code = number::<1>(bytes)?[0];
    if code == 0x00 {
        // Its descriptor is a number or a symbol; one that is described in turn is nothing that occurs.
        if bytes.first() == Some(&0x00) {
            return Err(Unreadable::Code(0x00));
        }
        item(bytes)?;
        code = number::<1>(bytes)?[0];
    }
    let integer = |value: i64| Item::Simple(AttributeValue::Integer(value));
    let unsigned = |value: u64| i64::try_from(value).map_or(Item::Other("a number past the 63rd bit"), integer);
    Ok(match code {
        0x40 => Item::Other("null"),
        0x41 => Item::Simple(AttributeValue::Bool(true)),
        0x42 => Item::Simple(AttributeValue::Bool(false)),
        0x43 | 0x44 => integer(0),
        0x45 => Item::Other("a list"),
        0x50 | 0x52 | 0x53 => integer(number::<1>(bytes)?[0].into()),
        0x51 | 0x54 | 0x55 => integer(i8::from_be_bytes(number(bytes)?).into()),
        0x56 => Item::Simple(AttributeValue::Bool(number::<1>(bytes)?[0] != 0)),
        0x60 => integer(u16::from_be_bytes(number(bytes)?).into()),
        0x61 => integer(i16::from_be_bytes(number(bytes)?).into()),
        0x70 => integer(u32::from_be_bytes(number(bytes)?).into()),
        0x71 => integer(i32::from_be_bytes(number(bytes)?).into()),
        0x80 => unsigned(u64::from_be_bytes(number(bytes)?)),
        0x81 => integer(i64::from_be_bytes(number(bytes)?)),
        0x83 => instant(i64::from_be_bytes(number(bytes)?)),
        0x72..=0x74 => skip(bytes, 4, "a number with a fraction, or a character")?,
        0x82 | 0x84 => skip(bytes, 8, "a number with a fraction")?,
        0x94 | 0x98 => skip(bytes, 16, "a UUID, or a number with a fraction")?,
        0xa0 | 0xb0 => {
            let count = length(bytes, code == 0xb0)?;
            Item::Bytes(take(bytes, count)?)
        }
        0xa1 | 0xb1 | 0xa3 | 0xb3 => {
            let count = length(bytes, code >= 0xb0)?;
            Item::Text(std::str::from_utf8(take(bytes, count)?).map_err(|_| Unreadable::NotUtf8)?)
        }
        0xc1 | 0xd1 => {
            let size = length(bytes, code == 0xd1)?;
            let mut inside = take(bytes, size)?;
            Item::Map(length(&mut inside, code == 0xd1)?, inside)
        }
        0xc0 | 0xd0 | 0xe0 | 0xf0 => {
            let count = length(bytes, matches!(code, 0xd0 | 0xf0))?;
            skip(bytes, count, "a list")?
        }
        other => return Err(Unreadable::Code(other)),
    })
}

fn skip<'a>(bytes: &mut &'a [u8], count: usize, kind: &'static str) -> Result<Item<'a>, Unreadable> {
    take(bytes, count)?;
    Ok(Item::Other(kind))
}

/// Milliseconds since 1970.
fn instant<'a>(milliseconds: i64) -> Item<'a> {
    match OffsetDateTime::from_unix_timestamp_nanos(i128::from(milliseconds) * 1_000_000) {
        Ok(at) => Item::Simple(AttributeValue::Timestamp(at)),
        Err(_) => Item::Other("a timestamp past all calendars"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&[0xa1, u8::try_from(text.len()).expect("short")], text.as_bytes()].concat()
    }

    /// `map8` of these encoded names and values.
    fn map(items: &[Vec<u8>]) -> Vec<u8> {
        let inside = items.concat();
        let size = u8::try_from(inside.len() + 1).expect("short");
        [&[0xc1, size, u8::try_from(items.len()).expect("few")][..], &inside].concat()
    }

    #[test]
    fn each_type_that_occurs_is_read() {
        let at = datetime!(2026-11-18 09:14:22.418 UTC);
        let milliseconds = i64::try_from(at.unix_timestamp_nanos() / 1_000_000).expect("in range");
        for (encoded, expected) in [
            (text("1.0"), AttributeValue::Text("1.0".to_owned())),
            ([&[0xb1, 0, 0, 0, 2][..], "ä".as_bytes()].concat(), AttributeValue::Text("ä".to_owned())),
            (vec![0xa3, 1, b'x'], AttributeValue::Text("x".to_owned())),
            (vec![0xb3, 0, 0, 0, 1, b'x'], AttributeValue::Text("x".to_owned())),
            (vec![0xa0, 2, 0xff, 0], AttributeValue::Bytes(vec![0xff, 0])),
            (vec![0xb0, 0, 0, 0, 1, 7], AttributeValue::Bytes(vec![7])),
            ([&[0x83][..], &milliseconds.to_be_bytes()].concat(), AttributeValue::Timestamp(at)),
            ([&[0x83][..], &i64::MAX.to_be_bytes()].concat(), AttributeValue::Foreign("a timestamp past all calendars")),
            (vec![0x41], AttributeValue::Bool(true)),
            (vec![0x42], AttributeValue::Bool(false)),
            (vec![0x56, 1], AttributeValue::Bool(true)),
            (vec![0x43], AttributeValue::Integer(0)),
            (vec![0x44], AttributeValue::Integer(0)),
            (vec![0x50, 200], AttributeValue::Integer(200)),
            (vec![0x52, 200], AttributeValue::Integer(200)),
            (vec![0x53, 200], AttributeValue::Integer(200)),
            (vec![0x51, 0xff], AttributeValue::Integer(-1)),
            (vec![0x54, 0xff], AttributeValue::Integer(-1)),
            (vec![0x55, 0xff], AttributeValue::Integer(-1)),
            (vec![0x60, 1, 0], AttributeValue::Integer(256)),
            (vec![0x61, 0xff, 0xff], AttributeValue::Integer(-1)),
            (vec![0x70, 0, 0, 1, 0], AttributeValue::Integer(256)),
            (vec![0x71, 0xff, 0xff, 0xff, 0xff], AttributeValue::Integer(-1)),
            ([&[0x80][..], &7u64.to_be_bytes()].concat(), AttributeValue::Integer(7)),
            ([&[0x80][..], &u64::MAX.to_be_bytes()].concat(), AttributeValue::Foreign("a number past the 63rd bit")),
            ([&[0x81][..], &(-7i64).to_be_bytes()].concat(), AttributeValue::Integer(-7)),
            (vec![0x40], AttributeValue::Foreign("null")),
            (vec![0x45], AttributeValue::Foreign("a list")),
            (vec![0xc0, 2, 1, 0x40], AttributeValue::Foreign("a list")),
            (vec![0xd0, 0, 0, 0, 4, 0, 0, 0, 0], AttributeValue::Foreign("a list")),
            (map(&[]), AttributeValue::Foreign("a map")),
            (vec![0x72, 0, 0, 0, 0], AttributeValue::Foreign("a number with a fraction, or a character")),
            ([&[0x82][..], &[0; 8]].concat(), AttributeValue::Foreign("a number with a fraction")),
            ([&[0x98][..], &[0; 16]].concat(), AttributeValue::Foreign("a UUID, or a number with a fraction")),
        ] {
            let bytes = map(&[text("name"), encoded.clone(), text("after"), vec![0x41]]);
            let found = properties(&bytes).unwrap_or_else(|error| panic!("{encoded:x?}: {error}"));
            assert_eq!(found, [("name".to_owned(), expected), ("after".to_owned(), AttributeValue::Bool(true))], "{encoded:x?}");
        }
    }

    #[test]
    fn a_section_and_a_wide_map_are_read_as_well() {
        let expected = [("a".to_owned(), AttributeValue::Integer(1))];
        let section = [&[0x00, 0x53, 0x74][..], &map(&[text("a"), vec![0x54, 1]])].concat();
        assert_eq!(properties(&section).expect("a map"), expected);
        let wide = [&[0xd1, 0, 0, 0, 9, 0, 0, 0, 2][..], &text("a"), &[0x54, 1]].concat();
        assert_eq!(properties(&wide).expect("a map"), expected);
    }

    #[test]
    fn nonsense_is_refused() {
        for (bytes, expected) in [
            (vec![], Unreadable::Short),
            (vec![0xc1], Unreadable::Short),
            (vec![0xc1, 200, 2], Unreadable::Short),
            (vec![0xc1, 1, 2], Unreadable::Short),
            (vec![0xd1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Unreadable::Short),
            (text("x"), Unreadable::NotMap),
            (map(&[text("x")]), Unreadable::NotMap),
            (map(&[vec![0x41], vec![0x41]]), Unreadable::NotMap),
            (map(&[vec![0xa1, 1, 0xff], vec![0x41]]), Unreadable::NotUtf8),
            (map(&[text("x"), vec![0x99]]), Unreadable::Code(0x99)),
            (vec![0x00; 100_000], Unreadable::Code(0x00)),
            ([&[0xd1, 0, 0, 0, 4][..], &2000u32.to_be_bytes()].concat(), Unreadable::TooMany),
        ] {
            assert_eq!(properties(&bytes), Err(expected), "{bytes:x?}");
        }
    }

    #[test]
    fn a_body_is_bytes_or_a_text() {
        for (bytes, expected) in [
            (vec![0x00, 0x53, 0x77, 0xa0, 2, b'{', b'}'], Some(&b"{}"[..])),
            (vec![0xa1, 2, b'{', b'}'], Some(b"{}")),
            (vec![0xb0, 0, 0, 0, 2, b'{', b'}'], Some(b"{}")),
            (vec![0x00, 0x53, 0x77, 0xa0, 2, b'{', b'}', b'x'], None),
            (vec![0x00, 0x53, 0x77, 0x41], None),
            (map(&[]), None),
            (b"{}".to_vec(), None),
            (vec![], None),
        ] {
            assert_eq!(body(&bytes), expected, "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_comes_can_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _any = properties(&bytes);
            let _any = properties(&[&[0xc1, u8::try_from(bytes.len()).expect("short")], &bytes[..]].concat());
            let _any = body(&bytes);
        }
    }
}
