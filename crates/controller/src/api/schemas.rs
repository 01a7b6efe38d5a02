//! JSON Schemas of files that people write, cut out of the description of the API.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use muster_wire::http::CollectionFile;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

/// Where the description of the API keeps its schemas.
const COMPONENTS: &str = "#/components/schemas/";
/// Where a schema that stands alone keeps the parts it refers to.
const DEFINITIONS: &str = "#/$defs/";

/// The schemas of a file, and everything they refer to.
#[derive(OpenApi)]
#[openapi(components(schemas(CollectionFile)))]
struct Files;

/// The JSON Schema of a document for `muster apply`
#[utoipa::path(get, path = "/api/v1/schemas/collection.json", tag = "service",
    responses((status = 200, description = "JSON Schema 2020-12, with everything it refers to", content_type = "application/schema+json", body = Object)))]
pub(crate) async fn collection() -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/schema+json"))], collection_schema_json()).into_response()
}

/// The JSON Schema of a collection in a file, whole in itself.
pub fn collection_schema_json() -> String {
    let description = serde_json::to_value(Files::openapi()).expect("the description is plain data");
    let mut schemas = match description.pointer("/components/schemas") {
        Some(Value::Object(schemas)) => schemas.clone(),
        _ => Map::new(),
    };
    let mut schema = schemas.remove("CollectionFile").expect("it is named above");
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("Collection");
    schema["$defs"] = Value::Object(schemas);
    stand_alone(&mut schema);
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema is plain data");
    text.push('\n');
    text
}

/// References lead to the definitions inside, and every object takes the members it names and no others: so do the types that are read, also
/// those told apart by their kind, of which the description does not say it.
fn stand_alone(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get_mut("$ref")
                && let Some(name) = reference.strip_prefix(COMPONENTS)
            {
                *reference = format!("{DEFINITIONS}{name}");
            }
            members.values_mut().for_each(stand_alone);
            if members.get("type").is_some_and(|kind| kind == "object") && members.contains_key("properties") {
                members.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(stand_alone),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn references(schema: &Value, into: &mut BTreeSet<String>) {
        match schema {
            Value::Object(members) => {
                into.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
                members.values().for_each(|value| references(value, into));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, into)),
            _ => {}
        }
    }

    #[test]
    fn the_schema_of_a_file_is_whole_and_closed() {
        let schema: Value = serde_json::from_str(&collection_schema_json()).expect("JSON");
        assert_eq!(schema["additionalProperties"], false, "unknown members are refused");
        assert_eq!(schema["required"], json!(["request", "target"]));
        assert!(schema["properties"]["idempotency_key"].is_object());
        let definitions = schema["$defs"].as_object().expect("definitions");
        let mut named = BTreeSet::new();
        references(&schema, &mut named);
        assert!(named.len() > 10, "{named:?}");
        let there: BTreeSet<String> = definitions.keys().map(|name| format!("{DEFINITIONS}{name}")).collect();
        assert_eq!(named, there, "what is referred to is there, and nothing else");
        // A misspelt option is found by an editor, not only by the controller.
        for name in ["CollectionOptions", "Rollout", "Choice", "LogFilter"] {
            assert_eq!(definitions[name]["additionalProperties"], false, "{name}");
        }
        for name in ["CollectionRequest", "Target"] {
            let kinds = definitions[name]["oneOf"].as_array().expect("kinds");
            assert!(kinds.len() > 2 && kinds.iter().all(|kind| kind["additionalProperties"] == false), "{name}: {kinds:?}");
        }
    }

    /// What the schema refuses by name, the type refuses too.
    #[test]
    fn no_object_of_a_file_takes_a_member_it_does_not_know() {
        let whole = json!({
            "request": { "kind": "upload_logs", "items": [{ "id": "all", "filter": { "tail": 5 } }] },
            "target": { "kind": "condition", "condition": "tags.a = 1" },
            "choice": {}, "options": { "retry": { "waits_seconds": [60] } }, "window": { "cron": "@daily", "length_seconds": 60 },
            "rollout": { "rate": { "per_minute": 5.0, "ramp": { "factor": 2.0, "every_verified": 10 } }, "stages": [], "abort": [] },
            "steps": [{ "request": { "kind": "ping" } }],
        });
        serde_json::from_value::<CollectionFile>(whole.clone()).expect("it is read");
        for place in [
            "",
            "/request",
            "/request/items/0",
            "/request/items/0/filter",
            "/target",
            "/choice",
            "/options",
            "/options/retry",
            "/window",
            "/rollout",
            "/rollout/rate",
            "/rollout/rate/ramp",
            "/steps/0",
            "/steps/0/request",
        ] {
            let mut strange = whole.clone();
            strange.pointer_mut(place).expect("a place").as_object_mut().expect("an object").insert("reasn".to_owned(), json!(1));
            assert!(serde_json::from_value::<CollectionFile>(strange).is_err(), "{place}");
        }
    }
}
