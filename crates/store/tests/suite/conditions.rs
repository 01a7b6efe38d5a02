//! The condition language: each case through the parser, then by the evaluator and by the database, with one outcome.

use std::fmt::Write as _;

use muster_domain::condition::{Column, Comparison, Condition, Kind, Literal, MAX_DEPTH, MAX_LIST, MAX_TESTS, Path, Place, Subject, Test};
use muster_store::DeviceFilter;
use muster_wire::DeviceId;
use muster_wire::http::PresenceState;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::harness::*;

const CASES: &str = include_str!("conditions.txt");
/// Fewest cases of the table.
const MIN_CASES: usize = 150;
/// Random conditions per run, and random devices they are asked of.
const RANDOM_CONDITIONS: usize = 400;
const RANDOM_DEVICES: usize = 40;

/// A device as the registry knows it.
#[derive(Debug)]
struct Registered {
    id: String,
    presence: PresenceState,
    parent: Option<&'static str>,
    agent: Option<(&'static str, &'static str)>,
    tags: Value,
    reported: Value,
}

fn registered(
    id: &str,
    presence: PresenceState,
    parent: Option<&'static str>,
    agent: Option<(&'static str, &'static str)>,
    tags: Value,
    reported: Value,
) -> Registered {
    Registered { id: id.to_owned(), presence, parent, agent, tags, reported }
}

fn registry() -> Vec<Registered> {
    use PresenceState::{Offline, Online, Unknown};
    vec![
        registered(
            "a",
            Online,
            Some("gw1"),
            Some(("edge", "1.4.2")),
            json!({"site": "oslo", "line": 4, "lab": true, "owner": {"team": "ops", "level": 2}}),
            json!({"firmware": "1.4.2", "temp": 21.5, "os": "linux"}),
        ),
        registered(
            "b",
            Offline,
            Some("gw1"),
            Some(("edge", "1.4.3")),
            json!({"site": "oslo", "line": 5, "lab": false, "owner": {"team": "dev"}}),
            json!({"firmware": "1.4.3", "temp": -3, "os": "linux"}),
        ),
        registered("c", Unknown, None, None, json!({"site": "bergen", "line": 4.0, "lab": null}), json!({})),
        registered(
            "d",
            Online,
            Some("gw2"),
            Some(("sim", "2.0")),
            json!({"site": "Oslo", "line": "4", "lab": "true"}),
            json!({"firmware": 2, "temp": 1e300}),
        ),
        registered(
            "e",
            Online,
            None,
            Some(("edge", "1.10.0")),
            json!({"site": ["oslo"], "line": [4], "lab": {}}),
            json!({"firmware": null, "temp": 0}),
        ),
        registered(
            "f",
            Unknown,
            None,
            None,
            json!({"site": "", "line": 0, "a b": 1, "a.b": 2, "q'": 3, "q\"": 4, "$x": 5, "p%": 6, "back\\": 7, "ключ": "знак", "0": 8}),
            json!({"x": {"y": {"z": "deep"}}}),
        ),
        registered(
            "g",
            Offline,
            None,
            None,
            json!({"site": "it's", "line": 9_007_199_254_740_993_i64, "q": "\"quoted\"", "pct": "50%_", "tab": "a\tb"}),
            json!({"big": u64::MAX, "neg": i64::MIN, "tiny": 1e-300, "frac": 0.1}),
        ),
        registered("h", Online, None, None, json!({}), json!({})),
    ]
}

impl Registered {
    fn subject(&self) -> Subject<'_> {
        Subject {
            id: &self.id,
            presence: self.presence.as_str(),
            parent: self.parent,
            agent_name: self.agent.map(|(name, _)| name),
            agent_version: self.agent.map(|(_, version)| version),
            tags: &self.tags,
            reported: &self.reported,
        }
    }
}

async fn insert(db: &Database, devices: &[Registered]) {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let maybe = |text: Option<&str>| text.map_or_else(|| "NULL".to_owned(), quoted);
    let mut rows = Vec::new();
    for device in devices {
        let presence = match device.presence {
            PresenceState::Unknown => 0,
            PresenceState::Online => 1,
            PresenceState::Offline => 2,
        };
        rows.push(format!(
            "({}, {presence}, 1, 1, '[]', {}, {}, {}, {}, {})",
            quoted(&device.id),
            maybe(device.parent),
            maybe(device.agent.map(|(name, _)| name)),
            maybe(device.agent.map(|(_, version)| version)),
            quoted(&device.tags.to_string()),
            quoted(&device.reported.to_string()),
        ));
    }
    let columns = "id, presence, presence_at, first_seen, proto, parent, agent_name, agent_version, tags, reported";
    db.sql(&format!("INSERT INTO device ({columns}) VALUES {}", rows.join(", "))).await;
}

