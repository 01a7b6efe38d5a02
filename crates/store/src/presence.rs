//! What devices say of themselves: births, wills, and signs of life.
//!
//! Messages may come late, twice and from several controllers. The last one received wins, by the controllers' clocks; the device's own
//! clock is not asked, because a device without a battery starts in 1970. Births come in storms (a broker restarts, eighteen thousand
//! devices return), so everything here is one statement per batch.

use std::collections::HashMap;

use muster_wire::DeviceId;
use muster_wire::presence::{Presence, ProactiveConsent};
use time::OffsetDateTime;

use crate::connect::Store;
use crate::consent::{note_flags, noted_before};
use crate::dialect::{Batch, VALUE_BYTES, Value, parcels};
use crate::error::{StoreError, run};
use crate::instant::to_ms;
use crate::text::{bounded, clean_json};

/// Most devices in one call; more are written in several transactions.
pub const MAX_PRESENCE_BATCH: usize = 1_000;
/// Longest name of a program or version kept.
const MAX_NAME_CHARS: usize = muster_wire::presence::MAX_NAME_CHARS;

pub(crate) const UNKNOWN: i16 = 0;
pub(crate) const ONLINE: i16 = 1;
pub(crate) const OFFLINE: i16 = 2;

/// A birth message.
#[derive(Debug, Clone)]
pub struct Birth {
    /// Who, as the broker vouches for it.
    pub device: DeviceId,
    /// What it said.
    pub presence: Presence,
    /// When we received it.
    pub at: OffsetDateTime,
    /// The broker kept it for us: its clock says nothing about now.
    pub retained: bool,
}

struct Row<'a> {
    birth: &'a Birth,
    methods: String,
    proto: String,
    reported: String,
    agent: Option<(String, String)>,
    skew_ms: Option<i64>,
}

impl<'a> Row<'a> {
    fn new(birth: &'a Birth) -> Self {
        let presence = &birth.presence;
        let names = |names: &[String]| {
            serde_json::Value::from(names.iter().map(|name| bounded(name, MAX_NAME_CHARS)).collect::<Vec<_>>()).to_string()
        };
        let name = |name: &str| bounded(name, MAX_NAME_CHARS).into_owned();
        Self {
            methods: names(&presence.methods),
            proto: names(&presence.proto),
            reported: if presence.reported.is_object() { clean_json(&presence.reported) } else { "{}".to_owned() },
            agent: presence.agent.as_ref().map(|agent| (name(&agent.name), name(&agent.version))),
            skew_ms: presence.clock.filter(|_| !birth.retained).map(|clock| to_ms(clock).saturating_sub(to_ms(birth.at))),
            birth,
        }
    }

    /// On the wire: ten values, three of them numbers.
    fn bytes(&self) -> usize {
        let agent = self.agent.as_ref().map_or(0, |(name, version)| name.len() + version.len());
        10 * VALUE_BYTES
            + 3 * 8
            + 8
            + self.birth.device.as_str().len()
            + self.methods.len()
            + self.proto.len()
            + self.reported.len()
            + agent
    }
}

fn batch_of<'a>(rows: &'a [Row<'a>]) -> Batch<'a> {
    Batch::default()
        .texts("id", rows.iter().map(|row| Some(row.birth.device.as_str())))
        .numbers("at", rows.iter().map(|row| Some(to_ms(row.birth.at))))
        .numbers("started_at", rows.iter().map(|row| row.birth.presence.started.map(to_ms)))
        .numbers("skew", rows.iter().map(|row| row.skew_ms))
        .texts("proto", rows.iter().map(|row| Some(row.proto.as_str())))
        .texts("methods", rows.iter().map(|row| Some(row.methods.as_str())))
        .texts("agent_name", rows.iter().map(|row| row.agent.as_ref().map(|agent| agent.0.as_str())))
        .texts("agent_version", rows.iter().map(|row| row.agent.as_ref().map(|agent| agent.1.as_str())))
        .texts("consent", rows.iter().map(|row| row.birth.presence.proactive_consent.map(ProactiveConsent::as_str)))
        .numbers("consent_at", rows.iter().map(|row| row.birth.presence.proactive_consent_at.map(to_ms)))
        .numbers("heard_at", rows.iter().map(|row| (!row.birth.retained).then_some(to_ms(row.birth.at))))
        .texts("reported", rows.iter().map(|row| Some(row.reported.as_str())))
}

/// The last entry of each device, by time received.
fn newest<'a, T>(entries: &'a [T], device: impl Fn(&'a T) -> &'a DeviceId, at: impl Fn(&T) -> OffsetDateTime) -> Vec<&'a T> {
    let mut last: HashMap<&DeviceId, &T> = HashMap::with_capacity(entries.len());
    for entry in entries {
        let kept = last.entry(device(entry)).or_insert(entry);
        if at(entry) >= at(kept) {
            *kept = entry;
        }
    }
    let mut last: Vec<(&DeviceId, &T)> = last.into_iter().collect();
    // Always in the same order, so that two batches cannot wait for each other.
    last.sort_unstable_by_key(|(device, _)| *device);
    last.into_iter().map(|(_, entry)| entry).collect()
}

