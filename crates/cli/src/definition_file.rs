//! Rules and indicators in a file, YAML or JSON: read whole, checked, and only then used.

use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::documents::{open, option, parse};
use crate::failure::Failure;

/// Largest file, in bytes. A definition has a few lines.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Most definitions in a file: as many as a controller keeps.
pub(crate) const MAX_DEFINITIONS: usize = 1_000;
/// Most values in a file.
const MAX_NODES: usize = 100_000;

/// The definitions in a file, at least one; `-` is standard input. `noun` is what they are, as in `muster rules`.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, noun: &str) -> Result<Vec<T>, Failure> {
    definitions(&option(path), noun, open(path)?)
}

/// The one definition in a file.
pub(crate) fn read_one<T: DeserializeOwned>(path: &Path, noun: &str) -> Result<T, Failure> {
    let mut all = read(path, noun)?;
    match all.pop() {
        Some(one) if all.is_empty() => Ok(one),
        _ => Err(Failure::usage(option(path), format!("it holds {}; here one is meant", all.len() + 1))),
    }
}

/// The bytes of a file that is sent as it is, at most `most`.
pub(crate) fn bytes(path: &Path, most: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = open(path)?.take(most as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failure::usage(option(path), error.to_string()))?;
    if bytes.len() > most {
        return Err(Failure::usage(option(path), format!("it is larger than {most} bytes; is it the right file?")));
    }
    Ok(bytes)
}

fn definitions<T: DeserializeOwned>(name: &str, noun: &str, input: impl Read) -> Result<Vec<T>, Failure> {
    let wrong = |why: String| Failure::usage(name, why).with_next(format!("muster {noun} add --help shows one"));
    let mut text = String::new();
    let read = input.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(|error| wrong(error.to_string()))?;
    if read as u64 > MAX_FILE_BYTES {
        return Err(wrong(format!("it is larger than {MAX_FILE_BYTES} bytes; is it the right file?")));
    }
    let found = parse(&text, MAX_NODES, MAX_DEFINITIONS).map_err(|why| wrong(format!("it holds no {noun}: {why}")))?;
    match found.len() {
        0 => Err(wrong("it is empty".to_owned())),
        1..=MAX_DEFINITIONS => Ok(found),
        more => Err(wrong(format!("it holds {more}; at most {MAX_DEFINITIONS} are read"))),
    }
}

#[cfg(test)]
mod tests {
    use muster_wire::http::{CollectionRequest, NewIndicator, NewRule, RuleMode};

    use super::*;
    use crate::failure::exit;

    const RULE: &str = "name: agent-down\nindicator: IOTEdgeAgentNotRunningCondition\n";

    fn rules(text: &str) -> Result<Vec<NewRule>, Failure> {
        definitions("--file r.yaml", "rules", text.as_bytes())
    }

    #[test]
    fn a_file_holds_one_or_many() {
        let text = format!(
            "{RULE}mode: shadow\ndevices: tags.site = 'oslo'\nquiet: {{cron: 0 22 * * *, length_seconds: 28800}}\n---\nname: two\nindicator: X\nignore: true\n"
        );
        let both = rules(&text).expect("two rules");
        assert_eq!((both.len(), both[0].mode, both[1].ignore, both[1].order), (2, RuleMode::Shadow, true, 100));
        let json = rules(r#"{ "name": "a", "indicator": "X" }"#).expect("JSON");
        assert_eq!(json[0].mode, RuleMode::Active);
        let indicator: Vec<NewIndicator> = definitions(
            "-",
            "indicators",
            &b"name: X\ndescription: It hums.\ncollect: {kind: bundle}\nlookback_seconds: 7200\ncooldown_seconds: 3600\n"[..],
        )
        .expect("an indicator");
        assert_eq!(indicator[0].collect, CollectionRequest::Bundle { since: None, edge_runtime_only: false });
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_the_next_step() {
        for (text, words) in [
            (format!("{RULE}oder: 5\n"), &["oder", "line 3"][..]),
            (format!("{RULE}mode: on\n"), &["line 3"]),
            (format!("{RULE}ignore: no\n"), &["line 3"]),
            ("name: x\n".to_owned(), &["indicator"]),
            (String::new(), &["empty"]),
            (format!("{RULE}---\n{RULE}oder: 5\n"), &["line 6"]),
            ("{\"name\": \"x\"}".to_owned(), &["indicator", "line 1"]),
        ] {
            let failure = rules(&text).expect_err(&text);
            let said = failure.render().expect("it says why");
            assert_eq!(failure.exit_code(), exit::USAGE);
            assert!(words.iter().all(|word| said.contains(word)) && said.contains("muster rules add --help"), "{text:?}: {said}");
        }
    }

    /// What the page shows can be copied into a file.
    #[test]
    fn every_example_of_the_page_can_be_read() {
        let page = include_str!("../../../docs/RULES.md");
        let blocks = |language: &str| -> Vec<&str> {
            let opening = format!("```{language}\n");
            page.match_indices(&opening).filter_map(|(at, _)| page[at + opening.len()..].split("```").next()).collect()
        };
        for block in blocks("yaml indicator") {
            let failure = |failure: Failure| panic!("{failure}\n{block}");
            definitions::<NewIndicator>("-", "indicators", block.as_bytes()).unwrap_or_else(failure);
        }
        let rules: Vec<NewRule> =
            blocks("yaml rule").into_iter().flat_map(|block| rules(block).unwrap_or_else(|failure| panic!("{failure}\n{block}"))).collect();
        assert!(!blocks("yaml indicator").is_empty() && rules.len() >= 3, "the examples were not found");
        for condition in rules.iter().filter_map(|rule| rule.devices.as_ref()) {
            condition.parse::<muster_domain::condition::Condition>().unwrap_or_else(|error| panic!("{condition}\n{error}"));
        }
    }

    #[test]
    fn limits_hold_at_their_edge() {
        let many = |count| format!("{RULE}---\n").repeat(count - 1) + RULE;
        assert_eq!(rules(&many(MAX_DEFINITIONS)).expect("as many as fit").len(), MAX_DEFINITIONS);
        assert!(rules(&many(MAX_DEFINITIONS + 1)).expect_err("one more").to_string().contains("1001"));
        let endless = definitions::<NewRule>("-", "rules", std::io::repeat(b'#')).expect_err("endless").to_string();
        assert!(endless.contains("larger than"), "{endless}");
        let deep = format!("{RULE}collect: {}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(rules(&deep).is_err());
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("event.json");
        std::fs::write(&path, [b' '; 11]).expect("written");
        assert_eq!((bytes(&path, 11).expect("as large as may be").len(), bytes(&path, 10).is_err()), (11, true));
        std::fs::write(&path, many(2)).expect("written");
        assert!(read_one::<NewRule>(&path, "rules").expect_err("two").to_string().contains("it holds 2"));
        assert!(read::<NewRule>(&dir.path().join("absent"), "rules").is_err());
    }
}
