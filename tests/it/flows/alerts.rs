//! Alerts, from the queue, the web and the devices to what is collected: each promise of `docs/ALERTS.md` against real services.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lapin::BasicProperties;
use muster_agent::consent::ConsentShares;
use muster_agent::fleet::{Fleet, FleetOptions};
use muster_agent::{Raised, Stats};
use muster_tests::api::Api;
use muster_tests::broker::{Mosquitto, Tuning};
use muster_tests::events::{INDICATORS, STRUCTURED, event, poison, recently, schema};
use muster_tests::postgres::Database;
use muster_tests::program::built;
use muster_tests::rabbit::{Rabbit, Stored};
use muster_tests::valve::Valve;
use muster_tests::wait;
use muster_wire::alert::{AlertShape, MAX_ALERT_BYTES};
use muster_wire::http::{AlertAnswer, AlertCounts, AlertOutcome, AlertView, CatalogueView, Origin, Page, ParkedView};
use muster_wire::presence::ProactiveConsent;
use muster_wire::{DeviceId, TaskState};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::stack::{Controller, Landing};

const QUEUE: &str = "muster.alerts";
const DEAD: &str = "muster.alerts.dead";
/// More than any of these tests raises: what is collected is not cut short by a budget or a storm.
const NO_BOUNDS: [(&str, &str); 3] =
    [("intake.per_day", "100000"), ("intake.per_tenant_per_day", "100000"), ("intake.storm_devices", "10000")];
const SOON: Duration = Duration::from_secs(30);
const IN_TIME: Duration = Duration::from_secs(120);
/// Kills between commit and settlement; `make soak ARGS="alerts"` has fifty.
const KILLS: usize = 6;

/// A broker, a database, a controller that reads alerts from a virtual host of its own, and devices whose owners agreed or did not.
struct Whole {
    controller: Controller,
    fleet: Fleet,
    rabbit: Rabbit,
    database: Database,
    _broker: Mosquitto,
    _directory: tempfile::TempDir,
}

impl Whole {
    async fn start(devices: usize, consent: ConsentShares, more: &[(&str, &str)]) -> Self {
        let rabbit = Rabbit::from_env().await;
        let url = rabbit.url.clone();
        Self::start_at(devices, consent, rabbit, &url, more).await
    }

    /// With RabbitMQ where the controller is told that it is.
    async fn start_at(devices: usize, consent: ConsentShares, rabbit: Rabbit, amqp: &str, more: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a private directory");
        let broker = Mosquitto::start(directory.path(), Tuning::Ours).await;
        let database = Database::create().await;
        let settings: Vec<_> = [("amqp.url", amqp)].into_iter().chain(NO_BOUNDS).chain(more.iter().copied()).collect();
        let controller = Controller::start(directory.path(), Some(&broker.url()), Some(&database.url), Landing::Directory, &settings).await;
        let options = FleetOptions { mqtt_url: broker.url(), devices, consent, ..FleetOptions::default() };
        let fleet = Fleet::start(options).await.expect("the fleet starts");
        controller.api.devices_online(devices, SOON).await;
        rabbit.declared(QUEUE, SOON).await;
        Self { controller, fleet, rabbit, database, _broker: broker, _directory: directory }
    }

    fn api(&self) -> &Api {
        &self.controller.api
    }

    /// Devices whose owners said this, in order.
    fn who(&self, said: ProactiveConsent) -> Vec<DeviceId> {
        self.fleet.consents().into_iter().filter(|(_, word)| *word == said).map(|(id, _)| id).collect()
    }

