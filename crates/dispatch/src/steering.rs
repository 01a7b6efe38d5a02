//! Steering: lets the rules look at every collection that has any, when tasks ended and on a timer. Every controller does; the database
//! lets one of them look at a time, and what follows is one transaction there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use muster_domain::rollout::steering::{Turn, is_steered};
use muster_store::{STEER_EVERY, Store};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::DispatchOptions;
use crate::wake::Wake;
use crate::work::OpenWorks;

/// What was decided, for the status page.
#[derive(Debug, Default)]
pub(crate) struct Steered {
    pub(crate) stages: AtomicU64,
    pub(crate) paused: AtomicU64,
    pub(crate) aborted: AtomicU64,
}

pub(crate) struct Steering {
    pub(crate) store: Store,
    pub(crate) options: Arc<DispatchOptions>,
    pub(crate) works: Arc<OpenWorks>,
    pub(crate) wake: Wake,
    pub(crate) steered: Arc<Steered>,
}

impl Steering {
    pub(crate) async fn run(self, stop: CancellationToken) {
        loop {
            if self.steer_all().await {
                self.wake.works();
            }
            // However often tasks end: counting reads all of them.
            tokio::select! {
                () = tokio::time::sleep(STEER_EVERY) => {}
                () = stop.cancelled() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(self.options.scan_every) => {}
                () = self.wake.steering_poked() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// True when something changed for some collection.
    async fn steer_all(&self) -> bool {
        let mut changed = false;
        for work in self.works.all().into_iter().filter(|work| work.may_send() && is_steered(&work.row.rollout)) {
            let turn = match self.store.steer(&work.row, OffsetDateTime::now_utc()).await {
                Ok(turn) => turn,
                Err(error) => {
                    tracing::warn!(collection = %work.id, error = &error as &dyn std::error::Error, "could not steer a collection; trying again");
                    continue;
                }
            };
            let counter = match &turn {
                Turn::Go | Turn::Passed(_) => continue,
                Turn::Next(why) => {
                    tracing::info!(collection = %work.id, why, "a stage passed");
                    &self.steered.stages
                }
                Turn::Pause(why) => {
                    tracing::warn!(collection = %work.id, why, "a collection paused itself");
                    &self.steered.paused
                }
                Turn::Abort(why) => {
                    tracing::warn!(collection = %work.id, why, "a collection stopped itself");
                    &self.steered.aborted
                }
            };
            counter.fetch_add(1, Ordering::Relaxed);
            self.works.tell([work.id]);
            changed = true;
        }
        changed
    }
}
