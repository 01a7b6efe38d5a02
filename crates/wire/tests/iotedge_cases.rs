//! Runs every case of `fixtures/iotedge-cases.json` and of `fixtures/iotedge-more-cases.json` against `muster_wire::method`, all tiers,
//! and holds the numbers of cases to the counts the files themselves name. There are no exceptions: a case that cannot be met has to be
//! listed here with a reason. The half about answers is in `iotedge_answers.rs`.

mod fixture;

use std::collections::HashSet;

use fixture::{content_type, encoding, file, more, numbers, run, strings, text, unix_nanos};
use muster_wire::method::append::{AppendError, AppendPlan, AppendStyle};
use muster_wire::method::filter::{Kept, Mode, Pipeline, Plan, Record};
use muster_wire::method::frames::{self, FrameDecoder, FrameError, Stream};
use muster_wire::method::line::{self, StampSource};
use muster_wire::method::name::is_not_offered;
use muster_wire::method::pattern::{LinePattern, ModulePattern, Outcome, PatternError};
use muster_wire::method::render::{Origin, Renderer};
use muster_wire::method::select::Selection;
use muster_wire::method::since::{self, Grammar, SinceError};
use muster_wire::method::timestamp::NO_TIMESTAMP;
use muster_wire::method::{
    ContentType, Encoding, GetModuleLogsRequest, GetTaskStatusRequest, LogFilter, LogItem, Method, MethodError, UploadModuleLogsRequest,
    UploadSupportBundleRequest, gzip,
};
use serde_json::{Value, json};

#[test]
fn every_group_is_run() {
    let groups = [
        "since_until_parse",
        "log_line_parse",
        "docker_frames",
        "filter_apply",
        "render",
        "text_regex_match",
        "module_id_match",
        "items_resolution",
        "method_dispatch",
        "request_validation",
        "response_render",
        "payload_size",
        "sas_rewrite",
        "blob_name",
        "append_writes",
    ];
    let mut ids = HashSet::new();
    for file in [file(), more()] {
        let counts = file["meta"]["counts"].as_object().expect("counts");
        let mut named: Vec<_> = counts.keys().map(String::as_str).collect();
        let mut there: Vec<_> = file.as_object().expect("groups").keys().map(String::as_str).filter(|name| *name != "meta").collect();
        let mut run = groups.to_vec();
        named.sort_unstable();
        there.sort_unstable();
        run.sort_unstable();
        assert_eq!(named, run);
        assert_eq!(there, run);
        let total: u64 = counts.values().filter_map(Value::as_u64).sum();
        assert_eq!(file["meta"]["total"], total);
        for group in groups {
            for case in file[group]["cases"].as_array().expect("cases") {
                assert!(ids.insert(text(case, "id").to_owned()), "{case} is there twice");
            }
        }
    }
}

#[test]
fn since_until_parse() {
    run("since_until_parse", |group, case| {
        let now = group["now_unix"].as_i64().expect("now");
        let input = text(case, "input");
        let read = since::read(input, now);
        assert_eq!(since::parse(input, now).ok(), read.ok().map(|r| r.unix), "{case}");
        if case["ok"] == false {
            let expected = match text(case, "why") {
                "no_grammar" => SinceError::NoGrammar,
                "duration_overflow" => SinceError::DurationOverflow,
                "out_of_i32_range" => SinceError::OutOfRange,
                other => panic!("{other}"),
            };
            assert_eq!(read, Err(expected), "{case}");
            return;
        }
        let read = read.unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(case["unix"], read.unix, "{case}");
        let grammar = match read.grammar {
            Grammar::Rfc3339 => "rfc3339",
            Grammar::Epoch => "epoch",
            Grammar::Duration => "duration",
        };
        assert_eq!(case["grammar"], grammar, "{case}");
        assert_eq!(case["ok_in_1_5_and_older"].as_bool().unwrap_or(true), !read.needs_1_6, "{case}");
        assert_eq!(
            since::is_portable(input),
            grammar == "rfc3339" && input.len() == 20 && input.contains('T') && input.ends_with('Z'),
            "{case}"
        );
    });
}

