//! What is collected, in a sentence: for the public page of the catalogue and for people at a terminal.

use std::fmt::Write as _;

use super::{CollectionRequest, NewIndicator};
use crate::method::request::LogItem;

/// A span as a person would say it: `90 seconds`, `2 hours`, `1 day`. Whole units only; what does not divide stays in the smaller one.
pub fn span_in_words(seconds: u64) -> String {
    let (number, unit) = match seconds {
        0 => return "no time".to_owned(),
        _ if seconds.is_multiple_of(86_400) => (seconds / 86_400, "day"),
        _ if seconds.is_multiple_of(3_600) => (seconds / 3_600, "hour"),
        _ if seconds.is_multiple_of(60) => (seconds / 60, "minute"),
        _ => (seconds, "second"),
    };
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}

/// Names as in speech: `a`, `a and b`, `a, b and c`.
fn and(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

fn item_in_words(item: &LogItem) -> String {
    let mut words = if item.id.eq_ignore_ascii_case("all") { "all modules".to_owned() } else { item.id.clone() };
    let filter = &item.filter;
    let limits = [
        filter.tail.map(|lines| format!("the last {lines} lines")),
        filter.loglevel.map(|level| format!("only level {level}")),
        filter.regex.as_ref().map(|pattern| format!("only lines that match {pattern}")),
    ];
    let limits: Vec<String> = limits.into_iter().flatten().collect();
    if !limits.is_empty() {
        let _ = write!(words, " ({})", limits.join(", "));
    }
    words
}

impl CollectionRequest {
    /// What a device is asked for, in words and without times: `logs of edgeAgent and edgeHub`.
    pub fn in_words(&self) -> String {
        match self {
            Self::Bundle { edge_runtime_only: false, .. } => "a support bundle of the whole device".to_owned(),
            Self::Bundle { edge_runtime_only: true, .. } => "a support bundle of the edge runtime only (edgeAgent and edgeHub)".to_owned(),
            Self::UploadLogs { items, .. } | Self::Logs { items, .. } => {
                format!("logs of {}", and(&items.iter().map(item_in_words).collect::<Vec<_>>()))
            }
            Self::Ping {} => "nothing: it is only asked whether it answers".to_owned(),
        }
    }
}

impl NewIndicator {
    /// What is collected when it is raised, with its times, as one sentence.
    pub fn in_words(&self) -> String {
        let mut words = self.collect.in_words();
        let _ = write!(words, ", from {} before the alert ", span_in_words(self.lookback_seconds));
        match self.lookahead_seconds {
            0 => words.push_str("up to the moment it is asked for"),
            ahead => {
                let _ = write!(words, "until {} after it", span_in_words(ahead));
            }
        }
        // A sentence begins with a capital; module names further on keep their spelling.
        let mut chars = words.chars();
        chars.next().map(|first| first.to_uppercase().chain(chars).collect::<String>() + ".").unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Priority;
    use crate::method::request::{ContentType, Encoding, LogFilter};

    fn logs(items: Vec<LogItem>) -> CollectionRequest {
        CollectionRequest::UploadLogs { items, encoding: Encoding::Gzip, content_type: ContentType::Json }
    }

    fn item(id: &str) -> LogItem {
        LogItem { id: id.to_owned(), filter: LogFilter::default() }
    }

    #[test]
    fn spans_are_said_in_the_largest_unit_that_fits() {
        for (seconds, words) in [
            (0, "no time"),
            (1, "1 second"),
            (90, "90 seconds"),
            (60, "1 minute"),
            (3600, "1 hour"),
            (5400, "90 minutes"),
            (86_400, "1 day"),
            (604_800, "7 days"),
        ] {
            assert_eq!(span_in_words(seconds), words);
        }
    }

    #[test]
    fn what_is_collected_is_one_sentence() {
        let indicator = |collect, lookahead_seconds| NewIndicator {
            name: "X".to_owned(),
            description: String::new(),
            enabled: true,
            collect,
            lookback_seconds: 7200,
            lookahead_seconds,
            cooldown_seconds: 3600,
            priority: Priority::Normal,
            max_bytes: None,
        };
        let limited = LogFilter { tail: Some(500), regex: Some("fail|error".to_owned()), ..LogFilter::default() };
        let three = logs(vec![item("edgeAgent"), item("edgeHub"), LogItem { id: "update.*".to_owned(), filter: limited }]);
        assert_eq!(
            indicator(three, 0).in_words(),
            "Logs of edgeAgent, edgeHub and update.* (the last 500 lines, only lines that match fail|error), \
             from 2 hours before the alert up to the moment it is asked for."
        );
        assert_eq!(
            indicator(logs(vec![item("All")]), 300).in_words(),
            "Logs of all modules, from 2 hours before the alert until 5 minutes after it."
        );
        let bundle = CollectionRequest::Bundle { since: None, edge_runtime_only: false };
        assert!(indicator(bundle, 0).in_words().starts_with("A support bundle of the whole device, from 2 hours"));
    }
}
