//! The catalogue as a page for everybody: what devices may raise, and what is collected for each, since when.
//!
//! Plain HTML without a script, an image or a link elsewhere, so that it can be read anywhere and checked by looking at it.

use std::fmt::{self, Write as _};

use muster_wire::http::{CatalogueView, IndicatorView, span_in_words};
use time::OffsetDateTime;
use time::macros::format_description;

/// What a browser may load with the page: nothing but the style inside.
pub(crate) const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = "body{font:1rem/1.5 system-ui,sans-serif;max-width:48rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}\
    h2{margin:2rem 0 .25rem;font-size:1.15rem;overflow-wrap:anywhere}p{margin:.5rem 0;overflow-wrap:anywhere}\
    dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;margin:.5rem 0}dt{color:#595959}dd{margin:0;overflow-wrap:anywhere}\
    @media(prefers-color-scheme:dark){body{color:#e6e6e6;background:#161616}dt{color:#a8a8a8}}";

/// A text in which nothing is markup any more.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            // Neither what HTML does not allow nor what makes text read in another order than it is written.
            c if (c.is_control() && !matches!(c, '\n' | '\t')) || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                f.write_char(char::REPLACEMENT_CHARACTER)
            }
            c => f.write_char(c),
        })
    }
}

fn day(at: OffsetDateTime) -> String {
    let day = at.to_offset(time::UtcOffset::UTC).format(format_description!("[year]-[month]-[day]"));
    day.expect("a date has year, month and day")
}

/// The page.
pub(crate) fn page(catalogue: &CatalogueView) -> String {
    let version = catalogue.catalogue_version;
    let mut html = String::with_capacity(2_000 + 1_000 * catalogue.indicators.len());
    let _ = write!(
        html,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>What is collected without being asked</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>What is collected without being asked</h1>\n\
         <p>When a device raises one of these indicators, and its owner has agreed, the logs named here are collected at once. Nothing else is, \
         and memory dumps never are. Without consent no request of any kind goes to the device.</p>\n\
         <p>Catalogue version {version}, of <time datetime=\"{day}\">{day}</time>.</p>\n",
        day = day(catalogue.changed_at),
    );
    if catalogue.indicators.is_empty() {
        html.push_str("<p>The catalogue is empty: nothing is collected without being asked.</p>\n");
    }
    for indicator in &catalogue.indicators {
        entry(&mut html, indicator);
    }
    html.push_str("</main>\n</body>\n</html>\n");
    html
}

fn entry(html: &mut String, indicator: &IndicatorView) {
    let new = &indicator.definition;
    let off = if new.enabled { "" } else { " <small>(switched off: nothing is collected for it)</small>" };
    let _ = write!(html, "<h2>{}{off}</h2>\n<p>{}</p>\n<dl>\n", Escaped(&new.name), Escaped(&new.description));
    let _ = writeln!(html, "<dt>Collected</dt><dd>{}</dd>", Escaped(&new.in_words()));
    if new.cooldown_seconds > 0 {
        let _ = writeln!(html, "<dt>Not again for</dt><dd>{} on the same device</dd>", span_in_words(new.cooldown_seconds));
    }
    if let Some(bytes) = new.max_bytes {
        let _ = writeln!(html, "<dt>At most</dt><dd>{bytes} bytes a day, of all devices</dd>");
    }
    let dated = |at, version| format!("<time datetime=\"{day}\">{day}</time>, with version {version}", day = day(at));
    let _ = writeln!(html, "<dt>Added</dt><dd>{}</dd>", dated(indicator.added_at, indicator.since_catalogue_version));
    if indicator.changed_in_catalogue_version != indicator.since_catalogue_version {
        let _ = writeln!(html, "<dt>Changed</dt><dd>{}</dd>", dated(indicator.changed_at, indicator.changed_in_catalogue_version));
    }
    html.push_str("</dl>\n");
}

#[cfg(test)]
mod tests {
    use muster_wire::http::{CollectionRequest, NewIndicator, Priority};
    use time::macros::datetime;

    use super::*;

    fn indicator(name: &str, description: &str) -> IndicatorView {
        IndicatorView {
            definition: NewIndicator {
                name: name.to_owned(),
                description: description.to_owned(),
                enabled: true,
                collect: CollectionRequest::Bundle { since: None, edge_runtime_only: true },
                lookback_seconds: 7200,
                lookahead_seconds: 0,
                cooldown_seconds: 3600,
                priority: Priority::Normal,
                max_bytes: None,
            },
            since_catalogue_version: 1,
            changed_in_catalogue_version: 1,
            added_at: datetime!(2026-11-28 09:00 UTC),
            changed_at: datetime!(2026-11-28 09:00 UTC),
            changed_by: "somebody-of-ours".to_owned(),
        }
    }

    fn catalogue(indicators: Vec<IndicatorView>) -> CatalogueView {
        CatalogueView { catalogue_version: 7, changed_at: datetime!(2027-01-02 23:30 -02:00), indicators }
    }

    #[test]
    fn it_says_what_and_since_when_and_not_who() {
        let changed = IndicatorView {
            changed_in_catalogue_version: 7,
            changed_at: datetime!(2027-01-03 01:30 UTC),
            ..indicator("AcsUnhealthyCondition", "Its storage is not well.")
        };
        let off = indicator("Old", "");
        let off = IndicatorView { definition: NewIndicator { enabled: false, ..off.definition }, ..off };
        let html = page(&catalogue(vec![changed, off]));
        for words in [
            "Catalogue version 7, of <time datetime=\"2027-01-03\">",
            "<h2>AcsUnhealthyCondition</h2>\n<p>Its storage is not well.</p>",
            "A support bundle of the edge runtime only (edgeAgent and edgeHub), from 2 hours before the alert up to the moment it is asked for.",
            "1 hour on the same device",
            "<dt>Added</dt><dd><time datetime=\"2026-11-28\">2026-11-28</time>, with version 1</dd>",
            "<dt>Changed</dt><dd><time datetime=\"2027-01-03\">2027-01-03</time>, with version 7</dd>",
            "switched off",
        ] {
            assert!(html.contains(words), "{words:?} is not in {html}");
        }
        assert_eq!(html.matches("<dt>Changed</dt>").count(), 1, "what never changed does not say so");
        assert!(!html.contains("somebody-of-ours") && !html.contains("<script") && !html.contains("http"), "{html}");
        assert!(page(&catalogue(vec![])).contains("The catalogue is empty"));
    }

    #[test]
    fn nothing_in_an_entry_is_markup() {
        let html = page(&catalogue(vec![indicator("</h2><script>alert(1)</script>", "\"><img src=x onerror='x'>&amp;\u{1b}[2J\u{202e}")]));
        assert!(!html.contains("<script") && !html.contains("<img") && !html.contains('\u{1b}') && !html.contains('\u{202e}'), "{html}");
        assert!(html.contains("&lt;/h2&gt;&lt;script&gt;") && html.contains("&quot;&gt;&lt;img src=x onerror=&#39;x&#39;&gt;&amp;amp;"));
    }
}