#[test]
fn log_line_parse() {
    run("log_line_parse", |_, case| {
        let line = line::parse(text(case, "payload"));
        assert_eq!(case["loglevel"], line.level, "{case}");
        assert_eq!(case["text"], line.text.as_ref(), "{case}");
        let expected_from = match text(case, "timestamp_from") {
            "unspecified" => return,
            "docker" => StampSource::Runtime,
            "line" => StampSource::Line,
            "none" => StampSource::None,
            other => panic!("{other}"),
        };
        assert_eq!(line.timestamp_from, expected_from, "{case}");
        let json_text = line.timestamp.map_or_else(|| NO_TIMESTAMP.to_owned(), |t| t.to_json_text());
        assert_eq!(case["timestamp_json"], json_text, "{case}");
        let utc = line.timestamp.map(|t| t.to_json_text().replace("+00:00", "Z"));
        assert_eq!(case["timestamp_utc"], json!(utc), "{case}");
    });
}

#[test]
fn docker_frames() {
    run("docker_frames", |_, case| {
        let hex = text(case, "hex").as_bytes();
        let bytes: Vec<u8> =
            hex.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex")).collect();
        let decoded = frames::decode_all(&bytes);
        if case["error"] == "truncated_final_frame" {
            assert_eq!(decoded, Err(FrameError::TruncatedFinalFrame), "{case}");
            let mut decoder = FrameDecoder::new();
            assert!(decoder.push(&bytes, |_| ()).is_err() || decoder.finish().is_err(), "{case}");
            return;
        }
        let frames = decoded.expect("frames");
        let payloads: Vec<_> = frames.iter().map(|f| String::from_utf8_lossy(f.payload).into_owned()).collect();
        if let Some(damaged) = case["every_payload_contains"].as_str() {
            assert_eq!(case["frames"], frames.len(), "{case}");
            assert!(payloads.iter().all(|p| p.contains(damaged)), "{case}");
            return;
        }
        let records: Vec<_> = frames.iter().zip(&payloads).map(|(f, p)| json!({"stream": f.stream.as_str(), "payload": p})).collect();
        assert_eq!(case["records"], json!(records), "{case}");
        let mut streamed = Vec::new();
        let mut decoder = FrameDecoder::new();
        for byte in &bytes {
            decoder.push(std::slice::from_ref(byte), |f| streamed.push((f.stream, f.payload.to_vec()))).expect("frames");
        }
        decoder.finish().expect("whole frames");
        assert_eq!(streamed, frames.iter().map(|f| (f.stream, f.payload.to_vec())).collect::<Vec<_>>(), "{case}");
    });
}

fn log(group: &Value) -> Vec<Record<'_>> {
    let stream = |word: &str| if word == "stderr" { Stream::Stderr } else { Stream::Stdout };
    group["log"]
        .as_array()
        .expect("a log")
        .iter()
        .map(|l| Record::new(stream(text(l, "stream")), unix_nanos(text(l, "docker_ts")), text(l, "payload").as_bytes()))
        .collect()
}

const MODES: [(&str, Mode); 4] =
    [("get_text", Mode::GetText), ("get_json", Mode::GetJson), ("upload_text", Mode::UploadText), ("upload_json", Mode::UploadJson)];

fn mode(word: &str) -> Mode {
    MODES.iter().find(|(name, _)| *name == word).unwrap_or_else(|| panic!("mode {word}")).1
}

