//! What the owner said about collection that nobody asked for, as this device knows it.
//!
//! `muster-agent activate` writes the owner's word into the state directory; the running agent notices, says it in its birth, and goes by it
//! at once: a request that is marked as proactive is refused here where the owner has not agreed, whatever anybody else has on record.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use muster_wire::presence::ProactiveConsent;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Name of the file in the state directory.
pub const FILE: &str = "consent.json";
/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 4 * 1024;
/// How soon a running agent notices another word.
pub(crate) const NOTICED_EVERY: Duration = Duration::from_secs(2);
/// How often a device says its birth again while it stays connected: its word counts for 48 hours.
pub(crate) const SAID_AGAIN_EVERY: Duration = Duration::from_secs(12 * 3600);

/// The owner's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Word {
    /// The word.
    pub proactive_consent: ProactiveConsent,
    /// When it was said, by the device's clock; absent when it stands in the settings.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    pub at: Option<OffsetDateTime>,
}

/// Why the owner's word cannot be kept or read.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}; say it again with `muster-agent activate`")]
pub struct ConsentFileError {
    path: PathBuf,
    reason: String,
}

/// Keeps the owner's word, durably: a new file, synced, renamed over the old one, and the directory synced.
///
/// # Errors
/// [`ConsentFileError`] names the file.
pub fn write(state_dir: &Path, word: Word) -> Result<(), ConsentFileError> {
    let path = state_dir.join(FILE);
    let fail = |error: std::io::Error| ConsentFileError { path: path.clone(), reason: error.to_string() };
    std::fs::create_dir_all(state_dir).map_err(fail)?;
    let fresh = state_dir.join(format!("{FILE}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh).map_err(fail)?;
    let text = serde_json::to_vec(&word).expect("a word has only JSON members");
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(fail)?;
    std::fs::rename(&fresh, &path).map_err(fail)?;
    File::open(state_dir).and_then(|directory| directory.sync_all()).map_err(fail)
}

/// The owner's word, if it was ever given.
///
/// # Errors
/// [`ConsentFileError`] names the file: one that cannot be read is no consent.
pub fn read(state_dir: &Path) -> Result<Option<Word>, ConsentFileError> {
    let path = state_dir.join(FILE);
    let fail = |reason: String| ConsentFileError { path: path.clone(), reason };
    let mut text = Vec::new();
    match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error.to_string())),
        Ok(file) => file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(|error| fail(error.to_string()))?,
    };
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(fail(format!("larger than {MAX_FILE_BYTES} bytes")));
    }
    serde_json::from_slice(&text).map(Some).map_err(|error| fail(error.to_string()))
}

/// The word of a device in a running process.
#[derive(Debug)]
pub(crate) struct Consent {
    word: Mutex<Word>,
    /// Where it is kept; a simulated device keeps it nowhere.
    kept_in: Option<PathBuf>,
}

impl Consent {
    /// A simulated device's.
    pub(crate) fn simulated(word: ProactiveConsent) -> Self {
        Self { word: Mutex::new(Word { proactive_consent: word, at: None }), kept_in: None }
    }

    /// A real device's: what is kept, or else what the settings say.
    pub(crate) fn kept(state_dir: &Path, otherwise: ProactiveConsent) -> Self {
        let consent = Self { word: Mutex::new(Word { proactive_consent: otherwise, at: None }), kept_in: Some(state_dir.to_owned()) };
        consent.notice();
        consent
    }

    pub(crate) fn word(&self) -> Word {
        *self.word.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it is this.
    pub(crate) fn say(&self, word: Word) {
        *self.word.lock().unwrap_or_else(PoisonError::into_inner) = word;
    }

    /// Reads the file again.
    pub(crate) fn notice(&self) {
        let Some(directory) = &self.kept_in else { return };
        let found = match read(directory) {
            Ok(Some(word)) => word,
            Ok(None) => return,
            Err(error) => {
                tracing::error!("what the owner said about proactive collection cannot be read, so it is off: {error}");
                Word { proactive_consent: ProactiveConsent::Unknown, at: None }
            }
        };
        self.say(found);
    }

    /// Whether a request that nobody asked for is taken. The file is read for each: what the owner said a moment ago holds.
    pub(crate) fn allows(&self) -> bool {
        self.notice();
        // `default`: the owner left it to the terms, and what those say of silence is not known here.
        matches!(self.word().proactive_consent, ProactiveConsent::Enabled | ProactiveConsent::Default)
    }
}

/// Which words the devices of a fleet say, as shares of it; the rest says `unknown`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ConsentShares {
    /// Whose owner agreed.
    pub enabled: f64,
    /// Whose owner did not.
    pub disabled: f64,
    /// Whose owner left the choice open.
    pub default: f64,
}