fn read(text: &str) -> Condition {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

async fn matching(db: &Database, condition: &Condition) -> Vec<String> {
    let ids = db.store.matching_devices(condition, None, 1000).await.unwrap_or_else(|error| panic!("{condition:?}: {error:?}"));
    ids.iter().map(DeviceId::to_string).collect()
}

fn chosen(devices: &[Registered], condition: &Condition) -> Vec<String> {
    let mut ids: Vec<String> =
        devices.iter().filter(|device| condition.selects(&device.subject())).map(|device| device.id.clone()).collect();
    ids.sort();
    ids
}

on_both! {
    /// The table.
    async fn every_case_has_one_outcome(db) {
        let devices = registry();
        insert(&db, &devices).await;
        let mut tried = 0;
        let mut wrong = String::new();
        for line in CASES.lines().filter(|line| !line.is_empty() && !line.starts_with("# ")) {
            let (text, expected) = line.rsplit_once(" => ").unwrap_or_else(|| panic!("not a case: {line}"));
            let expected: Vec<String> = expected.split(' ').filter(|id| *id != "-").map(str::to_owned).collect();
            let condition = read(text);
            let evaluated = chosen(&devices, &condition);
            let found = matching(&db, &condition).await;
            if evaluated != expected || found != expected {
                writeln!(wrong, "{text}\n  expected {expected:?}\n  evaluated {evaluated:?}\n  found {found:?}").expect("a string takes all");
            }
            tried += 1;
        }
        assert!(wrong.is_empty(), "{wrong}");
        assert!(tried >= MIN_CASES, "only {tried} cases");
    }

    /// What is too long to write down.
    async fn conditions_at_their_limits_are_answered(db) {
        let devices = registry();
        insert(&db, &devices).await;
        let same = async |text: String| {
            let condition = read(&text);
            assert_eq!(matching(&db, &condition).await, chosen(&devices, &condition), "{:.80}", text);
            chosen(&devices, &condition)
        };
        let list = (0..MAX_LIST - 1).map(|n| format!("'site-{n}'")).collect::<Vec<_>>().join(",");
        assert_eq!(same(format!("tags.site IN [{list},'oslo']")).await, ["a", "b"]);
        assert_eq!(same(format!("tags.site NOT IN [{list},'oslo']")).await, ["c", "d", "f", "g"]);
        assert_eq!(same(format!("deviceId IN [{list},'c']")).await, ["c"]);
        let numbers = (100..99 + MAX_LIST).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        assert_eq!(same(format!("tags.line IN [{numbers},4]")).await, ["a", "c"]);
        assert_eq!(same(format!("{}tags.line = 4{}", "(".repeat(MAX_DEPTH), ")".repeat(MAX_DEPTH))).await, ["a", "c"]);
        assert_eq!(same(format!("{}tags.line = 4", "NOT ".repeat(MAX_DEPTH))).await, ["a", "c"]);
        assert_eq!(same(vec!["tags.line = 4"; MAX_TESTS].join(" OR ")).await, ["a", "c"]);
        assert_eq!(same(vec!["NOT tags.line > 4"; MAX_TESTS].join(" AND ")).await, ["a", "c", "f"]);
        let nested = (0..MAX_DEPTH / 2).fold("tags.line = 4".to_owned(), |inner, _| format!("NOT (tags.lab = false OR {inner})"));
        same(nested).await;
    }

    /// Page by page, counted, and among some.
    async fn matching_devices_come_in_pages(db) {
        let devices = registry();
        insert(&db, &devices).await;
        let condition = read("is_defined(tags.site)");
        let mut pages = Vec::new();
        let mut after: Option<DeviceId> = None;
        loop {
            let page = db.store.matching_devices(&condition, after.as_ref(), 3).await.expect("a page");
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            pages.push(page.iter().map(DeviceId::to_string).collect::<String>());
        }
        assert_eq!(pages, ["abc", "def", "g"]);
        assert_eq!(db.store.count_matching(&condition).await.expect("a count"), 7);
        let ids = |text: &str| text.chars().map(|c| c.to_string().parse().expect("an id")).collect::<Vec<DeviceId>>();
        let mut among = db.store.matching_among(&condition, &ids("hazgx")).await.expect("some");
        among.sort();
        assert_eq!(among, ids("ag"));

        let filter = DeviceFilter { condition: Some(condition), presence: Some(PresenceState::Online), limit: 2, ..DeviceFilter::default() };
        let list = async |filter: DeviceFilter| {
            db.store.devices(&filter).await.expect("a page").iter().map(|view| view.id.to_string()).collect::<String>()
        };
        assert_eq!(list(filter.clone()).await, "ad");
        assert_eq!(list(DeviceFilter { after: Some(ids("d")[0].clone()), ..filter.clone() }).await, "e");
        assert_eq!(list(DeviceFilter { prefix: Some("d".to_owned()), ..filter }).await, "d");
    }

    /// What nobody thought of: the statement says what the evaluator says, with every device and every condition.
    async fn random_conditions_have_one_outcome(db) {
        let mut runner = TestRunner::default();
        let mut devices = Vec::new();
        for n in 0..RANDOM_DEVICES {
            let (tags, reported, presence, parent) = any_device().new_tree(&mut runner).expect("a device").current();
            devices.push(registered(&format!("d{n:02}"), presence, parent, parent.map(|name| (name, "1.0")), tags, reported));
        }
        insert(&db, &devices).await;
        let mut selected = 0;
        for _ in 0..RANDOM_CONDITIONS {
            let condition = any_condition().new_tree(&mut runner).expect("a condition").current();
            let evaluated = chosen(&devices, &condition);
            selected += evaluated.len();
            assert_eq!(matching(&db, &condition).await, evaluated, "{condition:?} of {devices:#?}");
        }
        assert!(selected > RANDOM_CONDITIONS, "conditions that select nobody prove nothing: {selected}");
    }
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[ab]{1,2}", Just("ä'\"\\%$".to_owned()), Just("10".to_owned()), Just("true".to_owned())]
}

fn any_key() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[ab]", 1 => Just("0".to_owned()), 1 => Just("ä'\"\\%$.x".to_owned())]
}

