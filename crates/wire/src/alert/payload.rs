//! The data: the common alert schema of Azure Monitor, and what of it is asked for.

use std::fmt::Write as _;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

use super::{AlertCondition, MAX_ALERT_DEVICES, MAX_ALERT_TEXT_BYTES, Poison, Refused, Severity, device_ref, instant, quoted};

/// What the data says.
#[derive(Debug)]
pub(super) struct Payload {
    pub(super) devices: Vec<String>,
    pub(super) indicator: String,
    pub(super) condition: AlertCondition,
    pub(super) severity: Option<Severity>,
    pub(super) fired_at: Option<OffsetDateTime>,
    pub(super) resolved_at: Option<OffsetDateTime>,
    pub(super) origin_alert_id: Option<String>,
    pub(super) description: Option<String>,
    /// Of a bare alert: what makes the same alert the same event.
    pub(super) bare_id: Option<String>,
}

/// Reads it. `source` and `subject` are those of the envelope, and are asked where the data is silent.
pub(super) fn read(document: &Map<String, Value>, source: &str, subject: Option<&str>) -> Result<Payload, Refused> {
    let data = object(document, "data", "data")?.ok_or_else(|| missing("data.data"))?;
    let essentials = Part { members: object(data, "essentials", "essentials")?.ok_or_else(|| missing("essentials"))?, name: "essentials" };
    let context = match object(data, "alertContext", "alertContext")? {
        Some(context) => object(context, "properties", "alertContext.properties")?,
        None => None,
    }
    .map(|members| Part { members, name: "alertContext.properties" });
    let custom = object(data, "customProperties", "customProperties")?.map(|members| Part { members, name: "customProperties" });

    let alert_id = essentials.text("alertId")?;
    let fired_text = essentials.text("firedDateTime")?;
    let condition_text = essentials.text("monitorCondition")?;
    let condition = condition(condition_text)?;
    let bare_id = alert_id.map(|id| bare_id(id, condition_text.unwrap_or_default(), fired_text.unwrap_or_default()));
    let severity = [essentials.word("severity"), context.as_ref().and_then(|context| context.word("severity"))];
    let indicator = [context, custom].into_iter().flatten().map(|part| part.text("alertType")).find_map(Result::transpose).transpose()?;
    let indicator = match (indicator, subject) {
        (Some(indicator), _) => indicator,
        (None, Some(subject)) => subject,
        (None, None) => essentials.text("alertRule")?.unwrap_or_default(),
    };
    let indicator = indicator.trim();
    if indicator.is_empty() {
        let detail = "alertContext.properties.alertType, customProperties.alertType, subject and essentials.alertRule are all missing";
        return Err(Refused::new(Poison::NoIndicator, detail));
    }
    Ok(Payload {
        devices: devices(&essentials, source)?,
        indicator: indicator.to_owned(),
        condition,
        severity: severity.into_iter().flatten().find_map(severity_of),
        fired_at: fired_text.map(|text| azure_instant("firedDateTime", text)).transpose()?,
        resolved_at: essentials.text("resolvedDateTime")?.map(|text| azure_instant("resolvedDateTime", text)).transpose()?,
        origin_alert_id: match essentials.text("originAlertId")? {
            Some(origin) => Some(origin.to_owned()),
            None => alert_id.map(str::to_owned),
        },
        description: essentials.word("description").map(shown),
        bare_id,
    })
}

/// An object of the data, and what to call it.
struct Part<'a> {
    members: &'a Map<String, Value>,
    name: &'static str,
}

impl<'a> Part<'a> {
    /// A text; null and empty are as if it were not there.
    fn text(&self, name: &str) -> Result<Option<&'a str>, Refused> {
        match self.members.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(value)) if value.trim().is_empty() => Ok(None),
            Some(Value::String(value)) => {
                super::check_text(&format!("{}.{name}", self.name), value)?;
                Ok(Some(value))
            }
            Some(_) => Err(Refused::new(Poison::Malformed, format!("{}.{name} is not a text", self.name))),
        }
    }

    /// A text that only serves display; anything else is as if it were not there.
    fn word(&self, name: &str) -> Option<&'a str> {
        self.members.get(name).and_then(Value::as_str).filter(|value| !value.trim().is_empty())
    }
}

fn missing(name: &str) -> Refused {
    Refused::new(Poison::Malformed, format!("{name} is missing"))
}

