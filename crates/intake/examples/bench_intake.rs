//! How fast alerts are taken from RabbitMQ, written down and decided, beside a consumer of the same queue that does nothing with them.
//!
//! ```text
//! createdb bench_intake
//! cargo run --release --example bench_intake -- --database postgres:///bench_intake [--alerts 20000] [--passes 3] [--prefetch 1000] [--figures]
//! ```
//!
//! Half of 5,000 devices have an owner who agreed. Each pass raises another indicator, four times per device: of the half that agreed the first
//! alert makes a collection and the others are counted with it, of the other half nothing may be collected. The queues are full before the
//! clock starts. Needs an empty database and the RabbitMQ of `MUSTER_TEST_AMQP_URL`, where its queues are its own and go at the end.
//! `--figures` prints what `make bench` takes into its table, as lines of JSON.

#![expect(clippy::print_stdout, reason = "the figures are what this program is for")]

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use muster_intake::{AmqpOptions, Intake, IntakeOptions};
use muster_store::{AlertLimits, Birth, Store, StoreOptions};
use muster_wire::alert::SourceRules;
use muster_wire::http::StormPolicy;
use muster_wire::presence::Presence;
use secrecy::SecretString;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

type Outcome<T> = Result<T, Box<dyn Error>>;

const INDICATORS: [&str; 3] = ["AcsUnhealthyCondition", "IOTEdgeAgentNotRunningCondition", "UpdateInstallFailedEvent"];
const DEVICES: usize = 5_000;
/// Publishes under way.
const PUBLISHING: usize = 500;
/// The bare consumer acknowledges so many at once.
const ACKNOWLEDGE: u64 = 100;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(300);

struct Plan {
    database: String,
    alerts: usize,
    passes: usize,
    prefetch: u16,
    figures: bool,
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let plan = plan()?;
    let url = std::env::var("MUSTER_TEST_AMQP_URL").map_err(|_| "MUSTER_TEST_AMQP_URL is not set: scripts/services.sh finds a RabbitMQ")?;
    measure(&plan, &url, &format!("muster.bench.{}", Uuid::new_v4().simple())).await
}

fn plan() -> Outcome<Plan> {
    let mut plan = Plan { database: String::new(), alerts: 20_000, passes: 3, prefetch: 1_000, figures: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--figures" => plan.figures = true,
            "--database" => plan.database = value()?,
            "--alerts" => plan.alerts = value()?.parse()?,
            "--passes" => plan.passes = value()?.parse()?,
            "--prefetch" => plan.prefetch = value()?.parse()?,
            other => return Err(format!("{other}: one of --database, --alerts, --passes, --prefetch, --figures").into()),
        }
    }
    if plan.database.is_empty() {
        return Err("--database names an empty database, like postgres:///bench_intake".into());
    }
    Ok(plan)
}

/// Rates of one pass, in alerts a second.
struct Pass {
    each: f64,
    multiple: f64,
    taken: f64,
}

async fn measure(plan: &Plan, url: &str, name: &str) -> Outcome<()> {
    let store = Store::connect(&StoreOptions::new(plan.database.clone())).await?;
    store.migrate().await?;
    fleet(&store).await?;
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let mut passes = Vec::new();
    for pass in 0..plan.passes {
        let events: Vec<Vec<u8>> = (0..plan.alerts).map(|n| event(pass, n)).collect::<Outcome<_>>()?;
        let [each, multiple] = [format!("{name}.each"), format!("{name}.multiple")];
        let mut rates = Vec::new();
        for (queue, multiple) in [(&each, 1), (&multiple, ACKNOWLEDGE)] {
            let channel = connection.create_channel().await?;
            channel.queue_declare(queue.as_str().into(), durable(), quorum()).await?;
            publish(&connection, queue, &events).await?;
            rates.push(bare(&connection, queue, plan, multiple).await?);
            channel.queue_delete(queue.as_str().into(), <_>::default()).await?;
        }
        let taken = taken(&connection, &store, url, name, plan, &events).await?;
        let measured = Pass { each: rates[0], multiple: rates[1], taken };
        println!(
            "pass {}: {:.0} a second taken in; bare consumer {:.0} (acknowledging {ACKNOWLEDGE} at once), {:.0} (each)",
            pass + 1,
            measured.taken,
            measured.multiple,
            measured.each
        );
        passes.push(measured);
    }
    let counts = store.alert_counts(OffsetDateTime::UNIX_EPOCH).await?;
    println!("decided: {:?}", counts.outcomes);
    if plan.figures {
        let share = |of: &dyn Fn(&Pass) -> f64| {
            let mut all: Vec<f64> = passes.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            (all[all.len() / 2], all[0], all[all.len() - 1])
        };
        let rate = share(&|pass| pass.taken).0;
        let (percent, low, high) = share(&|pass| 100.0 * pass.taken / pass.multiple);
        figure("multiple", percent, &format!("{percent:.0} % [{low:.0}–{high:.0}], {rate:.0}/s"));
        let (times, low, high) = share(&|pass| pass.taken / pass.each);
        figure("each", times, &format!("{times:.2} × [{low:.2}–{high:.2}]"));
    }
    Ok(())
}

