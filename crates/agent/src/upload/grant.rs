//! A container grant: the URL we were given, and the URLs of objects in that container. The grant's own text is never
//! changed: the object's name goes behind the path, our query members behind the query.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use url::Url;

/// Longest URL of an object.
pub const MAX_URL_BYTES: usize = 8 * 1024;

/// All that may not stand bare in a path segment.
const SEGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b'\\')
    .add(b'^')
    .add(b'|')
    .add(b'+')
    .add(b'&');
/// Base64 of block ids inside a query.
const QUERY: &AsciiSet = &SEGMENT.add(b'=').add(b'/');

/// Why a text is no grant. It never quotes the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// Not a URL at all.
    #[error("sasUrl is not a URL: {0}")]
    NotAUrl(url::ParseError),
    /// Another scheme than HTTP.
    #[error("sasUrl has the scheme {0:?}; only http and https can be written to")]
    Scheme(String),
    /// The path names no container.
    #[error("the path of sasUrl names no container")]
    NoContainer,
    /// Longer than [`MAX_URL_BYTES`].
    #[error("sasUrl with the name of the object has more than {MAX_URL_BYTES} bytes")]
    TooLong,
}

/// A grant that can be used.
#[derive(Clone)]
pub(crate) struct Grant {
    path: String,
    query: String,
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Grant(***)")
    }
}

impl Grant {
    pub(crate) fn parse(text: &str) -> Result<Self, GrantError> {
        let url = Url::parse(text).map_err(GrantError::NotAUrl)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(GrantError::Scheme(url.scheme().chars().take(16).collect()));
        }
        if url.path().trim_matches('/').is_empty() {
            return Err(GrantError::NoContainer);
        }
        let bare = text.split('#').next().unwrap_or_default();
        let (path, query) = bare.split_once('?').unwrap_or((bare, ""));
        Ok(Self { path: path.trim_end_matches('/').to_owned(), query: query.to_owned() })
    }

    /// The URL of an object, with `more` behind the grant's own query.
    pub(crate) fn object(&self, name: &str, more: &str) -> Result<Url, GrantError> {
        let mut text = self.path.clone();
        for segment in name.split('/') {
            text.push('/');
            text.extend(utf8_percent_encode(segment, SEGMENT));
        }
        let joined: Vec<&str> = [self.query.as_str(), more].into_iter().filter(|part| !part.is_empty()).collect();
        if !joined.is_empty() {
            text.push('?');
            text.push_str(&joined.join("&"));
        }
        if text.len() > MAX_URL_BYTES {
            return Err(GrantError::TooLong);
        }
        Url::parse(&text).map_err(GrantError::NotAUrl)
    }
}

/// Id of a block: all of one length, as the storage wants it. Numbered, so that staging again replaces and never adds.
pub(crate) fn block_id(number: usize) -> String {
    STANDARD.encode(format!("muster-{number:08}"))
}

/// Query members of Put Block.
pub(crate) fn block_query(id: &str) -> String {
    format!("comp=block&blockid={}", utf8_percent_encode(id, QUERY))
}

/// Body of Put Block List.
pub(crate) fn block_list(count: usize) -> String {
    let ids: String = (0..count).map(|number| format!("<Latest>{}</Latest>", block_id(number))).collect();
    format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{ids}</BlockList>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grant_stays_as_it_is_and_the_name_goes_behind_the_path() {
        let grant = Grant::parse("http://127.0.0.1:1/acct/box/?sv=2022-11-02&sr=c&sig=a%2Bb%2Fc%3D&sp=cw").expect("a grant");
        let url = grant.object("hub 1/dev:ä/m-1.log", "comp=block").expect("a URL");
        assert_eq!(
            url.as_str(),
            "http://127.0.0.1:1/acct/box/hub%201/dev:%C3%A4/m-1.log?sv=2022-11-02&sr=c&sig=a%2Bb%2Fc%3D&sp=cw&comp=block"
        );
        let bare = Grant::parse("https://host/box").expect("a grant").object("a?b#c", "").expect("a URL");
        assert_eq!(bare.as_str(), "https://host/box/a%3Fb%23c");
    }

    #[test]
    fn what_cannot_be_written_to_is_refused_without_quoting_it() {
        for (text, what) in [
            ("", "not a URL"),
            ("not a url", "not a URL"),
            ("ftp://h/c?sig=secret", "scheme"),
            ("https://h?sig=secret", "container"),
            ("file:///etc/passwd", "scheme"),
        ] {
            let error = Grant::parse(text).expect_err(text).to_string();
            assert!(error.contains(what) && !error.contains("secret"), "{text}: {error}");
        }
        let long = Grant::parse("https://h/c").expect("a grant").object(&"x".repeat(MAX_URL_BYTES), "");
        assert_eq!(long, Err(GrantError::TooLong));
        assert_eq!(format!("{:?}", Grant::parse("https://h/c?sig=secret")), "Ok(Grant(***))");
    }

    #[test]
    fn block_ids_have_one_length_and_an_order() {
        assert_eq!(block_id(0).len(), block_id(49_999).len());
        assert_eq!(
            block_list(2),
            format!(
                "<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList><Latest>{}</Latest><Latest>{}</Latest></BlockList>",
                block_id(0),
                block_id(1)
            )
        );
        assert!(!block_query(&block_id(7)).contains("=="), "base64 padding is encoded in a query");
    }
}
