//! Collections in a file, YAML or JSON: read whole, checked, and only then used.

use std::io::Read;
use std::path::Path;

use muster_wire::http::{CollectionFile, MAX_FILE_DOCUMENTS, MAX_TARGET_DEVICES};

use crate::documents::{open, option, parse};
use crate::failure::Failure;

/// Largest file, in bytes: a request to the API may have as many.
const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;
/// Most values in a file: the longest list of devices, and room for the rest.
const MAX_NODES: usize = MAX_TARGET_DEVICES + 10_000;

/// The collections in a file, at least one; `-` is standard input.
pub(crate) fn read(path: &Path) -> Result<Vec<CollectionFile>, Failure> {
    documents(&option(path), open(path)?)
}

fn documents(name: &str, input: impl Read) -> Result<Vec<CollectionFile>, Failure> {
    let wrong = |why: String| Failure::usage(name, why);
    let mut text = String::new();
    let read = input.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(|error| wrong(error.to_string()))?;
    if read as u64 > MAX_FILE_BYTES {
        return Err(wrong(format!("it is larger than {MAX_FILE_BYTES} bytes; is it the right file?"))
            .with_next("choose the devices by a condition instead of a list, or divide the file"));
    }
    let documents = parse(&text, MAX_NODES, MAX_FILE_DOCUMENTS).map_err(|why| {
        wrong(format!("it holds no collection: {why}"))
            .with_next("muster apply --help shows one; muster apply --schema describes each member")
    })?;
    match documents.len() {
        0 => Err(wrong("it is empty".to_owned()).with_next("muster apply --help shows a collection")),
        1..=MAX_FILE_DOCUMENTS => Ok(documents),
        more => {
            Err(wrong(format!("it holds {more} documents; at most {MAX_FILE_DOCUMENTS} are read"))
                .with_next("divide it into several files"))
        }
    }
}

#[cfg(test)]
mod tests {
    use muster_wire::http::{CollectionRequest, Target};

    use super::*;
    use crate::documents::{MAX_ALIASED_NODES, MAX_ALIASES};
    use crate::failure::exit;

    const PING: &str = "request: {kind: ping}\ntarget: {kind: all}\n";

    fn read(text: &str) -> Result<Vec<CollectionFile>, Failure> {
        documents("--file f.yaml", text.as_bytes())
    }

    fn refused(text: &str) -> String {
        let shown: String = text.chars().take(200).collect();
        let failure = read(text).expect_err(&shown);
        assert_eq!(failure.exit_code(), exit::USAGE);
        failure.render().expect("it says why")
    }

    #[test]
    fn documents_are_requests_with_a_key() {
        let text = "kind: collection\nidempotency_key: nightly-1\nrequest:\n  kind: bundle\n  since: 24h\ntarget:\n  kind: all\ncase: '48213'\n\
            options:\n  in_flight: 50\n---\nrequest:\n  kind: ping\ntarget:\n  kind: devices\n  devices: [press-1, press-2]\n";
        let mut both = read(text).expect("two documents").into_iter().map(CollectionFile::into_request);
        let (key, first) = both.next().expect("the first");
        assert_eq!((key.as_deref(), first.case.as_deref(), first.options.in_flight), (Some("nightly-1"), Some("48213"), Some(50)));
        assert_eq!(first.request, CollectionRequest::Bundle { since: Some("24h".to_owned()), edge_runtime_only: false });
        assert_eq!(first.target, Target::All {});
        let (key, second) = both.next().expect("the second");
        assert_eq!((key, second.request), (None, CollectionRequest::Ping {}));
        assert!(matches!(second.target, Target::Devices { devices } if devices.len() == 2));
        assert_eq!(both.next(), None);
    }

