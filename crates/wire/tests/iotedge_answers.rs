//! The cases of the fixtures about what a device answers and writes: payloads, sizes, grants, object names, appends. The others, and what
//! holds for all, are in `iotedge_cases.rs`.

mod fixture;

use fixture::{content_type, encoding, instant, numbers, run, strings, text};
use muster_wire::method::answer::{LogPayload, ModuleLogs, NOTHING, Operation, TaskStatus, TaskStatusAnswer};
use muster_wire::method::append::{AppendError, AppendPlan, AppendStyle};
use muster_wire::method::object_name::{self, BlobKind};
use muster_wire::method::size::{self, SizeCheck};
use muster_wire::method::{Encoding, MethodError, gzip, upstream};
use serde_json::{Value, json};

#[test]
fn response_render() {
    run("response_render", |_, case| {
        let expected = &case["expect"];
        let rendered = match text(case, "of") {
            "GetModuleLogs" => {
                let payload = match (encoding(text(case, "encoding")), case["log"].as_str()) {
                    (Encoding::None, log) => LogPayload::Plain(log.expect("a log").to_owned()),
                    (Encoding::Gzip, log) => LogPayload::Gzip(gzip::compress(log.unwrap_or("abc\n").as_bytes())),
                };
                let logs = [ModuleLogs { id: text(case, "id_").to_owned(), payload }];
                let rendered = ModuleLogs::to_json(&logs);
                let first = serde_json::from_slice::<Value>(&rendered).expect("JSON")[0].clone();
                if case["encoding"] == "gzip" {
                    assert_eq!((&first["id"], &first["payload"]), (&expected["id"], &expected["payload"]), "{case}");
                    assert_eq!(first.as_object().map(serde_json::Map::len), Some(3), "{case}");
                    let LogPayload::Gzip(packed) = &ModuleLogs::parse_all(&rendered).expect("our own answer")[0].payload else {
                        panic!("{case}")
                    };
                    assert_eq!(packed[..2], [0x1f, 0x8b], "{case}");
                    let log = case["log"].as_str().unwrap_or("abc\n");
                    assert_eq!(gzip::decompress(packed, log.len()).expect("one gzip stream"), log.as_bytes(), "{case}");
                    return;
                }
                first
            }
            "UploadModuleLogs accepted" => {
                let id = uuid::Uuid::new_v4().to_string();
                let rendered: Value = serde_json::from_slice(&TaskStatusAnswer::running(id.clone()).to_json()).expect("JSON");
                assert_eq!(rendered, json!({"status": expected["status"], "message": expected["message"], "correlationId": id}), "{case}");
                assert_eq!(id, id.to_lowercase());
                return;
            }
            of if of.starts_with("GetTaskStatus") => match case["operation"].as_str() {
                Some("upload logs") => status(&TaskStatusAnswer::failed(Operation::Logs, text(case, "error"), "id1")),
                Some("upload support bundle") => status(&TaskStatusAnswer::failed(Operation::SupportBundle, text(case, "error"), "id1")),
                Some(other) => panic!("{other}"),
                // Every other status comes with an empty message and the id as it was asked for.
                None => {
                    let expected_status = TaskStatus::find(text(expected, "status")).expect("a status");
                    status(&TaskStatusAnswer::of(expected_status, text(expected, "correlationId")))
                }
            },
            "ping" => serde_json::from_slice(NOTHING).expect("JSON"),
            "error" => serde_json::from_slice(&MethodError::bad_request(text(case, "text")).to_json()).expect("JSON"),
            other => panic!("{other}"),
        };
        assert_eq!(&rendered, expected, "{case}");
    });
}

fn status(answer: &TaskStatusAnswer) -> Value {
    assert_eq!(&TaskStatusAnswer::parse(&answer.to_json()).expect("our own answer"), answer);
    serde_json::from_slice(&answer.to_json()).expect("JSON")
}