/// One word of a fleet and its share, as it is typed: `enabled=80%`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConsentShare(ProactiveConsent, f64);

impl std::str::FromStr for ConsentShare {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || format!("{text:?}: write WORD=SHARE% with enabled, disabled or default, like enabled=80%");
        let (word, share) = text.split_once('=').ok_or_else(usage)?;
        let word = ProactiveConsent::from_word(word.trim());
        let percent: f64 = share.trim().strip_suffix('%').and_then(|share| share.trim().parse().ok()).ok_or_else(usage)?;
        if word == ProactiveConsent::Unknown || !(0.0..=100.0).contains(&percent) {
            return Err(usage());
        }
        Ok(Self(word, percent / 100.0))
    }
}

impl ConsentShares {
    /// From what was typed.
    ///
    /// # Errors
    /// When the shares come to more than everybody.
    pub fn of(typed: &[ConsentShare]) -> Result<Self, String> {
        let share = |word| typed.iter().filter(|typed| typed.0 == word).map(|typed| typed.1).sum::<f64>();
        let shares = Self {
            enabled: share(ProactiveConsent::Enabled),
            disabled: share(ProactiveConsent::Disabled),
            default: share(ProactiveConsent::Default),
        };
        let all = shares.enabled + shares.disabled + shares.default;
        if all > 1.0 + 1e-9 { Err(format!("the shares of --consent come to {:.0}%; at most 100%", all * 100.0)) } else { Ok(shares) }
    }

    /// The word of each device of a fleet; which devices they are follows from the seed, and not from the faults.
    pub(crate) fn assign(&self, devices: usize, seed: u64) -> Vec<ProactiveConsent> {
        let mut words = vec![ProactiveConsent::Unknown; devices];
        let mut order: Vec<usize> = (0..devices).collect();
        order.shuffle(&mut SmallRng::seed_from_u64(seed ^ 0x636f_6e73_656e_7421));
        let mut rest = order.into_iter();
        let shares = [
            (ProactiveConsent::Enabled, self.enabled),
            (ProactiveConsent::Disabled, self.disabled),
            (ProactiveConsent::Default, self.default),
        ];
        for (word, share) in shares {
            for index in rest.by_ref().take((share * devices as f64).round() as usize) {
                words[index] = word;
            }
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_kept_over_a_restart_and_noticed_at_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = directory.path().join("state");
        assert_eq!(read(&state).expect("nothing there"), None);
        let running = Consent::kept(&state, ProactiveConsent::Unknown);
        assert!(!running.allows());
        let at = Some(time::macros::datetime!(2026-11-28 08:00 UTC));
        write(&state, Word { proactive_consent: ProactiveConsent::Enabled, at }).expect("written");
        assert!(running.allows() && running.word().at == at);
        assert_eq!(Consent::kept(&state, ProactiveConsent::Disabled).word().at, at, "the file wins over the settings");
        write(&state, Word { proactive_consent: ProactiveConsent::Disabled, at }).expect("written");
        assert!(!running.allows(), "without waiting for a notice");
        for broken in ["", "{", "{\"proactiveConsent\":7}", &"x".repeat(5000)] {
            std::fs::write(state.join(FILE), broken).expect("written");
            assert!(read(&state).is_err() && !running.allows(), "{broken:.10}");
        }
        assert!(Consent::simulated(ProactiveConsent::Default).allows());
    }

    #[test]
    fn shares_are_exact_and_follow_from_the_seed() {
        let typed: Vec<ConsentShare> = ["enabled=80%", "disabled = 10 %"].iter().map(|text| text.parse().expect("a share")).collect();
        let shares = ConsentShares::of(&typed).expect("all together 90%");
        let words = shares.assign(200, 5);
        let count = |word| words.iter().filter(|said| **said == word).count();
        assert_eq!(
            [ProactiveConsent::Enabled, ProactiveConsent::Disabled, ProactiveConsent::Default, ProactiveConsent::Unknown].map(count),
            [160, 20, 0, 20]
        );
        assert_eq!(shares.assign(200, 5), words);
        assert_ne!(shares.assign(200, 6), words);
        for bad in ["enabled", "enabled=", "enabled=x%", "enabled=101%", "yes=1%", "unknown=5%", "enabled=5"] {
            assert!(bad.parse::<ConsentShare>().is_err(), "{bad}");
        }
        assert!(ConsentShares::of(&["enabled=60%", "disabled=50%"].map(|text| text.parse().expect("a share"))).is_err());
    }
}
