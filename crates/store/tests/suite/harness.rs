//! A private database per test, and a few words to say what tests say often.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use muster_store::{ClaimRequest, ClaimedTask, Dialect, NewCollection, NewTask, Step, Store, StoreOptions};
use muster_wire::http::{CollectionRequest, Origin, Priority, Rollout, TargetView};
use muster_wire::presence::Presence;
use muster_wire::{CollectionId, DeviceId, Reason, TaskId, TaskState};
use sqlx::{AssertSqlSafe, Connection, Executor};
use time::OffsetDateTime;
use time::macros::datetime;

pub(crate) const NOW: OffsetDateTime = datetime!(2026-11-21 12:00:00 UTC);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
const SERVER: &str = "postgres://root@127.0.0.1:5432/postgres";

/// Writes each test once and runs it on both databases.
macro_rules! on_both {
    ($($(#[doc = $doc:literal])* async fn $name:ident($db:ident) $body:block)*) => {$(
        $(#[doc = $doc])*
        mod $name {
            #[allow(unused_imports, reason = "not every test needs every word")]
            use super::*;

            async fn body($db: std::sync::Arc<crate::harness::Database>) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                crate::harness::on_postgres(body).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                crate::harness::on_sqlite(body).await;
            }
        }
    )*};
}

pub(crate) struct Database {
    pub(crate) store: Store,
    pub(crate) url: String,
}

/// Runs the body on a fresh database and drops the database also when the body panics.
pub(crate) async fn on_postgres<F: Future<Output = ()> + Send + 'static>(body: impl FnOnce(Arc<Database>) -> F) {
    let server = std::env::var("MUSTER_TEST_POSTGRES").unwrap_or_else(|_| SERVER.to_owned());
    let name = format!("muster_test_{}", uuid::Uuid::new_v4().simple());
    let mut admin = sqlx::PgConnection::connect(&server).await.expect("these tests need PostgreSQL: set MUSTER_TEST_POSTGRES");
    admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.expect("a database for this test");
    let (stem, _) = server.rsplit_once('/').expect("postgres://…/database");
    let ended = run(format!("{stem}/{name}"), body).await;
    admin.execute(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).await.expect("dropping the test's database");
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic.into_panic());
    }
}

pub(crate) async fn on_sqlite<F: Future<Output = ()> + Send + 'static>(body: impl FnOnce(Arc<Database>) -> F) {
    let directory = tempfile::tempdir().expect("a private directory");
    let ended = run(format!("sqlite://{}", directory.path().join("muster.db").display()), body).await;
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic.into_panic());
    }
}

async fn run<F: Future<Output = ()> + Send + 'static>(
    url: String,
    body: impl FnOnce(Arc<Database>) -> F,
) -> Result<(), tokio::task::JoinError> {
    let store = Store::connect(&StoreOptions::new(&url)).await.expect("a fresh database opens");
    store.migrate().await.expect("a fresh database takes the schema");
    let db = Arc::new(Database { store: store.clone(), url });
    let ended = tokio::spawn(body(db)).await;
    store.close().await;
    ended
}

pub(crate) fn device(n: usize) -> DeviceId {
    format!("press-{n:05}").parse().expect("a device id")
}

pub(crate) fn devices(count: usize) -> Vec<DeviceId> {
    (0..count).map(device).collect()
}

