//! Consent withdrawn while uploads are under way: what was sealed stays, the rest goes, and a grant that somebody kept is worth nothing.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use muster_agent::consent::ConsentShares;
use muster_agent::fleet::{Fleet, FleetOptions};
use muster_store::{NewCollection, NewTask, Store, StoreOptions};
use muster_tests::api::Api;
use muster_tests::azurite::Azurite;
use muster_tests::broker::{Mosquitto, Tuning};
use muster_tests::postgres::Database;
use muster_tests::wait;
use muster_wire::http::{
    Actor, Channel, CollectionRequest, ConsentAuditLine, ConsentKind, ConsentScope, DecisionRecorded, NewDecision, Origin, Page, Priority,
    Role, Rollout, TargetView,
};
use muster_wire::presence::ProactiveConsent;
use muster_wire::{AlertId, AttemptId, CollectionId, DeviceId, Reason, TaskState};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use time::OffsetDateTime;
use tokio::sync::mpsc;

use crate::stack::{Controller, Landing, cli, cli_ok};

const DEVICES: usize = 30;
/// Those whose upload is complete before the withdrawal.
const DONE: usize = 10;
/// Those that have a whole object in their inbox and say nothing yet; the others only began one.
const LANDED: usize = 20;

fn device(n: usize) -> DeviceId {
    format!("plant-{n:02}").parse().expect("a device id")
}

/// Many devices behind one connection, which do what the test says.
struct Puppets {
    client: AsyncClient,
    requests: mpsc::Receiver<Publish>,
}

impl Puppets {
    async fn connect(url: &str) -> Self {
        let url = url.strip_prefix("mqtt://").expect("plain");
        let (host, port) = url.split_once(':').expect("host and port");
        let mut options = MqttOptions::new("puppets", host, port.parse().expect("a port"));
        options.set_keep_alive(Duration::from_secs(30));
        options.set_max_packet_size(Some(2 << 20));
        let (client, mut events) = AsyncClient::new(options, 100);
        let (sender, requests) = mpsc::channel(1000);
        client.subscribe("muster/v1/d/+/cmd/#", QoS::AtLeastOnce).await.expect("the channel is open");
        tokio::spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::Publish(publish))) => drop(sender.try_send(publish)),
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        });
        Self { client, requests }
    }

    async fn say(&self, topic: String, payload: String, retain: bool) {
        self.client.publish(topic, QoS::AtLeastOnce, retain, payload).await.expect("the channel is open");
    }

    async fn born(&self, n: usize) {
        let birth = r#"{"online":true,"proto":["1.0"],"methods":["UploadModuleLogs","GetTaskStatus"],"proactiveConsent":"enabled"}"#;
        self.say(format!("muster/v1/d/{}/state", device(n)), birth.to_owned(), true).await;
    }

    /// Takes the request of every device: which attempt, and with which grant.
    async fn asked(&mut self) -> HashMap<DeviceId, (AttemptId, String)> {
        let mut all = HashMap::new();
        while all.len() < DEVICES {
            let request =
                tokio::time::timeout(Duration::from_secs(60), self.requests.recv()).await.expect("a request in time").expect("connected");
            let topic = String::from_utf8_lossy(&request.topic).into_owned();
            let id: DeviceId = topic.split('/').nth(3).expect("a device in the topic").parse().expect("a device id");
            let properties = request.properties.expect("requests have properties");
            assert!(
                properties.user_properties.iter().any(|(name, value)| name == "purpose" && value == "proactive"),
                "nobody asked for it, and it says so: {:?}",
                properties.user_properties
            );
            let correlation = properties.correlation_data.expect("correlation data");
            let attempt = AttemptId::from_correlation(&correlation).expect("an attempt");
            let payload: serde_json::Value = serde_json::from_slice(&request.payload).expect("JSON");
            let answer = PublishProperties {
                correlation_data: Some(correlation),
                user_properties: vec![("__stat".to_owned(), "200".to_owned()), ("__protVer".to_owned(), "1.0".to_owned())],
                ..PublishProperties::default()
            };
            let accepted = format!(r#"{{"status":"Running","message":"","correlationId":"upload-{id}"}}"#);
            self.client
                .publish_with_properties(properties.response_topic.expect("a response topic"), QoS::AtLeastOnce, false, accepted, answer)
                .await
                .expect("the channel is open");
            all.insert(id, (attempt, payload["sasUrl"].as_str().expect("a grant").to_owned()));
        }
        all
    }

    async fn completed(&self, id: &DeviceId, attempt: AttemptId) {
        let report = format!(
            r#"{{"correlationId":"upload-{id}","status":"Completed","message":"","attempt":"{}","bytes":1,"objects":[]}}"#,
            attempt.uuid()
        );
        self.say(format!("muster/v1/d/{id}/task"), report, false).await;
    }
}

