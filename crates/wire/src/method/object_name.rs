//! Names and properties of the objects a device writes. The time is the device's clock at the start of that upload, to the
//! second, so two uploads of one module in the same second are one object, and a name is a hint at best.

use time::OffsetDateTime;

use super::{ContentType, Encoding};

/// How an object is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobKind {
    /// In one go, or as a list of blocks.
    Block,
    /// Piece by piece.
    Append,
}

/// What an object is created with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectProperties {
    /// How it is written.
    pub kind: BlobKind,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// `Content-Encoding`, if any.
    pub content_encoding: Option<&'static str>,
}

/// Properties of a log object.
pub fn log_properties(content_type: ContentType, encoding: Encoding) -> ObjectProperties {
    let (kind, content_type) = match content_type {
        ContentType::Json => (BlobKind::Block, "application/json"),
        ContentType::Text => (BlobKind::Append, "text/plain"),
    };
    let content_encoding = match encoding {
        Encoding::None => None,
        Encoding::Gzip => Some("gzip"),
    };
    ObjectProperties { kind, content_type, content_encoding }
}

/// Properties of a support bundle. edgeAgent means to say `application/zip`, and its storage client loses that on the way.
pub const BUNDLE_PROPERTIES: ObjectProperties =
    ObjectProperties { kind: BlobKind::Block, content_type: "application/octet-stream", content_encoding: None };

/// File name extension of a log object, with its dot.
pub fn log_extension(content_type: ContentType, encoding: Encoding) -> &'static str {
    match (content_type, encoding) {
        (ContentType::Text, Encoding::None) => ".log",
        (ContentType::Text, Encoding::Gzip) => ".log.gz",
        (ContentType::Json, Encoding::None) => ".json",
        (ContentType::Json, Encoding::Gzip) => ".json.gz",
    }
}

/// Name of the log object of one module.
pub fn log_object(iothub: &str, device: &str, module: &str, at: OffsetDateTime, content_type: ContentType, encoding: Encoding) -> String {
    format!("{iothub}/{device}/{module}-{}{}", second_of(at), log_extension(content_type, encoding))
}

/// Name of a support bundle.
pub fn bundle_object(iothub: &str, device: &str, at: OffsetDateTime) -> String {
    format!("{iothub}/{device}/support-bundle-{}.zip", second_of(at))
}

fn second_of(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    format!("{:04}-{:02}-{:02}--{:02}-{:02}-{:02}", at.year(), u8::from(at.month()), at.day(), at.hour(), at.minute(), at.second())
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn the_name_is_in_utc() {
        let at = datetime!(2026-01-02 04:04:05.999 +1);
        assert_eq!(log_object("hub", "dev", "m", at, ContentType::Text, Encoding::Gzip), "hub/dev/m-2026-01-02--03-04-05.log.gz");
        assert_eq!(bundle_object("hub", "dev", at), "hub/dev/support-bundle-2026-01-02--03-04-05.zip");
    }
}
