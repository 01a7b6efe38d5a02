//! What follows when there is no consent: tasks that are queued or under way end, and what they left is handed to the clean-up.

use std::collections::HashMap;
use std::time::Duration;

use muster_domain::consent::Effective;
use muster_wire::http::{ConsentKind, ConsentState};
use muster_wire::{ConsentId, DeviceId, Reason, TaskId, TaskState};
use time::OffsetDateTime;
use uuid::Uuid;

use super::effective::{SITE_OF, effective_in};
use crate::apply::{attempt_number, device_id, source_list, task_id};
use crate::claim::ClaimedTask;
use crate::connect::Store;
use crate::devices::TENANT_OF;
use crate::dialect::{Batch, ID_BYTES, Tx, VALUE_BYTES, Value, parcels};
use crate::error::{StoreError, run};
use crate::instant::to_ms;
use crate::text::{MAX_DETAIL_CHARS, bounded};

/// How long a task waits for a consent that is suspended before it is cancelled.
pub const MAX_SUSPENSION: Duration = Duration::from_secs(24 * 3600);
/// How long until a queued task whose consent is suspended is looked at again.
pub const RECHECK_SUSPENDED: Duration = Duration::from_secs(60);
/// Tasks that are looked at in one go.
const LOOKED_AT: usize = 5_000;

/// Whose tasks.
pub(super) enum Among<'a> {
    /// These devices'.
    Devices(&'a [&'a DeviceId]),
    /// Those of a site.
    Site { tenant: &'a str, site: &'a str },
    /// Those of a tenant.
    Tenant(&'a str),
    /// All.
    Everybody,
}

/// A task that is not final.
struct Open {
    task: TaskId,
    attempt: u8,
    device: DeviceId,
    created_at: i64,
}

/// Ends the open tasks of these devices for which there is no consent of this kind; the device of each.
pub(super) async fn end_in_scope(
    tx: &mut Tx,
    kind: ConsentKind,
    among: &Among<'_>,
    now: OffsetDateTime,
) -> Result<Vec<DeviceId>, StoreError> {
    let mut ended = Vec::new();
    let mut after: Option<Uuid> = None;
    loop {
        let open = open_tasks(tx, kind, among, after).await?;
        let mut devices: Vec<&DeviceId> = open.iter().map(|open| &open.device).collect();
        devices.sort_unstable();
        devices.dedup();
        let held = effective_in(tx, kind, &devices, now).await?;
        let patience = i64::try_from(MAX_SUSPENSION.as_millis()).unwrap_or(i64::MAX);
        let lost: Vec<(&Open, String)> = open
            .iter()
            .filter_map(|open| match held.get(&open.device) {
                Some(effective) if effective.is_granted() => None,
                // It may come back: waited for, but not for ever.
                Some(effective) if effective.state == ConsentState::Suspended && to_ms(now) - open.created_at < patience => None,
                other => Some((open, why(other))),
            })
            .collect();
        let lost: Vec<(TaskId, u8, &DeviceId, &str)> =
            lost.iter().map(|(open, why)| (open.task, open.attempt, &open.device, why.as_str())).collect();
        let cancelled = end(tx, kind, &lost, TaskState::Cancelled, now).await?;
        ended.extend(lost.iter().filter(|(task, ..)| cancelled.contains(&task.uuid())).map(|(_, _, device, _)| (*device).clone()));
        match open.last() {
            Some(last) if open.len() == LOOKED_AT => after = Some(last.task.uuid()),
            _ => return Ok(ended),
        }
    }
}

fn why(effective: Option<&Effective>) -> String {
    effective.map_or_else(|| "the device is not in the registry".to_owned(), |effective| effective.why.clone())
}