/// As any storage client does it; the status of the answer.
async fn put(http: &reqwest::Client, grant: &str, name: &str, more: &str, body: Bytes) -> u16 {
    let (container, query) = grant.split_once('?').expect("a grant has a query");
    let request =
        http.put(format!("{container}/{name}?{more}{query}")).header("x-ms-blob-type", "BlockBlob").header("x-ms-version", "2021-12-02");
    request.body(body).send().await.expect("the storage answers").status().as_u16()
}

fn by_the_owner(scope: ConsentScope) -> NewDecision {
    NewDecision {
        kind: ConsentKind::Proactive,
        scope,
        on_behalf_of: Some(Actor { id: "ada@contoso.example".to_owned(), role: Role::TenantOwner, auth: None }),
        channel: Some(Channel::Portal),
        terms_version: None,
        locale: None,
        expires_at: None,
        reason: None,
        expect_version: None,
    }
}

async fn decide(api: &Api, verb: &str, decision: &NewDecision) -> DecisionRecorded {
    let (status, text) = api.post_text(&format!("/api/v1/consent/{verb}"), serde_json::to_string(decision).expect("JSON")).await;
    assert_eq!(status, 201, "{text}");
    serde_json::from_str(&text).expect("a decision")
}

/// What an alert makes: nobody asked for it, so it needs consent.
fn proactive(devices: impl IntoIterator<Item = DeviceId>) -> NewCollection {
    let now = OffsetDateTime::now_utc();
    let items = serde_json::from_str(r#"[{"id":"edgeAgent","filter":{}}]"#).expect("items");
    NewCollection {
        id: CollectionId::new(),
        request: CollectionRequest::UploadLogs {
            items,
            encoding: muster_wire::method::request::Encoding::None,
            content_type: muster_wire::method::request::ContentType::Text,
        },
        target: TargetView::Devices,
        reason: None,
        case: None,
        created_by: "alert".to_owned(),
        origin: Origin::Alert { alert: AlertId::new(), indicator: "IOTEdgeAgentNotRunningCondition".to_owned() },
        needs_consent: Some(ConsentKind::Proactive),
        created_at: now,
        expires_at: now + Duration::from_secs(3600),
        attempt_timeout: Duration::from_secs(600),
        max_attempts: 1,
        in_flight: None,
        priority: Priority::Normal,
        rollout: Rollout::default(),
        retry: None,
        window: None,
        standing: false,
        steps: Vec::new(),
        step_of: None,
        when_matches: None,
        paused: None,
        idempotency: None,
        tasks: devices.into_iter().map(|device| NewTask { device, skip: None }).collect(),
    }
}

/// C2.
async fn withdrawn_in_the_middle(landing: Landing<'_>) {
    let directory = tempfile::tempdir().expect("a private directory");
    let broker = Mosquitto::start(directory.path(), Tuning::Ours).await;
    let database = Database::create().await;
    // Looks come too late to find by themselves what the devices have not reported.
    let slow = [("dispatch.look_first", "300s"), ("dispatch.look_max", "600s")];
    let controller = Controller::start(directory.path(), Some(&broker.url()), Some(&database.url), landing, &slow).await;
    let api = &controller.api;
    let store = Store::connect(&StoreOptions::new(&database.url)).await.expect("the same database");
    let mut puppets = Puppets::connect(&broker.url()).await;
    for n in 0..DEVICES {
        puppets.born(n).await;
    }
    api.devices_online(DEVICES, Duration::from_secs(30)).await;
    let tags = format!(
        r#"{{"devices":[{}],"patch":{{"tags":{{"tenant":"contoso","site":"oslo"}}}}}}"#,
        (0..DEVICES).map(|n| format!("\"{}\"", device(n))).collect::<Vec<_>>().join(",")
    );
    let (status, text) = api.post_text("/api/v1/devices/tags", tags).await;
    assert_eq!(status, 200, "{text}");

    let new = proactive((0..DEVICES).map(device));
    store.create_collection(&new).await.expect("made");
    let asked = puppets.asked().await;
    let http = reqwest::Client::new();
    for n in 0..DEVICES {
        let (attempt, grant) = &asked[&device(n)];
        if n < LANDED {
            assert_eq!(put(&http, grant, "edgeAgent.log", "", Bytes::from_static(b"2026-11-28 the agent stopped\n")).await, 201);
        } else {
            assert_eq!(put(&http, grant, "edgeAgent.log", "comp=block&blockid=AAAA&", Bytes::from_static(b"half a line")).await, 201);
        }
        if n < DONE {
            puppets.completed(&device(n), *attempt).await;
        }
    }
    let sealed = || async { api.collection(new.id).await.map(|view| (view.counters.verified, view.counters.accepted)) };
    let in_flight = (DEVICES - DONE) as u64;
    wait::until("ten bundles, twenty uploads under way", Duration::from_secs(60), sealed, |seen| *seen == Ok((DONE as u64, in_flight)))
        .await
        .expect("read");

    // One answer says how many ended with it.
    let began = std::time::Instant::now();
    let recorded = decide(api, "revoke", &by_the_owner(ConsentScope::Tenant { id: "contoso".to_owned() })).await;
    assert_eq!(recorded.cancelled, in_flight, "at once, and in the same transaction");
    let view = api.collection(new.id).await.expect("read");
    assert_eq!((view.counters.verified, view.counters.cancelled), (DONE as u64, in_flight), "{:?}", view.counters);
    assert_eq!(view.reasons.get(&Reason::ConsentMissing), Some(&in_flight));

    // The storage server refuses every grant that somebody kept.
    let refused = || async {
        let mut statuses = Vec::new();
        for n in DONE..DEVICES {
            statuses.push(put(&http, &asked[&device(n)].1, "late.log", "", Bytes::from_static(b"too late")).await);
        }
        statuses
    };
    let statuses =
        wait::until("every grant refused", Duration::from_secs(60), refused, |all| all.iter().all(|status| *status >= 400)).await;
    assert!(began.elapsed() < Duration::from_secs(30), "unusable within five minutes is the promise, seconds are what it takes");
    assert!(statuses.iter().all(|status| matches!(status, 403 | 404)), "{statuses:?}");

    // An audit line for each object, and for each inbox; and nothing is left of them.
    let lines = || async { api.get::<Page<ConsentAuditLine>>("/api/v1/consent/audit?limit=1000").await.map(|page| page.items) };
    let of = |lines: &[ConsentAuditLine], what: &str| lines.iter().filter(|line| line.what == what).count();
    let lines = wait::until("the audit of all twenty", Duration::from_secs(60), lines, |lines| {
        lines.as_ref().is_ok_and(|lines| of(lines, "inbox_closed") == DEVICES - DONE)
    })
    .await
    .expect("read");
    let objects = of(&lines, "object_removed");
    assert!(objects >= LANDED - DONE, "the objects of those that had one: {lines:?}");
    if let Ok(inboxes) = std::fs::read_dir(controller.directory.join("data/landing/inbox")) {
        assert_eq!(inboxes.count(), 0, "no inbox is left");
    }
    assert!(began.elapsed() < Duration::from_secs(60), "gone within fifteen minutes is the promise, seconds are what it takes");

    // What was sealed stays whole, and its manifest names the decision that allowed it.
    cli_ok(api, &["bundles", "verify", "--collection", &new.id.to_string()]);
    let bundle: serde_json::Value = api.get(&format!("/api/v1/bundles/{}", new.id.task(0))).await.expect("a bundle");
    let consent = bundle.pointer("/consent").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    assert!(consent.starts_with("cns_"), "{bundle}");
    let shown = cli_ok(api, &["consent", "show", device(0).as_str(), "-o", "json"]);
    assert!(shown.contains(&consent), "the decision it was collected under is in the history: {shown}");
    assert_eq!(view.origin.as_str(), "alert");

    // Nothing new: the same again asks nobody.
    let again = proactive((0..DEVICES).map(device));
    store.create_collection(&again).await.expect("made");
    let view = api.finished(again.id, Duration::from_secs(30)).await;
    assert_eq!((view.counters.skipped, view.counters.targeted), (DEVICES as u64, DEVICES as u64));
    assert!(puppets.requests.try_recv().is_err(), "no device hears of it");
    store.close().await;
    drop(controller);
    database.drop_now().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_a_withdrawal_removes_uploads_from_azurite() {
    let directory = tempfile::tempdir().expect("a private directory");
    let azurite = Azurite::start(directory.path()).await;
    withdrawn_in_the_middle(Landing::Azurite(&azurite)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_removes_uploads_from_the_directory() {
    withdrawn_in_the_middle(Landing::Directory).await;
}

/// From the word at the device to the bundle: with the real agent code, and with a device that refuses by itself.
#[tokio::test(flavor = "multi_thread")]
async fn devices_say_what_their_owners_want() {
    let directory = tempfile::tempdir().expect("a private directory");
    let broker = Mosquitto::start(directory.path(), Tuning::Ours).await;
    let database = Database::create().await;
    let controller = Controller::start(directory.path(), Some(&broker.url()), Some(&database.url), Landing::Directory, &[]).await;
    let api = &controller.api;
    let store = Store::connect(&StoreOptions::new(&database.url)).await.expect("the same database");
    let _ = rustls::crypto::ring::default_provider().install_default();
    let options = FleetOptions {
        mqtt_url: broker.url(),
        devices: 20,
        consent: ConsentShares { enabled: 0.5, disabled: 0.25, default: 0.0 },
        ..FleetOptions::default()
    };
    let fleet = Fleet::start(options).await.expect("the fleet starts");
    api.devices_online(20, Duration::from_secs(30)).await;
    let said = |word| fleet.consents().into_iter().filter(move |(_, said)| *said == word).map(|(id, _)| id);
    let new = proactive(fleet.devices().into_iter().map(|(id, _)| id));
    store.create_collection(&new).await.expect("made");
    let view = api.finished(new.id, Duration::from_secs(60)).await;
    assert_eq!((view.counters.verified, view.counters.skipped), (10, 10), "{view:?}");
    for task in api.tasks(new.id).await {
        let agreed = said(ProactiveConsent::Enabled).any(|id| id == task.device);
        assert_eq!(task.state == TaskState::Verified, agreed, "{task:?}");
    }
    let refused = said(ProactiveConsent::Disabled).next().expect("a quarter");
    let shown = cli_ok(api, &["consent", "show", refused.as_str(), "-o", "json"]);
    assert!(shown.contains(r#""state":"declined""#) || shown.contains(r#""state": "declined""#), "{shown}");

    // The vendor decides nothing; the try is on record.
    let enabled = said(ProactiveConsent::Enabled).next().expect("half");
    let tried = cli(api, &["consent", "grant", "--device", refused.as_str()]);
    assert!(!tried.status.success());
    assert!(String::from_utf8_lossy(&tried.stderr).contains("the vendor does not decide"), "{}", String::from_utf8_lossy(&tried.stderr));
    assert!(cli_ok(api, &["consent", "audit", "-o", "ndjson"]).contains(r#""what":"refused""#));

    // The cloud says granted, the device says no: no request. (C3)
    assert!(fleet.say_consent(&enabled, ProactiveConsent::Disabled));
    let state = || async {
        let path = format!("/api/v1/consent/effective?device={enabled}");
        api.get::<serde_json::Value>(&path).await.map(|view| view["state"].as_str().unwrap_or_default().to_owned())
    };
    wait::until("the withdrawal at the device", Duration::from_secs(30), state, |state| *state == Ok("revoked".to_owned()))
        .await
        .expect("read");
    let before = fleet.stats().requests;
    let again = proactive([enabled.clone()]);
    store.create_collection(&again).await.expect("made");
    let view = api.finished(again.id, Duration::from_secs(30)).await;
    assert_eq!((view.counters.skipped, fleet.stats().requests), (1, before));

    // The device has the last word even where nobody told us: it is asked, and refuses.
    sqlx::Executor::execute(&mut database.connect().await, "UPDATE device SET consent = 'enabled'; DELETE FROM consent_record")
        .await
        .expect("our own database");
    decide(api, "grant", &by_the_owner(ConsentScope::Device { id: refused.clone() })).await;
    let asked = proactive([refused.clone()]);
    store.create_collection(&asked).await.expect("made");
    let view = api.finished(asked.id, Duration::from_secs(30)).await;
    assert_eq!(view.reasons.get(&Reason::ConsentMissing), Some(&1), "{view:?}");
    assert_eq!((view.counters.cancelled, fleet.stats().requests), (1, before + 1));
    fleet.stop().await;
    store.close().await;
    drop(controller);
    database.drop_now().await;
}
