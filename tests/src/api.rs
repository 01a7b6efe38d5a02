//! The HTTP API as a test uses it.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_wire::http::{
    CollectionCreated, CollectionOptions, CollectionRequest, CollectionState, CollectionView, NewCollection, Page, Problem, Target,
    TaskView,
};
use muster_wire::{CollectionId, DeviceId, Reason, TaskState};
use serde::de::DeserializeOwned;

use crate::wait;

/// A client of one controller.
#[derive(Debug, Clone)]
pub struct Api {
    /// `http://127.0.0.1:…`.
    pub url: String,
    /// Bearer token.
    pub token: Option<String>,
    http: reqwest::Client,
}

impl Api {
    /// A client; nothing is connected yet.
    pub fn new(url: impl Into<String>) -> Self {
        // The one TLS provider; a second installation is refused and harmless.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).build().expect("a client without TLS roots");
        Self { url: url.into(), token: None, http }
    }

    /// A request with our token.
    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// GET and parse; `Err` holds what was answered instead.
    ///
    /// # Errors
    /// Transport errors and problem documents, as text.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        let answer = self.request(reqwest::Method::GET, path).send().await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| error.to_string())?;
        if !status.is_success() {
            return Err(format!("{status}: {text}"));
        }
        serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
    }

    /// POST a JSON text; status and body.
    pub async fn post_text(&self, path: &str, body: impl Into<String>) -> (u16, String) {
        let request = self.request(reqwest::Method::POST, path).header("content-type", "application/json").body(body.into());
        let answer = request.send().await.expect("the controller answers");
        (answer.status().as_u16(), answer.text().await.unwrap_or_default())
    }

    /// Makes a collection; panics with the problem when it is refused.
    pub async fn create(&self, new: &NewCollection) -> CollectionCreated {
        match self.try_create(new).await {
            Ok(created) => created,
            Err(problem) => panic!("the collection was refused: {problem:?}"),
        }
    }

    /// Makes a collection.
    ///
    /// # Errors
    /// The problem document.
    pub async fn try_create(&self, new: &NewCollection) -> Result<CollectionCreated, Problem> {
        let body = serde_json::to_string(new).expect("JSON");
        let (status, text) = self.post_text("/api/v1/collections", body).await;
        match status {
            200..300 => Ok(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))),
            _ => Err(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{status} is not a problem document: {error}: {text}"))),
        }
    }

    /// One collection.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn collection(&self, id: CollectionId) -> Result<CollectionView, String> {
        self.get(&format!("/api/v1/collections/{id}")).await
    }

    /// Waits until every task is final; checks at each look that the counters add up.
    pub async fn finished(&self, id: CollectionId, patience: Duration) -> CollectionView {
        let look = || async {
            let view = self.collection(id).await;
            if let Ok(view) = &view {
                assert_eq!(view.counters.sum(), view.counters.targeted, "the counters add up at every instant: {:?}", view.counters);
            }
            view
        };
        let done = |view: &Result<CollectionView, String>| {
            view.as_ref().is_ok_and(|v| v.state != CollectionState::Running && v.counters.done() == v.counters.targeted)
        };
        wait::until("the collection to finish", patience, look, done).await.expect("accepted above")
    }

    /// All tasks of a collection.
    pub async fn tasks(&self, id: CollectionId) -> Vec<TaskView> {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let page: Page<TaskView> =
                self.get(&format!("/api/v1/collections/{id}/tasks?limit=1000{after}")).await.expect("a page of tasks");
            all.extend(page.items);
            match page.next {
                Some(next) => after = format!("&after={next}"),
                None => return all,
            }
        }
    }

    /// Devices that are `online`, `offline` or `unknown`; fewer when the controller stops answering while they are counted.
    pub async fn present(&self, presence: &str) -> usize {
        let (mut count, mut after) = (0, String::new());
        loop {
            let page: Result<Page<serde_json::Value>, _> =
                self.get(&format!("/api/v1/devices?presence={presence}&limit=1000{after}")).await;
            let Ok(page) = page else { return count };
            count += page.items.len();
            match page.next {
                Some(next) => after = format!("&after={next}"),
                None => return count,
            }
        }
    }

    /// Waits until so many devices are online.
    pub async fn devices_online(&self, wanted: usize, patience: Duration) {
        wait::until(&format!("{wanted} devices online"), patience, || self.present("online"), |online| *online >= wanted).await;
    }
}

/// A bundle from everybody.
pub fn bundles_from_all(attempt_timeout_seconds: u64, max_attempts: u8) -> NewCollection {
    collection(CollectionRequest::Bundle { since: None, edge_runtime_only: false }, Target::All {}, attempt_timeout_seconds, max_attempts)
}

/// A collection with the options tests care for.
pub fn collection(request: CollectionRequest, target: Target, attempt_timeout_seconds: u64, max_attempts: u8) -> NewCollection {
    let options = CollectionOptions {
        attempt_timeout_seconds: Some(attempt_timeout_seconds),
        max_attempts: Some(max_attempts),
        expires_in_seconds: Some(3600),
        ..CollectionOptions::default()
    };
    NewCollection {
        reason: Some("test".to_owned()),
        case: Some("48213".to_owned()),
        options,
        // Fleets of tests are large on purpose.
        confirmed: true,
        ..NewCollection::new(request, target)
    }
}

/// These devices.
pub fn devices(ids: &[&str]) -> Target {
    Target::Devices { devices: ids.iter().map(|id| id.parse::<DeviceId>().expect("a device id")).collect() }
}

/// How often each (state, reason) ended.
pub fn endings(tasks: &[TaskView]) -> BTreeMap<(TaskState, Option<Reason>), usize> {
    let mut endings = BTreeMap::new();
    for task in tasks {
        *endings.entry((task.state, task.reason)).or_default() += 1;
    }
    endings
}
