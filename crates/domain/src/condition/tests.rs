use muster_wire::http::MAX_CONDITION_BYTES;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn read(text: &str) -> Condition {
    text.parse().unwrap_or_else(|error: ConditionError| panic!("{text}\n{error}"))
}

fn refused(text: &str) -> ConditionError {
    text.parse::<Condition>().expect_err(text)
}

fn equal(path: Path, literal: Literal) -> Condition {
    Condition::Test(path, Test::Compare(Comparison::Equal, literal))
}

fn tag(keys: &[&str]) -> Path {
    Path::Tags(keys.iter().map(|key| (*key).to_owned()).collect())
}

#[test]
fn and_binds_closer_than_or_and_not_closest() {
    let a = || equal(tag(&["a"]), Literal::Bool(true));
    let all = Condition::All(vec![Condition::Not(Box::new(a())), a()]);
    assert_eq!(read("NOT tags.a = true and tags.a = TRUE or true = tags.a"), Condition::Any(vec![all, a()]));
    assert_eq!(read("((tags.a = true))"), a());
}

#[test]
fn a_path_is_written_in_two_ways() {
    assert_eq!(read("tags['a'].b[\"c d\"].1.and = 1"), equal(tag(&["a", "b", "c d", "1", "and"]), Literal::Number(1.0)));
    assert_eq!(read("properties.reported.$v = null"), equal(Path::Reported(vec!["$v".to_owned()]), Literal::Null));
    assert_eq!(
        read("'1' > agent.version"),
        Condition::Test(Path::Column(Column::AgentVersion), Test::Compare(Comparison::Less, Literal::Text("1".to_owned())))
    );
}

