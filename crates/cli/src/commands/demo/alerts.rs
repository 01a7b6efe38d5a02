//! The second half of the demo: what the fleet raises by itself, and what is collected of it, with and without consent.
//!
//! Each of the three indicators is raised by a device whose owner agreed, by one whose owner was never asked, and by one whose owner agreed
//! and withdrew. The owners speak as real ones do: at activation through the device, and later through a portal.

use std::time::Duration;

use muster_agent::{Fault, Fleet, Raised};
use muster_wire::DeviceId;
use muster_wire::http::{
    Actor, AlertOutcome, AlertView, Channel, ConsentKind, ConsentScope, ConsentState, ConsentView, DecisionRecorded, NewDecision, Role,
    TaskView,
};
use muster_wire::presence::ProactiveConsent;
use serde::Serialize;
use tokio::time::Instant;

use crate::client::{Client, Query};
use crate::failure::Failure;
use crate::present::units::bytes;
use crate::present::{Column, Out, Paint, table, task_word};
use crate::progress;

/// What the shipped catalogue knows.
const INDICATORS: [&str; 3] = ["AcsUnhealthyCondition", "IOTEdgeAgentNotRunningCondition", "UpdateInstallFailedEvent"];
/// How long each step of the show may take: an owner's word to arrive, an alert to be decided, logs to be there.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked at meanwhile.
const POLL: Duration = Duration::from_millis(100);

/// What the owner of a device did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Owner {
    Agreed,
    NeverAsked,
    Withdrew,
}

impl Owner {
    const ALL: [Self; 3] = [Self::Agreed, Self::NeverAsked, Self::Withdrew];

    fn words(self) -> &'static str {
        match self {
            Self::Agreed => "agreed",
            Self::NeverAsked => "never asked",
            Self::Withdrew => "agreed, then withdrew",
        }
    }
}

/// One alert of the show, and what came of it.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    device: DeviceId,
    owner: Owner,
    indicator: &'static str,
    outcome: AlertOutcome,
    why: String,
    collection: Option<muster_wire::CollectionId>,
    /// Its task at the end, where something was collected.
    #[serde(skip)]
    task: Option<TaskView>,
    alert: muster_wire::AlertId,
}

impl Shown {
    pub(super) fn as_expected(&self) -> bool {
        match self.owner {
            Owner::Agreed => self.outcome == AlertOutcome::Collected && self.task.as_ref().is_some_and(|task| task.bundle.is_some()),
            Owner::NeverAsked | Owner::Withdrew => self.outcome == AlertOutcome::NoConsent && self.collection.is_none(),
        }
    }

    fn row(&self) -> Vec<String> {
        let collected = self.task.as_ref().map_or_else(
            || "nothing, and the device was asked nothing".to_owned(),
            |task| match &task.bundle {
                Some(bundle) => format!("{} ({})", bytes(bundle.size_bytes), task_word(task)),
                None => task_word(task).to_owned(),
            },
        );
        let right = if self.as_expected() { "yes" } else { "NO" };
        vec![
            self.device.to_string(),
            self.owner.words().to_owned(),
            self.indicator.to_owned(),
            self.outcome.to_string(),
            collected,
            right.to_owned(),
        ]
    }
}

/// Has devices raise alerts and follows each to its end. A fleet with few healthy devices shows fewer.
pub(super) async fn show(client: &Client, fleet: &Fleet) -> Result<Vec<Shown>, Failure> {
    let cast = cast(fleet.devices());
    let bar = progress::spinner("owners of devices decide about alerts");
    for (device, owner, _) in cast.iter().filter(|(_, owner, _)| *owner != Owner::NeverAsked) {
        fleet.say_consent(device, ProactiveConsent::Enabled);
        until(|| consent_is(client, device, ConsentState::Granted), &format!("{device} did not say that its owner agreed")).await?;
        if *owner == Owner::Withdrew {
            withdraw(client, device).await?;
        }
    }
    bar.set_message("devices raise alerts");
    for (device, _, indicator) in &cast {
        fleet.raise(device, &Raised::new(*indicator));
    }
    let mut shown = Vec::with_capacity(cast.len());
    for (device, owner, indicator) in cast {
        bar.set_message(format!("{indicator} of {device}"));
        let query = vec![("device", device.to_string()), ("indicator", indicator.to_owned())];
        let mut found = None;
        until(
            async || {
                let mut alerts: Vec<AlertView> = Vec::new();
                client
                    .pages("read the alerts", &["alerts"], &query, None, |page: Vec<AlertView>| {
                        alerts.extend(page);
                        Ok(())
                    })
                    .await?;
                found = alerts.into_iter().next();
                Ok(found.is_some())
            },
            &format!("the alert of {device} did not arrive"),
        )
        .await?;
        let Some(alert) = found else { continue };
        let task = match alert.collection {
            Some(collection) => Some(ended(client, &collection.to_string()).await?),
            None => None,
        };
        let (outcome, why, collection) = (alert.outcome, alert.why, alert.collection);
        shown.push(Shown { device, owner, indicator, outcome, why, collection, task, alert: alert.id });
    }
    bar.finish_and_clear();
    Ok(shown)
}

