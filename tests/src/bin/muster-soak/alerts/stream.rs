//! A stream from pika with repetitions: how long until the device is asked, how many a second are written down, and how many a second
//! RabbitMQ gives to somebody who only acknowledges.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use muster_tests::rabbit::Rabbit;

use super::{NO_BOUNDS, PREFETCH, Stack, made, number, pika, to_request, unix_ms, words};
use crate::fleet;
use crate::priority::at;
use crate::{Findings, Plan};

const BARE: &str = "bare";
/// Of a bare consumer's rate, at least so much with everything written down.
const SHARE: f64 = 0.4;
/// Longest median and 99th percentile from the publisher to the device, in milliseconds.
const TO_REQUEST_MS: f64 = 2000.0;

pub(super) async fn run(plan: &Plan, directory: &Path, findings: &mut Findings) -> Result<()> {
    let rabbit = Rabbit::from_env().await;
    let mut stack = Stack::start(plan, directory, &rabbit.url, &NO_BOUNDS).await?;
    let mut connection = stack.database.connect().await;
    let list = stack.list.display().to_string();
    findings.note("devices", plan.devices);

    // A device's request, at a rate that leaves room.
    stack.indicator("SoakLatencyCondition").await?;
    let (log, began) = (directory.join("published"), unix_ms());
    let count = plan.devices.to_string();
    let rate = plan.rate.min(plan.devices as f64 / 4.0).max(1.0).to_string();
    let live = ["--generate", &count, "--devices", &list, "--indicators", "SoakLatencyCondition", "--rate", &rate, "--log"];
    let mut live = words(&live);
    live.push(log.display().to_string());
    let sent = number(&pika(&rabbit, live, String::new()).await, "sent")?;
    stack.recorded(&mut connection, sent, Instant::now()).await?;
    let deadline = Instant::now() + super::PATIENCE;
    while stack.asked_since(began).len() < plan.devices && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let (times, unheard) = to_request(&log, &stack.asked_since(began))?;
    findings.check("stream: devices that were not asked", unheard, 0, unheard == 0);
    findings.note(&format!("stream at {rate} a second: publisher to device, median"), format!("{:.0} ms", at(&times, 0.5)));
    let slow = at(&times, 0.99);
    let allowed = format!("below {TO_REQUEST_MS:.0} ms");
    findings.check("stream: publisher to device, 99th percentile", format!("{slow:.0} ms"), allowed, slow < TO_REQUEST_MS);

    // As fast as it goes: the devices are away, so that the machine has nothing else to do. The queue is filled while nobody reads.
    stack.fleet.kill();
    fleet::until(stack.controllers.api(0), "offline", plan.devices, super::PATIENCE).await;
    stack.controllers.kill(0);
    let before = super::written(&mut connection).await?;
    let mut quorum = FieldTable::default();
    quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    rabbit.make_queue(BARE, quorum).await;
    let count = plan.alerts.to_string();
    let fill = |seed: &str| words(&["--generate", &count, "--repeats", "30", "--seed", seed, "--devices", &list]);
    tokio::task::block_in_place(|| rabbit.pika(BARE, &fill("1").iter().map(String::as_str).collect::<Vec<_>>(), ""));
    let first = bare(&rabbit, plan.alerts).await?;
    let summary = pika(&rabbit, fill("2"), String::new()).await;
    let (sent, distinct, pairs) = (number(&summary, "sent")?, number(&summary, "distinct")?, number(&summary, "pairs")?);
    findings.note("stream: published by pika, a second", format!("{:.0}", sent as f64 / summary["seconds"].as_f64().unwrap_or(f64::NAN)));
    let made_before = made(&mut connection).await?.0;
    stack.controllers.start_again(0);
    // From the first that is written down: starting is not what is measured.
    stack.recorded(&mut connection, before + 1, Instant::now()).await?;
    let (began, already) = (Instant::now(), super::written(&mut connection).await? - before);
    let cpu = stack.controllers.cpu_seconds(0);
    let took = stack.recorded(&mut connection, before + distinct, began).await?;
    let part = 1.0 - already as f64 / distinct as f64;
    let inbox = sent as f64 * part / took.as_secs_f64();
    findings.note("stream: CPU of the controller meanwhile", format!("{:.1} s", stack.controllers.cpu_seconds(0) - cpu));
    stack.controllers.ready(0).await;
    tokio::task::block_in_place(|| rabbit.pika(BARE, &fill("3").iter().map(String::as_str).collect::<Vec<_>>(), ""));
    let second = bare(&rabbit, plan.alerts).await?;
    let bare = f64::midpoint(first, second);
    findings.note("stream: only consumed and acknowledged, a second", format!("{first:.0} before, {second:.0} after"));
    findings.check(
        "stream: written down and decided, a second",
        format!("{inbox:.0}, {:.0} % of that", 100.0 * inbox / bare),
        format!("at least {:.0} %", SHARE * 100.0),
        inbox >= SHARE * bare,
    );
    let repeated = sent - distinct;
    let known = stack.repeated(repeated).await?;
    let (all, _) = made(&mut connection).await?;
    findings.check("stream: collections made", all - made_before, pairs, all - made_before == pairs);
    let recorded = super::written(&mut connection).await? - before;
    findings.check("stream: alerts written down", recorded, distinct, recorded == distinct);
    findings.check("stream: repetitions known", known, format!("{repeated} or, given out again, more"), known >= repeated);
    findings.note("stream: peak memory of the controller", format!("{} MiB", stack.controllers.peak_rss_kib(0) / 1024));
    drop(connection);
    stack.end().await;
    Ok(())
}

/// How many a second somebody gets who takes what is ready, as many as the controller would, and acknowledges it with one word.
async fn bare(rabbit: &Rabbit, count: usize) -> Result<f64> {
    let (_connection, channel) = rabbit.channel().await;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let mut consumer = channel.basic_consume(BARE.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default()).await?;
    let (mut seen, mut bytes, mut began) = (0, 0, None);
    while seen < count {
        let next = tokio::time::timeout(Duration::from_secs(30), consumer.next()).await.context("no more messages")?;
        let mut last = next.context("the consumer ended")??;
        began.get_or_insert_with(Instant::now);
        let mut batch = 1;
        bytes += last.data.len();
        while batch < usize::from(PREFETCH)
            && let Some(Some(more)) = consumer.next().now_or_never()
        {
            last = more?;
            bytes += last.data.len();
            batch += 1;
        }
        last.acker.ack(BasicAckOptions { multiple: true }).await?;
        seen += batch;
    }
    let took = began.map_or(f64::NAN, |began| began.elapsed().as_secs_f64());
    eprintln!("bare: {seen} messages, {} MB, {took:.2} s", bytes / 1_000_000);
    Ok(seen as f64 / took)
}
