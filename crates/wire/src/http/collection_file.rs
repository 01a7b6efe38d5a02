//! A collection in a file, for `muster apply`.

use serde::{Deserialize, Serialize};

use super::{Choice, CollectionOptions, CollectionRequest, EscalationStep, NewCollection, Rollout, Target, Window};

/// Most documents in one file.
pub const MAX_FILE_DOCUMENTS: usize = 100;

/// What a document of a file describes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A request to collect.
    #[default]
    Collection,
}

/// A document of a file: the members of a request to collect, and two more. The members are written out, because one flattened into another
/// takes unknown names and forgets where in the file it stood.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CollectionFile {
    /// What the document describes.
    #[serde(default)]
    pub kind: FileKind,
    /// The same key with the same document makes one collection, however often it is applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// What is asked of each device.
    pub request: CollectionRequest,
    /// Which devices.
    pub target: Target,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Support case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub case: Option<String>,
    /// Which of the targeted devices.
    #[serde(default)]
    pub choice: Choice,
    /// How long and how fast; each member has a default in the settings.
    #[serde(default)]
    pub options: CollectionOptions,
    /// How it is paced, and when it stops by itself.
    #[serde(default)]
    pub rollout: Rollout,
    /// Devices are asked only at these times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Also takes devices that meet the target later, until it expires. Needs a target that can grow: a condition, or all.
    #[serde(default)]
    pub standing: bool,
    /// Deeper steps, for the devices whose answer gives reason to.
    #[serde(default)]
    pub steps: Vec<EscalationStep>,
    /// Meant for as many devices as there are; see `dispatch.confirm_above` of the settings.
    #[serde(default)]
    pub confirmed: bool,
}

impl CollectionFile {
    /// The key, and the request as the API takes it.
    pub fn into_request(self) -> (Option<String>, NewCollection) {
        let Self {
            kind: FileKind::Collection,
            idempotency_key,
            request,
            target,
            reason,
            case,
            choice,
            options,
            rollout,
            window,
            standing,
            steps,
            confirmed,
        } = self;
        (idempotency_key, NewCollection { request, target, reason, case, choice, options, rollout, window, standing, steps, confirmed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Member by member: what the API learns, a file has to say as well.
    #[test]
    fn a_document_is_a_request_and_a_key() {
        let body = r#"{"request":{"kind":"ping"},"target":{"kind":"all"},"reason":"r","case":"1","choice":{"limit":2},
            "options":{"in_flight":3},"rollout":{"start_paused":true},"window":{"cron":"@daily","length_seconds":60},"standing":true,
            "steps":[{"request":{"kind":"ping"}}],"confirmed":true}"#;
        let new: NewCollection = serde_json::from_str(body).expect("a request");
        let file: CollectionFile = serde_json::from_str(body).expect("a document");
        assert_eq!(file.clone().into_request(), (None, new.clone()));
        let members = |value: serde_json::Value| value.as_object().map(|members| members.keys().cloned().collect::<Vec<_>>());
        let mut of_file = members(serde_json::to_value(&file).expect("plain data")).expect("an object");
        of_file.retain(|name| name != "kind");
        let mut of_request = members(serde_json::to_value(&new).expect("plain data")).expect("an object");
        of_file.sort();
        of_request.sort();
        assert_eq!(of_file, of_request, "this test sets every member of a request");
    }
}