pub(crate) fn birth() -> Presence {
    Presence::parse(br#"{"online":true,"proto":["1.0"],"methods":["ping","UploadSupportBundle"],"agent":{"name":"agent","version":"1.2"},"reported":{"os":"linux"}}"#)
        .expect("a birth")
}

pub(crate) fn new_collection(devices: &[DeviceId]) -> NewCollection {
    NewCollection {
        id: CollectionId::new(),
        request: CollectionRequest::Ping {},
        target: TargetView::Devices,
        reason: Some("it hums".to_owned()),
        case: Some("48213".to_owned()),
        created_by: "ada".to_owned(),
        origin: Origin::Manual,
        needs_consent: None,
        created_at: NOW,
        expires_at: NOW + 60 * MINUTE,
        attempt_timeout: MINUTE,
        max_attempts: 3,
        in_flight: None,
        priority: Priority::Normal,
        rollout: Rollout::default(),
        retry: None,
        window: None,
        standing: false,
        steps: Vec::new(),
        step_of: None,
        when_matches: None,
        paused: None,
        idempotency: None,
        tasks: devices.iter().map(|device| NewTask { device: device.clone(), skip: None }).collect(),
    }
}

impl Database {
    /// Enters devices that were never heard of.
    pub(crate) async fn register(&self, devices: &[DeviceId]) {
        let entries: Vec<_> =
            devices.iter().map(|device| muster_store::DeviceEntry { device: device.clone(), tags: None, parent: None }).collect();
        self.store.enter_devices(&entries, "ada", NOW).await.expect("registered");
    }

    /// A collection over so many devices, all queued.
    pub(crate) async fn collection(&self, count: usize) -> CollectionId {
        let new = new_collection(&devices(count));
        self.store.create_collection(&new).await.expect("a collection");
        new.id
    }

    pub(crate) async fn claim(&self, collection: CollectionId, limit: u32) -> Vec<ClaimedTask> {
        self.store.claim(&claim_request(collection, limit)).await.expect("a claim").tasks
    }

    /// A statement past the store, to bring about what it would not write.
    pub(crate) async fn sql(&self, sql: &str) -> u64 {
        let sql = AssertSqlSafe(sql.to_owned());
        match self.store.dialect() {
            Dialect::Postgres => {
                let mut connection = sqlx::PgConnection::connect(&self.url).await.expect("a connection");
                connection.execute(sql).await.expect("the statement runs").rows_affected()
            }
            Dialect::Sqlite => {
                let mut connection = sqlx::SqliteConnection::connect(&self.url).await.expect("a connection");
                connection.execute(sql).await.expect("the statement runs").rows_affected()
            }
        }
    }

    /// One number out of Postgres, once the store's connections have ended: only then has the server all their statistics.
    pub(crate) async fn statistic(&self, sql: &str) -> i64 {
        self.store.close().await;
        let mut connection = sqlx::PgConnection::connect(&self.url).await.expect("a connection");
        let deadline = std::time::Instant::now() + MINUTE;
        let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
        while sqlx::query_scalar::<_, i64>(others).fetch_one(&mut connection).await.expect("a number") > 0 {
            assert!(std::time::Instant::now() < deadline, "the store's connections do not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection).await.expect("a number")
    }

    /// Puts a task into a state at attempt 1, as if it had come there.
    pub(crate) async fn force(&self, task: TaskId, state: TaskState) {
        let id = match self.store.dialect() {
            Dialect::Postgres => format!("'{}'", task.uuid()),
            Dialect::Sqlite => format!("x'{}'", task.uuid().simple()),
        };
        let code = state.code();
        let written = self
            .sql(&format!(
                "UPDATE task SET state = {code}, attempt = 1, reason = NULL, detail = NULL, owner = 'a', lease_until = 5, dispatched_at = 1, \
                 accepted_at = {}, uploaded_at = {}, finished_at = {} WHERE id = {id}",
                if code >= 2 { "2" } else { "NULL" },
                if code >= 3 { "3" } else { "NULL" },
                if state.is_final() { "4" } else { "NULL" },
            ))
            .await;
        assert_eq!(written, 1);
    }

    pub(crate) async fn state(&self, task: TaskId) -> TaskState {
        self.store.task(task).await.expect("a read").expect("the task").task.state
    }
}

pub(crate) fn claim_request(collection: CollectionId, limit: u32) -> ClaimRequest<'static> {
    ClaimRequest {
        collection,
        after: None,
        limit,
        owner: "controller-a",
        now: NOW,
        lease_until: NOW + MINUTE,
        method: "ping",
        device_until: None,
        consent: None,
    }
}

/// A step with whatever reason its aim asks for.
pub(crate) fn step(attempt: muster_wire::AttemptId, to: TaskState) -> Step {
    let mut step = Step::new(attempt, to, NOW);
    step.reason = muster_domain::task::reasons(to).first().copied();
    if to == TaskState::Queued {
        step.reason = Some(Reason::NoAnswer);
    }
    step
}
