//! The envelope: which of the three shapes a message has, and what stands around its data (CloudEvents core 1.0.2, its JSON format, its
//! AMQP and HTTP bindings).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::{AlertShape, AttributeValue, COMMON_ALERT_SCHEMA, Poison, RawAlert, Refused, SourceRules, instant, json, quoted, text, utc};

const STRUCTURED: &str = "application/cloudevents+json";
const EVENT_FORMATS: &str = "application/cloudevents";
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];
const SPECVERSION: &str = "1.0";

/// An envelope that keeps the rules, and its data.
#[derive(Debug)]
pub(super) struct Envelope {
    pub(super) shape: AlertShape,
    /// None for a bare alert: it is made from the data.
    pub(super) id: Option<String>,
    pub(super) source: String,
    pub(super) subject: Option<String>,
    pub(super) time: Option<OffsetDateTime>,
    pub(super) extensions: BTreeMap<String, String>,
    pub(super) data: Map<String, Value>,
}

pub(super) fn read(message: &RawAlert<'_>, rules: &SourceRules) -> Result<Envelope, Refused> {
    let media = message.content_type.map(media_type);
    if let Some(media) = &media
        && media.starts_with(EVENT_FORMATS)
    {
        if media != STRUCTURED {
            let detail = format!("content type {} is not taken; send one event per message as {STRUCTURED}", quoted(media));
            return Err(Refused::new(Poison::UnsupportedFormat, detail));
        }
        return structured(json::read(message.body, "the body")?, rules);
    }
    let attributes = prefixed(message.attributes)?;
    if !attributes.is_empty() {
        return binary(attributes, message, rules);
    }
    if let Some(media) = &media
        && !is_json(media)
    {
        let detail = format!("content type {} is neither {STRUCTURED} nor JSON, and no attributes of an event stand beside", quoted(media));
        return Err(Refused::new(Poison::UnsupportedContent, detail));
    }
    let body = json::read(message.body, "the body")?;
    let is_event = body.get("specversion").is_some();
    // MQTT 3.1.1 cannot say a content type; the event itself does.
    if is_event && media.is_none() {
        return structured(body, rules);
    }
    match (&rules.bare, is_event) {
        (_, true) => {
            Err(Refused::new(Poison::UnsupportedFormat, format!("the body is a CloudEvent, and its content type is not {STRUCTURED}")))
        }
        (None, false) => Err(Refused::new(
            Poison::UnsupportedSchema,
            format!("there is no envelope: this source takes CloudEvents, as {STRUCTURED} or with their attributes beside the body"),
        )),
        (Some(source), false) => Ok(Envelope {
            shape: AlertShape::Bare,
            id: None,
            source: source.clone(),
            subject: None,
            time: None,
            extensions: BTreeMap::new(),
            data: common_alert(body, "the body")?,
        }),
    }
}

/// One JSON document with attributes and data.
fn structured(body: Value, rules: &SourceRules) -> Result<Envelope, Refused> {
    let Value::Object(mut members) = body else {
        return Err(Refused::new(Poison::Malformed, "the body is not an object"));
    };
    // In the JSON format a null is an attribute that is not there.
    members.retain(|_, value| !value.is_null());
    let data = match (members.remove("data"), members.remove("data_base64")) {
        (Some(_), Some(_)) => return Err(Refused::new(Poison::Malformed, "data and data_base64 exclude each other")),
        (Some(data), None) => Some(data),
        (None, Some(Value::String(encoded))) => {
            let bytes = STANDARD.decode(encoded).map_err(|error| Refused::new(Poison::Malformed, format!("data_base64: {error}")))?;
            Some(json::read(&bytes, "data_base64")?)
        }
        (None, Some(_)) => return Err(Refused::new(Poison::Malformed, "data_base64 is not a text")),
        (None, None) => None,
    };
    let mut attributes = BTreeMap::new();
    for (name, value) in members {
        let value = match value {
            Value::String(text) => AttributeValue::Text(text),
            Value::Bool(value) => AttributeValue::Bool(value),
            Value::Number(number) => match number.as_i64() {
                Some(number) => AttributeValue::Integer(number),
                None if is_known(&name) => AttributeValue::Foreign("a number"),
                None => AttributeValue::Text(number.to_string()),
            },
            nested if is_known(&name) => AttributeValue::Foreign(if nested.is_array() { "a list" } else { "an object" }),
            // No attribute can be one; kept as it is, because a member we do not know is never an error.
            nested => AttributeValue::Text(nested.to_string()),
        };
        attributes.insert(name, value);
    }
    let mut envelope = attributes_of(attributes, AlertShape::Structured, rules)?;
    let data = data.ok_or_else(|| Refused::new(Poison::Malformed, "data is missing"))?;
    envelope.data = common_alert(data, "data")?;
    Ok(envelope)
}

