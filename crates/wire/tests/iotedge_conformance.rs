//! The numbered conformance cases of the direct methods (C001 to C173), those that are pure functions. Each test names the
//! numbers it stands for; the rest are about processes, storage or a hub, and are tested where those live.

use muster_wire::method::answer::{LogPayload, ModuleLogs, NOTHING, Operation, TaskStatus, TaskStatusAnswer};
use muster_wire::method::append::{AppendError, AppendPlan, AppendStyle, MAX_APPENDS};
use muster_wire::method::filter::{Kept, Mode, Pipeline, Plan, Record};
use muster_wire::method::frames::{self, FrameDecoder, FrameError, Stream};
use muster_wire::method::line;
use muster_wire::method::object_name::{bundle_object, log_object};
use muster_wire::method::render::{Origin, Renderer};
use muster_wire::method::select::Selection;
use muster_wire::method::since;
use muster_wire::method::size::{MAX_COUNTED, SizeCheck, counted_gzip, counted_text};
use muster_wire::method::timestamp::NO_TIMESTAMP;
use muster_wire::method::{
    ContentType, Encoding, GetModuleLogsRequest, GetTaskStatusRequest, LogFilter, LogItem, Method, MethodError, UploadModuleLogsRequest,
    UploadSupportBundleRequest, gzip, upstream,
};
use time::macros::datetime;

const DEVICE: [&str; 6] = ["edgeAgent", "edgeHub", "tempSensor", "SimulatedTemperatureSensor", "opc-publisher", "opc.publisher"];

/// Status of `GetModuleLogs` on a device whose module `a` has an empty log.
fn get(payload: &str) -> u16 {
    let done = GetModuleLogsRequest::parse(payload.as_bytes()).and_then(|request| {
        let chosen = Selection::new(&request.items)?.select(["a"]);
        for (_, item) in chosen {
            Plan::new(&request.items[item].filter, Mode::get(request.content_type), 1_767_225_600, true)?;
        }
        Ok(())
    });
    done.map_or_else(|error| error.status(), |()| 200)
}

