//! Shared access signatures: the part of a grant's URL that lets a device write into one container for a while.
//!
//! Three uses of one layout: grants of an Azure account that we hold the key of, grants of an account we only have an
//! identity in (signed with a user delegation key), and grants of our own endpoint, which checks them too. All are
//! `sr=c` (a whole container, as blocks need more than one name's permission) and `sp=cw` (create and write: staging a
//! block needs `w`), never read, list or delete.

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac as _};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::Sha256;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// The version of the layout; the newest that all servers we know of accept.
pub(crate) const SAS_VERSION: &str = "2022-11-02";
/// What a grant permits.
pub(crate) const GRANT_PERMISSIONS: &str = "cw";
const CONTAINER_RESOURCE: &str = "c";
const SECONDS: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
/// Everything but the unreserved characters, `+` and `/` of base64 included.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// Parameters that only shape the answer to a read; part of what is signed.
const RESPONSE_OVERRIDES: [&str; 5] = ["rscc", "rscd", "rsce", "rscl", "rsct"];

/// An HMAC-SHA256 key with its schedule computed once. Never printed.
#[derive(Clone)]
pub(crate) struct SigningKey(Hmac<Sha256>);

impl SigningKey {
    pub(crate) fn new(key: &[u8]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC takes a key of any length"))
    }

    /// Base64 of the signature.
    pub(crate) fn sign(&self, text: &str) -> String {
        let mut mac = self.0.clone();
        mac.update(text.as_bytes());
        BASE64.encode(mac.finalize().into_bytes())
    }

    /// In constant time.
    fn verifies(&self, text: &str, signature: &str) -> bool {
        let Ok(signature) = BASE64.decode(signature) else { return false };
        let mut mac = self.0.clone();
        mac.update(text.as_bytes());
        mac.verify_slice(&signature).is_ok()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

/// Over which protocols a grant may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocols {
    HttpsOnly,
    HttpsAndHttp,
}

impl Protocols {
    pub(crate) fn of_scheme(scheme: &str) -> Self {
        if scheme == "https" { Self::HttpsOnly } else { Self::HttpsAndHttp }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::HttpsOnly => "https",
            Self::HttpsAndHttp => "https,http",
        }
    }
}

/// Facts of a user delegation key, as the account handed it out.
#[derive(Debug, Clone)]
pub(crate) struct DelegationKey {
    pub(crate) key: SigningKey,
    pub(crate) object_id: String,
    pub(crate) tenant_id: String,
    pub(crate) starts_at: OffsetDateTime,
    pub(crate) expires_at: OffsetDateTime,
    pub(crate) service: String,
    pub(crate) version: String,
}

/// `2026-11-21T08:15:00Z`
pub(crate) fn instant(at: OffsetDateTime) -> String {
    at.to_offset(time::UtcOffset::UTC).format(SECONDS).expect("a date formats")
}

fn parse_instant(text: &str) -> Option<OffsetDateTime> {
    time::PrimitiveDateTime::parse(text, SECONDS).ok().map(time::PrimitiveDateTime::assume_utc)
}

/// `/blob/{account}/{container}`: what a container's grant is signed for.
pub(crate) fn container_resource(account: &str, container: &str) -> String {
    format!("/blob/{account}/{container}")
}

/// The query of a grant signed with an account's key, or with our own endpoint's.
pub(crate) fn service_grant(key: &SigningKey, resource: &str, expires_at: OffsetDateTime, protocols: Protocols) -> String {
    let expiry = instant(expires_at);
    let text = service_text(resource, |name| match name {
        "sp" => GRANT_PERMISSIONS,
        "se" => &expiry,
        "spr" => protocols.as_str(),
        "sv" => SAS_VERSION,
        "sr" => CONTAINER_RESOURCE,
        _ => "",
    });
    query(&[
        ("sv", SAS_VERSION),
        ("sr", CONTAINER_RESOURCE),
        ("sp", GRANT_PERMISSIONS),
        ("se", &expiry),
        ("spr", protocols.as_str()),
        ("sig", &key.sign(&text)),
    ])
}

/// The query of a grant signed with a user delegation key.
pub(crate) fn delegated_grant(key: &DelegationKey, resource: &str, expires_at: OffsetDateTime, protocols: Protocols) -> String {
    let (expiry, key_start, key_expiry) = (instant(expires_at), instant(key.starts_at), instant(key.expires_at));
    let text = [
        GRANT_PERMISSIONS,
        "", // start
        &expiry,
        resource,
        &key.object_id,
        &key.tenant_id,
        &key_start,
        &key_expiry,
        &key.service,
        &key.version,
        "", // authorised user
        "", // unauthorised user
        "", // correlation id
        "", // addresses
        protocols.as_str(),
        SAS_VERSION,
        CONTAINER_RESOURCE,
        "", // snapshot
        "", // encryption scope
        "",
        "",
        "",
        "",
        "", // five response overrides
    ]
    .join("\n");
    query(&[
        ("sv", SAS_VERSION),
        ("sr", CONTAINER_RESOURCE),
        ("sp", GRANT_PERMISSIONS),
        ("se", &expiry),
        ("spr", protocols.as_str()),
        ("skoid", &key.object_id),
        ("sktid", &key.tenant_id),
        ("skt", &key_start),
        ("ske", &key_expiry),
        ("sks", &key.service),
        ("skv", &key.version),
        ("sig", &key.key.sign(&text)),
    ])
}