fn figure(figure: &str, value: f64, measured: &str) {
    println!("{}", serde_json::json!({ "figure": figure, "value": value, "measured": measured }));
}

fn device(n: usize) -> String {
    format!("press-{:05}", n % DEVICES)
}

/// Online devices; the owner of every other one agreed.
async fn fleet(store: &Store) -> Outcome<()> {
    let now = OffsetDateTime::now_utc();
    let birth = |n: usize| {
        let consent = if n.is_multiple_of(2) { "enabled" } else { "disabled" };
        let birth = serde_json::json!({ "online": true, "proto": ["1.0"], "methods": ["UploadModuleLogs"], "proactiveConsent": consent });
        Ok::<_, Box<dyn Error>>(Birth {
            device: device(n).parse()?,
            presence: Presence::parse(birth.to_string().as_bytes())?,
            at: now,
            retained: false,
        })
    };
    let births = (0..DEVICES).map(birth).collect::<Outcome<Vec<_>>>()?;
    for some in births.chunks(500) {
        store.record_births(some).await?;
    }
    Ok(())
}

/// One event of about 1.1 kB, as the reference has them.
fn event(pass: usize, n: usize) -> Outcome<Vec<u8>> {
    let (device, now) = (device(n), OffsetDateTime::now_utc().format(&Rfc3339)?);
    let source = format!(
        "/subscriptions/1c7e2a54-0000-4000-8000-0000000000a1/resourceGroups/rg/providers/Microsoft.DataBoxEdge/dataBoxEdgeDevices/{device}"
    );
    let indicator = INDICATORS[pass % INDICATORS.len()];
    let event = serde_json::json!({
        "specversion": "1.0", "id": format!("{pass}-{n}"), "source": source, "type": "com.microsoft.edge.alert.v1", "time": now,
        "datacontenttype": "application/json",
        "data": { "schemaId": "azureMonitorCommonAlertSchema", "data": {
            "essentials": {
                "alertId": format!("/subscriptions/1c7e2a54/providers/Microsoft.AlertsManagement/alerts/{pass}-{n}"),
                "alertRule": "edge-device-alerts", "severity": "Sev2", "signalType": "Log", "monitorCondition": "Fired",
                "monitoringService": "Platform", "alertTargetIDs": [source], "configurationItems": [device],
                "originAlertId": format!("{pass}-{n}"), "firedDateTime": now, "description": "It is not running.",
            },
            "alertContext": { "properties": { "alertType": indicator, "severity": "Warning", "occurrences": "1" } },
        }},
    });
    Ok(serde_json::to_vec(&event)?)
}

fn durable() -> QueueDeclareOptions {
    QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() }
}

fn quorum() -> FieldTable {
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    table
}

async fn publish(connection: &Connection, queue: &str, events: &[Vec<u8>]) -> Outcome<()> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let properties = BasicProperties::default().with_delivery_mode(2).with_content_type("application/cloudevents+json".into());
    for some in events.chunks(PUBLISHING) {
        let mut confirms = Vec::with_capacity(some.len());
        for event in some {
            confirms.push(channel.basic_publish("".into(), queue.into(), BasicPublishOptions::default(), event, properties.clone()).await?);
        }
        for confirm in confirms {
            confirm.await?;
        }
    }
    channel.close(200, "done".into()).await?;
    Ok(())
}