/// Attributes beside the message, data in its body.
fn binary(mut attributes: BTreeMap<String, AttributeValue>, message: &RawAlert<'_>, rules: &SourceRules) -> Result<Envelope, Refused> {
    // Here the content type of the message is that of the data; an attribute of that name has no say.
    attributes.remove("datacontenttype");
    if let Some(content_type) = message.content_type {
        attributes.insert("datacontenttype".to_owned(), AttributeValue::Text(content_type.to_owned()));
    }
    let mut envelope = attributes_of(attributes, AlertShape::Binary, rules)?;
    envelope.data = common_alert(json::read(message.body, "the body")?, "the body")?;
    Ok(envelope)
}

/// The attributes, by name; the data is filled in by the caller.
fn attributes_of(mut attributes: BTreeMap<String, AttributeValue>, shape: AlertShape, rules: &SourceRules) -> Result<Envelope, Refused> {
    let missing: Vec<&str> = REQUIRED.into_iter().filter(|name| !attributes.contains_key(*name)).collect();
    if let Some(AttributeValue::Text(version)) = attributes.get("specversion")
        && version != SPECVERSION
    {
        return Err(Refused::new(Poison::UnsupportedSpecversion, format!("specversion is {}, not {SPECVERSION}", quoted(version))));
    }
    if !missing.is_empty() {
        return Err(Refused::new(Poison::Malformed, format!("{} missing", missing.join(", "))));
    }
    let mut take = |name: &str| -> Result<Option<String>, Refused> {
        match attributes.remove(name) {
            None => Ok(None),
            Some(AttributeValue::Text(value)) => Ok(Some(text(name, value)?)),
            Some(other) => Err(Refused::new(Poison::Malformed, format!("{name} is {}, not a text", other.kind()))),
        }
    };
    take("specversion")?;
    let kind = take("type")?.unwrap_or_default();
    if !rules.types.contains(&kind) {
        let detail = format!("type is {}; this source takes {}", quoted(&kind), rules.types.join(", "));
        return Err(Refused::new(Poison::UnsupportedType, detail));
    }
    if let Some(content) = take("datacontenttype")?
        && !is_json(&media_type(&content))
    {
        return Err(Refused::new(Poison::UnsupportedContent, format!("the data is {}, not JSON", quoted(&content))));
    }
    let source = take("source")?.unwrap_or_default();
    if let Some(bad) = source.chars().find(|c| c.is_whitespace() || matches!(c, '<' | '>' | '"' | '{' | '}' | '|' | '\\' | '^' | '`')) {
        return Err(Refused::new(Poison::Malformed, format!("source is no URI reference: it holds {bad:?}")));
    }
    let id = take("id")?;
    let subject = match attributes.remove("subject") {
        // Empty is against the standard and says nothing; it is not worth the alert.
        Some(AttributeValue::Text(value)) if value.is_empty() => None,
        Some(AttributeValue::Text(value)) => Some(text("subject", value)?),
        Some(other) => return Err(Refused::new(Poison::Malformed, format!("subject is {}, not a text", other.kind()))),
        None => None,
    };
    let time = match attributes.remove("time") {
        None => None,
        Some(AttributeValue::Timestamp(at)) => Some(utc("time", at)?),
        Some(AttributeValue::Text(value)) => Some(instant("time", &value)?),
        Some(other) => return Err(Refused::new(Poison::Malformed, format!("time is {}, not a timestamp", other.kind()))),
    };
    let extensions = attributes.into_iter().filter_map(|(name, value)| Some((name, value.canonical()?))).collect();
    Ok(Envelope { shape, id, source, subject, time, extensions, data: Map::new() })
}

