//! Settings of a real device: built-in defaults, then a TOML file, then flags. Unknown names are errors, every secret can
//! come from a file, and [`Settings::masked`] is what may be shown.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_wire::DeviceId;
use muster_wire::presence::ProactiveConsent;
use muster_wire::topic::Prefix;
use serde::{Deserialize, Serialize};

use crate::bundle::redact::MASK;

/// The defaults, as a commented file.
pub const DEFAULTS: &str = include_str!("muster-agent.toml");
/// Largest settings file that is read.
pub const MAX_FILE_BYTES: u64 = 256 * 1024;
/// Largest secret in a file.
pub const MAX_SECRET_BYTES: u64 = 16 * 1024;

/// Largest `device.reported`, as JSON: what the contract takes in a birth, less what stands there beside it.
pub const MAX_REPORTED_BYTES: usize = muster_wire::properties::MAX_BIRTH_BYTES - 4 * 1024;

/// Why settings are not usable.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file that cannot be read.
    #[error("{what} {path}: {reason}")]
    File {
        /// Which file.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Not TOML, or a name or value that is not known.
    #[error("{path}: {reason}\n`muster-agent config` prints every setting with its default")]
    Toml {
        /// Where.
        path: String,
        /// What the parser says, with the line.
        reason: String,
    },
    /// A value that makes no sense.
    #[error("setting {name}: {reason}")]
    Value {
        /// Section and name.
        name: String,
        /// What is wrong and what to write.
        reason: String,
    },
}

/// A duration written as `90s`, `5m`, `1h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text)
            .map(Self)
            .map_err(|e| serde::de::Error::custom(format!("{text:?} is not a duration like 90s or 5m: {e}")))
    }
}

impl Serialize for Span {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

/// All settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Who we are.
    pub device: DeviceSettings,
    /// The broker.
    pub mqtt: MqttSettings,
    /// The storage.
    pub upload: UploadSettings,
    /// Where logs come from by themselves.
    pub sources: SourceSettings,
    /// Modules made of files or journal units.
    #[serde(default)]
    pub modules: BTreeMap<String, ModuleSettings>,
    /// Our own log.
    pub log: LogSettings,
}

/// Who we are.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceSettings {
    /// Device id.
    #[serde(default)]
    pub id: String,
    /// First part of object names.
    pub hub: String,
    /// The parent's host name.
    #[serde(default)]
    pub gateway: String,
    /// What the owner said about proactive collection.
    pub consent: ProactiveConsent,
    /// Where the task table is.
    pub state_dir: PathBuf,
    /// Where bundles are made.
    #[serde(default)]
    pub temp_dir: PathBuf,
    /// Told to the controller at every connection.
    #[serde(default)]
    pub reported: toml::Table,
}

/// The broker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttSettings {
    /// `mqtt://` or `mqtts://`.
    pub url: String,
    /// User name.
    #[serde(default)]
    pub username: String,
    /// Password; better in a file.
    #[serde(default)]
    pub password: String,
    /// File with the password.
    #[serde(default)]
    pub password_file: PathBuf,
    /// Trusted roots.
    #[serde(default)]
    pub ca_file: PathBuf,
    /// Our certificate.
    #[serde(default)]
    pub certificate_file: PathBuf,
    /// Its key.
    #[serde(default)]
    pub key_file: PathBuf,
    /// Client id, with `{device}`.
    pub client_id: String,
    /// What topics begin with.
    pub prefix: String,
    /// One subscription to all requests, instead of one to each method.
    pub wildcard: bool,
    /// Keep-alive.
    pub keep_alive: Span,
    /// How long the broker keeps our session.
    pub session_expiry: Span,
    /// Will delay.
    pub will_delay: Span,
}

/// The storage.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UploadSettings {
    /// Trusted roots beside the system's.
    #[serde(default)]
    pub ca_file: PathBuf,
    /// Tries of one call.
    pub tries: u32,
    /// Longest one call may take.
    pub call_timeout: Span,
    /// Calls at once.
    pub connections: usize,
    /// Largest object.
    pub max_object_mb: u64,
}

/// Whether a source is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Use {
    /// Where it is there.
    Auto,
    /// Always; its absence is an error.
    On,
    /// Never.
    Off,
}

/// Where logs come from by themselves.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSettings {
    /// Containers.
    pub docker: Use,
    /// The engine's socket.
    pub docker_socket: PathBuf,
    /// The whole journal as one module.
    pub journal: Use,
    /// The program.
    pub journalctl: String,
    /// IoT Edge's program; empty is never.
    pub iotedge: String,
}

/// One module: files or journal units.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleSettings {
    /// Paths or patterns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<String>>,
    /// Units; an empty list is the whole journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<Vec<String>>,
}

