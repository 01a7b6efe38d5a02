//! Reason codes: why a task, or one attempt at it, ended as it did. A closed list; the number is a column, the word is the API.
//! `docs/REASONS.md` says for each what to do next, and a test holds that page to this list.

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $word:literal;)*) => {
        /// Why it ended. Numbers are stable: append, never renumber.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
        #[repr(i16)]
        pub enum Reason {
            $($(#[doc = $doc])+ #[serde(rename = $word)] $name = $code,)*
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The stable word.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// What it means, in one sentence for a person.
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)* }
            }
        }
    };
}

reasons! {
    /// The bundle is complete.
    Collected = 1, "collected";
    /// The bundle is there, but something is missing; the manifest says what and why.
    CollectedPartial = 2, "collected_partial";
    /// The device answered.
    Answered = 3, "answered";

    /// The device was offline until the deadline.
    DeviceOffline = 20, "device_offline";
    /// The request was sent and nothing came back in time.
    NoAnswer = 21, "no_answer";
    /// The device answered with an error of its own (500-class).
    DeviceError = 22, "device_error";
    /// The device refused the request (400-class).
    RequestRefused = 23, "request_refused";
    /// The device does not offer this method.
    MethodUnsupported = 24, "method_unsupported";
    /// The device does not speak this version of the protocol.
    ProtocolUnsupported = 25, "protocol_unsupported";
    /// The device's answer was not what the method promises.
    AnswerMalformed = 26, "answer_malformed";
    /// The device no longer knows the task and left nothing behind.
    TaskLost = 27, "task_lost";

    /// The device said the upload failed.
    UploadFailed = 40, "upload_failed";
    /// The device cancelled its upload.
    UploadCancelled = 41, "upload_cancelled";
    /// The device said the upload was complete, and nothing is there.
    UploadMissing = 42, "upload_missing";
    /// The upload had begun and was not finished in time.
    UploadUnfinished = 43, "upload_unfinished";
    /// The objects hold nothing.
    UploadEmpty = 44, "upload_empty";
    /// The object under a zip's name is not a zip.
    UploadNotAZip = 45, "upload_not_a_zip";
    /// The zip ends too early.
    UploadTruncated = 46, "upload_truncated";
    /// The zip or gzip is damaged inside.
    UploadDamaged = 47, "upload_damaged";
    /// A JSON error was stored under a zip's name.
    UploadErrorDocument = 48, "upload_error_document";
    /// An object or the whole upload is larger than allowed.
    UploadTooLarge = 49, "upload_too_large";
    /// The archive would expand beyond the limits, or names paths outside itself.
    UploadUnsafe = 50, "upload_unsafe";
    /// The permission to upload ran out before the upload was done.
    SasExpired = 51, "sas_expired";
    /// The landing zone could not be written or read.
    LandingUnavailable = 52, "landing_unavailable";

    /// The deadline passed before the task was done.
    DeadlinePassed = 60, "deadline_passed";
    /// An engineer cancelled the collection.
    CancelledByUser = 61, "cancelled_by_user";
    /// The device is not in the registry.
    DeviceUnknown = 62, "device_unknown";
    /// The device's owner has not consented.
    ConsentMissing = 63, "consent_missing";
    /// The collection stopped by its own abort rule.
    Aborted = 64, "aborted";
}

impl Reason {
    /// The number in the database.
    pub fn code(self) -> i16 {
        self as i16
    }

    /// From the number in the database.
    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.code() == code)
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for Reason {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == word).ok_or_else(|| format!("{word:?} is not a reason code"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_word_are_unique_and_come_back() {
        for &reason in Reason::ALL {
            assert_eq!(Reason::from_code(reason.code()), Some(reason));
            assert_eq!(reason.as_str().parse(), Ok(reason));
            assert_eq!(serde_json::to_value(reason).expect("a word"), reason.as_str());
            assert!(reason.sentence().ends_with('.'), "{reason}");
        }
    }
}
