//! Ids. A collection, each of its tasks and each attempt at a task are one UUIDv7 whose low 40 bits are counters:
//!
//! ```text
//!  48 bits        4   12       2   22      32 bits    8 bits
//!  unix time ms   v7  random   var random  ordinal    attempt
//!  └──────────── collection ─────────────┘
//!  └──────────────────── task ──────────────────────┘
//!  └──────────────────────── attempt ─────────────────────────┘
//! ```
//!
//! So an attempt's id, which is the correlation data of its MQTT request, names its task and its collection without a
//! lookup, and all tasks of a collection are one contiguous range of the primary key: no secondary index is needed to
//! list, count or claim them. Why this and not three random ids: `docs/decisions/2026-11-21-one-id.md`.
//!
//! As text: `col_` + 18 characters of Crockford base32 (lower case), `tsk_…-ORDINAL`, `att_…-ORDINAL-ATTEMPT`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Most tasks in one collection.
pub const MAX_TASKS: u32 = u32::MAX;
/// Most attempts at one task: the counter is one byte and 0 stands for the task itself.
pub const MAX_ATTEMPTS: u8 = u8::MAX;

const LOW_40: u128 = (1 << 40) - 1;
const LOW_8: u128 = 0xff;
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const STEM_CHARS: usize = 18;

/// One request for logs. Low 40 bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CollectionId(Uuid);

/// One collection × one device. Low 8 bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(Uuid);

/// One try at a task; also the correlation data of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttemptId(Uuid);

/// Why a text or a UUID is not the id it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {wanted}; it looks like {example}")]
pub struct InvalidId {
    text: String,
    wanted: &'static str,
    example: &'static str,
}

impl InvalidId {
    pub(crate) fn new(text: &str, wanted: &'static str, example: &'static str) -> Self {
        Self { text: text.to_owned(), wanted, example }
    }
}

impl CollectionId {
    /// A new id, ordered by time of creation.
    pub fn new() -> Self {
        // Not `Uuid::now_v7`: its counter within a millisecond stands in the bits that are ours here.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let random = Uuid::new_v4();
        let random = random.as_bytes().first_chunk().expect("a UUID has 16 bytes");
        let id = uuid::Builder::from_unix_timestamp_millis(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), random).into_uuid();
        Self(Uuid::from_u128(id.as_u128() & !LOW_40))
    }

    /// The task at this place of the collection.
    pub fn task(self, ordinal: u32) -> TaskId {
        TaskId(Uuid::from_u128(self.0.as_u128() | (u128::from(ordinal) << 8)))
    }

    /// Lowest and highest task id of this collection: the range its rows stand in, both ends included.
    pub fn task_range(self) -> (Uuid, Uuid) {
        (self.0, Uuid::from_u128(self.0.as_u128() | LOW_40))
    }

    /// The UUID as stored.
    pub fn uuid(self) -> Uuid {
        self.0
    }

    /// From a stored UUID; `None` when it is not a collection's.
    pub fn from_uuid(uuid: Uuid) -> Option<Self> {
        (uuid.as_u128() & LOW_40 == 0).then_some(Self(uuid))
    }
}

impl Default for CollectionId {
    fn default() -> Self {
        Self::new()
    }
}

impl TaskId {
    /// The collection this task belongs to.
    pub fn collection(self) -> CollectionId {
        CollectionId(Uuid::from_u128(self.0.as_u128() & !LOW_40))
    }

    /// Place within the collection.
    pub fn ordinal(self) -> u32 {
        ((self.0.as_u128() & LOW_40) >> 8) as u32
    }

    /// The id of one numbered attempt; attempts count from 1.
    pub fn attempt(self, number: u8) -> AttemptId {
        AttemptId(Uuid::from_u128(self.0.as_u128() | u128::from(number)))
    }

    /// The UUID as stored.
    pub fn uuid(self) -> Uuid {
        self.0
    }

    /// From a stored UUID; `None` when it is not a task's.
    pub fn from_uuid(uuid: Uuid) -> Option<Self> {
        (uuid.as_u128() & LOW_8 == 0).then_some(Self(uuid))
    }
}

impl AttemptId {
    /// The task this is an attempt at.
    pub fn task(self) -> TaskId {
        TaskId(Uuid::from_u128(self.0.as_u128() & !LOW_8))
    }

    /// Number of the attempt, from 1.
    pub fn number(self) -> u8 {
        (self.0.as_u128() & LOW_8) as u8
    }

    /// The UUID as it travels: the correlation data of the request is its 16 bytes.
    pub fn uuid(self) -> Uuid {
        self.0
    }

    /// From correlation data or the `attempt` member of a task status; `None` when the number is 0.
    pub fn from_uuid(uuid: Uuid) -> Option<Self> {
        (uuid.as_u128() & LOW_8 != 0).then_some(Self(uuid))
    }

    /// From correlation data, which must be exactly 16 bytes.
    pub fn from_correlation(data: &[u8]) -> Option<Self> {
        Self::from_uuid(Uuid::from_slice(data).ok()?)
    }