    async fn alerts(&self, query: &str) -> Vec<AlertView> {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let page: Page<AlertView> = self.api().get(&format!("/api/v1/alerts?limit=500{query}{after}")).await.expect("a page of alerts");
            all.extend(page.items);
            match page.next {
                Some(next) => after = format!("&after={next}"),
                None => return all,
            }
        }
    }

    async fn counts(&self) -> Result<AlertCounts, String> {
        let since = (OffsetDateTime::now_utc() - Duration::from_secs(3600)).format(&Rfc3339).expect("a time");
        self.api().get(&format!("/api/v1/alerts/counts?since={since}")).await
    }

    /// Waits until so many alerts are decided and so many repetitions known.
    async fn decided(&self, wanted: u64, repeated: u64) -> AlertCounts {
        let all = |counts: &Result<AlertCounts, String>| counts.as_ref().map_or(0, |counts| counts.outcomes.values().sum::<u64>());
        let done = |counts: &Result<AlertCounts, String>| {
            all(counts) >= wanted && counts.as_ref().is_ok_and(|counts| counts.duplicates >= repeated)
        };
        let what = format!("{wanted} alerts decided and {repeated} repetitions known");
        let counts = wait::until(&what, IN_TIME, || self.counts(), done).await;
        assert_eq!(all(&counts), wanted, "and no more: {counts:?}");
        counts.expect("counts")
    }

    /// One alert about a device, once it is there.
    async fn alert_of(&self, device: &DeviceId) -> AlertView {
        let path = format!("&device={device}");
        let look = || async { self.alerts(&path).await };
        wait::until(&format!("an alert about {device}"), SOON, look, |all| !all.is_empty()).await.remove(0)
    }

    async fn post(&self, content_type: &str, headers: &[(&str, &str)], body: String) -> (u16, String) {
        let request = self.api().request(reqwest::Method::POST, "/api/v1/alerts").header("content-type", content_type);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let answer = request.body(body).send().await.expect("the controller answers");
        (answer.status().as_u16(), answer.text().await.unwrap_or_default())
    }

    async fn collections(&self) -> usize {
        let made: i64 = sqlx::query_scalar("SELECT count(*) FROM collection WHERE created_by = 'alerts'")
            .fetch_one(&mut self.database.connect().await)
            .await
            .expect("our own database");
        usize::try_from(made).expect("not negative")
    }

    async fn end(self) -> Stats {
        let stats = self.fleet.stop().await;
        drop(self.controller);
        self.database.drop_now().await;
        stats
    }
}

fn everybody() -> ConsentShares {
    ConsentShares { enabled: 1.0, ..ConsentShares::default() }
}

fn structured() -> BasicProperties {
    BasicProperties::default().with_content_type(STRUCTURED.into())
}

/// A line for the stranger's programs: an event in binary mode, with its attributes behind `cloudEvents` and this separator.
fn binary(separator: &str, id: &str, device: &str, (fired, time): (&str, &Value), place: &str) -> String {
    let name = |attribute: &str| format!("cloudEvents{separator}{attribute}");
    let attributes = json!({
        name("specversion"): "1.0",
        name("id"): id,
        name("source"): format!("urn:device:{device}"),
        name("type"): "com.microsoft.edge.alert.v1",
        name("subject"): INDICATORS[1],
        name("time"): time,
    });
    let body = schema(device, INDICATORS[1], fired).to_string();
    json!({"body": body, "content_type": "application/json; charset=utf-8", place: attributes}).to_string() + "\n"
}

/// What of an alert has to be the same whatever shape it came in.
fn record(alert: &AlertView) -> Value {
    json!([
        alert.device,
        alert.indicator,
        alert.condition,
        alert.severity,
        alert.fired_at.unix_timestamp(),
        alert.time_inferred,
        alert.origin_alert_id,
        alert.description,
        alert.tenant,
    ])
}

fn reasons(letters: &[Stored]) -> BTreeMap<String, usize> {
    let mut reasons = BTreeMap::new();
    for letter in letters {
        *reasons.entry(letter.header("x-muster-reason").to_owned()).or_default() += 1;
    }
    reasons
}