async fn open_tasks(tx: &mut Tx, kind: ConsentKind, among: &Among<'_>, after: Option<Uuid>) -> Result<Vec<Open>, StoreError> {
    let limit = i64::try_from(LOOKED_AT).expect("fits");
    let mut values = vec![Value::Text(kind.as_str()), Value::Number(limit), Value::Id(after.unwrap_or(Uuid::nil()))];
    let of_tenant = format!("EXISTS (SELECT 1 FROM device d WHERE d.id = t.device_id AND {TENANT_OF} = $4");
    let (whose, batch) = match among {
        Among::Everybody => ("true".to_owned(), None),
        Among::Devices(devices) => {
            let batch = Batch::default().texts("device", devices.iter().map(|device| Some(device.as_str())));
            ("t.device_id IN (SELECT v.device FROM [[v]])".to_owned(), Some(batch))
        }
        Among::Tenant(tenant) => {
            values.push(Value::Text(tenant));
            (format!("{of_tenant})"), None)
        }
        Among::Site { tenant, site } => {
            values.extend([Value::Text(tenant), Value::Text(site)]);
            (format!("{of_tenant} AND {SITE_OF} = $5)"), None)
        }
    };
    // States from 4 on are final; a test beside the steps holds that.
    let sql = format!(
        "SELECT t.id, t.attempt, t.device_id, c.created_at FROM collection c JOIN task t ON t.id >= c.id AND t.id <= c.last_task AND t.state < 4 \
         WHERE c.consent_kind = $1 AND c.closed_at IS NULL AND t.id > $3 AND {whose} ORDER BY t.id LIMIT $2"
    );
    let rows = tx.fetch(&sql, &values, batch.as_ref()).await?;
    let open = rows.iter().map(|row| {
        Ok(Open {
            task: task_id(row.get(0)?)?,
            attempt: attempt_number(row.get(1)?)?,
            device: device_id(row.get(2)?)?,
            created_at: row.get(3)?,
        })
    });
    open.collect()
}

/// Moves tasks to their end for want of consent; those that moved. What an attempt left behind is handed to the clean-up.
async fn end(
    tx: &mut Tx,
    kind: ConsentKind,
    tasks: &[(TaskId, u8, &DeviceId, &str)],
    to: TaskState,
    now: OffsetDateTime,
) -> Result<Vec<Uuid>, StoreError> {
    let sql = format!(
        "UPDATE task SET state = {}, reason = {}, detail = v.detail, owner = NULL, lease_until = NULL, finished_at = $1 FROM [[v]] \
         WHERE task.id = v.id AND task.state IN ({}) RETURNING task.id, task.attempt, task.device_id",
        to.code(),
        Reason::ConsentMissing.code(),
        source_list(to),
    );
    let mut moved = Vec::with_capacity(tasks.len());
    let mut left: Vec<(Uuid, String)> = Vec::new();
    for parcel in parcels(tasks, |(_, _, _, why)| ID_BYTES + VALUE_BYTES + why.len().min(MAX_DETAIL_CHARS)) {
        let details: Vec<_> = parcel.iter().map(|(_, _, _, why)| bounded(why, MAX_DETAIL_CHARS)).collect();
        let batch = Batch::default()
            .ids("id", parcel.iter().map(|(task, ..)| task.uuid()))
            .texts("detail", details.iter().map(|detail| Some(detail.as_ref())));
        for row in tx.fetch(&sql, &[Value::Number(to_ms(now))], Some(&batch)).await? {
            let task = task_id(row.get(0)?)?;
            let number = attempt_number(row.get(1)?)?;
            if number > 0 {
                left.push((task.attempt(number).uuid(), row.get(2)?));
            }
            moved.push(task.uuid());
        }
    }
    let sql = "INSERT INTO consent_cleanup (attempt_id, device_id, kind, since, next_at) SELECT v.id, v.device, $1, $2, $2 FROM [[v]] WHERE true \
         ON CONFLICT (attempt_id) DO NOTHING";
    for parcel in parcels(&left, |(_, device)| ID_BYTES + VALUE_BYTES + device.len()) {
        let batch = Batch::default()
            .ids("id", parcel.iter().map(|(attempt, _)| *attempt))
            .texts("device", parcel.iter().map(|(_, device)| Some(device.as_str())));
        tx.execute(sql, &[Value::Text(kind.as_str()), Value::Number(to_ms(now))], Some(&batch)).await?;
    }
    Ok(moved)
}