/// Whether the attribute has a type of its own, which a value must have.
fn is_known(name: &str) -> bool {
    REQUIRED.contains(&name) || matches!(name, "subject" | "time" | "datacontenttype" | "dataschema")
}

/// Attributes of an event, by name, out of all that stands beside a message.
fn prefixed(all: &[(String, AttributeValue)]) -> Result<BTreeMap<String, AttributeValue>, Refused> {
    let mut separator = None;
    let mut found = BTreeMap::new();
    for (full, value) in all {
        let (prefix, name) = match full.as_bytes() {
            [b'c', b'e', b'-', ..] => full.split_at(3),
            _ if full.starts_with("cloudEvents_") || full.starts_with("cloudEvents:") => full.split_at("cloudEvents_".len()),
            _ => continue,
        };
        if *separator.get_or_insert(prefix) != prefix {
            let detail =
                format!("attributes begin with {} and with {}; one message uses one of them", separator.unwrap_or_default(), prefix);
            return Err(Refused::new(Poison::Malformed, detail));
        }
        let value = match value {
            AttributeValue::Text(value) if value.contains('\0') => {
                return Err(Refused::new(Poison::Malformed, format!("{} holds the character NUL", quoted(full))));
            }
            AttributeValue::Text(value) if prefix == "ce-" => AttributeValue::Text(percent_decoded(full, value)?),
            value => value.clone(),
        };
        if name.is_empty() || name.contains('\0') {
            return Err(Refused::new(Poison::Malformed, format!("{} is no name of an attribute", quoted(full))));
        }
        if found.insert(name.to_owned(), value).is_some() {
            return Err(Refused::new(Poison::Malformed, format!("{} is given twice", quoted(full))));
        }
    }
    Ok(found)
}

/// Headers of HTTP carry what is not printable ASCII as `%XX`; a percent sign with nothing of the kind behind it is itself.
fn percent_decoded(name: &str, value: &str) -> Result<String, Refused> {
    if !value.contains('%') {
        return Ok(value.to_owned());
    }
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16)).and_then(|digit| u8::try_from(digit).ok());
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        match (first, digit(behind.first()), digit(behind.get(1))) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                rest = &behind[2..];
            }
            _ => {
                out.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8(out)
        .ok()
        .filter(|text| !text.contains('\0'))
        .ok_or_else(|| Refused::new(Poison::Malformed, format!("{} is not UTF-8 once decoded", quoted(name))))
}

/// The common alert schema, or nothing.
fn common_alert(data: Value, what: &str) -> Result<Map<String, Value>, Refused> {
    let refuse = |found: String| Refused::new(Poison::UnsupportedSchema, format!("{what} {found}, not {COMMON_ALERT_SCHEMA}"));
    let Value::Object(data) = data else {
        return Err(refuse("is not an object".to_owned()));
    };
    match data.get("schemaId") {
        Some(Value::String(schema)) if schema == COMMON_ALERT_SCHEMA => Ok(data),
        Some(Value::String(schema)) => Err(refuse(format!("has the schemaId {}", quoted(schema)))),
        Some(_) => Err(refuse("has a schemaId that is not a text".to_owned())),
        None => Err(refuse("has no schemaId".to_owned())),
    }
}

/// Type and subtype in lower case, without parameters.
fn media_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn is_json(media: &str) -> bool {
    media.split_once('/').is_some_and(|(kind, sub)| !kind.is_empty() && (sub == "json" || sub.ends_with("+json")))
}