fn object<'a>(of: &'a Map<String, Value>, name: &str, shown: &str) -> Result<Option<&'a Map<String, Value>>, Refused> {
    match of.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(members)) => Ok(Some(members)),
        Some(_) => Err(Refused::new(Poison::Malformed, format!("{shown} is not an object"))),
    }
}

/// Each device once, in the order in which they are named.
fn devices(essentials: &Part<'_>, source: &str) -> Result<Vec<String>, Refused> {
    let targets = texts(essentials, "alertTargetIDs")?;
    let mut devices: Vec<String> = Vec::new();
    for device in targets.iter().filter_map(|target| device_ref::of_uri(target)) {
        if !devices.iter().any(|known| known.eq_ignore_ascii_case(device)) {
            devices.push(device.to_owned());
        }
    }
    if devices.len() > MAX_ALERT_DEVICES {
        let detail = format!("essentials.alertTargetIDs names {} devices, more than {MAX_ALERT_DEVICES}", devices.len());
        return Err(Refused::new(Poison::Malformed, detail));
    }
    if !devices.is_empty() {
        return Ok(devices);
    }
    let items = texts(essentials, "configurationItems")?;
    let device = items.first().and_then(|item| device_ref::of_name_or_uri(item)).or_else(|| device_ref::of_uri(source));
    device.map(|device| vec![device.to_owned()]).ok_or_else(|| {
        let detail = format!(
            "none of essentials.alertTargetIDs ({}), essentials.configurationItems[0] ({}) and source ({}) is the id of a device",
            targets.first().map_or_else(|| "empty".to_owned(), |text| quoted(text)),
            items.first().map_or_else(|| "empty".to_owned(), |text| quoted(text)),
            quoted(source),
        );
        Refused::new(Poison::NoDevice, detail)
    })
}

fn texts<'a>(part: &Part<'a>, name: &str) -> Result<Vec<&'a str>, Refused> {
    let wrong = || Refused::new(Poison::Malformed, format!("{}.{name} is not a list of texts", part.name));
    match part.members.get(name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => items.iter().map(|item| item.as_str().ok_or_else(wrong)).collect(),
        Some(_) => Err(wrong()),
    }
}

fn condition(text: Option<&str>) -> Result<AlertCondition, Refused> {
    let Some(text) = text else {
        return Err(Refused::new(Poison::UnknownCondition, "essentials.monitorCondition is missing; it is Fired or Resolved"));
    };
    AlertCondition::ALL.iter().copied().find(|known| known.as_str().eq_ignore_ascii_case(text.trim())).ok_or_else(|| {
        Refused::new(Poison::UnknownCondition, format!("essentials.monitorCondition is {}; it is Fired or Resolved", quoted(text)))
    })
}

/// Azure Monitor's words, and those of alerts of the device itself.
fn severity_of(word: &str) -> Option<Severity> {
    let word = word.trim().to_ascii_lowercase();
    match word.as_str() {
        "critical" => Some(Severity::Sev1),
        "warning" => Some(Severity::Sev2),
        "informational" => Some(Severity::Sev3),
        other => Severity::from_word(other),
    }
}

/// Azure writes UTC, and at times leaves the `Z` away.
fn azure_instant(name: &str, value: &str) -> Result<OffsetDateTime, Refused> {
    instant(name, value).or_else(|refused| instant(name, &format!("{value}Z")).map_err(|_| refused))
}

/// Hex SHA-256 of `alertId|monitorCondition|firedDateTime`, as they are written: the same alert, delivered again, is the same event.
fn bare_id(alert_id: &str, condition: &str, fired: &str) -> String {
    let digest = Sha256::digest(format!("{alert_id}|{condition}|{fired}"));
    digest.iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _infallible = write!(hex, "{byte:02x}");
        hex
    })
}

/// A sentence for people: one line, cut at [`MAX_ALERT_TEXT_BYTES`].
fn shown(sentence: &str) -> String {
    let mut line: String = sentence.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() > MAX_ALERT_TEXT_BYTES {
        let end = (0..=MAX_ALERT_TEXT_BYTES - '…'.len_utf8()).rev().find(|at| line.is_char_boundary(*at)).unwrap_or_default();
        line.truncate(end);
        line.push('…');
    }
    line
}