impl Store {
    /// Records births: what the device can do, and that it is there. Unknown devices enter the registry. A will among them counts as one.
    ///
    /// # Errors
    /// The database's; chunks of [`MAX_PRESENCE_BATCH`] before the failing one are recorded.
    pub async fn record_births(&self, births: &[Birth]) -> Result<(), StoreError> {
        let newest = newest(births, |birth| &birth.device, |birth| birth.at);
        let (born, gone): (Vec<&Birth>, Vec<&Birth>) = newest.into_iter().partition(|birth| birth.presence.online);
        for chunk in born.chunks(MAX_PRESENCE_BATCH) {
            run("recording births", || self.upsert_births(chunk)).await?;
        }
        let gone: Vec<(DeviceId, OffsetDateTime)> = gone.into_iter().map(|birth| (birth.device.clone(), birth.at)).collect();
        self.record_offline(&gone).await
    }

    async fn upsert_births(&self, births: &[&Birth]) -> Result<(), StoreError> {
        let rows: Vec<Row<'_>> = births.iter().map(|birth| Row::new(birth)).collect();
        let mut tx = self.begin().await?;
        let before = noted_before(&mut tx, births).await?;
        // What the broker kept for us says that the device was there once, not that it is now: it is heard only where nothing else was.
        let sql = format!(
            "INSERT INTO device (id, presence, presence_at, last_seen, first_seen, started_at, clock_skew_ms, proto, methods, agent_name, \
             agent_version, consent, consent_at, heard_at, reported) \
             SELECT v.id, {ONLINE}, v.at, v.at, v.at, v.started_at, v.skew, v.proto, v.methods, v.agent_name, v.agent_version, v.consent, \
             v.consent_at, v.heard_at, {} FROM [[v]] WHERE true \
             ON CONFLICT (id) DO UPDATE SET presence = {ONLINE}, presence_at = excluded.presence_at, \
             last_seen = {}, started_at = excluded.started_at, clock_skew_ms = COALESCE(excluded.clock_skew_ms, device.clock_skew_ms), \
             proto = excluded.proto, methods = excluded.methods, agent_name = excluded.agent_name, agent_version = excluded.agent_version, \
             consent = excluded.consent, consent_at = COALESCE(excluded.consent_at, device.consent_at), \
             heard_at = COALESCE(excluded.heard_at, device.heard_at, excluded.presence_at), reported = excluded.reported \
             WHERE device.presence_at <= excluded.presence_at",
            tx.dialect().json("v.reported"),
            tx.dialect().larger("COALESCE(device.last_seen, 0)", "excluded.last_seen"),
        );
        for parcel in parcels(&rows, Row::bytes) {
            tx.execute(&sql, &[], Some(&batch_of(parcel))).await?;
        }
        note_flags(&mut tx, births, &before).await?;
        tx.commit().await
    }

    /// Records wills: these devices are offline. Unknown devices enter the registry.
    ///
    /// # Errors
    /// The database's; chunks of [`MAX_PRESENCE_BATCH`] before the failing one are recorded.
    pub async fn record_offline(&self, wills: &[(DeviceId, OffsetDateTime)]) -> Result<(), StoreError> {
        let sql = format!(
            "INSERT INTO device (id, presence, presence_at, first_seen) SELECT v.id, {OFFLINE}, v.at, v.at FROM [[v]] WHERE true \
             ON CONFLICT (id) DO UPDATE SET presence = {OFFLINE}, presence_at = excluded.presence_at \
             WHERE device.presence_at <= excluded.presence_at"
        );
        for chunk in newest(wills, |will| &will.0, |will| will.1).chunks(MAX_PRESENCE_BATCH) {
            run("recording wills", || self.upsert_moments(&sql, &[], chunk)).await?;
        }
        Ok(())
    }

    /// Records signs of life: an answer proves presence too. Each one is a row: the caller leaves out what is no news.
    ///
    /// # Errors
    /// The database's; chunks of [`MAX_PRESENCE_BATCH`] before the failing one are recorded.
    pub async fn record_seen(&self, seen: &[(DeviceId, OffsetDateTime)]) -> Result<(), StoreError> {
        let sql = format!(
            "INSERT INTO device (id, presence, presence_at, last_seen, first_seen, heard_at) SELECT v.id, {ONLINE}, v.at, v.at, v.at, v.at FROM [[v]] WHERE true \
             ON CONFLICT (id) DO UPDATE SET presence = {ONLINE}, presence_at = excluded.presence_at, last_seen = excluded.last_seen, \
             heard_at = excluded.heard_at \
             WHERE device.presence_at <= excluded.presence_at"
        );
        for chunk in newest(seen, |seen| &seen.0, |seen| seen.1).chunks(MAX_PRESENCE_BATCH) {
            run("recording signs of life", || self.upsert_moments(&sql, &[], chunk)).await?;
        }
        Ok(())
    }

    async fn upsert_moments(&self, sql: &str, values: &[Value<'_>], entries: &[&(DeviceId, OffsetDateTime)]) -> Result<u64, StoreError> {
        let batch = Batch::default()
            .texts("id", entries.iter().map(|entry| Some(entry.0.as_str())))
            .numbers("at", entries.iter().map(|entry| Some(to_ms(entry.1))));
        let mut tx = self.begin().await?;
        let written = tx.execute(sql, values, Some(&batch)).await?;
        tx.commit().await?;
        Ok(written)
    }
}
