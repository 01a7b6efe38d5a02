//! Why a text is not a condition, and where.

use std::fmt;

/// Characters of the condition shown on each side of the place at fault.
const SHOWN_CHARS: usize = 30;

/// What was found where something else was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConditionError {
    /// Where: in characters, from 1.
    pub column: usize,
    /// What stands there.
    pub found: String,
    /// What could stand there, or the limit that was crossed.
    pub expected: String,
}

impl fmt::Display for ConditionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: found {}, expected {}", self.column, self.found, self.expected)
    }
}

impl std::error::Error for ConditionError {}

impl ConditionError {
    /// Two lines for a terminal: the condition around the place, and a caret below it.
    pub fn pointed(&self, condition: &str) -> String {
        let at = self.column.saturating_sub(1);
        let first = at.saturating_sub(SHOWN_CHARS);
        let mut shown: String =
            condition.chars().skip(first).take(at - first + SHOWN_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let mut before = at - first;
        if first > 0 {
            shown.insert(0, '…');
            before += 1;
        }
        if condition.chars().nth(at + SHOWN_CHARS).is_some() {
            shown.push('…');
        }
        format!("{shown}\n{}^", " ".repeat(before))
    }
}