/// Our own log.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    /// A level or a filter.
    pub level: String,
    /// `text` or `json`.
    pub format: LogFormat,
}

/// How our own log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

fn bad(name: &str, reason: impl ToString) -> SettingsError {
    SettingsError::Value { name: name.to_owned(), reason: reason.to_string() }
}

impl Settings {
    /// The defaults, and what a file says over them.
    ///
    /// # Errors
    /// [`SettingsError`], naming file and line.
    pub fn load(file: Option<&Path>) -> Result<Self, SettingsError> {
        let toml_error = |path: &str, reason: String| SettingsError::Toml { path: path.to_owned(), reason };
        let mut all: toml::Table = DEFAULTS.parse().map_err(|e: toml::de::Error| toml_error("built-in defaults", e.to_string()))?;
        let mut origin = "built-in defaults".to_owned();
        if let Some(path) = file {
            origin = path.display().to_string();
            let text = read_bounded("settings file", path, MAX_FILE_BYTES)?;
            let over: toml::Table = text.parse().map_err(|e: toml::de::Error| toml_error(&origin, e.to_string()))?;
            merge(&mut all, over);
        }
        all.try_into().map_err(|e: toml::de::Error| toml_error(&origin, e.to_string()))
    }

    /// Checks what only makes sense together and reads the password from its file.
    ///
    /// # Errors
    /// [`SettingsError`], naming the setting.
    pub fn finish(mut self) -> Result<Self, SettingsError> {
        if self.device.id.is_empty() {
            return Err(bad("device.id", "is needed; set it in the file or with --device"));
        }
        self.device_id()?;
        self.prefix()?;
        if !self.mqtt.password_file.as_os_str().is_empty() {
            if !self.mqtt.password.is_empty() {
                return Err(bad("mqtt.password", "is set beside mqtt.password_file; keep one of them"));
            }
            let text = read_bounded("mqtt.password_file", &self.mqtt.password_file, MAX_SECRET_BYTES)?;
            self.mqtt.password = text.trim_end_matches(['\r', '\n']).to_owned();
        }
        if !self.mqtt.password.is_empty() && self.mqtt.username.is_empty() {
            return Err(bad("mqtt.username", "is needed beside a password"));
        }
        if self.mqtt.keep_alive.0 < Duration::from_secs(5) {
            return Err(bad("mqtt.keep_alive", "must be at least 5s"));
        }
        for (name, value) in [
            ("upload.tries", u64::from(self.upload.tries)),
            ("upload.connections", self.upload.connections as u64),
            ("upload.max_object_mb", self.upload.max_object_mb),
        ] {
            if value == 0 {
                return Err(bad(name, "must be at least 1"));
            }
        }
        let reported = serde_json::to_vec(&self.device.reported).map_err(|error| bad("device.reported", error))?.len();
        if reported > MAX_REPORTED_BYTES {
            return Err(bad(
                "device.reported",
                format!("takes {reported} bytes; a birth message has room for {MAX_REPORTED_BYTES}, and one that is larger is refused"),
            ));
        }
        for (name, module) in &self.modules {
            let setting = format!("modules.{name}");
            let plain = !name.is_empty()
                && name.len() <= 100
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
                && !name.starts_with('.');
            if !plain {
                return Err(bad(&setting, "a module's name is made of A-Z a-z 0-9 - _ . and does not begin with a dot"));
            }
            match (&module.files, &module.journal) {
                (Some(files), None) if files.is_empty() || files.iter().any(|f| !f.starts_with('/')) => {
                    return Err(bad(&setting, "files needs absolute paths, like [\"/var/log/syslog\"]"));
                }
                (Some(_), None) | (None, Some(_)) => {}
                _ => return Err(bad(&setting, "needs either files or journal")),
            }
        }
        if self.device.temp_dir.as_os_str().is_empty() {
            self.device.temp_dir = self.device.state_dir.join("tmp");
        }
        Ok(self)
    }

    /// The id, parsed.
    ///
    /// # Errors
    /// [`SettingsError`] naming `device.id`.
    pub fn device_id(&self) -> Result<DeviceId, SettingsError> {
        self.device.id.parse().map_err(|e| bad("device.id", e))
    }

    /// The topic prefix, parsed.
    ///
    /// # Errors
    /// [`SettingsError`] naming `mqtt.prefix`.
    pub fn prefix(&self) -> Result<Prefix, SettingsError> {
        self.mqtt.prefix.parse().map_err(|e| bad("mqtt.prefix", e))
    }

    /// All settings as TOML, secrets masked.
    pub fn masked(&self) -> String {
        let mut shown = self.clone();
        if !shown.mqtt.password.is_empty() {
            shown.mqtt.password = MASK.to_owned();
        }
        mask_table(&mut shown.device.reported);
        toml::to_string(&shown).unwrap_or_else(|error| format!("# the settings cannot be shown: {error}\n"))
    }
}