/// A1, A7, A8: three shapes, three ways in, two protocols of the queue, both separators, native and textual times.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_the_same_in_every_shape() {
    let whole = Whole::start(12, everybody(), &[("intake.bare", "azure-monitor"), ("amqp.bare", "azure-monitor-hub")]).await;
    let fired = recently();
    let seconds = OffsetDateTime::parse(&fired, &Rfc3339).expect("a time").unix_timestamp();
    let devices = whole.who(ProactiveConsent::Enabled);
    let device = devices[0].as_str();

    let posted = |answer: (u16, String)| -> AlertAnswer {
        assert_eq!(answer.0, 202, "{}", answer.1);
        serde_json::from_str(&answer.1).expect("an answer")
    };
    let body = schema(device, INDICATORS[1], &fired).to_string();
    let first = posted(whole.post(STRUCTURED, &[], event("s", device, INDICATORS[1], &fired).to_string()).await);
    assert_eq!((first.alerts.len(), first.alerts[0].outcome, first.duplicate), (1, AlertOutcome::Collected, false), "{first:?}");
    let source = format!("urn:device:{device}");
    let attributes = [
        ("ce-specversion", "1.0"),
        ("ce-id", "b"),
        ("ce-source", source.as_str()),
        ("ce-type", "com.microsoft.edge.alert.v1"),
        ("ce-subject", INDICATORS[1]),
        ("ce-time", fired.as_str()),
    ];
    let second = posted(whole.post("application/json", &attributes, body.clone()).await);
    assert_eq!(second.alerts[0].outcome, AlertOutcome::Coalesced, "{second:?}");
    let third = posted(whole.post("application/json", &[], body.clone()).await);
    let again = posted(whole.post("application/json", &[], body.clone()).await);
    assert!(!third.duplicate && again.duplicate && again.alerts.is_empty(), "a bare one posted again is known again: {again:?}");

    let all = whole.alerts(&format!("&device={device}")).await;
    let shapes: BTreeSet<_> = all.iter().map(|alert| alert.shape).collect();
    assert_eq!(shapes, BTreeSet::from([AlertShape::Structured, AlertShape::Binary, AlertShape::Bare]));
    assert!(all.iter().all(|alert| record(alert) == record(&all[0])), "{all:?}");
    assert_eq!(all[0].device, device, "as the registry spells it");

    // Through the queue; over 0-9-1 first.
    let mut expected: Vec<(&str, AlertShape)> = Vec::new();
    let mut lines = String::new();
    for (n, (separator, time)) in
        [("_", json!(fired)), (":", json!(fired)), ("_", json!({"timestamp": seconds})), (":", json!({"timestamp": seconds}))]
            .iter()
            .enumerate()
    {
        lines += &binary(separator, "q", devices[1 + n].as_str(), (&fired, time), "headers");
        expected.push((devices[1 + n].as_str(), AlertShape::Binary));
    }
    let whole_event = event("q", devices[5].as_str(), INDICATORS[1], &fired).to_string();
    lines += &(json!({"body": whole_event, "content_type": "Application/CloudEvents+JSON"}).to_string() + "\n");
    expected.push((devices[5].as_str(), AlertShape::Structured));
    let bare = schema(devices[6].as_str(), INDICATORS[1], &fired).to_string();
    lines += &(json!({"body": bare, "content_type": "application/json"}).to_string() + "\n");
    expected.push((devices[6].as_str(), AlertShape::Bare));
    whole.rabbit.pika(QUEUE, &[], &lines);

    // The same over 1.0, which crosses to 0-9-1 in the broker.
    let mut lines = binary("_", "r", devices[7].as_str(), (&fired, &json!(fired)), "properties");
    lines += &binary(":", "r", devices[8].as_str(), (&fired, &json!({"timestamp": seconds * 1000})), "properties");
    lines += &(json!({"body": event("r", devices[9].as_str(), INDICATORS[1], &fired).to_string(), "content_type": STRUCTURED}).to_string()
        + "\n");
    expected.extend([
        (devices[7].as_str(), AlertShape::Binary),
        (devices[8].as_str(), AlertShape::Binary),
        (devices[9].as_str(), AlertShape::Structured),
    ]);
    assert_eq!(whole.rabbit.rhea(QUEUE, &lines)["accepted"], 3);
    for (device, shape) in expected {
        let alert = whole.alert_of(&device.parse().expect("an id")).await;
        assert_eq!((alert.shape, alert.outcome), (shape, AlertOutcome::Collected), "{alert:?}");
        assert_eq!((alert.indicator.as_str(), alert.fired_at.unix_timestamp()), (INDICATORS[1], seconds), "{alert:?}");
        assert!(!alert.time_inferred);
    }

    // One message with both separators is neither; a value that is no data is never taken for JSON that it is not.
    let mixed = binary("_", "m", devices[10].as_str(), (&fired, &json!(fired)), "headers").replace("cloudEvents_id", "cloudEvents:id");
    whole.rabbit.pika(QUEUE, &[], &mixed);
    whole.rabbit.holds(DEAD, 1, SOON).await;
    let letters = whole.rabbit.take_all(DEAD).await;
    assert_eq!(reasons(&letters), BTreeMap::from([("malformed".to_owned(), 1)]), "{letters:?}");
    let value = json!({"body": "{\"not\": \"an alert\"}", "section": "value", "content_type": STRUCTURED}).to_string() + "\n";
    whole.rabbit.rhea(QUEUE, &value);
    whole.rabbit.holds(DEAD, 1, SOON).await;
    let letters = whole.rabbit.take_all(DEAD).await;
    assert_eq!(reasons(&letters), BTreeMap::from([("malformed".to_owned(), 1)]), "{letters:?}");
    assert!(whole.alerts(&format!("&device={}", devices[10])).await.is_empty());
    whole.end().await;
}

