//! `$upstream`: the host name that means "the parent device" in a nested deployment.

use std::borrow::Cow;

use super::MethodError;

const PLACEHOLDER: &str = "$upstream";

/// Replaces `$upstream` before a `:` and a port that starts with 1 to 9 by the parent's host name. Of several, the last one.
/// A device without a parent answers 400.
pub fn rewrite<'a>(url: &'a str, gateway_host: Option<&str>) -> Result<Cow<'a, str>, MethodError> {
    let found = url.rmatch_indices(PLACEHOLDER).find(|(at, _)| {
        let after = &url.as_bytes()[at + PLACEHOLDER.len()..];
        matches!(after, [b':', b'1'..=b'9', ..])
    });
    let Some((at, _)) = found else { return Ok(Cow::Borrowed(url)) };
    let host = gateway_host
        .filter(|host| !host.is_empty())
        .ok_or_else(|| MethodError::bad_request("sasUrl names $upstream, but this device has no parent (gateway host name not set)"))?;
    Ok(Cow::Owned([&url[..at], host, &url[at + PLACEHOLDER.len()..]].concat()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_valid_one_is_replaced() {
        let rewritten = |url| rewrite(url, Some("parent")).expect("a gateway").into_owned();
        assert_eq!(rewritten("https://$upstream:1/$upstream:0"), "https://parent:1/$upstream:0");
        assert_eq!(rewritten("https://$UPSTREAM:8000/c"), "https://$UPSTREAM:8000/c");
        assert_eq!(rewritten("$upstream"), "$upstream");
        assert_eq!(rewrite("$upstream:8000", None).expect_err("no parent").status(), 400);
        assert_eq!(rewrite("https://host/c", None).expect("nothing to replace"), "https://host/c");
    }

    proptest! {
        #[test]
        fn never_panics(url in "(\\PC|\\$upstream|:[0-9]){0,20}") {
            let _ = rewrite(&url, Some("parent"));
            let _ = rewrite(&url, None);
        }
    }
}