/// Status of the same with these members of the request.
fn get_with(members: &str) -> u16 {
    get(&format!(r#"{{"schemaVersion":"1.0",{members}}}"#))
}

/// Status of the same with this filter.
fn get_filtered(filter: &str) -> u16 {
    get_with(&format!(r#""items":[{{"id":"a","filter":{filter}}}]"#))
}

/// Status of `UploadModuleLogs` up to the start of its task.
fn upload(payload: &str) -> u16 {
    let done = UploadModuleLogsRequest::parse(payload.as_bytes()).and_then(|request| Selection::new(&request.items).map(drop));
    done.map_or_else(|error| error.status(), |()| 200)
}

fn status_of<T>(read: Result<T, MethodError>) -> u16 {
    read.map_or_else(|error| error.status(), |_| 200)
}

#[test]
fn c001_to_c005_envelope() {
    assert_eq!(Method::find("getmodulelogs"), Some(Method::GetModuleLogs));
    for unknown in ["GetLogs", "CancelTask", "UploadModuleLogs ", ""] {
        assert_eq!(Method::find(unknown), None);
        let error = MethodError::unknown_method(unknown);
        assert_eq!(error.status(), 400);
        let payload: serde_json::Value = serde_json::from_slice(&error.to_json()).expect("JSON");
        assert_eq!(payload.as_object().map(|members| members.keys().collect::<Vec<_>>()), Some(vec![&"message".to_owned()]));
    }
    assert_eq!(NOTHING, b"null");
    for payload in ["", "null", "  \n", "[]", "5", "\"text\"", "\"\"", "true", "not json", r#"{"schemaVersion":"1.0""#] {
        assert_eq!(get(payload), 400, "{payload:?}");
    }
}

#[test]
fn c010_to_c012_what_goes_out() {
    let request = |member: &str| {
        GetModuleLogsRequest::parse(format!(r#"{{"schemaVersion":"1.0","items":[{{"id":"edgeAgent"}}]{member}}}"#).as_bytes())
            .expect("valid")
    };
    let plain = request("");
    assert_eq!((plain.content_type, plain.encoding), (ContentType::Json, Encoding::None));
    assert_eq!(request(r#","contentType":"text""#).content_type, ContentType::Text);
    assert_eq!(request(r#","encoding":"gzip""#).encoding, Encoding::Gzip);
    let packed = ModuleLogs { id: "edgeAgent".into(), payload: LogPayload::Gzip(gzip::compress(b"x\n")) };
    let answer = String::from_utf8(ModuleLogs::to_json(&[packed])).expect("text");
    assert!(answer.contains(r#""payloadBytes":"H4sI"#) && answer.contains(r#""payload":null"#), "{answer}");
}

#[test]
fn c013_to_c024_request_objects() {
    assert_eq!(get_with(r#""items":{"id":"a"}"#), 200);
    assert_eq!(get_with(r#""items":[]"#), 200);
    assert_eq!(get(r#"{"schemaVersion":"1.0"}"#), 400);
    assert_eq!(get_with(r#""items":null"#), 500);
    assert_eq!(get_with(r#""items":[null]"#), 500);
    for version in ["", r#""schemaVersion":null,"#, r#""schemaVersion":"","#, r#""schemaVersion":" ","#] {
        assert_eq!(get(&format!(r#"{{{version}"items":[]}}"#)), 400, "{version}");
    }
    for version in ["1.5", "1.0.0"] {
        assert_eq!(get(&format!(r#"{{"schemaVersion":"{version}","items":[]}}"#)), 200, "{version}");
    }
    for version in ["2.0", "0.9", "1", "v1.0", "abc", "1.0.0.0.0"] {
        assert_eq!(get(&format!(r#"{{"schemaVersion":"{version}","items":[]}}"#)), 500, "{version}");
    }
    assert_eq!(upload(r#"{"schemaVersion":"2.0","items":[],"sasUrl":"u"}"#), 500);
    let bundle = |payload: &str| status_of(UploadSupportBundleRequest::parse(payload.as_bytes()));
    assert_eq!(bundle(r#"{"schemaVersion":"9.9","sasUrl":"u"}"#), 200);
    assert_eq!(bundle(r#"{"schemaVersion":"abc","sasUrl":"u"}"#), 200);
    assert_eq!(bundle(r#"{"sasUrl":"u"}"#), 400);
    assert_eq!(bundle(r#"{"schemaVersion":"1.0"}"#), 400);
    assert_eq!(get_with(r#""ITEMS":[{"Id":"a","FILTER":{"LogLevel":3}}],"Encoding":"GZIP","x":{"y":[1]}"#), 200);
    assert_eq!(upload(r#"{"schemaVersion":"1.0","items":[],"sasURL":"u"}"#), 200);
}

#[test]
fn c025_to_c039_members() {
    for member in [r#""encoding":"xml""#, r#""contentType":"xml""#] {
        assert_eq!(get_with(&format!(r#""items":[],{member}"#)), 400, "{member}");
    }
    for item in ["{}", r#"{"id":""}"#, r#"{"id":"  "}"#, r#"{"id":"["}"#] {
        assert_eq!(get_with(&format!(r#""items":[{item}]"#)), 400, "{item}");
        assert_eq!(upload(&format!(r#"{{"schemaVersion":"1.0","sasUrl":"u","items":[{item}]}}"#)), 400, "{item}");
    }
    for filter in [
        r#"{"regex":"["}"#,
        r#""x""#,
        r#"{"tail":"ten"}"#,
        r#"{"tail":"all"}"#,
        r#"{"tail":true}"#,
        r#"{"tail":3000000000}"#,
        r#"{"tail":-5}"#,
        r#"{"loglevel":"error"}"#,
        r#"{"until":""}"#,
    ] {
        assert_eq!(get_filtered(filter), 400, "{filter}");
    }
    for filter in ["null", "{}", r#"{"loglevel":99}"#] {
        assert_eq!(get_filtered(filter), 200, "{filter}");
    }
    let request =
        GetModuleLogsRequest::parse(br#"{"schemaVersion":"1.0","items":{"id":"a","filter":{"since":"2019-09-27T16:00:00+00:00"}}}"#);
    assert_eq!(request.expect("valid").items[0].filter.since.as_deref(), Some("2019-09-27T16:00:00+00:00"));
    assert_eq!(upload(r#"{"schemaVersion":"1.0","sasUrl":"u","items":[{"id":"a","filter":{"since":"1D"}}]}"#), 200);
    assert_eq!(upload(r#"{"schemaVersion":"1.0","items":[]}"#), 400);
    assert_eq!(upload(r#"{"schemaVersion":"1.0","items":[],"sasUrl":null}"#), 400);
    assert_eq!(upload(r#"{"schemaVersion":"1.0","items":[],"sasUrl":""}"#), 200);
    assert_eq!(upload(r#"{"schemaVersion":"1.0","items":[],"sasUrl":"not a url"}"#), 200);
    assert_eq!(status_of(UploadSupportBundleRequest::parse(br#"{"schemaVersion":"1.0","sasUrl":"u","edgeRuntimeOnly":"yes"}"#)), 400);
}

#[test]
fn c040_to_c043_task_status() {
    assert_eq!(TaskStatusAnswer::unknown("Any Form").to_json(), br#"{"status":"Unknown","message":"","correlationId":"Any Form"}"#);
    let parse = |payload: &str| status_of(GetTaskStatusRequest::parse(payload.as_bytes()));
    assert_eq!(parse(r#"{"schemaVersion":"1.0"}"#), 400);
    assert_eq!(parse(r#"{"schemaVersion":"1.0","correlationId":" "}"#), 400);
    assert_eq!(parse(r#"{"schemaVersion":"2.0","correlationId":"x"}"#), 500);
    let request = GetTaskStatusRequest::parse(br#"{"schemaVersion":"1.0","correlationId":"0E4B"}"#).expect("valid");
    assert_eq!(request.correlation_id, "0E4B", "letter case is kept");
}

#[test]
fn c044_to_c070_time_grammar() {
    const NOW: i64 = 1_767_225_600;
    for (inputs, unix) in [
        (&["1d", "1 day", "1 d", " 1d "][..], 1_767_139_200),
        (&["90m", "90 m", "90min", "90 minutes", "1.5h"], 1_767_220_200),
        (&["2 days 3 hours 2 minutes", "2d3h2m"], 1_767_041_880),
        (&["1h 30m 10s"], 1_767_220_190),
        (&["1d 1d"], 1_767_052_800),
        (&["1M", "1month"], 1_764_595_584),
        (&["5M"], 1_754_075_520),
        (&["1w", "1 week"], 1_766_620_800),
        (&["1y", "1yr"], 1_735_668_000),
        (&["124y"], -2_145_916_800),
        (&["5", "+5"], 5),
        (&["10"], 10),
        (&["0"], 0),
        (&["-5"], -5),
        (
            &[
                "1569600000",
                "2019-09-27T16:00:00Z",
                "2019-09-27T18:00:00+02:00",
                "2019-09-27t16:00:00z",
                "2019-09-27T16:00:00.999Z",
                "2019-09-27 16:00:00Z",
            ],
            1_569_600_000,
        ),
        (&["2147483647", "2038-01-19T03:14:07Z"], 2_147_483_647),
        (&["2016-12-31T23:59:60Z"], 1_483_228_799),
        (&["2wk"], 1_766_016_000),
        (&["10µs", "999ms"], 1_767_225_599),
        (&["1 0 s"], 1_767_225_590),
        (&["0s"], NOW),
        (&["1500ms"], 1_767_225_598),
    ] {
        for input in inputs {
            assert_eq!(since::parse(input, NOW), Ok(unix), "{input:?}");
        }
    }
    for refused in [
        "125y",
        "2147483648",
        "1569600000.5",
        "1.5",
        "2019-09-27T16:00:00",
        "2019-09-27",
        "2019-09-27T16:00:00+0000",
        "2038-01-19T03:14:08Z",
        "2019-02-29T00:00:00Z",
        "2019-09-27T24:00:00Z",
        "1D",
        "1H",
        "1 Day",
        "1h ago",
        "now",
        "yesterday",
        "PT1H",
        "P1D",
        "-1h",
        "+1h",
        "1:30",
        "1d,2h",
        "1d and 2h",
        "",
        " 1569600000",
        "1569600000 ",
        "300y",
        "1000y",
        ".5h",
        "1.",
    ] {
        assert!(since::parse(refused, NOW).is_err(), "{refused:?}");
    }
    for new in ["2019-09-27 16:00:00Z", "1.5h", "2wk", "1yr", "10µs"] {
        assert!(since::read(new, NOW).expect("accepted today").needs_1_6, "{new:?}");
    }
}

const LOG: [(i64, Stream, &str); 12] = [
    (0, Stream::Stdout, "<6> 2026-01-01 00:00:00.000 +00:00 [INF] - boot\n"),
    (10_000, Stream::Stdout, "<7> 2026-01-01 00:00:10.000 +00:00 [DBG] - cache warm\n"),
    (20_000, Stream::Stdout, "<4> 2026-01-01 00:00:20.000 +00:00 [WRN] - slow disk\n"),
    (20_500, Stream::Stderr, "<3> 2026-01-01 00:00:20.500 +00:00 [ERR] - write failed\n"),
    (30_000, Stream::Stderr, "Traceback (most recent call last):\n"),
    (30_100, Stream::Stderr, "  File \"x.py\", line 3\n"),
    (40_000, Stream::Stdout, "\n"),
    (50_000, Stream::Stdout, "<6> 2026-01-01 00:00:50.000 +00:00 [INF] - retry 1\n"),
    (60_000, Stream::Stdout, "<6> 2026-01-01 00:01:00.000 +00:00 [INF] - retry 2\n"),
    (70_000, Stream::Stdout, "<3> 2026-01-01 00:01:10.000 +00:00 [ERR] - write failed again\n"),
    (80_000, Stream::Stdout, "<2> 2026-01-01 00:01:20.000 +00:00 [FTL] - giving up\n"),
    (90_000, Stream::Stdout, "<6> 2026-01-01 00:01:30.000 +00:00 [INF] - bye\n"),
];

fn lines_of(filter: &str, mode: Mode, tail_in_text_uploads: bool) -> Result<Vec<usize>, u16> {
    let filter: LogFilter = serde_json::from_str(filter).expect("a filter");
    let plan = Plan::new(&filter, mode, 1_767_225_720, tail_in_text_uploads).map_err(|error| error.status())?;
    let nanos = |millis: i64| (1_767_225_600_000 + millis) * 1_000_000;
    let mut lines = Vec::new();
    let mut out = |kept: Kept<'_>| {
        lines.extend(LOG.iter().position(|(millis, _, _)| nanos(*millis) == kept.record.received_unix_nanos));
    };
    let mut pipeline = Pipeline::new(&plan);
    for (millis, stream, payload) in LOG {
        pipeline.push(Record::new(stream, nanos(millis), payload.as_bytes()), &mut out).expect("small");
    }
    pipeline.finish(&mut out).expect("small");
    Ok(lines)
}

#[test]
fn c071_to_c108_filters() {
    const WINDOW: &str = r#""since": "2026-01-01T00:00:30Z", "until": "2026-01-01T00:01:00Z""#;
    let alike: &[(&str, &[usize])] = &[
        ("{}", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        (r#"{"tail": 3}"#, &[9, 10, 11]),
        (r#"{"tail": 0}"#, &[]),
        (r#"{"loglevel": 6}"#, &[0, 4, 5, 6, 7, 8, 11]),
        (r#"{"loglevel": 3}"#, &[3, 9]),
        (r#"{"loglevel": 5}"#, &[]),
        (r#"{"regex": "retry"}"#, &[7, 8]),
        (r#"{"regex": "RETRY"}"#, &[]),
        (r#"{"regex": "(?i)RETRY"}"#, &[7, 8]),
        (r#"{"regex": "^\\[ERR"}"#, &[3, 9]),
        (r#"{"regex": "^<3>"}"#, &[]),
        (r#"{"regex": "^File"}"#, &[5]),
        (r#"{"loglevel": 3, "regex": "again"}"#, &[9]),
        (r#"{"tail": 4, "loglevel": 3}"#, &[9]),
        (r#"{"tail": 4, "regex": "retry"}"#, &[8]),
        (r#"{"tail": 1, "loglevel": 3}"#, &[]),
        (r#"{"since": "1m"}"#, &[8, 9, 10, 11]),
        (r#"{"since": "2026-01-01T00:00:30Z"}"#, &[4, 5, 6, 7, 8, 9, 10, 11]),
        (r#"{"since": "2026-01-01T00:00:20.900Z"}"#, &[2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        (r#"{"until": "2026-01-01T00:00:20Z"}"#, &[0, 1, 2]),
        (r#"{"until": "2026-01-01T00:00:20.900Z"}"#, &[0, 1, 2]),
        (r#"{"until": "1m"}"#, &[0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (r#"{"since": "1767225630", "until": "1767225660"}"#, &[4, 5, 6, 7, 8]),
        (r#"{"tail": 2, "since": "1m"}"#, &[10, 11]),
        (r#"{"tail": 2, "until": "1m"}"#, &[]),
        (r#"{"since": "2026-01-01T00:01:00Z", "until": "2026-01-01T00:00:30Z"}"#, &[]),
        (r#"{"since": "2026-01-01T01:00:00Z"}"#, &[]),
        (r#"{"until": "0"}"#, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        (r#"{"until": "0s"}"#, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        (r#"{"tail": 6, "since": "1m", "regex": "retry"}"#, &[8]),
    ];
    for (filter, expected) in alike {
        for mode in [Mode::GetText, Mode::GetJson, Mode::UploadText, Mode::UploadJson] {
            assert_eq!(lines_of(filter, mode, false), Ok(expected.to_vec()), "{mode:?} {filter}");
        }
    }
    for (mode, expected) in [(Mode::GetText, vec![]), (Mode::GetJson, vec![6]), (Mode::UploadText, vec![]), (Mode::UploadJson, vec![6])] {
        assert_eq!(lines_of(r#"{"regex": "2026-01-01"}"#, mode, false), Ok(expected), "{mode:?}");
    }
    let all_three: &[(&str, &[usize], &[usize])] = &[
        (r#""tail": 2"#, &[7, 8], &[4, 5, 6, 7, 8]),
        (r#""tail": 2, "loglevel": 6"#, &[7, 8], &[4, 5, 6, 7, 8]),
        (r#""tail": 1, "regex": "File""#, &[5], &[5]),
        (r#""tail": 0"#, &[], &[4, 5, 6, 7, 8]),
        (r#""tail": -1"#, &[], &[4, 5, 6, 7, 8]),
    ];
    for (members, expected, text_upload) in all_three {
        let filter = format!("{{{members}, {WINDOW}}}");
        for mode in [Mode::GetText, Mode::GetJson, Mode::UploadJson] {
            assert_eq!(lines_of(&filter, mode, false), Ok(expected.to_vec()), "{mode:?} {filter}");
        }
        assert_eq!(lines_of(&filter, Mode::UploadText, false), Ok(text_upload.to_vec()), "{filter}");
        assert_eq!(lines_of(&filter, Mode::UploadText, true), Ok(expected.to_vec()), "the fixed behaviour: {filter}");
    }
    for filter in [r#"{"tail": -1}"#, r#"{"since": "1D"}"#] {
        assert_eq!(lines_of(filter, Mode::GetText, false), Err(400), "{filter}");
        assert_eq!(lines_of(filter, Mode::UploadJson, false), Err(400), "the task fails with it: {filter}");
    }
}

#[test]
fn c109_to_c121_module_ids() {
    let chosen = |ids: &[&str]| {
        let items: Vec<_> = ids.iter().map(|id| LogItem { id: (*id).to_owned(), filter: LogFilter::default() }).collect();
        Selection::new(&items).map(|selection| selection.select(DEVICE))
    };
    let matched = |id: &str| chosen(&[id]).expect("a pattern").into_iter().map(|(module, _)| module).collect::<Vec<_>>();
    for id in ["edge", "^edge", "edge(Agent|Hub)"] {
        assert_eq!(matched(id), ["edgeAgent", "edgeHub"], "{id}");
    }
    assert_eq!(matched("EDGEAGENT"), ["edgeAgent"]);
    for id in ["^edge$", "nomatch", "$edgeAgent", "^all$", "a.l"] {
        assert_eq!(matched(id), Vec::<&str>::new(), "{id}");
    }
    assert_eq!(matched("all"), DEVICE);
    assert_eq!(matched("ALL"), DEVICE);
    assert_eq!(matched("sensor"), ["tempSensor", "SimulatedTemperatureSensor"]);
    assert_eq!(matched("opc.publisher"), ["opc-publisher", "opc.publisher"]);
    assert_eq!(matched(r"opc\.publisher"), ["opc.publisher"]);
    assert_eq!(matched("^(?!edgeAgent|edgeHub).*$"), DEVICE[2..]);
    for id in ["[", "(", "*"] {
        assert_eq!(chosen(&[id]).expect_err("a bad pattern").status(), 400, "{id}");
    }
    let items = |ids: &[&str]| chosen(ids).expect("patterns").into_iter().map(|(_, item)| item).collect::<Vec<_>>();
    assert_eq!(items(&["edgeHub", "all"]), [1, 0, 1, 1, 1, 1]);
    assert_eq!(items(&["all", "edgeHub"]), [0; 6]);
    assert_eq!(chosen(&["edge", "edgeHub"]), Ok(vec![("edgeAgent", 0), ("edgeHub", 0)]));
    assert_eq!(chosen(&["nothing", "tempSensor"]).expect("patterns")[0], ("tempSensor", 1));
}

#[test]
fn c122_to_c135_lines() {
    for (payload, level, text, time) in [
        ("<3> 2026-01-02 03:04:05.678 -08:00 [ERR] - Pump stalled\n", 3, "[ERR] - Pump stalled", "2026-01-02T11:04:05.678+00:00"),
        ("plain text\n", 6, "plain text", NO_TIMESTAMP),
        ("<6> 2026-01-02 03:04:05.678 [INF] no offset\n", 6, "2026-01-02 03:04:05.678 [INF] no offset", NO_TIMESTAMP),
        ("<6> 2026-13-02 03:04:05.678 +00:00 month thirteen\n", 6, "month thirteen", NO_TIMESTAMP),
        ("<10> two digits\n", 6, "<10> two digits", NO_TIMESTAMP),
        ("<a> letter\n", 6, "<a> letter", NO_TIMESTAMP),
        ("< 3> space inside\n", 6, "< 3> space inside", NO_TIMESTAMP),
        ("<9> nine\n", 9, "nine", NO_TIMESTAMP),
        ("<3>\n", 3, "<3>\n", NO_TIMESTAMP),
        ("\n", 6, "\n", NO_TIMESTAMP),
        ("windows line\r\n", 6, "windows line\r", NO_TIMESTAMP),
        (
            "2026-01-02T03:04:05.123456789Z <6> 2026-01-02 03:04:05.678 +00:00 [INF] - both stamps\n",
            6,
            "[INF] - both stamps",
            "2026-01-02T03:04:05.1234568+00:00",
        ),
        ("2026-01-02T03:04:05.999999999Z rounds up\n", 6, "rounds up", "2026-01-02T03:04:06+00:00"),
        ("2026-01-02T03:04:05.123Z short docker fraction\n", 6, "2026-01-02T03:04:05.123Z short docker fraction", NO_TIMESTAMP),
        ("2026-01-02T03:04:05.123456789Z \n", 6, "2026-01-02T03:04:05.123456789Z \n", "2026-01-02T03:04:05.1234568+00:00"),
        ("first\nsecond\n", 6, "first", NO_TIMESTAMP),
    ] {
        let line = line::parse(payload);
        assert_eq!((line.level, line.text.as_ref()), (level, text), "{payload:?}");
        assert_eq!(line.timestamp.map_or(NO_TIMESTAMP.to_owned(), |t| t.to_json_text()), time, "{payload:?}");
    }
    assert_eq!(rendered(ContentType::Text, &["first\nsecond\n"]), "first\nsecond\n");
}

#[test]
fn c136_c137_frames() {
    for (byte, stream) in [(2, Stream::Stderr), (0, Stream::Stdout), (1, Stream::Stdout), (3, Stream::Stdout), (9, Stream::Stdout)] {
        let bytes = [byte, 7, 7, 7, 0, 0, 0, 1, b'x'];
        assert_eq!(frames::decode_all(&bytes).expect("a frame")[0].stream, stream, "{byte}");
    }
    let tty = b"hello from a tty container\n";
    assert_eq!(frames::decode_all(tty), Err(FrameError::TruncatedFinalFrame));
    assert!(FrameDecoder::new().push(tty, |_| ()).is_err());
}

fn rendered(content_type: ContentType, payloads: &[&str]) -> String {
    let plan = Plan::new(&LogFilter::default(), Mode::get(content_type), 0, true).expect("no filter");
    let mut renderer = Renderer::new(content_type, Origin { iothub: "hub", device: "dev", module: "m" });
    let mut out = Vec::new();
    for payload in payloads {
        let record = Record::new(Stream::Stdout, 0, payload.as_bytes());
        renderer.push(&plan.keep(&record).expect("no filter"), &mut out);
    }
    renderer.finish(&mut out);
    String::from_utf8(out).expect("text")
}

#[test]
fn c138_c139_nothing_to_show() {
    assert_eq!(rendered(ContentType::Text, &["\n", "  \n"]), "");
    assert_eq!(rendered(ContentType::Json, &[]), "[]");
}

#[test]
fn c140_to_c143_size() {
    let none = |texts: &[&str]| {
        texts.iter().try_fold(SizeCheck::new(Encoding::None), |mut check, text| check.add(counted_text(text)).map(|()| check))
    };
    assert!(none(&[&"a".repeat(MAX_COUNTED)]).is_ok());
    assert_eq!(status_of(none(&[&"a".repeat(MAX_COUNTED + 1)])), 400);
    assert_eq!(status_of(none(&[&"a".repeat(100_000), &"b".repeat(27_001)])), 400);
    assert!(none(&[&"☃".repeat(60_000)]).is_ok());
    let packed = |bytes: usize| SizeCheck::new(Encoding::Gzip).add(counted_gzip(&vec![0; bytes]));
    assert!(packed(MAX_COUNTED).is_ok());
    assert_eq!(status_of(packed(MAX_COUNTED + 1)), 400);
}

#[test]
fn c144_c146_tasks() {
    assert_eq!(TaskStatusAnswer::running("id").to_json(), br#"{"status":"Running","message":"","correlationId":"id"}"#);
    let failed = TaskStatusAnswer::failed(Operation::SupportBundle, "boom", "id");
    assert_eq!((failed.status, failed.message.as_str()), (TaskStatus::Failed, "Task upload support bundle failed because of error boom"));
    assert_eq!(TaskStatusAnswer::of(TaskStatus::Cancelled, "id").message, "");
}

#[test]
fn c148_to_c150_object_names() {
    let at = datetime!(2026-01-02 03:04:05.999 UTC);
    for (content_type, encoding, extension) in [
        (ContentType::Text, Encoding::None, "log"),
        (ContentType::Text, Encoding::Gzip, "log.gz"),
        (ContentType::Json, Encoding::None, "json"),
        (ContentType::Json, Encoding::Gzip, "json.gz"),
    ] {
        let name = log_object("hub", "dev", "tempSensor", at, content_type, encoding);
        assert_eq!(name, format!("hub/dev/tempSensor-2026-01-02--03-04-05.{extension}"));
        let same = log_object("hub", "dev", "tempSensor", datetime!(2026-01-02 03:04:05.1 UTC), content_type, encoding);
        assert_eq!(name, same, "one object per second");
    }
    assert_eq!(bundle_object("hub", "dev", at), "hub/dev/support-bundle-2026-01-02--03-04-05.zip");
}

#[test]
fn c151_to_c155_appends() {
    let run = |encoding, lines: &[&str]| {
        let mut plan = AppendPlan::new(encoding, AppendStyle::LikeIotEdge);
        let mut writes = Vec::new();
        for line in lines {
            writes.extend(plan.push(line)?);
        }
        writes.extend(plan.flush()?);
        Ok(writes)
    };
    assert_eq!(run(Encoding::None, &["line\n"; 250]).expect("250 appends").len(), 250);
    assert_eq!(run(Encoding::None, &["line\n"; MAX_APPENDS + 1]), Err(AppendError::TooMany));
    let members = run(Encoding::Gzip, &["line\n"; 250]).expect("three appends");
    assert_eq!(members.len(), 3);
    assert!(members.iter().all(|member| member.starts_with(&[0x1f, 0x8b])));
    assert_eq!(gzip::decompress(&members.concat(), 250 * 5).expect("multi-member gzip"), "line\n".repeat(250).as_bytes());
    assert_eq!(run(Encoding::None, &["a\n", "\n"]), Err(AppendError::Empty));
    let kept = run(Encoding::Gzip, &["a\n", "\n", "b\n"]).expect("one append");
    assert_eq!(gzip::decompress(&kept.concat(), 10).expect("gzip"), b"a\nb\n");
    for encoding in [Encoding::None, Encoding::Gzip] {
        assert_eq!(run(encoding, &[]), Ok(vec![]));
    }
}

#[test]
fn c166_to_c168_upstream() {
    let rewritten = |url| upstream::rewrite(url, Some("parent")).expect("a parent").into_owned();
    assert_eq!(rewritten("https://$upstream:8000/acct/logs?sig=1"), "https://parent:8000/acct/logs?sig=1");
    for unchanged in ["https://$upstream/acct/logs?sig=1", "https://$upstream:08/c?sig=1", "https://$UPSTREAM:8000/c"] {
        assert_eq!(rewritten(unchanged), unchanged);
    }
    assert_eq!(status_of(upstream::rewrite("$upstream:8000", None)), 400);
}
