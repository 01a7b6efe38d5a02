//! Errors as RFC 9457 problem documents.

use serde::{Deserialize, Serialize};

/// Content type of a problem document.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// What went wrong, why, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// `urn:muster:problem:` and the code.
    #[serde(rename = "type")]
    #[schema(example = "urn:muster:problem:unknown_devices")]
    pub kind: String,
    /// The same short title for every problem with this code.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// Stable word for programs.
    #[schema(example = "unknown_devices")]
    pub code: String,
    /// What happened in this case.
    pub detail: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_step: Option<String>,
    /// Values at fault, when it is about values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// One value at fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FieldError {
    /// Where: a member path like `target.devices[3]`.
    pub field: String,
    /// Why.
    pub message: String,
}

impl Problem {
    /// A problem without values at fault.
    pub fn new(status: u16, code: &str, title: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:muster:problem:{code}"),
            title: title.to_owned(),
            status,
            code: code.to_owned(),
            detail: detail.into(),
            next_step: None,
            errors: Vec::new(),
        }
    }

    /// Adds what to do next.
    pub fn next_step(mut self, text: impl Into<String>) -> Self {
        self.next_step = Some(text.into());
        self
    }

    /// Adds a value at fault.
    pub fn field(mut self, field: impl Into<String>, message: impl Into<String>) -> Self {
        self.errors.push(FieldError { field: field.into(), message: message.into() });
        self
    }
}
