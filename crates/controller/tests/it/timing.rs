//! Windows, retries, standing collections, steps and schedules, as callers and devices meet them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::client::Answer;
use crate::device::{Device, publish, support_bundle, upload};
use crate::harness::{Postgres, Served, until};

const COLLECTIONS: &str = "/api/v1/collections";
const SCHEDULES: &str = "/api/v1/schedules";

async fn known(served: &Served, count: usize) {
    let listed = || async { served.api.get_json::<Value>("/api/v1/devices").await["items"].as_array().unwrap().len() == count };
    until("the devices to be known", listed).await;
}

async fn show(served: &Served, id: &str) -> Value {
    served.api.get_json(&format!("{COLLECTIONS}/{id}")).await
}

async fn made(served: &Served, body: Value) -> Value {
    let answer = served.api.post(COLLECTIONS, &body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()
}

fn id(made: &Value) -> String {
    made["id"].as_str().unwrap().to_owned()
}

fn ping_all() -> Value {
    json!({ "request": { "kind": "ping" }, "target": { "kind": "all" } })
}

fn with(mut body: Value, member: &str, value: Value) -> Value {
    body[member] = value;
    body
}

fn faults(answer: &Answer) -> Vec<String> {
    let problem: Value = answer.json();
    let errors = problem["errors"].as_array().cloned().unwrap_or_default();
    errors.iter().map(|error| format!("{} {}", error["field"].as_str().unwrap(), error["message"].as_str().unwrap())).collect()
}

/// A window that is open from this minute on for an hour, and one that opens half a day from now.
fn windows() -> [Value; 2] {
    let now = OffsetDateTime::now_utc();
    let at = |hour: u8| json!({ "cron": format!("0 {hour} * * *"), "length_seconds": 7200, "time_zone": "UTC" });
    [at(now.hour()), at((now.hour() + 12) % 24)]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_window_asks_nobody_and_an_open_one_does() {
    let served = Served::start(&[]).await.ready().await;
    let _device = Device::connect(&served.controller.mqtt_url(), "press-1", &["ping"]).await;
    known(&served, 1).await;
    let [open, closed] = windows();
    let waits = made(&served, with(ping_all(), "window", closed)).await;
    let warning = waits["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("devices are asked only in the window; it opens 20") && warning.ends_with(" UTC"), "{warning}");
    let asks = made(&served, with(ping_all(), "window", open)).await;
    let ended = served.finished(&id(&asks)).await;
    assert_eq!(ended["counters"]["verified"], 1, "{ended}");
    assert_eq!(ended["window_now"], Value::Null, "of no interest any more");
    // The other was made before and has been passed over by every round until now.
    let view = show(&served, &id(&waits)).await;
    assert_eq!((&view["counters"]["queued"], &view["window_now"]["open"]), (&json!(1), &json!(false)), "{view}");
    assert!(view["window_now"]["words"].as_str().unwrap().starts_with("opens 20"), "{view}");
    let opens = OffsetDateTime::parse(view["window_now"]["changes_at"].as_str().unwrap(), &Rfc3339).unwrap();
    assert!(opens > OffsetDateTime::now_utc());
    served.controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_timed_is_refused_by_name() {
    let served = Served::start(&[]).await.ready().await;
    let _device = Device::connect(&served.controller.mqtt_url(), "press-1", &["ping"]).await;
    known(&served, 1).await;
    let refused = async |body: Value| faults(&served.api.post(COLLECTIONS, &body).await);
    let window = |cron: &str, length: u64, zone: &str| json!({ "cron": cron, "length_seconds": length, "time_zone": zone });
    let closed_for = async |window: Value| refused(with(ping_all(), "window", window)).await;
    assert_eq!(closed_for(window("0 0 30 2 *", 3600, "UTC")).await, ["window.cron \"0 0 30 2 *\" never comes: no year has such a day"]);
    assert!(closed_for(window("61 * * * *", 3600, "UTC")).await[0].starts_with("window.cron \"61 * * * *\" is not a cron expression"));
    assert!(closed_for(window("@daily", 3600, "Oslo")).await[0].starts_with("window.time_zone \"Oslo\" is not a time zone"));
    for (length, good) in [(59, false), (60, true), (7 * 24 * 3600, true), (7 * 24 * 3600 + 1, false)] {
        assert_eq!(closed_for(window("@daily", length, "UTC")).await.is_empty(), good, "{length}");
    }
    let retry = async |retry: Value| refused(with(ping_all(), "options", json!({ "retry": retry }))).await;
    assert_eq!(retry(json!({ "reasons": ["no_answer"], "waits_seconds": vec![1; 20] })).await, [""; 0]);
    assert!(retry(json!({ "waits_seconds": vec![1; 21] })).await[0].starts_with("options.retry.waits_seconds has 21 waits"));
    assert!(retry(json!({ "waits_seconds": [60, 0] })).await[0].starts_with("options.retry.waits_seconds[1] is 0"));
    assert!(retry(json!({ "waits_seconds": [86_401] })).await[0].contains("between 1 and 86400"));
    assert_eq!(
        retry(json!({ "reasons": ["no_answer", "method_unsupported"] })).await,
        ["options.retry.reasons[1] is method_unsupported, which another attempt cannot change"]
    );
    let list = json!({ "kind": "devices", "devices": ["press-1"] });
    let standing = with(with(ping_all(), "standing", json!(true)), "target", list);
    assert!(refused(standing).await[0].starts_with("standing needs a target that can grow"));
    let some = with(with(ping_all(), "standing", json!(true)), "choice", json!({ "limit": 5 }));
    assert!(refused(some).await[0].starts_with("choice cannot be used for a standing collection"));
    let steps = async |steps: Value| refused(with(ping_all(), "steps", steps)).await;
    let bundle = || json!({ "request": { "kind": "bundle", "since": "1h" } });
    assert_eq!(steps(json!(vec![bundle(); 5])).await, [""; 0]);
    assert!(steps(json!(vec![bundle(); 6])).await[0].starts_with("steps has 6 steps; at most 5"));
    let matching = |pattern: &str| with(bundle(), "when_matches", json!(pattern));
    assert_eq!(
        steps(json!([matching("ERR")])).await,
        ["steps[0].when_matches looks for lines, and the step before is a ping, which has none; put logs before it"]
    );
    let logs = json!({ "request": { "kind": "logs", "items": [{ "id": "all", "filter": { "since": "soon" } }] } });
    let found = steps(json!([logs, matching("(")])).await;
    assert!(found[0].starts_with("steps[0].request.items[0].filter.since"), "{found:?}");
    assert!(found[1].starts_with("steps[1].when_matches the pattern is not"), "{found:?}");
    served.controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_never_opens_in_time_is_warned_about() {
    let served = Served::start(&[]).await.ready().await;
    let _device = Device::connect(&served.controller.mqtt_url(), "press-1", &["ping"]).await;
    known(&served, 1).await;
    let [_, closed] = windows();
    let body = with(with(ping_all(), "window", closed), "options", json!({ "expires_in_seconds": 3 }));
    let made = made(&served, body).await;
    let warning = made["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("no device will be asked: the window opens 20"), "{warning}");
    assert!(warning.contains("expires before that") && warning.contains("expires_in_seconds"), "{warning}");
    let ended = served.finished(&id(&made)).await;
    assert_eq!((&ended["counters"]["expired"], &ended["reasons"]["deadline_passed"]), (&json!(1), &json!(1)), "{ended}");
    served.controller.stop().await;
}

/// A device that takes requests and never answers, with waits of its collection.
#[tokio::test(flavor = "multi_thread")]
async fn retries_follow_the_waits_and_reasons_of_the_collection() {
    // The back-off of the controller is far longer than the test.
    let served = Served::start(&[("dispatch.backoff_first", "10m"), ("dispatch.backoff_max", "10m"), ("dispatch.grace", "1s")]).await;
    let served = served.ready().await;
    let mute = Device::connect(&served.controller.mqtt_url(), "mute", &["GetModuleLogs"]).await;
    known(&served, 1).await;
    let logs =
        || json!({ "request": { "kind": "logs", "items": [{ "id": "all", "filter": { "tail": 5 } }] }, "target": { "kind": "all" } });
    let tries = |retry: Value| json!({ "attempt_timeout_seconds": 2, "retry": retry });
    let body = with(logs(), "options", tries(json!({ "reasons": ["no_answer"], "waits_seconds": [1] })));
    let repeated = made(&served, body).await;
    let other = with(logs(), "options", tries(json!({ "reasons": ["device_error"], "waits_seconds": [1, 1, 1] })));
    let not_repeated = made(&served, other).await;
    for (made, attempt) in [(repeated, 2), (not_repeated, 1)] {
        let ended = served.finished(&id(&made)).await;
        assert_eq!(ended["reasons"], json!({ "no_answer": 1 }), "{ended}");
        let tasks: Value = served.api.get_json(&format!("{COLLECTIONS}/{}/tasks", id(&made))).await;
        assert_eq!(tasks["items"][0]["attempt"], attempt, "{tasks}");
    }
    drop(mute);
    served.controller.stop().await;
}

/// An answer that comes after its attempt was given up, and before the next one is sent, is not thrown away.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_late_still_counts() {
    let served = Served::start(&[("dispatch.grace", "1s")]).await.ready().await;
    let late = Device::connect(&served.controller.mqtt_url(), "late", &["GetModuleLogs"]).await;
    known(&served, 1).await;
    let mut requests = late.requests("late", "GetModuleLogs").await;
    let logs = json!({ "kind": "logs", "items": [{ "id": "all", "filter": { "tail": 5 } }] });
    // The next attempt is far away: whatever is verified comes from the first.
    let options = json!({ "attempt_timeout_seconds": 2, "retry": { "waits_seconds": [600] } });
    let body = json!({ "request": logs, "target": { "kind": "all" }, "options": options });
    let made = made(&served, body).await;
    let request = requests.recv().await.unwrap();
    let tasks = format!("{COLLECTIONS}/{}/tasks", id(&made));
    let given_up = || async { served.api.get_json::<Value>(&tasks).await["items"][0]["reason"] == "no_answer" };
    until("the attempt to be given up", given_up).await;
    let (topic, correlation) = (request.properties.response_topic.unwrap(), request.properties.correlation_data);
    // What is no good changes nothing: the next attempt decides.
    publish(&late.client, &topic, &json!("nonsense"), false, correlation.clone()).await;
    publish(&late.client, &topic, &json!([{ "id": "edgeAgent", "payload": "<6> it came late\n" }]), false, correlation).await;
    let ended = served.finished(&id(&made)).await;
    assert_eq!(ended["reasons"], json!({ "collected": 1 }), "{ended}");
    let task = served.api.get_json::<Value>(&tasks).await["items"][0].clone();
    let detail: Value = served.api.get_json(&format!("/api/v1/tasks/{}", task["id"].as_str().unwrap())).await;
    assert_eq!((&detail["attempt"], &detail["attempts"][0]["reason"]), (&json!(1), &json!("no_answer")), "given up, and counted: {detail}");
    served.controller.stop().await;
}

/// The inbox of an attempt that was given up while its device was at work stays open, and what is found there counts.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_comes_late_still_counts() {
    let served = Served::start(&[]).await.ready().await;
    let late = Device::connect(&served.controller.mqtt_url(), "late", &["UploadSupportBundle"]).await;
    known(&served, 1).await;
    let mut requests = late.requests("late", "UploadSupportBundle").await;
    let target = json!({ "kind": "devices", "devices": ["late"] });
    let made = made(&served, json!({ "request": { "kind": "bundle", "since": "1h" }, "target": target })).await;
    let request = requests.recv().await.unwrap();
    let (topic, correlation) = (request.properties.response_topic.unwrap(), request.properties.correlation_data.unwrap());
    publish(&late.client, &topic, &json!("nonsense"), false, Some(correlation.clone())).await;
    let tasks = format!("{COLLECTIONS}/{}/tasks", id(&made));
    let given_up = || async { served.api.get_json::<Value>(&tasks).await["items"][0]["reason"] == "answer_malformed" };
    until("the attempt to be given up", given_up).await;
    let payload: Value = serde_json::from_slice(&request.payload).unwrap();
    upload(payload["sasUrl"].as_str().unwrap(), "support bundle/b.zip", &support_bundle()).await;
    let attempt = uuid::Uuid::from_slice(&correlation).unwrap().to_string();
    let report =
        |status: &str| json!({ "correlationId": "x", "status": status, "message": "", "attempt": attempt, "bytes": 1, "objects": [] });
    for status in ["Failed", "Completed"] {
        publish(&late.client, "muster/v1/d/late/task", &report(status), false, None).await;
    }
    let ended = served.finished(&id(&made)).await;
    assert_eq!(ended["reasons"], json!({ "collected": 1 }), "{ended}");
    let task = served.api.get_json::<Value>(&tasks).await["items"][0].clone();
    assert_eq!((&task["attempt"], &task["bundle"]["verdict"]), (&json!(1), &json!("complete")), "{task}");
    served.controller.stop().await;
}

async fn standing(flags: &[(&str, &str)]) {
    let served = Served::start(flags).await.ready().await;
    let url = served.controller.mqtt_url();
    let made = made(&served, with(ping_all(), "standing", json!(true))).await;
    assert_eq!(made["targeted"], 0, "nobody is there yet, and that is no error");
    let mut devices = Vec::new();
    for n in 1..=3u64 {
        devices.push(Device::connect(&url, &format!("press-{n}"), &["ping"]).await);
        let path = format!("{COLLECTIONS}/{}", id(&made));
        let asked = || async { served.api.get_json::<Value>(&path).await["counters"]["verified"] == n };
        until("the device that joined to be asked", asked).await;
    }
    let view = show(&served, &id(&made)).await;
    assert_eq!((&view["state"], &view["counters"]["targeted"]), (&json!("running"), &json!(3)), "{view}");
    served.controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_come_later_join_a_standing_collection_on_sqlite() {
    standing(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_come_later_join_a_standing_collection_on_postgres() {
    let database = Postgres::create();
    standing(&[("database.url", &database.url)]).await;
}

async fn steps(flags: &[(&str, &str)]) {
    let served = Served::start(flags).await.ready().await;
    let url = served.controller.mqtt_url();
    let _able = Device::connect(&url, "able", &["ping", "UploadSupportBundle"]).await;
    let _unable = Device::connect(&url, "unable", &["UploadSupportBundle"]).await;
    known(&served, 2).await;
    let bundle = json!({ "request": { "kind": "bundle", "since": "1h" } });
    let made = made(&served, with(ping_all(), "steps", json!([bundle, { "request": { "kind": "ping" } }]))).await;
    let path = format!("{COLLECTIONS}/{}", id(&made));
    let over = || async {
        let view: Value = served.api.get_json(&path).await;
        view["later_steps"].as_array().unwrap().iter().all(|step| step["state"] == "finished")
    };
    until("the last step to finish", over).await;
    let view = show(&served, &id(&made)).await;
    assert_eq!((&view["counters"]["verified"], &view["counters"]["skipped"]), (&json!(1), &json!(1)), "{view}");
    let later = view["later_steps"].as_array().unwrap();
    assert_eq!(later.len(), 2, "{view}");
    for (step, kind) in later.iter().zip(["bundle", "ping"]) {
        // Only who was verified in the step before.
        assert_eq!((&step["counters"]["targeted"], &step["counters"]["verified"]), (&json!(1), &json!(1)), "{step}");
        assert_eq!(step["kind"], kind);
    }
    let second = show(&served, later[0]["id"].as_str().unwrap()).await;
    assert_eq!(second["step_of"], json!({ "collection": id(&made), "step": 2 }));
    assert_eq!(second["later_steps"].as_array().unwrap().len(), 1);

    // Cancelling the first ends the steps behind it.
    let away = Device::connect(&url, "away", &["ping", "UploadSupportBundle"]).await;
    known(&served, 3).await;
    away.client.disconnect_abnormally().await.unwrap();
    until("the device to be away", || async { served.api.get_json::<Value>("/api/v1/devices/away").await["presence"] == "offline" }).await;
    let target = json!({ "kind": "devices", "devices": ["away"] });
    let body = json!({ "request": { "kind": "ping" }, "target": target, "steps": [bundle] });
    let answer: Value = served.api.post(COLLECTIONS, &body).await.json();
    let touched: Value = served.api.post(&format!("{COLLECTIONS}/{}/cancel", id(&answer)), &json!({})).await.json();
    assert_eq!(touched, json!({ "tasks": 1 }));
    let view = show(&served, &id(&answer)).await;
    assert_eq!(view["later_steps"][0]["state"], "cancelled", "{view}");
    served.controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_take_who_came_through_the_one_before_on_sqlite() {
    steps(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_take_who_came_through_the_one_before_on_postgres() {
    let database = Postgres::create();
    steps(&[("database.url", &database.url)]).await;
}

/// A device that was offline is asked when its birth message comes, not when somebody happens to look.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_comes_back_is_asked_at_once() {
    // Nothing is scanned within the time of this test: only the birth message can be the cause.
    let served = Served::start(&[("dispatch.scan_every", "30s")]).await.ready().await;
    let url = served.controller.mqtt_url();
    let device = Device::connect(&url, "press-1", &["ping"]).await;
    known(&served, 1).await;
    device.client.disconnect_abnormally().await.unwrap();
    until("the device to be away", || async { served.api.get_json::<Value>("/api/v1/devices/press-1").await["presence"] == "offline" })
        .await;
    let made = made(&served, ping_all()).await;
    assert_eq!(show(&served, &id(&made)).await["counters"]["waiting"], 1);
    let began = Instant::now();
    let _device = Device::connect(&url, "press-1", &["ping"]).await;
    let path = format!("{COLLECTIONS}/{}", id(&made));
    until("the device to be asked", || async { served.api.get_json::<Value>(&path).await["counters"]["verified"] == 1 }).await;
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    served.controller.stop().await;
}

fn schedule(name: &str, cron: &str) -> Value {
    json!({ "name": name, "cron": cron, "time_zone": "Europe/Oslo", "collection": ping_all() })
}

async fn runs(served: &Served, name: &str) -> Vec<Value> {
    served.api.get_json::<Value>(&format!("{SCHEDULES}/{name}/runs")).await["items"].as_array().unwrap().clone()
}

async fn a_schedule_runs(flags: &[(&str, &str)]) {
    let served = Served::start(flags).await.ready().await;
    let _device = Device::connect(&served.controller.mqtt_url(), "press-1", &["ping"]).await;
    known(&served, 1).await;
    let every_second = with(schedule("often", "* * * * * *"), "overlap", json!("allow"));
    assert_eq!(served.api.post(SCHEDULES, &every_second).await.status, 201);
    let made_some = || async { runs(&served, "often").await.iter().filter(|run| run["outcome"] == "made").count() >= 3 };
    until("three runs", made_some).await;
    let paused: Value = served.api.post(&format!("{SCHEDULES}/often/pause"), &json!({})).await.json();
    assert_eq!((&paused["paused_by"], &paused["coming"]), (&json!("local"), &json!("")), "{paused}");
    let left_out = || async { runs(&served, "often").await.iter().any(|run| run["outcome"] == "paused") };
    until("a run that was left out", left_out).await;
    let all = runs(&served, "often").await;
    let run = all.iter().rfind(|run| run["outcome"] == "made").unwrap();
    let collection = served.finished(run["collection"].as_str().unwrap()).await;
    assert_eq!((&collection["created_by"], &collection["counters"]["verified"]), (&json!("schedule often"), &json!(1)));
    // One collection for each run that was made, and none for those left out.
    let listed: Value = served.api.get_json(&format!("{COLLECTIONS}?created_by=schedule%20often&limit=1000")).await;
    let made = runs(&served, "often").await.iter().filter(|run| run["outcome"] == "made").count();
    assert_eq!(listed["items"].as_array().unwrap().len(), made);

    let ran: Value = served.api.post(&format!("{SCHEDULES}/often/run"), &json!({})).await.json();
    assert_eq!((&ran["outcome"], &ran["detail"]), (&json!("made"), &json!("asked for by local")), "also when it is paused: {ran}");
    let removed = served.api.send("DELETE", &format!("{SCHEDULES}/often"), &[], b"").await;
    assert_eq!(removed.status, 204);
    assert_eq!(served.api.get(&format!("{SCHEDULES}/often")).await.code(), "schedule_not_found");
    assert_eq!(show(&served, ran["collection"].as_str().unwrap()).await["created_by"], "schedule often", "its collections stay");
    served.controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_makes_collections_on_sqlite() {
    a_schedule_runs(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_makes_collections_on_postgres() {
    let database = Postgres::create();
    a_schedule_runs(&[("database.url", &database.url)]).await;
}

/// Two controllers on one database: each run makes one collection, whoever begins it.
#[tokio::test(flavor = "multi_thread")]
async fn two_controllers_run_a_schedule_once() {
    let database = Postgres::create();
    let flags: &[(&str, &str)] = &[("database.url", &database.url)];
    let (one, other) = (Served::start(flags).await.ready().await, Served::start(flags).await.ready().await);
    let often = with(schedule("often", "* * * * * *"), "overlap", json!("allow"));
    let often = with(often, "collection", with(ping_all(), "standing", json!(true)));
    assert_eq!(one.api.post(SCHEDULES, &often).await.status, 201);
    let ten_made = || async { runs(&other, "often").await.iter().filter(|run| run["outcome"] == "made").count() >= 10 };
    until("ten runs", ten_made).await;
    assert_eq!(one.api.post(&format!("{SCHEDULES}/often/pause"), &json!({})).await.status, 200);
    until("the last to end", || async { runs(&one, "often").await.iter().all(|run| run["outcome"] != "begun") }).await;
    let all = runs(&one, "often").await;
    let made: Vec<_> = all.iter().filter_map(|run| run["collection"].as_str()).collect();
    let listed: Value = one.api.get_json(&format!("{COLLECTIONS}?created_by=schedule%20often&limit=1000")).await;
    let mut collections: Vec<_> = listed["items"].as_array().unwrap().iter().map(|view| view["id"].as_str().unwrap()).collect();
    let mut of_runs = made.clone();
    of_runs.sort_unstable();
    collections.sort_unstable();
    assert_eq!(of_runs, collections, "as many as runs, and each of one run");
    one.controller.stop().await;
    other.controller.stop().await;
}

/// What is refused when it is due, and what is left out because the one before is open, is on record with its reason.
#[tokio::test(flavor = "multi_thread")]
async fn runs_that_make_nothing_say_why() {
    let served = Served::start(&[]).await.ready().await;
    // Nobody is in the registry: a collection of all is refused.
    assert_eq!(served.api.post(SCHEDULES, &schedule("yearly", "@yearly")).await.status, 201);
    let run = async || served.api.post(&format!("{SCHEDULES}/yearly/run"), &json!({})).await.json::<Value>();
    let refused = run().await;
    assert_eq!((&refused["outcome"], &refused["detail"]), (&json!("refused"), &json!("the registry has no device yet")));
    let device = Device::connect(&served.controller.mqtt_url(), "press-1", &["ping"]).await;
    known(&served, 1).await;
    device.client.disconnect_abnormally().await.unwrap();
    until("the device to be away", || async { served.api.get_json::<Value>("/api/v1/devices/press-1").await["presence"] == "offline" })
        .await;
    let first = run().await;
    assert_eq!(first["outcome"], "made", "{first}");
    let second = run().await;
    assert_eq!(second["outcome"], "overlapped", "{second}");
    assert!(second["detail"].as_str().unwrap().starts_with(first["collection"].as_str().unwrap()), "{second}");
    let listed: Value = served.api.get_json(SCHEDULES).await;
    assert_eq!((&listed["items"][0]["name"], &listed["items"][0]["last_run"]["outcome"]), (&json!("yearly"), &json!("overlapped")));
    let page: Value = served.api.get_json(&format!("{SCHEDULES}/yearly/runs?limit=2")).await;
    let rest: Value = served.api.get_json(&format!("{SCHEDULES}/yearly/runs?limit=2&after={}", page["next"].as_str().unwrap())).await;
    let outcomes: Vec<_> =
        [&page, &rest].iter().flat_map(|page| page["items"].as_array().unwrap()).map(|run| run["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["overlapped", "made", "refused"], "newest first");
    served.controller.stop().await;
}

/// A controller that was down begins the latest run it missed, and has the others on record.
#[tokio::test(flavor = "multi_thread")]
async fn missed_runs_are_on_record() {
    let database = Postgres::create();
    let flags: &[(&str, &str)] = &[("database.url", &database.url)];
    let served = Served::start(flags).await.ready().await;
    assert_eq!(served.api.post(SCHEDULES, &schedule("hourly", "@hourly")).await.status, 201);
    served.controller.stop().await;
    // Down for five hours.
    database.run("UPDATE schedule SET next_due = (next_due / 3600000 - 5) * 3600000");
    let served = Served::start(flags).await.ready().await;
    until("the runs to be on record", || async { runs(&served, "hourly").await.len() == 5 }).await;
    until("the latest to end", || async { runs(&served, "hourly").await[0]["outcome"] != "begun" }).await;
    let all = runs(&served, "hourly").await;
    assert_eq!(all[0]["outcome"], "refused", "begun, and nobody was there: {all:?}");
    assert!(all[1..].iter().all(|run| run["outcome"] == "missed"), "{all:?}");
    served.controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_cannot_run_is_refused() {
    let served = Served::start(&[]).await.ready().await;
    let refused = async |body: Value| faults(&served.api.post(SCHEDULES, &body).await);
    assert!(refused(schedule("a b", "@daily")).await[0].starts_with("name is not a name"));
    assert!(refused(schedule("a", "0 0 31 2 *")).await[0].starts_with("cron \"0 0 31 2 *\" never comes"));
    assert!(refused(with(schedule("a", "@daily"), "time_zone", json!("Moon"))).await[0].starts_with("time_zone \"Moon\""));
    let broken = with(schedule("a", "@daily"), "collection", with(ping_all(), "options", json!({ "max_attempts": 0 })));
    assert!(refused(broken).await[0].starts_with("collection.options.max_attempts is 0"));
    let twice = schedule("a", "@daily");
    let first = served.api.post(SCHEDULES, &twice).await;
    assert_eq!((first.status, first.headers["location"].as_str()), (201, "/api/v1/schedules/a"));
    let second = served.api.post(SCHEDULES, &twice).await;
    assert_eq!((second.status, second.code().as_str()), (409, "schedule_exists"));
    for verb in ["pause", "resume", "run"] {
        let answer = served.api.post(&format!("{SCHEDULES}/nobody/{verb}"), &json!({})).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "schedule_not_found"), "{verb}");
    }
    assert!(runs(&served, "a").await.is_empty());
    served.controller.stop().await;
}
