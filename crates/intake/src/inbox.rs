//! The one way in: parse, write down and decide, park what is no alert. Whatever filled it, a message is settled only when this has returned.

use std::sync::Arc;

use muster_store::{AlertLimits, MAX_ALERTS, ReceivedAlert, Store, StoreError, Taken};
use muster_wire::CollectionId;
use muster_wire::alert::{Alert, AlertVia, Poison, Refused};
use muster_wire::http::{AlertAnswer, AlertOutcome};
use time::OffsetDateTime;

use crate::incoming::{Incoming, Settled};
use crate::ledger::Ledger;

/// Told of collections that were made, so that they are looked at now.
pub type Poke = Arc<dyn Fn(Vec<CollectionId>) + Send + Sync>;

/// The inbox; cheap to clone.
#[derive(Clone)]
pub struct Inbox<L = Store> {
    ledger: L,
    limits: Arc<AlertLimits>,
    poke: Poke,
}

impl<L: Ledger> Inbox<L> {
    /// An inbox that decides under these limits.
    pub fn new(ledger: L, limits: AlertLimits, poke: Poke) -> Self {
        Self { ledger, limits: Arc::new(limits), poke }
    }

    /// The database behind it.
    pub(crate) fn ledger(&self) -> &L {
        &self.ledger
    }

    /// Takes messages in, in their order; `results[i]` is what became of `messages[i]`, and it is committed. Giving the same again is
    /// harmless: an alert is known by its source and id, what was no alert by its digest.
    ///
    /// A message whose row the database refuses is parked; it holds up no other.
    ///
    /// # Errors
    /// The database's. Some of the messages may have been taken.
    pub async fn take(&self, messages: &[Incoming]) -> Result<Vec<Settled>, StoreError> {
        let now = OffsetDateTime::now_utc();
        metrics::histogram!("muster_intake_batch").record(messages.len() as f64);
        let read: Vec<Result<Alert, Refused>> = messages.iter().map(Incoming::read).collect();
        // What is no alert is parked first: should the database go away in between, an alert that was taken is answered as a repetition
        // when it comes again, and nobody would hear what became of it.
        let mut settled: Vec<Option<Settled>> = messages.iter().map(|_| None).collect();
        let refused: Vec<_> = read.iter().enumerate().filter_map(|(at, read)| Some((at, read.as_ref().err()?.clone()))).collect();
        self.park(messages, refused, &mut settled).await?;

        let good: Vec<(usize, &Alert)> = read.iter().enumerate().filter_map(|(at, read)| Some((at, read.as_ref().ok()?))).collect();
        let received: Vec<_> = good.iter().map(|(at, alert)| messages[*at].received(alert)).collect();
        let mut taken = Vec::with_capacity(received.len());
        for batch in received.chunks(MAX_ALERTS) {
            self.take_batch(batch, now, &mut taken).await?;
        }
        let mut refused = Vec::new();
        for ((at, _), taken) in good.into_iter().zip(taken) {
            let via = messages[at].via;
            settled[at] = match taken {
                Taken::Decided(alerts) => {
                    for answered in &alerts {
                        count(via, answered.outcome.as_str());
                    }
                    Some(Settled::Answered(AlertAnswer { alerts, duplicate: false }))
                }
                Taken::Duplicate => {
                    count(via, "duplicate");
                    Some(Settled::Answered(AlertAnswer { alerts: Vec::new(), duplicate: true }))
                }
                Taken::Refused(why) => {
                    refused.push((at, why));
                    None
                }
            };
        }
        self.park(messages, refused, &mut settled).await?;
        let settled: Option<Vec<_>> = settled.into_iter().collect();
        settled.ok_or_else(|| StoreError::Inconsistent("fewer alerts were answered than were given".to_owned()))
    }

    /// One transaction, or where a row is refused as many as it takes to find the row.
    async fn take_batch(&self, batch: &[ReceivedAlert<'_>], now: OffsetDateTime, taken: &mut Vec<Taken>) -> Result<(), StoreError> {
        let mut waiting = vec![batch];
        while let Some(part) = waiting.pop() {
            match self.ledger.take_alerts(part, &self.limits, now).await {
                Ok(results) => {
                    self.tell_of(&results);
                    taken.extend(results);
                }
                Err(error) if error.is_about_a_row() && part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    waiting.push(second);
                    waiting.push(first);
                }
                Err(error) if error.is_about_a_row() => {
                    tracing::error!(%error, cause = ?std::error::Error::source(&error), "the database refuses an alert; it is parked");
                    taken.push(Taken::Refused(Refused::new(Poison::Malformed, format!("the database refuses it: {error}"))));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn tell_of(&self, results: &[Taken]) {
        let mut made = Vec::new();
        for result in results {
            if let Taken::Decided(alerts) = result {
                made.extend(alerts.iter().filter(|alert| alert.outcome == AlertOutcome::Collected).filter_map(|alert| alert.collection));
            }
        }
        if !made.is_empty() {
            made.sort_unstable();
            made.dedup();
            (self.poke)(made);
        }
    }

    async fn park(&self, messages: &[Incoming], refused: Vec<(usize, Refused)>, settled: &mut [Option<Settled>]) -> Result<(), StoreError> {
        if refused.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> = refused.iter().map(|(at, why)| messages[*at].parked(why.clone())).collect();
        let ids = self.ledger.park(&rows).await?;
        for ((at, refused), id) in refused.into_iter().zip(ids) {
            let message = &messages[at];
            metrics::counter!("muster_alerts_parked_total", "via" => message.via.as_str(), "reason" => refused.reason.as_str())
                .increment(1);
            tracing::info!(%id, via = %message.via, from = %message.from, %refused, "a message was no alert that may be acted on; it is parked");
            settled[at] = Some(Settled::Parked { id, refused });
        }
        Ok(())
    }

    /// Decides again what was deferred and is due.
    ///
    /// # Errors
    /// The database's.
    pub async fn decide_due(&self) -> Result<(), StoreError> {
        let made = self.ledger.decide_due(&self.limits, OffsetDateTime::now_utc()).await?;
        if !made.is_empty() {
            (self.poke)(made);
        }
        Ok(())
    }
}

fn count(via: AlertVia, outcome: &'static str) {
    metrics::counter!("muster_alerts_total", "via" => via.as_str(), "outcome" => outcome).increment(1);
}
