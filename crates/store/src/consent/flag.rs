//! What devices and the registry say by themselves: the word in a birth, and a device that goes to another tenant.
//!
//! A birth repeats what the owner once said at the device, at every connection. Only what is new in it is a decision: another word, or the
//! same word with another time of its own. So a device that reconnects after its owner withdrew in the portal does not grant again.

use std::collections::HashMap;

use muster_domain::consent::{By, What};
use muster_wire::DeviceId;
use muster_wire::http::{Actor, Channel, ConsentKind, ConsentScope, Role};
use muster_wire::presence::ProactiveConsent;
use time::OffsetDateTime;

use super::decide::{Decided, Deciding, decide_in};
use super::end::{Among, end_in_scope};
use crate::apply::device_id;
use crate::dialect::{Batch, Tx, VALUE_BYTES, parcels};
use crate::error::StoreError;
use crate::instant::to_ms;
use crate::presence::Birth;

/// What the registry had of a device before a birth.
pub(crate) struct NotedBefore {
    word: Option<String>,
    said_at: Option<i64>,
    presence_at: i64,
    has_record: bool,
}

/// The word of a birth, where it is one that can decide something.
fn word(birth: &Birth) -> Option<ProactiveConsent> {
    birth.presence.proactive_consent.filter(|word| *word != ProactiveConsent::Unknown)
}

/// What was noted of those of these devices whose birth can decide something. Until the transaction ends, nobody else notes anything of them.
/// Births that say nothing of consent cost no statement.
pub(crate) async fn noted_before(tx: &mut Tx, births: &[&Birth]) -> Result<HashMap<DeviceId, NotedBefore>, StoreError> {
    let spoken: Vec<&DeviceId> = births.iter().filter(|birth| word(birth).is_some()).map(|birth| &birth.device).collect();
    let hold = tx.dialect().hold("d");
    let sql = format!(
        "SELECT d.id, d.consent, d.consent_at, d.presence_at, CASE WHEN EXISTS (SELECT 1 FROM consent_record r WHERE r.kind = 'proactive' \
         AND r.scope_type = 'device' AND r.scope_tenant = '' AND r.scope_id = d.id) THEN 1 ELSE 0 END \
         FROM [[v]] JOIN device d ON d.id = v.device ORDER BY d.id {hold}"
    );
    let mut noted = HashMap::with_capacity(spoken.len());
    for parcel in parcels(&spoken, |device| VALUE_BYTES + device.as_str().len()) {
        let batch = Batch::default().texts("device", parcel.iter().map(|device| Some(device.as_str())));
        for row in tx.fetch(&sql, &[], Some(&batch)).await? {
            let before =
                NotedBefore { word: row.get(1)?, said_at: row.get(2)?, presence_at: row.get(3)?, has_record: row.get::<i32>(4)? == 1 };
            noted.insert(device_id(row.get(0)?)?, before);
        }
    }
    Ok(noted)
}

/// What a birth decides, if anything.
fn decides(birth: &Birth, before: Option<&NotedBefore>) -> Option<(What, Channel)> {
    let word = word(birth)?;
    let said_at = birth.presence.proactive_consent_at.map(to_ms);
    let Some(before) = before else { return Some((what(word), Channel::Activation)) };
    if before.presence_at > to_ms(birth.at) {
        return None;
    }
    let other_word = before.word.as_deref() != Some(word.as_str());
    let said_anew = said_at.is_some() && said_at != before.said_at;
    // From before there were records; silence is not read that way, because nobody was shown the terms.
    let never_recorded = !before.has_record && word != ProactiveConsent::Default;
    if !other_word && !said_anew && !never_recorded {
        return None;
    }
    // Older than what is known: a broker that came back with an old message. A no counts all the same.
    let is_old = matches!((said_at, before.said_at), (Some(said), Some(known)) if said < known);
    if is_old && word != ProactiveConsent::Disabled {
        return None;
    }
    let first = before.word.as_deref().is_none_or(|word| ProactiveConsent::from_word(word) == ProactiveConsent::Unknown);
    Some((what(word), if first { Channel::Activation } else { Channel::DeviceShell }))
}

fn what(word: ProactiveConsent) -> What {
    match word {
        ProactiveConsent::Enabled => What::Enable,
        ProactiveConsent::Default => What::Activated,
        ProactiveConsent::Disabled | ProactiveConsent::Unknown => What::Disable,
    }
}

/// Puts on record what is new in these births, after they were noted.
pub(crate) async fn note_flags(tx: &mut Tx, births: &[&Birth], before: &HashMap<DeviceId, NotedBefore>) -> Result<(), StoreError> {
    let Some(now) = births.iter().map(|birth| birth.at).max() else { return Ok(()) };
    let decisions: Vec<Deciding> = births
        .iter()
        .filter_map(|birth| {
            let (what, channel) = decides(birth, before.get(&birth.device))?;
            let actor = Actor { id: birth.device.to_string(), role: Role::DeviceOwner, auth: None };
            Some(Deciding { channel, ..deciding(&birth.device, what, By::Device, actor, "birth message") })
        })
        .collect();
    if decisions.is_empty() {
        return Ok(());
    }
    let decided = decide_in(tx, &decisions, now).await?;
    let overtaken = decided.iter().filter(|decided| matches!(decided, Decided::Conflict { .. })).count();
    // Somebody else decided for this device in this very moment, and that is the later word.
    metrics::counter!("muster_consent_conflicts_total").increment(overtaken as u64);
    Ok(())
}

fn deciding(device: &DeviceId, what: What, by: By, actor: Actor, recorded_by: &str) -> Deciding {
    Deciding {
        kind: ConsentKind::Proactive,
        scope: ConsentScope::Device { id: device.clone() },
        what,
        by,
        actor,
        channel: Channel::Registry,
        recorded_by: recorded_by.to_owned(),
        tenant: None,
        terms_version: None,
        locale: None,
        expires_at: None,
        reason: None,
        case: None,
        expect_version: None,
    }
}

/// Devices that went from one tenant to another: what their old owner agreed to ends, and the new one starts anew.
pub(crate) async fn owners_changed(tx: &mut Tx, moved: &[(&DeviceId, String)], who: &str, now: OffsetDateTime) -> Result<(), StoreError> {
    if moved.is_empty() {
        return Ok(());
    }
    let actor = Actor { id: "registry".to_owned(), role: Role::System, auth: None };
    let decisions: Vec<Deciding> = moved
        .iter()
        .map(|(device, tenant)| Deciding {
            tenant: Some(tenant.clone()),
            reason: Some("ownership_change".to_owned()),
            ..deciding(device, What::Moved, By::Rule, actor.clone(), who)
        })
        .collect();
    decide_in(tx, &decisions, now).await?;
    // Also where it was the site or the tenant that had agreed.
    let devices: Vec<&DeviceId> = moved.iter().map(|(device, _)| *device).collect();
    end_in_scope(tx, ConsentKind::Proactive, &Among::Devices(&devices), now).await.map(|_| ())
}