    #[test]
    fn json_and_what_yaml_shares_by_name_are_read_too() {
        let json = "{\n\t\"kind\": \"collection\", \"request\": {\"kind\": \"ping\"}, \"target\": {\"kind\": \"all\"}, \"reason\": \"\\ud83d\\ude00\"\n}";
        assert_eq!(read(json).expect("JSON")[0].reason.as_deref(), Some("\u{1f600}"));
        let shared = format!("{PING}options: &slow {{in_flight: 5}}\n---\n{PING}case: no\n");
        let read_now = read(&shared).expect("two documents");
        assert_eq!(read_now[1].case.as_deref(), Some("no"));
        let alias = "target: {kind: all}\nreason: &why line 4 stands still\ncase: *why\nrequest: {kind: ping}\n";
        assert_eq!(read(alias).expect("an alias")[0].case.as_deref(), Some("line 4 stands still"));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, words) in [
            (format!("{PING}reasn: x\n"), &["reasn", "line 3", "column 1"][..]),
            (format!("{PING}options:\n  in_fligth: 5\n"), &["in_fligth", "line 4", "column 3"]),
            (format!("{PING}options:\n  in_flight: many\n"), &["line 4", "column 14"]),
            (format!("{PING}standing: yes\n"), &["line 3"]),
            ("kind: recipe\nrequest: {kind: ping}\ntarget: {kind: all}\n".to_owned(), &["recipe", "collection", "line 1"]),
            ("target: {kind: all}\n".to_owned(), &["request"]),
            (format!("{PING}target: {{kind: all}}\n"), &["target", "line 3"]),
            (format!("{PING}---\n{PING}reasn: x\n"), &["reasn", "line 6"]),
            (
                "{\"request\": {\"kind\": \"ping\"},\n \"target\": {\"kind\": \"all\"}, \"reasn\": 1}".to_owned(),
                &["reasn", "line 2", "column"],
            ),
            ("kind: [\n".to_owned(), &["line"]),
            (String::new(), &["empty"]),
            ("# nothing\n".to_owned(), &["empty"]),
        ] {
            let said = refused(&text);
            for word in words {
                assert!(said.contains(word), "{text:?} lacks {word:?}: {said}");
            }
            assert!(said.contains("--file f.yaml") && said.contains("muster apply"), "{said}");
        }
    }

    /// Few aliases that stand for each other, in a place whose members are gathered before they are looked at.
    #[test]
    fn aliases_do_not_grow_without_bound() {
        let laughs = (1..9).fold(format!("  a0: &a0 [{}]\n", ["x"; 9].join(", ")), |text, n| {
            let of = format!("*a{}", n - 1);
            format!("{text}  a{n}: &a{n} [{}]\n", [of.as_str(); 9].join(", "))
        });
        let began = std::time::Instant::now();
        let said = refused(&format!("request:\n{laughs}  kind: ping\ntarget: {{kind: all}}\n"));
        assert!(said.contains("alias"), "{said}");
        assert!(began.elapsed() < std::time::Duration::from_secs(10), "it was read whole");

        // A list that is written once and meant twice is fine, up to its limit.
        let twice = |count: usize| {
            let list = vec!["a"; count].join(",");
            format!("request: {{kind: ping}}\nchoice: {{exclude: &list [{list}]}}\ntarget: {{kind: devices, devices: *list}}\n")
        };
        assert_eq!(read(&twice(MAX_ALIASED_NODES - 2)).expect("the list, its begin and its end").len(), 1);
        let said = refused(&twice(MAX_ALIASED_NODES - 1));
        assert!(said.contains("alias"), "{said}");
    }

    #[test]
    fn hostile_files_are_refused() {
        let deep = format!("{PING}steps: {}{}", "[".repeat(100_000), "]".repeat(100_000));
        let aliases = format!("{PING}reason: &a x\nsteps: [{}]\n", vec!["*a"; MAX_ALIASES + 1].join(", "));
        let long = format!("request: {{kind: ping}}\ntarget:\n  kind: devices\n  devices: [{}]\n", vec!["a"; MAX_NODES].join(","));
        let cut = &format!("{PING}reason: \"ends nowhere");
        for text in [&deep, &aliases, &long, cut, "\0", "a\0b: c\n", "\u{feff}---\n- 1\n", "--- !!binary x\n"] {
            refused(text);
        }
        let bytes = documents("--file f.yaml", &b"reason: \xff\xfe\n"[..]).expect_err("no UTF-8");
        assert_eq!(bytes.exit_code(), exit::USAGE);
        let endless = documents("--file f.yaml", std::io::repeat(b'#')).expect_err("endless").to_string();
        assert!(endless.contains("larger than 8388608 bytes"), "{endless}");
    }

    #[test]
    fn limits_hold_at_their_edge() {
        let many = |count| format!("{PING}---\n").repeat(count - 1) + PING;
        assert_eq!(read(&many(MAX_FILE_DOCUMENTS)).expect("as many as fit").len(), MAX_FILE_DOCUMENTS);
        assert!(refused(&many(MAX_FILE_DOCUMENTS + 1)).contains("at most 100"));
        let devices =
            format!("request: {{kind: ping}}\ntarget:\n  kind: devices\n  devices: [{}]\n", vec!["a"; MAX_TARGET_DEVICES].join(","));
        assert_eq!(read(&devices).expect("the longest list").len(), 1);
    }
}