/// A2, A9, A10: a stream with repetitions, shuffled, and what is no alert among it. Each decision once, each poison once, none in the way.
#[tokio::test(flavor = "multi_thread")]
async fn repetitions_and_poison_in_a_stream() {
    const DEVICES: usize = 60;
    let rabbit = Rabbit::from_env().await;
    let valve = Valve::start(rabbit.port()).await;
    let through = valve.url(&rabbit.url);
    let whole = Whole::start_at(DEVICES, everybody(), rabbit, &through, &[]).await;
    let list = whole.controller.directory.join("devices");
    let names: Vec<String> = whole.fleet.devices().iter().map(|(id, _)| id.to_string()).collect();
    std::fs::write(&list, names.join("\n")).expect("a private directory can be written");
    let list = list.display().to_string();
    let poison = poison(whole.fleet.devices()[0].0.as_str());
    let lines: String = poison.iter().map(|(line, _)| line.to_string() + "\n").collect();
    let (sent, _) = tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            let stream = scope
                .spawn(|| whole.rabbit.pika(QUEUE, &["--generate", "1000", "--repeats", "30", "--seed", "11", "--devices", &list], ""));
            let poison = scope.spawn(|| whole.rabbit.pika(QUEUE, &[], &lines));
            (stream.join().expect("pika ran"), poison.join().expect("pika ran"))
        })
    });
    let (distinct, pairs) = (sent["distinct"].as_u64().expect("a number"), sent["pairs"].as_u64().expect("a number"));
    assert_eq!((distinct, pairs), (700, 3 * DEVICES as u64));
    let counts = whole.decided(distinct, 300).await;
    assert_eq!(counts.outcomes.get("collected"), Some(&pairs), "one for each device and indicator: {counts:?}");
    assert_eq!(counts.outcomes.get("coalesced"), Some(&(distinct - pairs)), "{counts:?}");
    assert_eq!(counts.duplicates, 300, "{counts:?}");
    assert_eq!(whole.collections().await as u64, pairs);

    // Each dead letter once, with its reason, and each can be looked at.
    whole.rabbit.holds(DEAD, u32::try_from(poison.len()).expect("a few"), SOON).await;
    let letters = whole.rabbit.take_all(DEAD).await;
    let mut expected = BTreeMap::new();
    for (_, reason) in &poison {
        *expected.entry((*reason).to_owned()).or_default() += 1;
    }
    assert_eq!(reasons(&letters), expected);
    assert_eq!(counts.parked, poison.len() as u64);
    for letter in &letters {
        let id = letter.message_id.as_deref().expect("the id under which it is parked");
        let parked: ParkedView = whole.api().get(&format!("/api/v1/alerts/parked/{id}")).await.expect("parked");
        assert_eq!((parked.reason.as_str(), parked.bytes), (letter.header("x-muster-reason"), letter.body.len() as u64));
        assert!(!letter.header("x-muster-detail").is_empty());
    }

    // Nothing but acknowledgements was said about what came in: no word of 1.0, nothing given back, nothing taken without acknowledging.
    let said = valve.said();
    assert!(said.greetings.iter().all(|greeting| greeting == b"AMQP\x00\x00\x09\x01"), "{said:?}");
    assert_eq!(said.presettled, 0);
    assert!(said.methods.get(&(60, 80)).is_some_and(|acks| *acks > 0), "{said:?}");
    assert_eq!((said.methods.get(&(60, 120)), said.methods.get(&(60, 110))), (None, None), "no nack and no recover: {said:?}");
    whole.end().await;
}