/// Of tasks that are about to be claimed, those that may be: with the consent in force for each. The others end here, or wait where their
/// consent may come back.
pub(crate) async fn admit(
    tx: &mut Tx,
    kind: ConsentKind,
    tasks: &[&ClaimedTask],
    now: OffsetDateTime,
) -> Result<HashMap<TaskId, ConsentId>, StoreError> {
    let devices: Vec<&DeviceId> = tasks.iter().map(|task| &task.device).collect();
    let held = effective_in(tx, kind, &devices, now).await?;
    let mut admitted = HashMap::with_capacity(tasks.len());
    let (mut first, mut later, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
    for claimed in tasks.iter() {
        let (task, before) = (claimed.attempt.task(), claimed.attempt.number() - 1);
        match held.get(&claimed.device) {
            Some(Effective { state: ConsentState::Granted, consent: Some(consent), .. }) => drop(admitted.insert(task, *consent)),
            Some(Effective { state: ConsentState::Suspended, .. }) => waiting.push(task),
            // Never sent: skipped. Sent before: cancelled, and what it left is removed.
            other if before == 0 => first.push((task, before, &claimed.device, why(other))),
            other => later.push((task, before, &claimed.device, why(other))),
        }
    }
    for (lost, to) in [(&first, TaskState::Skipped), (&later, TaskState::Cancelled)] {
        let lost: Vec<_> = lost.iter().map(|(task, before, device, why)| (*task, *before, *device, why.as_str())).collect();
        end(tx, kind, &lost, to, now).await?;
    }
    let again = Value::Number(to_ms(now + RECHECK_SUSPENDED));
    for parcel in parcels(&waiting, |_| ID_BYTES) {
        let batch = Batch::default().ids("id", parcel.iter().map(|task| task.uuid()));
        tx.execute("UPDATE task SET not_before = $1 FROM [[v]] WHERE task.id = v.id", &[again], Some(&batch)).await?;
    }
    Ok(admitted)
}

/// Ends tasks that somebody is about to seal, where there is no consent any more. Which of them may be sealed, in their order.
pub(crate) async fn end_unconsented(
    tx: &mut Tx,
    kind: ConsentKind,
    tasks: &[(TaskId, u8, &DeviceId)],
    now: OffsetDateTime,
) -> Result<Vec<bool>, StoreError> {
    let devices: Vec<&DeviceId> = tasks.iter().map(|(_, _, device)| *device).collect();
    let held = effective_in(tx, kind, &devices, now).await?;
    let mut lost = Vec::new();
    let mut may = Vec::with_capacity(tasks.len());
    for (task, attempt, device) in tasks {
        let effective = held.get(*device);
        may.push(effective.is_some_and(Effective::is_granted));
        if effective.is_none_or(|effective| !matches!(effective.state, ConsentState::Granted | ConsentState::Suspended)) {
            lost.push((*task, *attempt, *device, why(effective)));
        }
    }
    let lost: Vec<_> = lost.iter().map(|(task, attempt, device, why)| (*task, *attempt, *device, why.as_str())).collect();
    end(tx, kind, &lost, TaskState::Cancelled, now).await?;
    Ok(may)
}

impl Store {
    /// Ends every open task that needs consent and has none: where it ran out, where a device went elsewhere, where a claim and a withdrawal
    /// met. Returns how many.
    ///
    /// # Errors
    /// The database's.
    pub async fn end_unconsented(&self, kind: ConsentKind, now: OffsetDateTime) -> Result<u64, StoreError> {
        run("ending what has no consent", || async {
            // Looked for without a lock first: most of the time there is none, and then nothing is written.
            let any = "SELECT 1 FROM collection c WHERE c.consent_kind = $1 AND c.closed_at IS NULL LIMIT 1";
            if self.reader().await?.fetch(any, &[Value::Text(kind.as_str())], None).await?.is_empty() {
                return Ok(0);
            }
            let mut tx = self.begin().await?;
            let ended = end_in_scope(&mut tx, kind, &Among::Everybody, now).await?;
            if !ended.is_empty() {
                tx.commit().await?;
            }
            Ok(ended.len() as u64)
        })
        .await
    }
}
