//! Pages fall behind unless something reads them: paths they name exist, links lead somewhere, lists are complete, examples run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use muster_wire::Reason;

/// A backticked word that begins so is a path in this repository.
const OUR_PATHS: &[&str] = &["crates/", "docs/", "deploy/", "migrations/", "tests/", "scripts/", ".ci/", ".config/"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate stands in the workspace").to_path_buf()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every page: those at the root and all below docs.
fn pages() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join("docs")];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display())) {
            let path = entry.expect("an entry of docs").path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.extend(fs::read_dir(root()).expect("the root is a directory").map(|entry| entry.expect("an entry of the root").path()));
    found.retain(|path| path.extension().is_some_and(|e| e == "md"));
    found.sort();
    found
}

/// Page text without fenced blocks: what is inside those is an example, not a claim.
fn prose(text: &str) -> String {
    let mut fenced = false;
    text.lines()
        .filter(|line| {
            let is_fence = line.trim_start().starts_with("```");
            fenced ^= is_fence;
            !fenced && !is_fence
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// The first fenced block of this language.
pub(crate) fn fenced_block(text: &str, language: &str) -> String {
    let opening = format!("```{language}");
    text.lines().skip_while(|l| l.trim() != opening).skip(1).take_while(|l| l.trim() != "```").map(|l| format!("{l}\n")).collect()
}

fn complain(problems: &[String]) {
    assert!(problems.is_empty(), "\n  {}\n", problems.join("\n  "));
}

#[test]
fn paths_that_pages_name_exist() {
    let mut problems = Vec::new();
    let mut seen = 0;
    for page in pages() {
        let text = prose(&fs::read_to_string(&page).unwrap());
        // Odd pieces between backticks are code.
        for code in text.split('`').skip(1).step_by(2) {
            let is_path = OUR_PATHS.iter().any(|start| code.starts_with(start)) && !code.contains(char::is_whitespace);
            if !is_path || code.contains(['*', '{', '<']) {
                continue;
            }
            seen += 1;
            let path = code.split_once(':').map_or(code, |(path, _line)| path);
            if !root().join(path).exists() {
                problems.push(format!("{} names {code}, which does not exist", page.display()));
            }
        }
    }
    assert!(seen > 10, "only {seen} paths were found: is the page still written that way?");
    complain(&problems);
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut problems = Vec::new();
    for page in pages() {
        let text = prose(&fs::read_to_string(&page).unwrap());
        for piece in text.split("](").skip(1) {
            let target = piece.split_once(')').map_or(piece, |(target, _)| target);
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let file = if path.is_empty() { page.clone() } else { page.parent().expect("a page has a directory").join(path) };
            if !file.exists() {
                problems.push(format!("{} links to {target}, which does not exist", page.display()));
            } else if !anchor.is_empty() && !anchors(&fs::read_to_string(&file).unwrap_or_default()).contains(anchor) {
                problems.push(format!("{} links to {target}, and there is no such heading", page.display()));
            }
        }
    }
    complain(&problems);
}

/// Headings as links name them: lower case, punctuation gone, blanks as hyphens.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text);
    headings
        .lines()
        .filter(|l| l.starts_with('#'))
        .map(|l| l.trim_start_matches('#').trim().to_lowercase())
        .map(|h| h.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_')).collect::<String>().replace(' ', "-"))
        .collect()
}

#[test]
fn every_reason_code_has_its_line() {
    let page = read("docs/REASONS.md");
    let mut rows: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in page.lines().filter(|l| l.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect();
        let word = cells[0].trim_matches('`').to_owned();
        assert!(rows.insert(word.clone(), cells).is_none(), "{word} stands on the page twice");
    }
    for &reason in Reason::ALL {
        let cells = rows.remove(reason.as_str()).unwrap_or_else(|| panic!("docs/REASONS.md has no line for {reason}"));
        assert_eq!(cells.len(), 5, "{reason}: word, number, meaning, typical cause, what to do next");
        assert_eq!(cells[1], reason.code().to_string(), "{reason}");
        assert_eq!(cells[2], reason.sentence(), "{reason}: the meaning is the sentence of the code");
        assert!(cells[3].len() > 10 && cells[4].len() > 10, "{reason}: cause and next step are missing");
    }
    assert!(rows.is_empty(), "docs/REASONS.md has lines for reasons that do not exist: {:?}", rows.keys());
}

#[test]
fn decisions_are_dated_and_name_what_lost() {
    let mut seen = 0;
    for page in pages()
        .into_iter()
        .filter(|p| p.parent().is_some_and(|d| d.ends_with("docs/decisions")) && p.file_name().is_some_and(|n| n != "README.md"))
    {
        seen += 1;
        let name = page.file_name().expect("a page has a name").to_string_lossy().into_owned();
        let is_dated = name.len() > 11 && name[..10].split('-').all(|part| part.parse::<u16>().is_ok()) && &name[10..11] == "-";
        assert!(is_dated, "{name}: a decision record is called YYYY-MM-DD-what.md");
        let text = fs::read_to_string(&page).unwrap();
        for heading in ["## Decision", "## Options that lost", "## Consequences"] {
            assert!(text.lines().any(|l| l == heading), "{name} has no heading {heading:?}");
        }
    }
    assert!(seen >= 7, "{seen} decision records");
}

#[test]
fn the_contract_names_every_method_and_topic() {
    let page = read("docs/DEVICE-CONTRACT.md");
    for word in ["ping", "GetModuleLogs", "UploadModuleLogs", "UploadSupportBundle", "GetTaskStatus"] {
        assert!(page.contains(&format!("`{word}`")), "method {word}");
    }
    for topic in ["/cmd/", "/rsp/", "/task", "/alert", "/state", "/c3/", "/r3/"] {
        assert!(page.contains(topic), "topic {topic}");
    }
    for property in ["__protVer", "__srcId", "__ts", "__stat", "__stMsg", "__supProtMajVer", "maxResponse", "traceparent"] {
        assert!(page.contains(property), "property {property}");
    }
    assert!(!fenced_block(&page, "python").is_empty(), "the example device is gone");
}

/// Every `section.key` of the settings, from the file that is both their documentation and their defaults.
fn settings() -> BTreeSet<String> {
    keys(&read("crates/controller/default.toml"))
}

fn keys(toml: &str) -> BTreeSet<String> {
    let mut section = String::new();
    let mut found = BTreeSet::new();
    for line in toml.lines().filter(|l| !l.starts_with([' ', '#', ']'])) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if let Some((key, _)) = line.split_once('=') {
            found.insert(format!("{section}.{}", key.trim()));
        }
    }
    found
}

#[test]
fn settings_that_pages_and_examples_name_exist() {
    let known = settings();
    assert!(known.len() > 30, "the settings were not understood: {known:?}");
    let sections: BTreeSet<_> = known.iter().filter_map(|key| key.split_once('.')).map(|(section, _)| section.to_owned()).collect();
    let mut problems = Vec::new();
    for page in pages() {
        let text = prose(&fs::read_to_string(&page).expect("a page"));
        for code in text.split('`').skip(1).step_by(2) {
            let key = code.split([' ', '=']).next().unwrap_or_default();
            let Some((section, name)) = key.split_once('.') else { continue };
            let is_setting = sections.contains(section) && !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            // A file name such as server.pem looks the same; those have the extensions below.
            if is_setting && !["toml", "md", "rs", "pem", "key", "log"].contains(&name) && !known.contains(key) {
                problems.push(format!("{} names the setting {key}, which does not exist", page.display()));
            }
        }
    }
    for key in keys(&read("deploy/muster.toml")).difference(&known) {
        problems.push(format!("deploy/muster.toml sets {key}, which does not exist"));
    }
    for word in read("docker-compose.yml").split_whitespace() {
        let name = word.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        if let Some((section, key)) = name.strip_prefix("MUSTER__").and_then(|rest| rest.split_once("__")) {
            let key = format!("{}.{}", section.to_lowercase(), key.to_lowercase());
            if !known.contains(&key) {
                problems.push(format!("docker-compose.yml sets {key}, which does not exist"));
            }
        }
    }
    complain(&problems);
}

#[test]
fn metrics_that_pages_name_exist() {
    let mut sources = String::new();
    let mut open = vec![root().join("crates")];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).expect("a directory of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                sources.push_str(&fs::read_to_string(&path).expect("a source"));
            }
        }
    }
    let mut problems = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page");
        for code in text.split('`').skip(1).step_by(2) {
            let is_metric = code.starts_with("muster_") && code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            if is_metric && !sources.contains(&format!("\"{code}\"")) && !code.starts_with("muster_wire") {
                problems.push(format!("{} names the metric {code}, which nobody records", page.display()));
            }
        }
    }
    complain(&problems);
}