/// A3: what was written down and not yet acknowledged comes again, and is one decision.
#[tokio::test(flavor = "multi_thread")]
async fn a_controller_killed_between_commit_and_acknowledgement() {
    const EACH: usize = 20;
    let rabbit = Rabbit::from_env().await;
    let valve = Valve::start(rabbit.port()).await;
    let through = valve.url(&rabbit.url);
    let mut whole = Whole::start_at(KILLS * EACH, everybody(), rabbit, &through, &[]).await;
    let devices = whole.who(ProactiveConsent::Enabled);
    let fired = recently();
    for (round, some) in devices.chunks(EACH).enumerate() {
        // The consumer is there; from now on nothing it says arrives.
        valve.close();
        let events = some.iter().map(|device| (structured(), event("k", device.as_str(), INDICATORS[0], &fired).to_string().into_bytes()));
        whole.rabbit.publish(QUEUE, events.collect::<Vec<_>>()).await;
        let all = ((round + 1) * EACH) as u64;
        let written = |counts: &Result<AlertCounts, String>| counts.as_ref().is_ok_and(|c| c.outcomes.values().sum::<u64>() == all);
        wait::until("the alerts to be written down", IN_TIME, || whole.counts(), written).await.expect("counts");
        whole.controller.crash_and_restart();
        valve.cut();
        whole.controller.ready().await;
        // All of them come again, and are known.
        whole.decided(all, all).await;
    }
    let counts = whole.counts().await.expect("counts");
    assert_eq!(counts.outcomes.get("collected"), Some(&((KILLS * EACH) as u64)), "{counts:?}");
    assert_eq!(whole.collections().await, KILLS * EACH, "none lost, none twice");
    assert_eq!(whole.rabbit.count(DEAD).await, Some(0));
    whole.end().await;
}