    /// `01jd…-17-2`: the id without its prefix, made of lower-case letters, digits and hyphens, for container names.
    pub fn stem(self) -> String {
        format!("{}-{}-{}", stem(self.0), self.task().ordinal(), self.number())
    }
}

fn stem(uuid: Uuid) -> String {
    let top = uuid.as_u128() >> 40;
    (0..STEM_CHARS).rev().map(|i| ALPHABET[((top >> (i * 5)) & 31) as usize] as char).collect()
}

fn parse_stem(text: &str) -> Option<u128> {
    if text.len() != STEM_CHARS {
        return None;
    }
    let mut top: u128 = 0;
    for byte in text.bytes() {
        let digit = ALPHABET.iter().position(|&c| c == byte.to_ascii_lowercase())?;
        top = (top << 5) | digit as u128;
    }
    (top >> 88 == 0).then_some(top << 40)
}

/// A counter in its one canonical spelling: no sign, no leading zero.
fn parse_counter<T: FromStr + ToString>(text: &str) -> Option<T> {
    let value: T = text.parse().ok()?;
    (value.to_string() == text).then_some(value)
}

impl fmt::Display for CollectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("col_{}", stem(self.0)))
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("tsk_{}-{}", stem(self.0), self.ordinal()))
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("att_{}", self.stem()))
    }
}

impl FromStr for CollectionId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = || parse_stem(text.strip_prefix("col_")?);
        parsed().map(|bits| Self(Uuid::from_u128(bits))).ok_or_else(|| InvalidId {
            text: text.to_owned(),
            wanted: "a collection id",
            example: "col_01jd8k2m3n4p5q6r7s",
        })
    }
}

impl FromStr for TaskId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = || {
            let (stem, ordinal) = text.strip_prefix("tsk_")?.split_once('-')?;
            Some(CollectionId(Uuid::from_u128(parse_stem(stem)?)).task(parse_counter(ordinal)?))
        };
        parsed().ok_or_else(|| InvalidId { text: text.to_owned(), wanted: "a task id", example: "tsk_01jd8k2m3n4p5q6r7s-17" })
    }
}

impl FromStr for AttemptId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = || {
            let (task, number) = text.strip_prefix("att_")?.rsplit_once('-')?;
            let (stem, ordinal) = task.split_once('-')?;
            let task = CollectionId(Uuid::from_u128(parse_stem(stem)?)).task(parse_counter(ordinal)?);
            Self::from_uuid(task.attempt(parse_counter(number)?).uuid())
        };
        parsed().ok_or_else(|| InvalidId { text: text.to_owned(), wanted: "an attempt id", example: "att_01jd8k2m3n4p5q6r7s-17-2" })
    }
}

macro_rules! id_as_text {
    ($($id:ident, $example:literal);*) => {$(
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
id_as_text!(CollectionId, "col_01jd8k2m3n4p5q6r7s"; TaskId, "tsk_01jd8k2m3n4p5q6r7s-17"; AttemptId, "att_01jd8k2m3n4p5q6r7s-17-2");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_attempt_names_its_task_and_collection(ordinal: u32, number in 1..=MAX_ATTEMPTS) {
            let collection = CollectionId::new();
            let attempt = collection.task(ordinal).attempt(number);
            prop_assert_eq!(attempt.task().collection(), collection);
            prop_assert_eq!(attempt.task().ordinal(), ordinal);
            prop_assert_eq!(attempt.number(), number);
            prop_assert_eq!(AttemptId::from_correlation(attempt.uuid().as_bytes()), Some(attempt));
            prop_assert_eq!(attempt.to_string().parse::<AttemptId>(), Ok(attempt));
            prop_assert_eq!(attempt.task().to_string().parse::<TaskId>(), Ok(attempt.task()));
            prop_assert_eq!(collection.to_string().parse::<CollectionId>(), Ok(collection));
            let (low, high) = collection.task_range();
            prop_assert!(low <= attempt.task().uuid() && attempt.task().uuid() <= high);
            prop_assert_eq!(attempt.uuid().get_version_num(), 7);
        }

        #[test]
        fn any_text_is_parsed_or_refused_without_panic(text: String) {
            let _ = (text.parse::<CollectionId>(), text.parse::<TaskId>(), text.parse::<AttemptId>());
        }
    }

    #[test]
    fn collections_of_one_millisecond_differ() {
        let ids: std::collections::HashSet<_> = (0..10_000).map(|_| CollectionId::new()).collect();
        assert!(ids.len() >= 9_999, "34 random bits a millisecond: {} different", ids.len());
    }

    #[test]
    fn one_spelling_only() {
        let task = CollectionId::new().task(7);
        let text = task.to_string();
        for other in
            [text.replace("-7", "-07"), text.replace("-7", "-+7"), text.replace("tsk_", "col_"), format!("{text}-1"), String::new()]
        {
            assert!(other.parse::<TaskId>().is_err(), "{other}");
        }
        assert!(AttemptId::from_correlation(task.uuid().as_bytes()).is_none(), "attempt 0 is the task itself");
        assert!(AttemptId::from_correlation(&[1; 15]).is_none());
    }
}
