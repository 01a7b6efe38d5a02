//! The permission a device gets: one URL, write-only, one attempt's container, for a while.

use muster_wire::AttemptId;
use secrecy::{ExposeSecret as _, SecretString};
use time::{Duration, OffsetDateTime};

use crate::error::LandingError;
use crate::limits::MAX_GRANT_SECONDS;

const CONTAINER_PREFIX: &str = "inbox-";

/// A permission to write into one inbox. Its URL is a secret and does not print.
#[derive(Debug, Clone)]
pub struct Grant {
    url: SecretString,
    /// When it ends.
    pub expires_at: OffsetDateTime,
}

impl Grant {
    pub(crate) fn new(url: String, expires_at: OffsetDateTime) -> Self {
        Self { url: url.into(), expires_at }
    }

    /// The URL to hand to the device: a container with its signature.
    pub fn url(&self) -> &SecretString {
        &self.url
    }

    /// The URL of one object, as a client that got the grant would build it.
    pub(crate) fn object_url(&self, name: &str) -> String {
        let url = self.url.expose_secret();
        let (container, query) = url.split_once('?').expect("a grant has a query");
        format!("{container}/{name}?{query}")
    }
}

/// `inbox-01jd…-17-2`
pub(crate) fn container(attempt: AttemptId) -> String {
    format!("{CONTAINER_PREFIX}{}", attempt.stem())
}

/// The attempt a container belongs to, if it is spelt exactly as we spell it.
pub(crate) fn attempt_of(container: &str) -> Option<AttemptId> {
    let attempt: AttemptId = format!("att_{}", container.strip_prefix(CONTAINER_PREFIX)?).parse().ok()?;
    (self::container(attempt) == container).then_some(attempt)
}

pub(crate) fn check_lifetime(attempt: AttemptId, expires_at: OffsetDateTime) -> Result<(), LandingError> {
    let left = expires_at - OffsetDateTime::now_utc();
    if left <= Duration::ZERO {
        return Err(LandingError::Grant { attempt, reason: format!("it would have ended at {expires_at}") });
    }
    if left > Duration::seconds(MAX_GRANT_SECONDS) {
        return Err(LandingError::Grant { attempt, reason: format!("it would live until {expires_at}, the most are 7 days") });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_wire::CollectionId;

    #[test]
    fn a_container_names_its_attempt_in_one_spelling() {
        let attempt = CollectionId::new().task(17).attempt(2);
        let name = container(attempt);
        assert_eq!(attempt_of(&name), Some(attempt));
        for other in [name.to_uppercase(), format!("{name}-1"), name.replace("inbox-", ""), name.replace("-2", "-02"), "bundles".into()] {
            assert_eq!(attempt_of(&other), None, "{other}");
        }
    }

    #[test]
    fn a_grant_is_neither_over_nor_eternal() {
        let attempt = CollectionId::new().task(0).attempt(1);
        let now = OffsetDateTime::now_utc();
        assert!(check_lifetime(attempt, now + Duration::hours(1)).is_ok());
        assert!(check_lifetime(attempt, now - Duration::seconds(1)).is_err());
        assert!(check_lifetime(attempt, now + Duration::seconds(MAX_GRANT_SECONDS + 60)).is_err());
    }

    #[test]
    fn a_grant_does_not_print() {
        let grant = Grant::new("https://x/inbox-y?sig=secret".into(), OffsetDateTime::now_utc());
        assert!(!format!("{grant:?}").contains("secret"));
        assert_eq!(grant.object_url("a/b"), "https://x/inbox-y/a/b?sig=secret");
    }
}