/// Of pages that show shell; what they show is at least shell. The job of docs/BATCH.md is run by the tests of the program besides.
#[test]
fn shell_on_pages_is_shell() {
    let mut seen = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page");
        for language in ["sh", "bash"] {
            for block in text.split(&format!("```{language}\n")).skip(1) {
                let script = block.split("```").next().unwrap_or_default();
                let checked = Command::new("bash").args(["-n", "-c", script]).output().expect("bash");
                assert!(checked.status.success(), "{}: {}\n{script}", page.display(), String::from_utf8_lossy(&checked.stderr));
                seen += 1;
            }
        }
    }
    assert!(seen > 3, "only {seen} blocks were found: is the shell still written that way?");
}

/// Whoever looks up a word of a refusal finds it.
#[test]
fn every_word_for_an_alert_has_its_line() {
    use muster_wire::alert::Poison;
    use muster_wire::http::AlertOutcome;
    let page = read("docs/ALERTS.md");
    for reason in Poison::ALL {
        assert!(page.lines().any(|line| line.starts_with(&format!("| `{reason}` | "))), "docs/ALERTS.md has no line for {reason}");
    }
    for outcome in AlertOutcome::ALL {
        assert!(page.contains(&format!("| `{outcome}` |")), "docs/ALERTS.md has no line for {outcome}");
    }
    let event: serde_json::Value = serde_json::from_str(&fenced_block(&page, "json")).expect("the example is JSON");
    assert_eq!(event["type"], muster_wire::alert::ALERT_TYPE);
}

#[test]
fn every_example_of_a_condition_can_be_read() {
    let examples = fenced_block(&read("docs/TARGETS.md"), "condition");
    assert!(examples.lines().count() >= 10, "the examples were not found");
    for line in examples.lines() {
        if let Err(error) = line.parse::<muster_domain::condition::Condition>() {
            panic!("docs/TARGETS.md: {line}\n{error}");
        }
    }
}
