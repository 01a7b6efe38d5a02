//! A file of documents, YAML or JSON, under bounds: what `muster apply` and the definitions of rules and indicators have in common.

use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_saphyr::{Options, budget, options};

use crate::failure::Failure;

/// Deepest nesting. A collection has six levels, a definition five.
const MAX_DEPTH: usize = 32;
/// Most aliases (`*name`) in a file.
pub(crate) const MAX_ALIASES: usize = 100;
/// Most values that aliases may stand for, all together: what a file says once and uses often, and not what grows by itself.
pub(crate) const MAX_ALIASED_NODES: usize = 10_000;

/// The option that named a file, for messages about it.
pub(crate) fn option(path: &Path) -> String {
    format!("--file {}", path.display())
}

/// A file to be read; `-` is standard input.
pub(crate) fn open(path: &Path) -> Result<Box<dyn Read>, Failure> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(std::io::stdin().lock()));
    }
    let file = std::fs::File::open(path).map_err(|error| Failure::usage(option(path), error.to_string()))?;
    Ok(Box::new(file))
}

/// The documents of a text, with at most so many values. What is JSON is read as the API reads it; everything else is YAML. Of more documents
/// than `most` one more is read, so that the caller can say that there are too many.
pub(crate) fn parse<T: DeserializeOwned>(text: &str, max_nodes: usize, most: usize) -> Result<Vec<T>, String> {
    match serde_json::from_str(text) {
        Ok(one) => Ok(vec![one]),
        Err(error) if error.is_data() => Err(error.to_string()),
        Err(_) => serde_saphyr::from_multiple_with_options(text, limits(max_nodes, most)).map_err(|error| error.to_string()),
    }
}

fn limits(max_nodes: usize, most: usize) -> Options {
    let mut limits = options! {
        budget: budget! {
            max_nodes: max_nodes,
            max_events: 4 * max_nodes,
            max_depth: MAX_DEPTH,
            max_aliases: MAX_ALIASES,
            max_anchors: MAX_ALIASES,
            max_documents: most + 1,
        },
        // `no` is a word, and these documents have places for words.
        strict_booleans: true,
        with_snippet: false,
    };
    limits.alias_limits.max_total_replayed_events = MAX_ALIASED_NODES;
    limits
}
