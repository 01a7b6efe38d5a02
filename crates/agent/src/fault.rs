//! Scripted faults: what a device of a simulated fleet does wrong, by name. Each says what a controller that judges by the
//! evidence is expected to report for it; tests and the demo hold the product to that.

use std::time::Duration;

use muster_wire::Reason;

macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $name:ident = $word:literal, $description:literal => [$($reason:ident),+];)*) => {
        /// One way to misbehave.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Fault {
            $($(#[doc = $doc])+ $name,)*
        }

        impl Fault {
            /// Every fault.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its name in options and scripts.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// What it does, in one sentence.
            pub fn description(self) -> &'static str {
                match self { $(Self::$name => $description,)* }
            }

            /// What a controller is expected to report for a bundle asked of such a device, the likeliest first. Where there is more
            /// than one, the deadlines of the collection decide.
            pub fn expected(self) -> &'static [Reason] {
                match self { $(Self::$name => &[$(Reason::$reason),+],)* }
            }
        }
    };
}

faults! {
    /// Takes every request, acknowledges it, and never answers.
    Deaf = "deaf", "takes every request, acknowledges it, and never answers" => [NoAnswer, DeadlinePassed];
    /// Answers, reports and uploads only after the delay of the script.
    Slow = "slow", "answers and uploads late, by --slow-delay" => [Collected, NoAnswer, UploadUnfinished, DeadlinePassed];
    /// Away at the start, or from the first request on, for as long as the script says; then back and well.
    Offline = "offline", "away at the start or from its first request on, back after --away" => [Collected, DeviceOffline, NoAnswer];
    /// Stages a part of the bundle, commits nothing, and falls silent for good.
    HalfUpload = "half_upload", "stages a part of the bundle, never commits it, then silence" => [UploadUnfinished, UploadMissing];
    /// Says Completed and uploads nothing.
    Liar = "liar", "says Completed and uploads nothing" => [UploadMissing];
    /// Uploads the first half of its zip and says Completed.
    TruncatedZip = "truncated_zip", "uploads the first half of its zip and says Completed" => [UploadTruncated];
    /// Sends every answer and every status three times.
    Repeater = "repeater", "sends every answer and every status three times" => [Collected];
    /// Answers under correlation data of nobody, and starts nothing.
    WrongCorrelation = "wrong_correlation", "answers under correlation data of nobody and starts nothing" => [NoAnswer, DeadlinePassed];
    /// Works well, but every pushed status names a correlationId and an attempt of nobody.
    WrongStatus = "wrong_status", "works well, but pushes every status under an unknown correlationId and attempt" => [Collected];
    /// A clock that is hours wrong: in its birth, its object names and its log lines.
    ClockSkew = "clock_skew", "has a clock that is hours wrong, in its birth, object names and log lines" => [Collected];
    /// Cut from broker and storage in the middle of its upload; comes back and finishes it.
    DisconnectMidUpload = "disconnect_mid_upload", "is cut from broker and storage in the middle of its upload, returns after --away and finishes it" => [Collected, UploadUnfinished];
    /// Answers 400 to everything but `ping`.
    Refuser = "refuser", "answers 400 to everything but ping" => [RequestRefused];
    /// Answers 500 to everything but `ping`.
    Crasher = "crasher", "answers 500 to everything but ping" => [DeviceError];
    /// Stores a JSON error under the zip's name and says Completed, as IoT Edge does when its daemon refuses.
    ErrorDocument = "error_document", "stores a JSON error under the zip's name and says Completed" => [UploadErrorDocument];
    /// Uploads a zip of no bytes and says Completed.
    EmptyZip = "empty_zip", "uploads a zip of no bytes and says Completed" => [UploadEmpty];
    /// Uploads well, then restarts before it could say so: `GetTaskStatus` answers Unknown.
    Forgetful = "forgetful", "uploads well, then forgets all about it: GetTaskStatus answers Unknown" => [Collected];
}

impl std::str::FromStr for Fault {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let plain = word.replace('-', "_");
        Self::ALL.iter().copied().find(|fault| fault.as_str() == plain).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|fault| fault.as_str()).collect();
            format!("{word:?} is not a fault; known are {}", known.join(", "))
        })
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// The figures of the faults, the same for all devices of a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultFigures {
    /// How late a slow device is.
    pub slow_delay: Duration,
    /// How long a device stays away that leaves.
    pub away: Duration,
    /// How wrong a skewed clock is; behind or ahead, by device.
    pub clock_skew: Duration,
}

impl Default for FaultFigures {
    fn default() -> Self {
        Self { slow_delay: Duration::from_secs(3), away: Duration::from_secs(5), clock_skew: Duration::from_secs(7 * 3600) }
    }
}

/// Which devices have a fault.
#[derive(Debug, Clone, PartialEq)]
pub enum Who {
    /// This share of the fleet, 0 to 1, picked by the seed.
    Share(f64),
    /// These devices, counted from 1.
    Numbers(Vec<usize>),
}

impl Who {
    /// `2%`, or `3,7,9`.
    pub(crate) fn read(text: &str) -> Option<Self> {
        match text.trim().strip_suffix('%') {
            Some(share) => {
                let percent: f64 = share.trim().parse().ok()?;
                (0.0..=100.0).contains(&percent).then_some(Self::Share(percent / 100.0))
            }
            None => text.split(',').map(|n| n.trim().parse().ok().filter(|&n| n > 0)).collect::<Option<_>>().map(Self::Numbers),
        }
    }
}

/// One line of a script: `deaf=2%`, `liar=3,7,9`.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultRule {
    /// What they do.
    pub fault: Fault,
    /// Who does it.
    pub who: Who,
}

impl std::str::FromStr for FaultRule {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let usage = || format!("{text:?}: write NAME=SHARE% or NAME=DEVICE,DEVICE,…, like deaf=2% or liar=3,7,9");
        let (name, who) = text.split_once('=').ok_or_else(usage)?;
        let fault = name.trim().parse()?;
        Ok(Self { fault, who: Who::read(who).ok_or_else(usage)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_a_name_a_sentence_and_an_expectation() {
        for &fault in Fault::ALL {
            assert_eq!(fault.as_str().parse(), Ok(fault));
            assert_eq!(fault.as_str().replace('_', "-").parse(), Ok(fault));
            assert!(!fault.description().is_empty() && !fault.expected().is_empty(), "{fault}");
        }
    }

    #[test]
    fn rules_are_read_or_refused_with_an_example() {
        assert_eq!("deaf=2%".parse(), Ok(FaultRule { fault: Fault::Deaf, who: Who::Share(0.02) }));
        assert_eq!("half-upload = 0.5 %".parse(), Ok(FaultRule { fault: Fault::HalfUpload, who: Who::Share(0.005) }));
        assert_eq!("liar=3, 7,9".parse(), Ok(FaultRule { fault: Fault::Liar, who: Who::Numbers(vec![3, 7, 9]) }));
        for bad in ["deaf", "deaf=", "deaf=x", "deaf=-1%", "deaf=101%", "liar=0", "liar=1,,2", "liar=nan%"] {
            let error = bad.parse::<FaultRule>().expect_err(bad);
            assert!(error.contains("deaf=2%"), "{bad}: {error}");
        }
        assert!("lazy=2%".parse::<FaultRule>().expect_err("unknown").contains("truncated_zip"));
    }
}
