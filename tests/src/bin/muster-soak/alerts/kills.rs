//! A controller that is killed again and again after it has written alerts down and before RabbitMQ hears of it.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use lapin::BasicProperties;
use muster_tests::events::{STRUCTURED, event, recently};
use muster_tests::rabbit::Rabbit;
use muster_tests::valve::Valve;

use super::{DEAD, NO_BOUNDS, QUEUE, Stack, made};
use crate::{Findings, Plan};

const INDICATOR: &str = "SoakKillsCondition";

pub(super) async fn run(plan: &Plan, directory: &Path, findings: &mut Findings) -> Result<()> {
    let rabbit = Rabbit::from_env().await;
    let valve = Valve::start(rabbit.port()).await;
    let mut stack = Stack::start(plan, directory, &valve.url(&rabbit.url), &NO_BOUNDS).await?;
    let mut connection = stack.database.connect().await;
    stack.indicator(INDICATOR).await?;
    let each = (plan.devices / plan.kills).max(1);
    let fired = recently();
    let devices = stack.fleet.devices.clone();
    let (mut sent, mut kills) = (0, 0);
    for some in devices.chunks(each).take(plan.kills) {
        rabbit.declared(QUEUE, super::PATIENCE).await;
        stack.controllers.ready(0).await;
        // The consumer is there; from now on nothing that it says arrives.
        valve.close();
        let messages = some.iter().map(|device| {
            let body = event("kill", device.as_str(), INDICATOR, &fired).to_string().into_bytes();
            (BasicProperties::default().with_content_type(STRUCTURED.into()), body)
        });
        rabbit.publish(QUEUE, messages.collect::<Vec<_>>()).await;
        sent += some.len() as u64;
        stack.recorded(&mut connection, sent, Instant::now()).await?;
        stack.controllers.kill(0);
        kills += 1;
        valve.cut();
        stack.controllers.start_again(0);
        stack.controllers.ready(0).await;
        // All of them come again, and are known.
        stack.repeated(sent).await?;
    }
    let (all, distinct) = made(&mut connection).await?;
    let recorded = super::written(&mut connection).await?;
    findings.note("kills: between commit and acknowledgement", kills);
    findings.check("kills: alerts written down", recorded, format!("{sent}: none lost, none twice"), recorded == sent);
    findings.check("kills: collections made", all, format!("{sent}, each for another device"), all == sent && distinct == sent);
    let duplicates = stack.counts().await?.duplicates;
    findings.check("kills: came again and were known", duplicates, format!("at least {sent}"), duplicates >= sent);
    let dead = rabbit.count(DEAD).await;
    findings.check("kills: dead letters", format!("{dead:?}"), "none", dead == Some(0));
    drop(connection);
    stack.end().await;
    Ok(())
}