#[test]
fn strings_have_escapes() {
    assert_eq!(read(r#"tags.a = 'it\'s "\u00e4"\\\n'"#), equal(tag(&["a"]), Literal::Text("it's \"ä\"\\\n".to_owned())));
    assert_eq!(read(r#"tags.a = "a'b""#), equal(tag(&["a"]), Literal::Text("a'b".to_owned())));
}

#[test]
fn what_cannot_be_read_is_named_with_its_column() {
    for (text, column, found, expected) in [
        ("", 1, "the end", "a test"),
        ("tags.site == 'oslo'", 12, "`=`", "a value"),
        ("tags.site 'oslo'", 11, "the string `oslo`", "an operator"),
        ("tags.ä = 'ö' AND", 17, "the end", "a test"),
        ("tags.ä = 'ö' tags.b = 1", 14, "`tags`", "AND, OR or the end"),
        ("site = 'oslo'", 1, "`site`", "a path"),
        ("tags = 1", 6, "`=`", "the name of a key"),
        ("tags. = 1", 7, "`=`", "the name of a key"),
        ("tags['a = 1", 6, "a string without end", "closing '"),
        ("tags[1] = 1", 6, "the number 1", "in quotes"),
        ("(tags.a = 1", 12, "the end", "`)`"),
        ("tags.a = 1)", 11, "`)`", "AND, OR or the end"),
        ("tags.a IN []", 12, "`]`", "a value"),
        ("tags.a IN ['x' 'y']", 16, "the string `y`", "`,` or `]`"),
        ("tags.a NOT 'x'", 12, "the string `x`", "IN"),
        ("tags.a < true", 8, "an operator of order", "numbers and strings"),
        ("tags.a = tags.b", 10, "a path", "a value"),
        ("1 = 1", 5, "a value", "a path"),
        ("tags.a = 1e400", 10, "`1e400`", "a number from"),
        ("tags.a = 9007199254740992", 10, "`9007199254740992`", "a number from"),
        ("tags.a = 1x", 10, "`1x`", "a number, like"),
        ("tags.a = 1.", 10, "`1.`", "a number, like"),
        ("tags.a = 'x\\q'", 12, "`\\\\q`", "four hexadecimal"),
        ("tags.a = '\\ud800'", 11, "`\\\\u`", "four hexadecimal"),
        ("tags.a = '\0'", 11, "a NUL", "a stored text"),
        ("tags.a = '\\u0000'", 11, "a NUL", "a stored text"),
        ("tags.a-b = 1", 7, "`-`", "in brackets"),
        ("tags.a = 1; DROP TABLE device", 11, "`;`", "in brackets"),
        ("is_weird(tags.a)", 1, "`is_weird`", "is_defined"),
        ("STARTSWITH(tags.a)", 18, "`)`", "a string"),
        ("STARTSWITH(tags.a, 1)", 20, "the number 1", "a string"),
        ("is_defined('a')", 12, "the string `a`", "a path"),
        ("agent = 'x'", 7, "`=`", "`.name`"),
        ("agent.uptime = 'x'", 7, "`uptime`", "`version`"),
        ("properties.desired.a = 1", 12, "`desired`", "no other properties"),
    ] {
        let error = refused(text);
        assert_eq!(error.column, column, "{text}: {error}");
        assert!(error.found.starts_with(found), "{text}: {error}");
        assert!(error.expected.contains(expected), "{text}: {error}");
    }
}

#[test]
fn a_caret_stands_below_the_place() {
    let text = "tags.ä = 'ö' tags.b = 1";
    assert_eq!(refused(text).pointed(text), format!("{text}\n             ^"));
    let long = format!("tags.a IN ['{}' 'y'] AND tags.b = 'some more text, and more'", "x".repeat(1000));
    let pointed = refused(&long).pointed(&long);
    let (line, caret) = pointed.split_once('\n').expect("two lines");
    assert!(line.starts_with('…') && line.ends_with('…'), "{pointed}");
    assert_eq!(line.chars().nth(caret.chars().count() - 1), Some('\''), "{pointed}");
}

#[test]
fn limits_hold_at_their_edge() {
    let nested = |depth: usize| format!("{}tags.a = 1{}", "(".repeat(depth), ")".repeat(depth));
    read(&nested(MAX_DEPTH));
    assert_eq!(refused(&nested(MAX_DEPTH + 1)).column, MAX_DEPTH + 1);
    refused(&"(".repeat(100_000));
    refused(&"NOT ".repeat(100_000));

    let tests = |count: usize| vec!["tags.a = 1"; count].join(" OR ");
    read(&tests(MAX_TESTS));
    assert!(refused(&tests(MAX_TESTS + 1)).expected.contains("IN […]"));

    let list = |count: usize| format!("tags.a IN [{}]", vec!["1"; count].join(","));
    read(&list(MAX_LIST));
    assert!(refused(&list(MAX_LIST + 1)).expected.contains(&MAX_LIST.to_string()));

    let keys = |count: usize| format!("tags{} = 1", ".a".repeat(count));
    read(&keys(MAX_KEYS));
    assert!(refused(&keys(MAX_KEYS + 1)).expected.contains(&MAX_KEYS.to_string()));

    let long = |bytes: usize| format!("tags.a = 1{}", " ".repeat(bytes - "tags.a = 1".len()));
    read(&long(MAX_CONDITION_BYTES));
    assert!(refused(&long(MAX_CONDITION_BYTES + 1)).expected.contains("bytes"));

    read("tags.a = 9007199254740991 AND tags.a = -9007199254740991");
}

#[test]
fn undefined_is_not_false() {
    let tags = json!({ "site": "oslo", "line": 4, "lab": null, "list": ["oslo"] });
    let nothing = json!({});
    let subject =
        Subject { id: "press-1", presence: "online", parent: None, agent_name: None, agent_version: None, tags: &tags, reported: &nothing };
    for (text, says) in [
        ("tags.site = 'oslo'", Some(true)),
        ("tags.site = 'bergen'", Some(false)),
        ("tags.site = 4", None),
        ("NOT tags.site = 4", None),
        ("tags.none = 'oslo' OR tags.line = 4", Some(true)),
        ("tags.none = 'oslo' AND tags.line = 5", Some(false)),
        ("tags.none = 'oslo' OR tags.line = 5", None),
        ("tags.site IN ['a', 1]", None),
        ("tags.site IN ['a', 'b']", Some(false)),
        ("tags.site NOT IN ['a', 'b']", Some(true)),
        ("tags.list.0 = 'oslo'", None),
        ("tags.lab = null", Some(true)),
        ("tags.lab != 1", None),
        ("is_defined(tags.lab)", Some(true)),
        ("is_string(tags.none)", Some(false)),
        ("parent = 'gw'", None),
        ("STARTSWITH(deviceId, 'press')", Some(true)),
    ] {
        assert_eq!(read(text).says(&subject), says, "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[ -~ä'\"\\[\\]().,=<>!0-9eE+-]{0,60}") {
        if let Err(error) = text.parse::<Condition>() {
            prop_assert!(error.column >= 1 && error.column <= text.chars().count() + 1);
            error.pointed(&text);
        }
    }
}