fn any_number() -> impl Strategy<Value = f64> {
    prop_oneof![3 => (-2_i32..3).prop_map(f64::from), 1 => Just(0.1), 1 => Just(1.5), 1 => Just(1e-7), 1 => Just(-9_007_199_254_740_991.0)]
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2_i64..3).prop_map(Value::from),
        any_number().prop_map(Value::from),
        any_text().prop_map(Value::from),
        Just(json!(9_007_199_254_740_993_i64)),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            3 => prop::collection::vec((any_key(), inner), 0..4).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn any_object() -> impl Strategy<Value = Value> {
    prop::collection::vec((any_key(), any_value()), 0..4).prop_map(|members| Value::Object(members.into_iter().collect()))
}

fn any_device() -> impl Strategy<Value = (Value, Value, PresenceState, Option<&'static str>)> {
    let presence = prop_oneof![Just(PresenceState::Online), Just(PresenceState::Offline), Just(PresenceState::Unknown)];
    (any_object(), any_object(), presence, prop_oneof![Just(None), Just(Some("a")), Just(Some("b"))])
}

fn any_literal() -> impl Strategy<Value = Literal> {
    prop_oneof![
        3 => any_text().prop_map(Literal::Text),
        3 => any_number().prop_map(Literal::Number),
        2 => any::<bool>().prop_map(Literal::Bool),
        1 => Just(Literal::Null),
    ]
}

fn any_path() -> impl Strategy<Value = Path> {
    let keys = || prop::collection::vec(any_key(), 1..3);
    let column = prop_oneof![
        Just(Column::DeviceId),
        Just(Column::Presence),
        Just(Column::Parent),
        Just(Column::AgentName),
        Just(Column::AgentVersion)
    ];
    prop_oneof![4 => keys().prop_map(Path::Tags), 2 => keys().prop_map(Path::Reported), 1 => column.prop_map(Path::Column)]
}

fn any_test() -> impl Strategy<Value = Test> {
    let order =
        prop_oneof![Just(Comparison::Less), Just(Comparison::LessOrEqual), Just(Comparison::Greater), Just(Comparison::GreaterOrEqual),];
    let ordered = prop_oneof![any_text().prop_map(Literal::Text), any_number().prop_map(Literal::Number)];
    let place = prop_oneof![Just(Place::Start), Just(Place::End), Just(Place::Anywhere)];
    let kind =
        prop_oneof![Just(Kind::Bool), Just(Kind::Number), Just(Kind::String), Just(Kind::Null), Just(Kind::Object), Just(Kind::Array),];
    prop_oneof![
        3 => any_literal().prop_map(|literal| Test::Compare(Comparison::Equal, literal)),
        1 => any_literal().prop_map(|literal| Test::Compare(Comparison::NotEqual, literal)),
        2 => (order, ordered).prop_map(|(comparison, literal)| Test::Compare(comparison, literal)),
        2 => prop::collection::vec(any_literal(), 1..5).prop_map(Test::In),
        1 => (place, any_text()).prop_map(|(place, text)| Test::Holds(place, text)),
        1 => Just(Test::Defined),
        1 => kind.prop_map(Test::Is),
    ]
}

fn any_condition() -> impl Strategy<Value = Condition> {
    let leaf = (any_path(), any_test()).prop_map(|(path, test)| Condition::Test(path, test));
    leaf.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(Condition::All),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Condition::Any),
            inner.prop_map(|inner| Condition::Not(Box::new(inner))),
        ]
    })
}