/// Consumes all and does nothing with it.
async fn bare(connection: &Connection, queue: &str, plan: &Plan, acknowledge: u64) -> Outcome<f64> {
    let channel = connection.create_channel().await?;
    channel.basic_qos(plan.prefetch, BasicQosOptions::default()).await?;
    let began = Instant::now();
    let mut consumer = channel.basic_consume(queue.into(), "bench".into(), BasicConsumeOptions::default(), FieldTable::default()).await?;
    let (mut left, mut waiting) = (plan.alerts, 0);
    while left > 0 {
        let delivery = consumer.next().await.ok_or("the consumer ended")??;
        (left, waiting) = (left - 1, waiting + 1);
        if waiting == acknowledge || left == 0 {
            channel.basic_ack(delivery.delivery_tag, BasicAckOptions { multiple: acknowledge > 1 }).await?;
            waiting = 0;
        }
    }
    let rate = plan.alerts as f64 / began.elapsed().as_secs_f64();
    channel.close(200, "done".into()).await?;
    Ok(rate)
}

/// The intake, from the start of its consumer until the last alert is committed and acknowledged.
async fn taken(connection: &Connection, store: &Store, url: &str, name: &str, plan: &Plan, events: &[Vec<u8>]) -> Outcome<f64> {
    let channel = connection.create_channel().await?;
    let before = recorded(store).await?;
    // Once without anything to do: it makes the queue as it wants it.
    let queue = format!("{name}.alerts");
    let idle = start(store, url, name, plan);
    let began = Instant::now();
    while depth(connection, &queue).await.is_none() {
        if began.elapsed() > PATIENCE {
            return Err("the intake made no queue".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    idle.stop(PATIENCE).await;
    publish(connection, &queue, events).await?;
    let began = Instant::now();
    let intake = start(store, url, name, plan);
    while depth(connection, &queue).await != Some(0) || recorded(store).await? < before + plan.alerts as u64 {
        if began.elapsed() > PATIENCE {
            return Err("not all alerts were taken".into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let rate = plan.alerts as f64 / began.elapsed().as_secs_f64();
    intake.stop(PATIENCE).await;
    for queue in [queue, format!("{name}.dead")] {
        channel.queue_delete(queue.as_str().into(), <_>::default()).await?;
    }
    channel.exchange_delete(format!("{name}.dlx").as_str().into(), <_>::default()).await?;
    Ok(rate)
}

fn start(store: &Store, url: &str, name: &str, plan: &Plan) -> Intake {
    let day = Duration::from_secs(24 * 3600);
    let limits = AlertLimits {
        max_age: day,
        expires_after: day,
        attempt_timeout: Duration::from_secs(600),
        max_attempts: 3,
        per_day: u32::MAX,
        per_tenant_per_day: u32::MAX,
        // What is measured is that every alert is decided by itself.
        storm: StormPolicy { devices: u32::MAX, at_most: u32::MAX, ..StormPolicy::default() },
    };
    let amqp = AmqpOptions {
        url: SecretString::from(url.to_owned()),
        ca_file: None,
        name: "bench".to_owned(),
        queue: format!("{name}.alerts"),
        dead_letter_exchange: format!("{name}.dlx"),
        dead_letter_queue: format!("{name}.dead"),
        prefetch: plan.prefetch,
        delivery_limit: 20,
        tenant: None,
        rules: SourceRules::default(),
    };
    let options = IntakeOptions { limits, types: SourceRules::default().types, amqp: Some(amqp) };
    Intake::start(options, store.clone(), Arc::new(|_| {}))
}

/// Messages that wait in a queue; nothing while there is none. Asked on a channel of its own: a refusal closes it.
async fn depth(connection: &Connection, queue: &str) -> Option<u32> {
    let channel: Channel = connection.create_channel().await.ok()?;
    let passive = QueueDeclareOptions { passive: true, ..durable() };
    let found = channel.queue_declare(queue.into(), passive, FieldTable::default()).await.ok().map(|queue| queue.message_count());
    if found.is_some() {
        let _ = channel.close(200, "done".into()).await;
    }
    found
}

async fn recorded(store: &Store) -> Outcome<u64> {
    let counts = store.alert_counts(OffsetDateTime::UNIX_EPOCH).await?;
    Ok(counts.outcomes.values().sum())
}