/// Who raises what: healthy devices, none twice.
fn cast(devices: Vec<(DeviceId, Option<Fault>)>) -> Vec<(DeviceId, Owner, &'static str)> {
    let healthy = devices.into_iter().filter(|(_, fault)| fault.is_none()).map(|(device, _)| device);
    // By owner first: a fleet of three shows all that an owner may do.
    let roles = INDICATORS.into_iter().flat_map(|indicator| Owner::ALL.map(|owner| (owner, indicator)));
    healthy.zip(roles).map(|(device, (owner, indicator))| (device, owner, indicator)).collect()
}

async fn consent_is(client: &Client, device: &DeviceId, wanted: ConsentState) -> Result<bool, Failure> {
    let query = vec![("device", device.to_string())];
    let view: ConsentView = client.get("read the consent", &["consent", "effective"], &query).await?;
    Ok(view.state == wanted)
}

async fn withdraw(client: &Client, device: &DeviceId) -> Result<(), Failure> {
    let owner = Actor { id: "owner@sim.example".to_owned(), role: Role::DeviceOwner, auth: None };
    let new = NewDecision {
        kind: ConsentKind::Proactive,
        scope: ConsentScope::Device { id: device.clone() },
        on_behalf_of: Some(owner),
        channel: Some(Channel::Portal),
        terms_version: None,
        locale: None,
        expires_at: None,
        reason: Some("muster demo".to_owned()),
        expect_version: None,
    };
    let _: DecisionRecorded = client.post("withdraw a consent", &["consent", "revoke"], &new, None).await?;
    Ok(())
}

/// The one task of a collection, once it is final.
async fn ended(client: &Client, collection: &str) -> Result<TaskView, Failure> {
    let mut last = None;
    until(
        async || {
            client
                .pages("read a task", &["collections", collection, "tasks"], &Query::new(), None, |tasks: Vec<TaskView>| {
                    last = tasks.into_iter().next();
                    Ok(())
                })
                .await?;
            Ok(last.as_ref().is_some_and(|task| task.state.is_final()))
        },
        &format!("{collection} did not end"),
    )
    .await?;
    last.ok_or_else(|| Failure::local("follow an alert", format!("{collection} has no task")))
}

async fn until(mut look: impl AsyncFnMut() -> Result<bool, Failure>, otherwise: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    while !look().await? {
        if Instant::now() > deadline {
            return Err(Failure::local("show what alerts do", format!("{otherwise} within {} s", PATIENCE.as_secs()))
                .with_next("this machine may be too slow for so many devices: try --devices 50"));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// For people.
pub(super) fn text(shown: &[Shown], out: &Out) -> String {
    if shown.is_empty() {
        return String::new();
    }
    let columns = [
        Column::id("DEVICE"),
        Column::text("ITS OWNER"),
        Column::id("RAISED"),
        Column::id("DECIDED"),
        Column::text("COLLECTED"),
        Column::text("RIGHT"),
    ];
    let rows: Vec<Vec<String>> = shown.iter().map(Shown::row).collect();
    let wrong = shown.iter().filter(|shown| !shown.as_expected()).count();
    let judgement = if wrong == 0 {
        out.paint("Logs were collected where the owner agreed, and nowhere else.", Paint::Good)
    } else {
        out.paint(&format!("{wrong} of {} alerts did not lead to what they should.", shown.len()), Paint::Bad)
    };
    format!(
        "\n{}\n{}\n{judgement}\n",
        out.bold("Alerts that devices raised by themselves, and what was collected"),
        table(&columns, &rows, out)
    )
}

/// One whose line of time is worth looking at.
pub(super) fn one_good(shown: &[Shown]) -> Option<muster_wire::AlertId> {
    shown.iter().find(|shown| shown.owner == Owner::Agreed).map(|shown| shown.alert)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(count: usize) -> Vec<(DeviceId, Option<Fault>)> {
        (1..=count).map(|n| (format!("sim-{n}").parse().expect("an id"), (n == 2).then_some(Fault::Deaf))).collect()
    }

    #[test]
    fn nine_healthy_devices_play_and_each_plays_once() {
        let cast = cast(devices(20));
        assert_eq!(cast.len(), 9);
        assert!(cast.iter().all(|(device, _, _)| device.as_str() != "sim-2"), "a deaf device raises nothing here");
        for indicator in INDICATORS {
            let owners: Vec<Owner> = cast.iter().filter(|(_, _, raised)| *raised == indicator).map(|(_, owner, _)| *owner).collect();
            assert_eq!(owners, Owner::ALL, "{indicator}");
        }
        assert_eq!(super::cast(devices(4)).len(), 3);
        assert_eq!(super::cast(devices(1)).len(), 1);
    }
}
