//! A ledger in memory: knows repetitions, refuses what it is told to, and can be away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_intake::Ledger;
use muster_store::{AlertLimits, Failure, NewParked, ReceivedAlert, StoreError, Taken};
use muster_wire::alert::{Poison, Refused};
use muster_wire::http::{AlertOutcome, AnsweredAlert, StormPolicy};
use muster_wire::{AlertId, CollectionId, ParkedId};
use time::OffsetDateTime;

#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<Kept>>);

#[derive(Default)]
pub(crate) struct Kept {
    /// Source and id of all that was taken.
    pub(crate) events: BTreeSet<(String, String)>,
    pub(crate) repetitions: usize,
    /// Sizes of the batches.
    pub(crate) batches: Vec<usize>,
    pub(crate) parked: BTreeMap<String, NewParked>,
    /// Every call fails as if the database were away.
    pub(crate) away: bool,
    pub(crate) failures: usize,
    /// An event of this id is one whose row the database refuses.
    pub(crate) bad_row: Option<String>,
    /// Tenants that were asked for.
    pub(crate) tenants: BTreeSet<Option<String>>,
}

pub(crate) fn limits() -> AlertLimits {
    AlertLimits {
        max_age: Duration::from_secs(24 * 3600),
        expires_after: Duration::from_secs(24 * 3600),
        attempt_timeout: Duration::from_secs(900),
        max_attempts: 3,
        per_day: 1000,
        per_tenant_per_day: 1000,
        storm: StormPolicy::default(),
    }
}

impl Memory {
    pub(crate) fn kept<T>(&self, look: impl FnOnce(&mut Kept) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn is_away(&self, away: bool) {
        self.kept(|kept| kept.away = away);
    }

    fn there(&self) -> Result<(), StoreError> {
        self.kept(|kept| {
            if !kept.away {
                return Ok(());
            }
            kept.failures += 1;
            Err(StoreError::Database { operation: "a test", failure: Failure::Transient, cause: "away".into() })
        })
    }
}

impl Ledger for Memory {
    async fn take_alerts(&self, alerts: &[ReceivedAlert<'_>], _: &AlertLimits, _: OffsetDateTime) -> Result<Vec<Taken>, StoreError> {
        self.there()?;
        self.kept(|kept| {
            if alerts.iter().any(|received| Some(&received.alert.id) == kept.bad_row.as_ref()) {
                return Err(StoreError::Database { operation: "a test", failure: Failure::Refused, cause: "a bad row".into() });
            }
            kept.batches.push(alerts.len());
            Ok(alerts.iter().map(|received| take(kept, received)).collect())
        })
    }

    async fn decide_due(&self, _: &AlertLimits, _: OffsetDateTime) -> Result<Vec<CollectionId>, StoreError> {
        self.there().map(|()| Vec::new())
    }

    async fn park(&self, parked: &[NewParked]) -> Result<Vec<ParkedId>, StoreError> {
        self.there()?;
        self.kept(|kept| Ok(parked.iter().map(|new| kept.parked.entry(new.digest.clone()).or_insert_with(|| new.clone()).id).collect()))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.there()
    }
}

fn take(kept: &mut Kept, received: &ReceivedAlert<'_>) -> Taken {
    let alert = received.alert;
    kept.tenants.insert(received.tenant.map(str::to_owned));
    if alert.devices.iter().any(|device| device == "stranger") {
        return Taken::Refused(Refused::new(Poison::UnknownDevice, "stranger is not in the registry"));
    }
    if !kept.events.insert((alert.source.clone(), alert.id.clone())) {
        kept.repetitions += 1;
        return Taken::Duplicate;
    }
    let answered = |device: &String| AnsweredAlert {
        id: AlertId::new(),
        device: device.clone(),
        outcome: AlertOutcome::Collected,
        why: "a test".to_owned(),
        collection: Some(CollectionId::new()),
    };
    Taken::Decided(alert.devices.iter().map(answered).collect())
}
