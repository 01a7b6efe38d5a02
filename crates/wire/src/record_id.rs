//! Ids of records that stand alone: a decision about consent, an alert, a storm. Each is a UUIDv7, so their order is the order in which they were
//! written down; as text it is a prefix and 26 characters of Crockford base32 (lower case).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::InvalidId;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// 26 × 5 bits hold 128; the first character holds three of them.
const CHARS: usize = 26;

fn write(uuid: Uuid) -> String {
    let bits = uuid.as_u128();
    (0..CHARS).rev().map(|i| ALPHABET[((bits >> (i * 5)) & 31) as usize] as char).collect()
}

fn read(text: &str) -> Option<Uuid> {
    if text.len() != CHARS {
        return None;
    }
    let mut bits: u128 = 0;
    for (place, byte) in text.bytes().enumerate() {
        let digit = ALPHABET.iter().position(|&c| c == byte.to_ascii_lowercase())?;
        if place == 0 && digit > 7 {
            return None;
        }
        bits = (bits << 5) | digit as u128;
    }
    Some(Uuid::from_u128(bits))
}

macro_rules! record_id {
    ($($(#[doc = $doc:literal])+ $id:ident, $prefix:literal, $wanted:literal, $example:literal;)*) => {$(
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $id(Uuid);

        impl $id {
            /// A new id, ordered by time of creation.
            #[expect(clippy::new_without_default, reason = "an id is made on purpose, never by default")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// The UUID as stored.
            pub fn uuid(self) -> Uuid {
                self.0
            }

            /// From a stored UUID.
            pub fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&format!(concat!($prefix, "{}"), write(self.0)))
            }
        }

        impl FromStr for $id {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.strip_prefix($prefix).and_then(read).map(Self).ok_or_else(|| InvalidId::new(text, $wanted, $example))
            }
        }

        impl Serialize for $id {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $id {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl utoipa::PartialSchema for $id {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new().schema_type(utoipa::openapi::schema::Type::String).examples([$example]).into()
            }
        }

        impl utoipa::ToSchema for $id {}
    )*};
}

record_id! {
    /// One decision about consent, as it stands in the record.
    ConsentId, "cns_", "the id of a decision about consent", "cns_01jd8k2m3n4p5q6r7s8t9v0w1x";
    /// One alert that was taken in.
    AlertId, "alt_", "the id of an alert", "alt_01jd8k2m3n4p5q6r7s8t9v0w1x";
    /// Many devices with one indicator at the same time.
    StormId, "stm_", "the id of a storm", "stm_01jd8k2m3n4p5q6r7s8t9v0w1x";
    /// A message that was no alert.
    ParkedId, "prk_", "the id of a parked message", "prk_01jd8k2m3n4p5q6r7s8t9v0w1x";
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_comes_back_from_its_one_spelling(bits: u128) {
            let id = ConsentId::from_uuid(Uuid::from_u128(bits));
            prop_assert_eq!(id.to_string().parse::<ConsentId>(), Ok(id));
            prop_assert!(id.to_string().parse::<AlertId>().is_err());
        }

        #[test]
        fn any_text_is_parsed_or_refused_without_panic(text: String) {
            let _ = (text.parse::<ConsentId>(), format!("cns_{text}").parse::<ConsentId>());
        }
    }

    #[test]
    fn what_does_not_fit_128_bits_is_no_id() {
        assert!("cns_7zzzzzzzzzzzzzzzzzzzzzzzzz".parse::<ConsentId>().is_ok());
        for bad in ["cns_8zzzzzzzzzzzzzzzzzzzzzzzzz", "cns_", "cns_01jd8k2m3n4p5q6r7s8t9v0w1", "cns_01jd8k2m3n4p5q6r7s8t9v0w1u"] {
            assert!(bad.parse::<ConsentId>().is_err(), "{bad}");
        }
        assert!(ConsentId::new() < ConsentId::new());
    }
}