/// A4, A5, A6: the devices raise it themselves; those whose owner agreed are asked, also for what nobody knew when he agreed.
#[tokio::test(flavor = "multi_thread")]
async fn devices_raise_alerts_and_consent_decides() {
    let shares = ConsentShares { enabled: 0.5, disabled: 0.25, default: 0.0 };
    let whole = Whole::start(20, shares, &[]).await;
    let (agreed, refused) = (whole.who(ProactiveConsent::Enabled), whole.who(ProactiveConsent::Disabled));
    for (device, indicator) in agreed.iter().zip(INDICATORS) {
        whole.fleet.raise(device, &Raised::new(indicator)).expect("one of the fleet");
        let alert = whole.alert_of(device).await;
        assert_eq!(
            (alert.outcome, alert.via.as_str(), alert.indicator.as_str()),
            (AlertOutcome::Collected, "mqtt", indicator),
            "{alert:?}"
        );
        assert!(alert.consent.is_some(), "it names what it was decided under");
        let view = whole.api().finished(alert.collection.expect("collected"), IN_TIME).await;
        assert_eq!(view.counters.verified, 1, "{view:?}");
        assert!(matches!(view.origin, Origin::Alert { alert: id, .. } if id == alert.id), "{:?}", view.origin);
    }

    // An indicator that is added now counts for those who agreed before.
    let before: CatalogueView = whole.api().get("/api/v1/indicators").await.expect("the catalogue");
    let new = json!({
        "name": "DiskNearlyFullCondition",
        "description": "Less than 5 % of the data disk is free.",
        "collect": {"kind": "upload_logs", "items": [{"id": "edgeHub", "filter": {}}]},
        "lookback_seconds": 3600,
        "cooldown_seconds": 600,
    });
    let (status, text) = whole.api().post_text("/api/v1/indicators", new.to_string()).await;
    assert_eq!(status, 201, "{text}");
    let after: CatalogueView = whole.api().get("/api/v1/indicators").await.expect("the catalogue");
    assert_eq!(after.catalogue_version, before.catalogue_version + 1);
    let device = &agreed[3];
    whole.fleet.raise(device, &Raised::new("disknearlyfullcondition")).expect("one of the fleet");
    let alert = whole.alert_of(device).await;
    assert_eq!((alert.outcome, alert.indicator.as_str()), (AlertOutcome::Collected, "DiskNearlyFullCondition"), "{alert:?}");
    assert_eq!(whole.api().finished(alert.collection.expect("collected"), IN_TIME).await.counters.verified, 1);

    // Nobody agreed: not a single request, and the reason is on record.
    let asked = whole.fleet.stats().requests;
    let unknown = whole.who(ProactiveConsent::Unknown);
    for device in refused.iter().chain(&unknown) {
        whole.fleet.raise(device, &Raised::new(INDICATORS[0])).expect("one of the fleet");
        let alert = whole.alert_of(device).await;
        assert_eq!((alert.outcome, alert.collection), (AlertOutcome::NoConsent, None), "{alert:?}");
    }
    // A request for somebody else goes out after those that did not: had there been any, they would have come before it.
    whole.fleet.raise(&agreed[4], &Raised::new(INDICATORS[0])).expect("one of the fleet");
    let alert = whole.alert_of(&agreed[4]).await;
    whole.api().finished(alert.collection.expect("collected"), IN_TIME).await;
    assert_eq!(whole.fleet.stats().requests - asked, 1, "one request, for the one who agreed");

    // What ended is written on what it ended, and collects nothing.
    let origin = alert.origin_alert_id.clone().expect("the agent says one");
    let ended = Raised { resolved: true, origin: Some(origin), ..Raised::new(INDICATORS[0]) };
    whole.fleet.raise(&agreed[4], &ended).expect("one of the fleet");
    let path = format!("/api/v1/alerts/{}", alert.id);
    let look = || whole.api().get::<AlertView>(&path);
    wait::until("the end of it", SOON, look, |seen| seen.as_ref().is_ok_and(|alert| alert.resolved_at.is_some())).await.expect("read");
    let noted = whole.alerts(&format!("&device={}&outcome=noted", agreed[4])).await;
    assert_eq!((noted.len(), noted[0].collection.is_none() || noted[0].collection == alert.collection), (1, true));

    // As a person at the device does it, beside its running agent.
    let printed = raise(whole._broker.url().as_str(), whole._directory.path(), &agreed[5], &[INDICATORS[2], "--severity", "sev1"]);
    let alert = whole.alert_of(&agreed[5]).await;
    assert_eq!((alert.event_id.as_str(), alert.outcome), (printed.trim(), AlertOutcome::Collected), "{alert:?}");
    let tasks = whole.api().tasks(alert.collection.expect("collected")).await;
    assert_eq!(tasks.len(), 1);
    let view = whole.api().finished(alert.collection.expect("collected"), IN_TIME).await;
    assert_eq!(whole.api().tasks(view.id).await[0].state, TaskState::Verified);
    whole.end().await;
}

