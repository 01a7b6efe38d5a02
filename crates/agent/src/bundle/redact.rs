//! Takes secrets out of what a container engine knows about containers, and out of our own settings.

use serde_json::Value;

/// What stands in place of a secret.
pub const MASK: &str = "***";
/// Parts of names that mean the value is a secret, without regard to case, `_` and `-`.
pub const SECRET_NAMES: &[&str] = &["key", "secret", "password", "passwd", "token", "connectionstring", "credential", "sasurl"];

/// Whether a variable, label or setting of this name holds a secret.
pub(crate) fn is_secret(name: &str) -> bool {
    let plain: String = name.chars().filter(|c| !matches!(c, '_' | '-' | '.' | ' ')).flat_map(char::to_lowercase).collect();
    SECRET_NAMES.iter().any(|part| plain.contains(part))
}

/// Masks secrets anywhere in a JSON document: members of such names, `NAME=value` texts, and the word after `--password`.
pub(crate) fn redact(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                if is_secret(name) && matches!(value, Value::String(_) | Value::Number(_)) {
                    *value = MASK.into();
                } else {
                    redact(value);
                }
            }
        }
        Value::Array(elements) => {
            let mut follows_secret_flag = false;
            for element in elements {
                if let Value::String(text) = element
                    && std::mem::replace(&mut follows_secret_flag, text.starts_with('-') && !text.contains('=') && is_secret(text))
                {
                    *text = MASK.to_owned();
                }
                redact(element);
            }
        }
        Value::String(text) => {
            if let Some((name, _)) = text.split_once('=')
                && name.len() <= 256
                && !name.contains(char::is_whitespace)
                && is_secret(name)
            {
                *text = format!("{name}={MASK}");
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn no_secret_of_an_inspection_stays() {
        let mut inspection = json!({
            "Id": "abc",
            "Config": {
                "Env": ["PATH=/bin", "DB_PASSWORD=hunter2", "api-key=hunter2", "EdgeHubConnectionString=HostName=h;SharedAccessKey=hunter2", "GITHUB_TOKEN=hunter2", "MODE=fast"],
                "Labels": { "my.secret.label": "hunter2", "team": "press" },
                "Cmd": ["run", "--password", "hunter2", "--token=hunter2", "--level", "info"],
            },
            "Password": 12345,
        });
        redact(&mut inspection);
        let text = inspection.to_string();
        assert!(!text.contains("hunter2") && !text.contains("12345"), "{text}");
        for kept in ["PATH=/bin", "MODE=fast", "DB_PASSWORD=***", "\"team\":\"press\"", "\"info\"", "\"abc\"", "--token=***"] {
            assert!(text.contains(kept), "{kept} in {text}");
        }
    }
}
