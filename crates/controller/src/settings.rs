//! Settings: defaults, file, environment, flags; checked against each other before anything starts.
//!
//! `default.toml` is both the documentation and the source of the defaults, and it holds every key there is: a key in any other layer that it
//! does not hold is an error that names the key and the layer.

mod alerts;
mod check;
mod secret;
mod sections;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use config::{Config, ConfigError, File, FileFormat};
use serde::{Deserialize, Serialize};

pub(crate) use check::{host_name, is_loopback_host};
pub use secret::{MAX_SECRET_FILE_BYTES, Secret};
pub use sections::*;

/// The commented defaults, as they stand in the repository.
pub const DEFAULT_TOML: &str = include_str!("../default.toml");
/// The file that is read when none is named and it exists in the working directory.
pub const DEFAULT_FILE: &str = "muster.toml";
/// Largest settings file.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// What environment variables of ours begin with.
pub const ENV_PREFIX: &str = "MUSTER__";

/// All settings, complete and checked.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The HTTP API.
    pub server: Server,
    /// The truth about work.
    pub database: Database,
    /// The broker of the devices.
    pub mqtt: Mqtt,
    /// The queue of alerts.
    pub amqp: Amqp,
    /// What is an alert, and how much may follow from it.
    pub intake: IntakeSettings,
    /// Where bundles land.
    pub landing: LandingSettings,
    /// How fast, how patient, how deep.
    pub dispatch: DispatchSettings,
    /// How long history is kept.
    pub retention: Retention,
    /// Who may use the API.
    pub auth: Auth,
    /// Logs.
    pub telemetry: Telemetry,
    /// Which layer each value comes from that is not a default.
    #[serde(skip)]
    sources: BTreeMap<String, Source>,
    /// Pairs of values that work and are risky.
    #[serde(skip)]
    warnings: Vec<String>,
}

/// A layer a value can come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A settings file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag => f.write_str("a flag"),
        }
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the settings file {}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than any settings file.
    #[error("the settings file {} is larger than {MAX_FILE_BYTES} bytes; is it the right file?", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
    /// The file is not TOML.
    #[error("{} is not valid TOML: {reason}", path.display())]
    NotToml {
        /// Which.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// No such setting.
    #[error("unknown setting {key} in {origin}{}", hint.as_ref().map(|hint| format!("; did you mean {hint}?")).unwrap_or_default())]
    Unknown {
        /// The key as given.
        key: String,
        /// Where it was given.
        origin: Source,
        /// The nearest key there is.
        hint: Option<String>,
    },
    /// A value of the wrong type or form.
    #[error("setting {key}{}: {reason}", origin.as_ref().map(|origin| format!(" in {origin}")).unwrap_or_default())]
    Invalid {
        /// Which.
        key: String,
        /// Where it was given; absent for a default.
        origin: Option<Source>,
        /// Why, and what to do.
        reason: String,
    },
    /// Values that do not go together.
    #[error("{reason}\nNext: {next_step}")]
    Refused {
        /// What, and why.
        reason: String,
        /// What to do.
        next_step: String,
    },
}

impl Settings {
    /// Reads all layers: the defaults, `file` (or `muster.toml` in the working directory, when it exists), the environment, and `overrides`
    /// (`section.key` and value, from flags).
    ///
    /// # Errors
    /// [`SettingsError`], naming the key or the file, the layer, and what to do.
    pub fn load(file: Option<&Path>, overrides: &[(String, String)]) -> Result<Self, SettingsError> {
        let default_file = Path::new(DEFAULT_FILE);
        let file = file.or_else(|| default_file.exists().then_some(default_file));
        Self::load_from(
            file,
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
            overrides,
        )
    }