/// `muster-agent raise`; what it printed.
fn raise(mqtt: &str, state: &Path, device: &DeviceId, arguments: &[&str]) -> String {
    let mut command = Command::new(built("muster-agent"));
    command.arg("raise").args(arguments).args(["--device", device.as_str(), "--mqtt", mqtt, "--state-dir"]).arg(state.join("agent"));
    let output = command.env_remove("MUSTER_AGENT_CONFIG").output().expect("muster-agent runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A11, A12: who speaks for a device that is not his, and who says too much.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_said_is_refused_and_kept() {
    let whole = Whole::start(4, everybody(), &[("amqp.tenant", "contoso")]).await;
    let devices = whole.who(ProactiveConsent::Enabled);
    let tag = |device: &DeviceId, tenant: &str| json!({"devices": [device], "patch": {"tags": {"tenant": tenant}}}).to_string();
    for (device, tenant) in [(&devices[0], "contoso"), (&devices[1], "fabrikam")] {
        let (status, text) = whole.api().post_text("/api/v1/devices/tags", tag(device, tenant)).await;
        assert_eq!(status, 200, "{text}");
    }
    let fired = recently();
    let about = |id: &str, device: &DeviceId| event(id, device.as_str(), INDICATORS[0], &fired);
    let body = |event: &Value| (structured(), event.to_string().into_bytes());
    whole.rabbit.publish(QUEUE, [body(&about("own", &devices[0])), body(&about("foreign", &devices[1]))]).await;
    assert_eq!(whole.alert_of(&devices[0]).await.outcome, AlertOutcome::Collected);
    whole.rabbit.holds(DEAD, 1, SOON).await;
    let letters = whole.rabbit.take_all(DEAD).await;
    assert_eq!(reasons(&letters), BTreeMap::from([("tenant_mismatch".to_owned(), 1)]), "{letters:?}");
    assert!(whole.alerts(&format!("&device={}", devices[1])).await.is_empty(), "no alert, and no collection");

    // On its own topic a device speaks for itself, whatever the event says.
    let parked = |reason: &'static str| {
        let api = whole.api();
        move || async move { api.get::<Page<ParkedView>>(&format!("/api/v1/alerts/parked?reason={reason}")).await.map(|page| page.items) }
    };
    let before = parked("tenant_mismatch")().await.expect("read").len();
    publish_as(&whole._broker, &devices[2], &about("borrowed", &devices[3])).await;
    let more = |all: &Result<Vec<ParkedView>, String>| all.as_ref().is_ok_and(|all| all.len() == before + 1);
    wait::until("the try to be kept", SOON, parked("tenant_mismatch"), more).await.expect("read");
    assert!(whole.alerts(&format!("&device={}", devices[3])).await.is_empty());

    // One byte more than there may be, by each way; the largest that may be is taken.
    let padded = |id: &str, bytes: usize| {
        let mut event = about(id, &devices[0]);
        event["data"]["padding"] = json!("");
        let missing = bytes - event.to_string().len();
        event["data"]["padding"] = json!("x".repeat(missing));
        event.to_string()
    };
    let large = MAX_ALERT_BYTES + 1024;
    let (status, text) = whole.post(STRUCTURED, &[], padded("large", large)).await;
    assert_eq!((status, text.contains("too_large")), (413, true), "{text}");
    whole.rabbit.publish(QUEUE, [(structured(), padded("large", large).into_bytes())]).await;
    whole.rabbit.holds(DEAD, 1, SOON).await;
    let letters = whole.rabbit.take_all(DEAD).await;
    assert_eq!(reasons(&letters), BTreeMap::from([("too_large".to_owned(), 1)]));
    assert_eq!(letters[0].body.len(), large, "whole");
    let (status, text) = whole.post(STRUCTURED, &[], padded("allowed", MAX_ALERT_BYTES - 1024)).await;
    assert_eq!(status, 202, "{text}");
    whole.end().await;
}

/// Says something on the alert topic of a device.
async fn publish_as(broker: &Mosquitto, device: &DeviceId, event: &Value) {
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};
    use rumqttc::v5::{AsyncClient, Event, MqttOptions};
    let mut options = MqttOptions::new("borrower", "127.0.0.1", broker.port);
    options.set_max_packet_size(Some(1 << 20));
    let (client, mut events) = AsyncClient::new(options, 4);
    let properties = PublishProperties { content_type: Some(STRUCTURED.to_owned()), ..PublishProperties::default() };
    client
        .publish_with_properties(format!("muster/v1/d/{device}/alert"), QoS::AtLeastOnce, false, event.to_string(), properties)
        .await
        .expect("the channel is open");
    let taken = async { while !matches!(events.poll().await.expect("connected"), Event::Incoming(Packet::PubAck(_))) {} };
    tokio::time::timeout(SOON, taken).await.expect("the broker takes it");
}
