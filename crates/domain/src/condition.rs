//! Conditions over the registry: which devices somebody means. One language for lists, targets and rules; its words are IoT Hub's.
//!
//! ```text
//! condition   = conjunction { OR conjunction }
//! conjunction = negation { AND negation }
//! negation    = NOT negation | '(' condition ')' | test
//! test        = operand operator operand            one of the two is a path, the other a literal
//!             | path [ NOT ] IN list | path NIN list
//!             | is_defined '(' path ')'
//!             | is_kind '(' path ')'
//!             | function '(' path ',' string ')'
//! operator    = '=' | '!=' | '<>' | '<' | '<=' | '>' | '>='
//! is_kind     = is_bool | is_number | is_string | is_null | is_object | is_array
//! function    = STARTSWITH | ENDSWITH | CONTAINS
//! list        = '[' literal { ',' literal } ']'
//! literal     = string | number | true | false | null
//! string      = '…' or "…", with \\ \/ \' \" \b \f \n \r \t \uXXXX
//! number      = [ '-' | '+' ] digits [ '.' digits ] [ e [ '-' | '+' ] digits ]
//! path        = ( tags | reported | properties.reported ) key { key }
//!             | deviceId | presence | parent | agent.name | agent.version
//! key         = '.' name | '[' string ']'
//! name        = letters, digits, '_' and '$'
//! ```
//!
//! Keywords and functions are read without regard to case; paths and strings with it.
//!
//! # What a condition says of a device
//!
//! True, false, or undefined ([`Condition::says`]); only devices of which it is true are selected. A comparison is undefined where the path
//! leads to nothing or to a value of another type than the literal. `AND`, `OR` and `NOT` are Kleene's: `NOT` of undefined is undefined,
//! `false AND` anything is false, `true OR` anything is true. `x IN [a, b]` means `x = a OR x = b`. `is_defined` and the `is_…` functions
//! are never undefined. Numbers compare as numbers (1 = 1.0), strings byte by byte. A key leads into an object only, never into an array.

mod error;
mod evaluate;
mod parse;
#[cfg(test)]
mod tests;
mod token;

pub use error::ConditionError;
pub use evaluate::Subject;

/// Deepest nesting of parentheses and `NOT`.
pub const MAX_DEPTH: usize = 64;
/// Most tests in one condition.
pub const MAX_TESTS: usize = 500;
/// Most literals in one list.
pub const MAX_LIST: usize = 10_000;
/// Most keys in one path.
pub const MAX_KEYS: usize = 16;
/// Largest number, either side of zero: 2^53 - 1. Beyond it a 64-bit float skips integers, and two databases round in two ways.
pub const MAX_NUMBER: f64 = 9_007_199_254_740_991.0;

/// A condition that was read.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// Each of them; never empty.
    All(Vec<Condition>),
    /// One of them; never empty.
    Any(Vec<Condition>),
    /// Not this.
    Not(Box<Condition>),
    /// One statement about one value.
    Test(Path, Test),
}

/// Where a value of a device stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Path {
    /// In the tags, below these keys; never empty.
    Tags(Vec<String>),
    /// In the reported properties, below these keys; never empty.
    Reported(Vec<String>),
    /// In a column of the registry.
    Column(Column),
}

/// Facts of the registry beside tags and reported properties. Each is a string, or undefined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// `deviceId`.
    DeviceId,
    /// `presence`: `online`, `offline` or `unknown`.
    Presence,
    /// `parent`: the gateway it is behind.
    Parent,
    /// `agent.name`.
    AgentName,
    /// `agent.version`.
    AgentVersion,
}

/// What is said of a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// It stands so to the literal.
    Compare(Comparison, Literal),
    /// It is one of these; never empty.
    In(Vec<Literal>),
    /// It is a string with this in this place.
    Holds(Place, String),
    /// It is there.
    Defined,
    /// It is there and of this kind.
    Is(Kind),
}

/// Operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A value written in a condition.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// A string, without NUL.
    Text(String),
    /// A number within [`MAX_NUMBER`].
    Number(f64),
    /// True or false.
    Bool(bool),
    /// Null.
    Null,
}

/// Where in a string another one is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `STARTSWITH`
    Start,
    /// `ENDSWITH`
    End,
    /// `CONTAINS`
    Anywhere,
}

/// Kinds of JSON values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are JSON's")]
pub enum Kind {
    Bool,
    Number,
    String,
    Null,
    Object,
    Array,
}

impl Literal {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Text(_) => Kind::String,
            Self::Number(_) => Kind::Number,
            Self::Bool(_) => Kind::Bool,
            Self::Null => Kind::Null,
        }
    }
}

impl Comparison {
    /// The operator that says the same with its sides exchanged.
    fn flipped(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
            same => same,
        }
    }

    /// Whether it asks which of two is larger; only numbers and strings have an answer.
    fn is_order(self) -> bool {
        !matches!(self, Self::Equal | Self::NotEqual)
    }
}