    /// The same, with the environment passed in.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn load_from(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        overrides: &[(String, String)],
    ) -> Result<Self, SettingsError> {
        let known = known_keys();
        let mut sources = BTreeMap::new();
        let mut builder = Config::builder().add_source(File::from_str(DEFAULT_TOML, FileFormat::Toml));
        if let Some(path) = file {
            let text = read_file(path)?;
            let table: toml::Table = text
                .parse()
                .map_err(|error: toml::de::Error| SettingsError::NotToml { path: path.to_owned(), reason: error.to_string() })?;
            for key in flatten(&table) {
                note_source(&known, &mut sources, key, Source::File(path.to_owned()))?;
            }
            builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
        }
        let mut variables: Vec<_> = environment.into_iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)).collect();
        variables.sort();
        let from_environment = variables
            .into_iter()
            .map(|(name, value)| (name[ENV_PREFIX.len()..].to_ascii_lowercase().replace("__", "."), value, Source::Environment(name)));
        let from_flags = overrides.iter().map(|(key, value)| (key.clone(), value.clone(), Source::Flag));
        for (key, value, source) in from_environment.chain(from_flags) {
            note_source(&known, &mut sources, key.clone(), source.clone())?;
            builder = builder.set_override(&key, value).map_err(|error| invalid(error, &sources))?;
        }
        let mut settings: Self = builder.build().and_then(Config::try_deserialize).map_err(|error| invalid(error, &sources))?;
        settings.sources = sources;
        settings.resolve_secrets()?;
        settings.warnings = settings.check()?;
        Ok(settings)
    }

    /// Which layer a value comes from; `None` for a default.
    pub fn source(&self, key: &str) -> Option<&Source> {
        self.sources.get(key)
    }

    /// Values that work and are risky, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// All settings as TOML, secrets masked; a comment names the source of what is not a default.
    pub fn effective(&self) -> String {
        let values = toml::Value::try_from(self).expect("settings are tables of plain values");
        let mut text = String::new();
        let mut last_section = String::new();
        for key in known_keys() {
            let (section, name) = key.split_once('.').expect("every key of default.toml stands in a section");
            if section != last_section {
                text.push_str(&format!("{}[{section}]\n", if text.is_empty() { "" } else { "\n" }));
                last_section = section.to_owned();
            }
            let value = values.get(section).and_then(|table| table.get(name)).expect("every key of default.toml is a member of its struct");
            text.push_str(&format!("{name} = {value}"));
            if let Some(source) = self.sources.get(&key) {
                text.push_str(&format!(" # {source}"));
            }
            text.push('\n');
        }
        text
    }

    /// Puts what stands in `_file` twins into place; both at once would leave it open which one holds.
    fn resolve_secrets(&mut self) -> Result<(), SettingsError> {
        let sources = &self.sources;
        let resolve = |key: String, secret: &mut Secret, file: &mut PathBuf| {
            if file.as_os_str().is_empty() {
                return Ok(());
            }
            let refuse = |reason| SettingsError::Invalid {
                key: format!("{key}_file"),
                origin: sources.get(&format!("{key}_file")).cloned(),
                reason,
            };
            if !secret.is_empty() {
                return Err(refuse(format!("{key} is set as well; give one of the two")));
            }
            *secret = secret::read_file(file).map_err(refuse)?;
            Ok(())
        };
        resolve("database.url".to_owned(), &mut self.database.url, &mut self.database.url_file)?;
        resolve("mqtt.password".to_owned(), &mut self.mqtt.password, &mut self.mqtt.password_file)?;
        resolve("mqtt.embedded_device_key".to_owned(), &mut self.mqtt.embedded_device_key, &mut self.mqtt.embedded_device_key_file)?;
        resolve("amqp.url".to_owned(), &mut self.amqp.url, &mut self.amqp.url_file)?;
        resolve("landing.key".to_owned(), &mut self.landing.key, &mut self.landing.key_file)?;
        resolve("landing.connection_string".to_owned(), &mut self.landing.connection_string, &mut self.landing.connection_string_file)?;
        resolve("landing.client_secret".to_owned(), &mut self.landing.client_secret, &mut self.landing.client_secret_file)?;
        for (index, token) in self.auth.tokens.iter_mut().enumerate() {
            resolve(format!("auth.tokens[{index}].token"), &mut token.token, &mut token.token_file)?;
        }
        Ok(())
    }
}

/// Sections, in the order of `default.toml`.
const DEFAULT_SECTIONS: [&str; 10] =
    ["server", "database", "mqtt", "amqp", "intake", "landing", "dispatch", "retention", "auth", "telemetry"];

/// `section.key` of every line of `default.toml` that sets one, in its order.
fn known_keys() -> Vec<String> {
    let mut section = "";
    let mut keys = Vec::new();
    for line in DEFAULT_TOML.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            keys.push(format!("{section}.{key}"));
        }
    }
    keys
}

/// `section.key` of everything in a file, two levels deep; what stands outside a section keeps its bare name.
fn flatten(table: &toml::Table) -> Vec<String> {
    let keys = |(section, value): (&String, &toml::Value)| match value {
        toml::Value::Table(inner) if !inner.is_empty() => inner.keys().map(|key| format!("{section}.{key}")).collect(),
        _ => vec![section.clone()],
    };
    table.iter().flat_map(keys).collect()
}

fn note_source(known: &[String], sources: &mut BTreeMap<String, Source>, key: String, origin: Source) -> Result<(), SettingsError> {
    let is_empty_section = matches!(origin, Source::File(_)) && DEFAULT_SECTIONS.contains(&key.as_str());
    if is_empty_section {
        return Ok(());
    }
    if !known.contains(&key) {
        let name = key.rsplit('.').next().unwrap_or(&key);
        let nearest = known.iter().min_by_key(|candidate| {
            let same_section = candidate.split('.').next() == key.split('.').next();
            (distance(candidate, &key).min(distance(candidate.rsplit('.').next().unwrap_or(candidate), name)), !same_section)
        });
        let hint = nearest.filter(|near| distance(near, &key) <= 3 || near.rsplit('.').next() == Some(name)).cloned();
        return Err(SettingsError::Unknown { key, origin, hint });
    }
    sources.insert(key, origin);
    Ok(())
}

/// Edit distance, for "did you mean".
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(100).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(100).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let changed = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn read_file(path: &Path) -> Result<String, SettingsError> {
    let unreadable = |source| SettingsError::Unreadable { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    let read = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if read as u64 > MAX_FILE_BYTES {
        return Err(SettingsError::TooLarge { path: path.to_owned() });
    }
    Ok(text)
}

/// Names key and layer in an error of the layering library, which knows the key and not always the layer.
fn invalid(error: ConfigError, sources: &BTreeMap<String, Source>) -> SettingsError {
    let (key, reason) = describe(error);
    let whole = key.split('[').next().unwrap_or(&key).to_owned();
    SettingsError::Invalid { origin: sources.get(&whole).cloned(), key, reason }
}

fn describe(error: ConfigError) -> (String, String) {
    match error {
        ConfigError::Type { unexpected, expected, key, .. } => {
            let key = key.unwrap_or_default();
            let shown = if is_secret(&key) { "the value given".to_owned() } else { unexpected.to_string() };
            (key, format!("{shown} is not {expected}"))
        }
        ConfigError::At { error, key, .. } => {
            let (inner, reason) = describe(*error);
            (key.unwrap_or(inner), reason)
        }
        other => (String::new(), other.to_string()),
    }
}

/// A value under such a key is never repeated in a message.
fn is_secret(key: &str) -> bool {
    ["url", "password", "key", "connection_string", "secret", "token"].iter().any(|word| key.ends_with(word)) || key.starts_with("auth.")
}

#[cfg(test)]
mod tests;