#[test]
fn payload_size() {
    run("payload_size", |group, case| {
        assert_eq!(group["limit"], size::MAX_COUNTED);
        let packed = encoding(text(case, "encoding"));
        let mut check = SizeCheck::new(packed);
        let logs: Vec<LogPayload> = match packed {
            Encoding::None => case["modules"]
                .as_array()
                .expect("modules")
                .iter()
                .map(|m| LogPayload::Plain(text(m, "char").repeat(usize::try_from(m["count"].as_u64().expect("a count")).expect("small"))))
                .collect(),
            Encoding::Gzip => numbers(&case["compressed_bytes"]).into_iter().map(|bytes| LogPayload::Gzip(vec![0; bytes])).collect(),
        };
        let checked = logs.iter().try_for_each(|payload| {
            check.add(match payload {
                LogPayload::Plain(text) => size::counted_text(text),
                LogPayload::Gzip(bytes) => size::counted_gzip(bytes),
            })
        });
        assert_eq!(case["status"], checked.map_or_else(|error| error.status(), |()| 200), "{case}");
        if let Some(least) = case["wire_bytes_at_least"].as_u64() {
            let all: Vec<_> = logs.into_iter().map(|payload| ModuleLogs { id: "m".to_owned(), payload }).collect();
            assert!(ModuleLogs::to_json(&all).len() as u64 >= least, "{case}");
        }
    });
}

#[test]
fn sas_rewrite() {
    run("sas_rewrite", |group, case| {
        let gateway = case.get("gateway_hostname").unwrap_or(&group["gateway_hostname"]).as_str();
        match (upstream::rewrite(text(case, "input"), gateway), case["output"].as_str()) {
            (Ok(output), Some(expected)) => assert_eq!(output, expected, "{case}"),
            (Err(error), None) => assert_eq!(case["status"], error.status(), "{case}"),
            (other, _) => panic!("{case}: {other:?}"),
        }
    });
}

#[test]
fn blob_name() {
    run("blob_name", |group, case| {
        let (hub, device) = (text(group, "iothub_hostname"), text(group, "device_id"));
        let log_object = |at: &str| {
            let (content, packed) = (content_type(text(case, "contentType")), encoding(text(case, "encoding")));
            object_name::log_object(hub, device, text(case, "module"), instant(at), content, packed)
        };
        if let Some(collision) = case.get("collision") {
            let names: Vec<_> = strings(collision).into_iter().map(log_object).collect();
            assert_eq!(case["same_blob"], names[0] == names[1], "{case}");
            return;
        }
        let at = text(case, "at");
        let (name, properties) = match text(case, "method") {
            "UploadSupportBundle" => (object_name::bundle_object(hub, device, instant(at)), object_name::BUNDLE_PROPERTIES),
            _ => (log_object(at), object_name::log_properties(content_type(text(case, "contentType")), encoding(text(case, "encoding")))),
        };
        assert_eq!(case["blob"], name, "{case}");
        let kind = match properties.kind {
            BlobKind::Block => "block",
            BlobKind::Append => "append",
        };
        assert_eq!(case["blob_type"], kind, "{case}");
        assert_eq!(case["content_type"], properties.content_type, "{case}");
        assert_eq!(case["content_encoding"], json!(properties.content_encoding), "{case}");
    });
}

#[test]
fn append_writes() {
    run("append_writes", |_, case| {
        let packed = encoding(text(case, "encoding"));
        let mut plan = AppendPlan::new(packed, AppendStyle::LikeIotEdge);
        let lines = case["lines"].as_u64().expect("lines");
        let mut written = Vec::new();
        let mut outcome = Ok(());
        for n in 0..lines {
            match plan.push(&format!("line {n}\n")) {
                Ok(writes) => written.extend(writes),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        if outcome.is_ok() {
            outcome = plan.flush().map(|writes| written.extend(writes));
        }
        assert_eq!(case["appends"], written.len(), "{case}");
        assert_eq!(case["appends"], plan.appends(), "{case}");
        let task = match outcome {
            Ok(()) => "Completed",
            Err(AppendError::TooMany) => "Failed",
            Err(error) => panic!("{case}: {error}"),
        };
        assert_eq!(case["task"].as_str().unwrap_or("Completed"), task, "{case}");
        // Each write by itself can be read: one line, or one member of at most a hundred. That the blob exists before the first of them
        // (`blob_exists`) is the uploader's business and stands in its tests.
        let kept = if task == "Failed" { plan.appends() as u64 } else { lines };
        let text: String = (0..kept).map(|n| format!("line {n}\n")).collect();
        let read: Vec<u8> = match packed {
            Encoding::None => written.concat(),
            Encoding::Gzip => written.iter().flat_map(|member| gzip::decompress(member, 2000).expect("a member")).collect(),
        };
        assert!(read == text.as_bytes(), "{case}");
    });
}
