//! Whether what the service needs is there.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_landing::Landing;
use muster_wire::http::{Need, Readiness};
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::api::problem::Chain;

/// How long the database may take to answer a probe.
const DATABASE_PATIENCE: Duration = Duration::from_secs(3);
/// How often the landing zone is tried, and how long one try may take. It writes and removes an object, so not at every probe.
const LANDING_EVERY: Duration = Duration::from_secs(60);
const LANDING_RETRY_EVERY: Duration = Duration::from_secs(10);
const LANDING_PATIENCE: Duration = Duration::from_secs(30);

/// What is known about the landing zone since it was last tried; the rest is asked at each probe.
#[derive(Clone)]
pub(crate) struct Ready {
    landing: Arc<Mutex<Result<(), String>>>,
}

impl Ready {
    pub(crate) fn new() -> Self {
        Self { landing: Arc::new(Mutex::new(Err("it has not been tried yet".to_owned()))) }
    }

    /// Tries the landing zone again and again.
    pub(crate) async fn watch_landing(self, landing: Landing, stop: CancellationToken) {
        let mut last = Ok(());
        loop {
            let found = match tokio::time::timeout(LANDING_PATIENCE, landing.check()).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(Chain(&error).to_string()),
                Err(_) => Err(format!("no answer within {LANDING_PATIENCE:?}")),
            };
            match (&last, &found) {
                (Ok(()), Err(error)) => tracing::warn!(error, "the landing zone cannot be used; bundles wait"),
                (Err(_), Ok(())) => tracing::info!("the landing zone can be used again"),
                _ => {}
            }
            let pause = if found.is_ok() { LANDING_EVERY } else { LANDING_RETRY_EVERY };
            *self.landing.lock().unwrap_or_else(PoisonError::into_inner) = found.clone();
            last = found;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// How it is now.
    pub(crate) async fn now(&self, api: &Api) -> Readiness {
        let database = match tokio::time::timeout(DATABASE_PATIENCE, api.store.ping()).await {
            Ok(Ok(())) => Ok(()),
            // The whole chain may name hosts and users; a probe is open to everybody.
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {DATABASE_PATIENCE:?}")),
        };
        let broker = if api.dispatch.status().mqtt_connected { Ok(()) } else { Err("not connected".to_owned()) };
        let landing = self
            .landing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .map_err(|_| "it cannot be used; the log says why".to_owned());
        let stopping = if api.soft_stop.is_cancelled() { Err("it stops".to_owned()) } else { Ok(()) };
        let need = |name: &str, found: Result<(), String>| Need { name: name.to_owned(), ok: found.is_ok(), detail: found.err() };
        let mut needs = vec![need("database", database), need("broker", broker), need("landing", landing), need("server", stopping)];
        if let Some(amqp) = &api.amqp {
            // What is in the way may name hosts and queues; a probe is open to everybody.
            needs.push(need("amqp", amqp.now().map_err(|_| "the queue of alerts cannot be read; the log says why".to_owned())));
        }
        Readiness { ready: needs.iter().all(|need| need.ok), needs }
    }
}
