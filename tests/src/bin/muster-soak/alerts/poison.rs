//! Thousands of messages that are no alerts among good ones: each is a dead letter once, and the good ones are not kept waiting.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use muster_tests::events::poison;
use muster_tests::rabbit::Rabbit;

use super::{DEAD, NO_BOUNDS, Stack, number, to_request, unix_ms, words};
use crate::priority::at;
use crate::{Findings, Plan};

/// So much later may the slow ones of the good be with poison among them, in milliseconds.
const LATER_MS: f64 = 1000.0;

pub(super) async fn run(plan: &Plan, directory: &Path, findings: &mut Findings) -> Result<()> {
    let rabbit = Rabbit::from_env().await;
    let stack = Stack::start(plan, directory, &rabbit.url, &NO_BOUNDS).await?;
    let mut connection = stack.database.connect().await;
    let kinds = poison(stack.fleet.devices[0].as_str());
    let each = (plan.poison / kinds.len()).max(1);
    // All of each kind are different messages: the same one twice would be parked once. What cannot be told apart in its body differs in a header.
    let mut lines = Vec::with_capacity(each * kinds.len());
    for number in 0..each {
        for (line, _) in &kinds {
            let mut line = line.clone();
            line["message_id"] = format!("poison-{number}").into();
            lines.push(line.to_string());
        }
    }
    let (mut slow, mut recorded) = (Vec::new(), 0);
    for (seed, part, bad) in [("1", "without", String::new()), ("2", "with", lines.join("\n"))] {
        let indicator = format!("SoakPoison{part}Condition");
        stack.indicator(&indicator).await?;
        let (log, began) = (directory.join(part), unix_ms());
        let count = plan.devices.to_string();
        // Ten seconds of good ones; the poison comes as fast as it can meanwhile.
        let rate = (plan.devices as f64 / 10.0).to_string();
        let list = stack.list.display().to_string();
        let mut good = words(&["--generate", &count, "--devices", &list, "--indicators", &indicator, "--rate", &rate, "--log"]);
        good.push(log.display().to_string());
        // Another seed makes other events: the same ones again would be repetitions.
        good.extend(words(&["--seed", seed]));
        let sent = tokio::task::block_in_place(|| {
            std::thread::scope(|scope| {
                let good = scope.spawn(|| rabbit.pika(super::QUEUE, &good.iter().map(String::as_str).collect::<Vec<_>>(), ""));
                let bad = (!bad.is_empty()).then(|| scope.spawn(|| rabbit.pika(super::QUEUE, &[], &bad)));
                bad.map(|bad| bad.join().expect("pika ran"));
                good.join().expect("pika ran")
            })
        });
        recorded += number(&sent, "sent")?;
        stack.recorded(&mut connection, recorded, Instant::now()).await?;
        let deadline = Instant::now() + super::PATIENCE;
        while stack.asked_since(began).len() < plan.devices && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let (times, unheard) = to_request(&log, &stack.asked_since(began))?;
        findings.check(&format!("poison, {part}: devices that were not asked"), unheard, 0, unheard == 0);
        findings.note(&format!("poison, {part}: publisher to device, median"), format!("{:.0} ms", at(&times, 0.5)));
        slow.push(at(&times, 0.99));
    }
    findings.check(
        "poison: publisher to device, 99th percentile, without and with",
        format!("{:.0} and {:.0} ms", slow[0], slow[1]),
        format!("at most {LATER_MS:.0} ms more"),
        slow[1] <= slow[0] + LATER_MS,
    );
    let wanted = each * kinds.len();
    let deadline = Instant::now() + super::PATIENCE;
    while rabbit.count(DEAD).await.unwrap_or_default() < u32::try_from(wanted)? {
        ensure!(Instant::now() < deadline, "not all poison became dead letters: {:?} of {wanted}", rabbit.count(DEAD).await);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let letters = rabbit.take_all(DEAD).await;
    findings.check("poison: dead letters", letters.len(), format!("{wanted}: each once"), letters.len() == wanted);
    let (mut found, mut expected) = (BTreeMap::new(), BTreeMap::new());
    for letter in &letters {
        *found.entry(letter.header("x-muster-reason").to_owned()).or_insert(0) += 1;
    }
    for (_, reason) in &kinds {
        *expected.entry((*reason).to_owned()).or_insert(0) += each;
    }
    findings.check("poison: reasons", format!("{} words", found.len()), "each kind its own", found == expected);
    if found != expected {
        eprintln!("found {found:?}\nexpected {expected:?}");
    }
    findings.note("poison: parked", stack.counts().await?.parked);
    drop(connection);
    stack.end().await;
    Ok(())
}