fn service_text<'a>(resource: &'a str, field: impl Fn(&str) -> &'a str) -> String {
    let mut lines = vec![field("sp"), field("st"), field("se"), resource];
    lines.extend(["si", "sip", "spr", "sv", "sr", "snapshot", "ses"].map(&field));
    lines.extend(RESPONSE_OVERRIDES.map(&field));
    lines.join("\n")
}

fn query(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, VALUE))).collect();
    pairs.join("&")
}

/// Why a request with this query may not write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotGranted {
    Unsigned,
    Forged,
    Expired,
    NotYet,
    Permission,
    Protocol,
}

/// Check a grant of our own endpoint. The signature comes first: nothing that is not signed is looked at.
pub(crate) fn check(
    key: &SigningKey,
    resource: &str,
    parameters: &HashMap<String, String>,
    now: OffsetDateTime,
    came_over_plain_http: bool,
) -> Result<(), NotGranted> {
    let field = |name: &str| parameters.get(name).map_or("", String::as_str);
    if field("sig").is_empty() {
        return Err(NotGranted::Unsigned);
    }
    if !key.verifies(&service_text(resource, field), field("sig")) || field("sv") != SAS_VERSION || field("sr") != CONTAINER_RESOURCE {
        return Err(NotGranted::Forged);
    }
    if parse_instant(field("se")).is_none_or(|expiry| expiry <= now) {
        return Err(NotGranted::Expired);
    }
    if !field("st").is_empty() && parse_instant(field("st")).is_none_or(|start| start > now) {
        return Err(NotGranted::NotYet);
    }
    if field("sp") != GRANT_PERMISSIONS {
        return Err(NotGranted::Permission);
    }
    if came_over_plain_http && field("spr") == Protocols::HttpsOnly.as_str() {
        return Err(NotGranted::Protocol);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::Duration;
    use time::macros::datetime;

    fn parameters(query: &str) -> HashMap<String, String> {
        url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()
    }

    #[test]
    fn a_service_grant_is_these_characters() {
        // Computed with another implementation of the published layout (Python's hmac over the sixteen lines).
        let key = SigningKey::new(b"0123456789abcdef0123456789abcdef");
        let query = service_grant(&key, "/blob/landing/inbox-x", datetime!(2026-11-21 08:15:00 UTC), Protocols::HttpsAndHttp);
        assert_eq!(
            query,
            "sv=2022-11-02&sr=c&sp=cw&se=2026-11-21T08%3A15%3A00Z&spr=https%2Chttp&sig=togLx9NBWsK2j%2Bwr95moiEoiX7nW7JAJGpjXmkjrKHM%3D"
        );
    }

    #[test]
    fn a_delegated_grant_is_these_characters() {
        let key = DelegationKey {
            key: SigningKey::new(b"0123456789abcdef0123456789abcdef"),
            object_id: "11111111-1111-1111-1111-111111111111".into(),
            tenant_id: "22222222-2222-2222-2222-222222222222".into(),
            starts_at: datetime!(2026-11-20 00:00:00 UTC),
            expires_at: datetime!(2026-11-27 00:00:00 UTC),
            service: "b".into(),
            version: "2026-04-06".into(),
        };
        let query = delegated_grant(&key, "/blob/acct/inbox-x", datetime!(2026-11-21 08:15:00 UTC), Protocols::HttpsOnly);
        assert!(query.ends_with("&sig=PH06F3Ifn%2B0ih144iRVQGsoCtuu3GHhQfz7xD2apsiM%3D"), "{query}");
        assert!(query.contains(
            "&skoid=11111111-1111-1111-1111-111111111111&sktid=22222222-2222-2222-2222-222222222222&skt=2026-11-20T00%3A00%3A00Z"
        ));
    }

    #[test]
    fn only_an_untouched_grant_within_its_time_passes() {
        let key = SigningKey::new(b"key");
        let now = OffsetDateTime::now_utc();
        let resource = container_resource("landing", "inbox-x");
        let minted = parameters(&service_grant(&key, &resource, now + Duration::hours(1), Protocols::HttpsOnly));
        let asked = |p: &HashMap<String, String>, resource: &str, now, plain| check(&key, resource, p, now, plain);
        assert_eq!(asked(&minted, &resource, now, false), Ok(()));
        assert_eq!(asked(&minted, &resource, now, true), Err(NotGranted::Protocol));
        assert_eq!(asked(&minted, &resource, now + Duration::hours(2), false), Err(NotGranted::Expired));
        assert_eq!(asked(&minted, &container_resource("landing", "inbox-y"), now, false), Err(NotGranted::Forged));
        assert_eq!(check(&SigningKey::new(b"other"), &resource, &minted, now, false), Err(NotGranted::Forged));
        assert_eq!(asked(&HashMap::new(), &resource, now, false), Err(NotGranted::Unsigned));
        for (name, value) in [
            ("sp", "rcwdl"),
            ("se", "2099-01-01T00:00:00Z"),
            ("sr", "b"),
            ("sv", "2020-01-01"),
            ("st", "2020-01-01T00:00:00Z"),
            ("sig", "AAAA"),
            ("sig", "%%"),
        ] {
            let mut touched = minted.clone();
            touched.insert(name.into(), value.into());
            assert_eq!(asked(&touched, &resource, now, false), Err(NotGranted::Forged), "{name}={value}");
        }
    }

    #[test]
    fn a_key_does_not_print() {
        assert_eq!(format!("{:?}", SigningKey::new(b"secret")), "SigningKey");
    }
}