fn selected(plan: &Plan, records: &[Record<'_>]) -> Vec<usize> {
    let mut lines = Vec::new();
    let mut out = |kept: Kept<'_>| lines.push(records.iter().position(|r| r == kept.record).expect("one of ours"));
    let mut pipeline = Pipeline::new(plan);
    for record in records {
        pipeline.push(record.clone(), &mut out).expect("small");
    }
    pipeline.finish(&mut out).expect("small");
    lines
}

#[test]
fn filter_apply() {
    run("filter_apply", |group, case| {
        let records = log(group);
        let filter: LogFilter = serde_json::from_value(case["filter"].clone()).expect("a filter");
        let mut modes = 0;
        for expected in case["expect"].as_array().expect("expectations") {
            for word in strings(&expected["modes"]) {
                modes += 1;
                let plan = Plan::new(&filter, mode(word), group["now_unix"].as_i64().expect("now"), false);
                match text(expected, "outcome") {
                    "lines" => assert_eq!(selected(&plan.expect("a plan"), &records), numbers(&expected["lines"]), "{word} {case}"),
                    // An upload looks at the window inside its task; the same error makes the task fail.
                    "status_400" | "task_failed" => assert_eq!(plan.expect_err("refused").status(), 400, "{word} {case}"),
                    other => panic!("{other}"),
                }
            }
        }
        assert_eq!(modes, MODES.len(), "{case}");
    });
    let file = file();
    for (record, described) in log(&file["filter_apply"]).iter().zip(file["filter_apply"]["log"].as_array().expect("a log")) {
        let line = line::parse(&record.payload);
        assert_eq!((&described["loglevel"], &described["text"]), (&json!(line.level), &json!(line.text)), "{described}");
    }
}

fn rendered(content: ContentType, group: &Value, lines: &[usize], records: &[Record<'_>]) -> Vec<u8> {
    let origin = Origin { iothub: text(group, "iothub_hostname"), device: text(group, "device_id"), module: text(group, "module") };
    let plan = Plan::new(&LogFilter::default(), Mode::get(content), 0, false).expect("no filter");
    let mut renderer = Renderer::new(content, origin);
    let mut out = Vec::new();
    for &index in lines {
        renderer.push(&plan.keep(&records[index]).expect("no filter"), &mut out);
    }
    renderer.finish(&mut out);
    out
}

#[test]
fn render() {
    let file = file();
    let records = log(&file["filter_apply"]);
    run("render", |group, case| {
        let lines = numbers(&case["lines"]);
        if case["operation"] == "UploadModuleLogs" {
            return render_upload(case, &lines, &records);
        }
        assert_eq!(case["operation"], "GetModuleLogs", "{case}");
        assert_eq!(case["encoding"], "none", "{case}");
        let out = String::from_utf8(rendered(content_type(text(case, "contentType")), group, &lines, &records)).expect("text");
        if let Some(expected) = case["expect_string"].as_str() {
            assert_eq!(out, expected, "{case}");
            return;
        }
        let read: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(read, case["expect_json"], "{case}");
        let order: Vec<_> = strings(&group["key_order"]).iter().map(|key| format!("\"{key}\":")).collect();
        if !lines.is_empty() {
            let places: Vec<_> = order.iter().map(|key| out.find(key).expect("the member")).collect();
            assert!(places.is_sorted(), "{case}: {out}");
        }
    });
}

fn render_upload(case: &Value, lines: &[usize], records: &[Record<'_>]) {
    assert_eq!(case["contentType"], "text", "{case}");
    let packed = encoding(text(case, "encoding"));
    let mut plan = AppendPlan::new(packed, AppendStyle::LikeIotEdge);
    let (mut writes, mut sizes, mut task) = (Vec::new(), Vec::new(), "Completed");
    for &index in lines {
        match plan.push(&records[index].payload) {
            Ok(due) => {
                sizes.extend(due.iter().map(Vec::len));
                writes.extend(due);
            }
            Err(AppendError::Empty) => {
                sizes.push(0);
                task = "Failed";
                break;
            }
            Err(error) => panic!("{case}: {error}"),
        }
    }
    writes.extend(plan.flush().expect("few writes"));
    let expected = &case["expect"];
    match packed {
        Encoding::None => assert_eq!((json!(sizes), json!(task)), (expected["append_sizes"].clone(), expected["task"].clone()), "{case}"),
        Encoding::Gzip => {
            let kept: String = numbers(&expected["decompressed_lines"]).iter().map(|&index| records[index].payload.as_ref()).collect();
            assert_eq!(gzip::decompress(&writes.concat(), 10_000).expect("gzip"), kept.as_bytes(), "{case}");
        }
    }
}

#[test]
fn text_regex_match() {
    run("text_regex_match", |_, case| {
        let pattern = LinePattern::new(text(case, "pattern"));
        if case["error"] == "invalid_regex" {
            assert!(matches!(pattern, Err(PatternError::Invalid(_))), "{case}");
            let filter = LogFilter { regex: Some(text(case, "pattern").to_owned()), ..LogFilter::default() };
            assert_eq!(case["status"], Plan::new(&filter, Mode::GetText, 0, false).expect_err("refused").status(), "{case}");
            return;
        }
        let found = pattern.expect("a pattern").find(text(case, "text"));
        assert_eq!(case["match"], found == Outcome::Match, "{case}");
        assert_ne!(found, Outcome::Exhausted, "{case}");
    });
}

#[test]
fn module_id_match() {
    run("module_id_match", |_, case| {
        let id = text(case, "pattern");
        let pattern = ModulePattern::new(id);
        if case["error"] == "invalid_regex" {
            assert!(matches!(pattern, Err(PatternError::Invalid(_))), "{case}");
            let refused = Selection::new(&[LogItem { id: id.to_owned(), filter: LogFilter::default() }]).expect_err("refused");
            assert_eq!(case["status"], refused.status(), "{case}");
            return;
        }
        let pattern = pattern.unwrap_or_else(|error| panic!("{case}: {error}"));
        let mut matched = strings(&case["modules"]);
        matched.retain(|module| pattern.find(module) == Outcome::Match);
        matched.sort_unstable();
        assert_eq!(matched, strings(&case["matched"]), "{case}");
    });
}

#[test]
fn items_resolution() {
    run("items_resolution", |group, case| {
        let items: Vec<_> =
            strings(&case["item_ids"]).iter().map(|id| LogItem { id: (*id).to_owned(), filter: LogFilter::default() }).collect();
        let modules = strings(&group["modules"]);
        let selection = Selection::new(&items).expect("patterns");
        let chosen: serde_json::Map<_, _> = selection.select(modules).into_iter().map(|(m, item)| (m.to_owned(), json!(item))).collect();
        assert_eq!(case["module_to_item_index"], Value::Object(chosen), "{case}");
    });
}

#[test]
fn method_dispatch() {
    run("method_dispatch", |group, case| {
        // RestartModule is registered on the real device and left out here on purpose; its answer says so.
        let name = text(case, "name");
        let registered = |name: &str| Method::find(name).is_some() || is_not_offered(name);
        assert_eq!(case["found"], registered(name), "{case}");
        if case["found"] == false {
            assert_eq!(case["status"], MethodError::unknown_method(name).status(), "{case}");
        }
        assert!(strings(&group["registered"]).iter().all(|name| registered(name)));
    });
}

fn filter_json(filter: &LogFilter) -> Value {
    serde_json::to_value(filter).expect("JSON")
}

fn items_json(items: &[LogItem]) -> Value {
    items.iter().map(|item| json!({"id": item.id, "filter": filter_json(&item.filter)})).collect()
}

/// What an agent does after parsing a log request on a device whose every module has an empty log: patterns, then the windows.
fn carry_out(items: &[LogItem], mode: Mode) -> Result<(), MethodError> {
    Selection::new(items)?;
    // The cases assume that a module matches. An upload looks at the window inside its task.
    if matches!(mode, Mode::GetText | Mode::GetJson) {
        for item in items {
            Plan::new(&item.filter, mode, 1_767_225_600, false)?;
        }
    }
    Ok(())
}

fn answer(method: &str, payload: &[u8]) -> Result<Value, MethodError> {
    match Method::find(method).expect("a method") {
        Method::GetModuleLogs => {
            let request = GetModuleLogsRequest::parse(payload)?;
            carry_out(&request.items, Mode::get(request.content_type))?;
            let again = GetModuleLogsRequest::parse(&request.to_json()).expect("our own request");
            assert_eq!(again, request);
            Ok(json!({"encoding": request.encoding, "contentType": request.content_type, "items": items_json(&request.items)}))
        }
        Method::UploadModuleLogs => {
            let request = UploadModuleLogsRequest::parse(payload)?;
            carry_out(&request.items, Mode::upload(request.content_type))?;
            let again = UploadModuleLogsRequest::parse(&request.to_json()).expect("our own request");
            assert_eq!(again, request);
            Ok(json!({"encoding": request.encoding, "contentType": request.content_type, "items": items_json(&request.items),
                "sasUrl": request.sas_url.expose()}))
        }
        Method::UploadSupportBundle => {
            let request = UploadSupportBundleRequest::parse(payload)?;
            let again = UploadSupportBundleRequest::parse(&request.to_json()).expect("our own request");
            assert_eq!(again, request);
            let mut read = json!({"sasUrl": request.sas_url.expose(), "edgeRuntimeOnly": request.edge_runtime_only});
            for (name, bound) in [("since", request.since), ("until", request.until)] {
                if let Some(bound) = bound {
                    read[name] = json!(bound);
                }
            }
            Ok(read)
        }
        Method::GetTaskStatus => {
            let request = GetTaskStatusRequest::parse(payload)?;
            Ok(json!({"correlationId": request.correlation_id}))
        }
        Method::Ping => Ok(Value::Null),
    }
}

#[test]
fn request_validation() {
    run("request_validation", |_, case| {
        let answered = answer(text(case, "method"), text(case, "payload").as_bytes());
        let status = answered.as_ref().map_or_else(MethodError::status, |_| 200);
        assert_eq!(case["status"], status, "{case}: {answered:?}");
        if let (Ok(mut read), Some(normalized)) = (answered, case["normalized"].as_object()) {
            // A default that the normal form leaves out must be the default.
            if !normalized.contains_key("edgeRuntimeOnly")
                && let Some(only) = read.as_object_mut().and_then(|read| read.remove("edgeRuntimeOnly"))
            {
                assert_eq!(only, false, "{case}");
            }
            assert_eq!(read, Value::Object(normalized.clone()), "{case}");
        }
    });
}