fn mask_table(table: &mut toml::Table) {
    for (name, value) in table.iter_mut() {
        match value {
            toml::Value::Table(inner) => mask_table(inner),
            value if crate::bundle::redact::is_secret(name) => *value = MASK.into(),
            _ => {}
        }
    }
}

fn merge(base: &mut toml::Table, over: toml::Table) {
    for (name, value) in over {
        match (base.get_mut(&name), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => {
                base.insert(name, value);
            }
        }
    }
}

/// A small text file; larger ones are refused before they are read.
pub fn read_bounded(what: &'static str, path: &Path, limit: u64) -> Result<String, SettingsError> {
    let error = |reason: String| SettingsError::File { what, path: path.to_owned(), reason };
    let size = std::fs::metadata(path).map_err(|e| error(e.to_string()))?.len();
    if size > limit {
        return Err(error(format!("has {size} bytes; at most {limit} are read")));
    }
    std::fs::read_to_string(path).map_err(|e| error(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Settings, SettingsError> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        Settings::load(Some(file.path())).and_then(Settings::finish)
    }

    #[test]
    fn defaults_are_complete_and_a_file_goes_over_them() {
        let settings =
            load("[device]\nid = \"d\"\n[mqtt]\nkeep_alive = \"2m\"\n[modules.a]\nfiles = [\"/x\"]\n[device.reported]\nfirmware = \"1\"")
                .expect("settings");
        assert_eq!((settings.device.id.as_str(), settings.mqtt.keep_alive.0), ("d", Duration::from_secs(120)));
        assert_eq!(settings.mqtt.prefix, "muster/v1");
        assert_eq!(settings.device.temp_dir, Path::new("/var/lib/muster-agent/tmp"));
        assert_eq!(settings.modules["a"].files, Some(vec!["/x".to_owned()]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, expected) in [
            ("", "device.id: is needed"),
            ("[device]\nid = \"a/b\"", "device.id"),
            ("[device]\nid = \"d\"\n[mqtt]\nurk = 1", "unknown field `urk`"),
            ("[nonsense]", "unknown field `nonsense`"),
            ("[device", "muster-agent config"),
            ("[device]\nid = \"d\"\n[mqtt]\nkeep_alive = \"soon\"", "not a duration like 90s"),
            ("[device]\nid = \"d\"\n[mqtt]\nkeep_alive = \"1s\"", "mqtt.keep_alive: must be at least 5s"),
            ("[device]\nid = \"d\"\n[mqtt]\nprefix = \"#\"", "mqtt.prefix"),
            ("[device]\nid = \"d\"\n[mqtt]\npassword = \"x\"", "mqtt.username: is needed"),
            ("[device]\nid = \"d\"\n[mqtt]\npassword = \"x\"\npassword_file = \"/y\"", "keep one of them"),
            ("[device]\nid = \"d\"\n[mqtt]\npassword_file = \"/nowhere/pw\"", "/nowhere/pw"),
            ("[device]\nid = \"d\"\n[modules.\"../x\"]\njournal = []", "a module's name"),
            ("[device]\nid = \"d\"\n[modules.x]", "either files or journal"),
            ("[device]\nid = \"d\"\n[modules.x]\nfiles = [\"rel\"]", "absolute paths"),
            ("[device]\nid = \"d\"\n[upload]\ntries = 0", "upload.tries"),
        ] {
            let error = load(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_reported_fits_a_birth() {
        let text = |bytes: usize| format!("[device]\nid = \"d\"\n[device.reported]\nx = \"{}\"", "y".repeat(bytes - "{'x':''}".len()));
        assert!(load(&text(MAX_REPORTED_BYTES)).is_ok());
        let error = load(&text(MAX_REPORTED_BYTES + 1)).expect_err("too much").to_string();
        assert!(error.contains("device.reported") && error.contains("12288"), "{error}");
    }

    #[test]
    fn large_files_are_refused_unread() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(10 * 1024 * 1024).expect("sized");
        let error = Settings::load(Some(file.path())).expect_err("too large").to_string();
        assert!(error.contains("at most 262144"), "{error}");
    }

    #[test]
    fn shown_settings_hold_no_secret() {
        let text = "[device]\nid = \"d\"\n[device.reported]\napi_key = \"hunter2\"\nsite = \"oslo\"\n[mqtt]\nusername = \"u\"\npassword = \"hunter2\"";
        let shown = load(text).expect("settings").masked();
        assert!(!shown.contains("hunter2") && shown.contains("oslo") && shown.contains("***"), "{shown}");
    }
}
