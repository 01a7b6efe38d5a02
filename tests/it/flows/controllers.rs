//! Three controllers on one database and one broker, one of them killed every few seconds: together they are no faster than one may be,
//! nothing is lost and nothing doubled. Measured at the devices.

use std::time::{Duration, Instant};

use muster_agent::fault::{Fault, FaultFigures, FaultRule, Who};
use muster_agent::fleet::{Fleet, FleetOptions};
use muster_tests::broker::{Mosquitto, Tuning};
use muster_tests::controllers::Controllers;
use muster_tests::postgres::Database;
use muster_tests::trace::{Trace, most_within};
use muster_wire::TaskState;
use muster_wire::http::{CollectionState, Rate};
use muster_wire::method::Method;
use sqlx::Row;

const DEVICES: usize = 300;
const IN_FLIGHT: u32 = 25;
/// Devices per minute: the whole takes at least fifteen seconds.
const RATE: f64 = 1200.0;
/// What a minute's rate is checked over here.
const SPAN: Duration = Duration::from_secs(5);
const KILL_EVERY: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn three_controllers_keep_the_limits_of_one() {
    let directory = tempfile::tempdir().expect("a private directory");
    let broker = Mosquitto::start(directory.path(), Tuning::Ours).await;
    let database = Database::create().await;
    let settings = [("dispatch.look_first", "2s"), ("dispatch.grace", "1s"), ("dispatch.backoff_first", "500ms")];
    let mut controllers = Controllers::start(3, directory.path(), &broker.url(), &database.url, &settings).await;
    let trace_file = directory.path().join("trace.ndjson");
    let _ = rustls::crypto::ring::default_provider().install_default();
    let fleet = Fleet::start(FleetOptions {
        mqtt_url: broker.url(),
        devices: DEVICES,
        faults: vec![FaultRule { fault: Fault::Slow, who: Who::Share(1.0) }],
        figures: FaultFigures { slow_delay: Duration::from_millis(400), ..FaultFigures::default() },
        will_delay: Duration::from_secs(1),
        bundle_kb: 16,
        trace_file: Some(trace_file.clone()),
        ..FleetOptions::default()
    })
    .await
    .expect("the fleet starts");
    controllers.api(0).devices_online(DEVICES, Duration::from_secs(60)).await;
    let mut new = muster_tests::api::bundles_from_all(60, 5);
    new.options.in_flight = Some(IN_FLIGHT);
    new.rollout.rate = Some(Rate { per_minute: RATE, ramp: None });
    let id = controllers.api(0).create(&new).await.id;

    let (deadline, mut killed, mut next_kill) = (Instant::now() + Duration::from_secs(180), 0, Instant::now() + KILL_EVERY);
    loop {
        // Whoever was not killed last answers.
        let asked = killed % controllers.count();
        if let Ok(view) = controllers.api(asked).collection(id).await {
            assert_eq!(view.counters.sum(), view.counters.targeted, "the counters add up at every instant: {:?}", view.counters);
            let out = view.counters.dispatched + view.counters.accepted;
            assert!(out <= u64::from(IN_FLIGHT), "{out} in flight, {IN_FLIGHT} allowed");
            if view.state == CollectionState::Finished {
                break;
            }
            assert!(Instant::now() < deadline, "not finished: {:?}\n{}", view.counters, controllers.tail(asked));
        }
        if Instant::now() >= next_kill {
            controllers.kill_and_restart((killed + 1) % 3);
            (killed, next_kill) = (killed + 1, Instant::now() + KILL_EVERY);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(killed >= 3, "each was killed, {killed} kills");
    for number in 0..controllers.count() {
        controllers.ready(number).await;
    }
    let tasks = controllers.api(0).tasks(id).await;
    assert!(tasks.iter().all(|task| task.state == TaskState::Verified), "{:?}", muster_tests::api::endings(&tasks));

    let trace = Trace::read(&[trace_file], Method::UploadSupportBundle);
    let mut connection = database.connect().await;
    let rows = sqlx::query("SELECT dispatched_at FROM task UNION ALL SELECT dispatched_at FROM attempt WHERE dispatched_at IS NOT NULL")
        .fetch_all(&mut connection)
        .await
        .expect("the tasks");
    let sent: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    // Claims wait for each other, and a moment is noted before the wait: a second is more than that.
    let allowed = RATE / 60.0 * (SPAN.as_secs_f64() + 1.0) + RATE / 60.0;
    let most = most_within(sent, SPAN);
    eprintln!(
        "{killed} kills; sent within {SPAN:?} at most {most}, at the devices {}, {allowed} allowed; at once at the devices {}, {IN_FLIGHT} allowed; {} repeated",
        trace.most_within(SPAN),
        trace.most_at_once(),
        trace.repeated
    );
    assert!(most as f64 <= allowed, "{most} sent within {SPAN:?}, {allowed} allowed");
    // A request of a controller that died before it left is sent by the next look: it arrives later than it was counted.
    let allowed_late = allowed + f64::from(IN_FLIGHT);
    assert!(trace.most_within(SPAN) as f64 <= allowed_late, "{} arrived within {SPAN:?}", trace.most_within(SPAN));
    assert!(trace.most_at_once() <= i64::from(IN_FLIGHT), "{} devices at work at once", trace.most_at_once());
    assert_eq!(trace.per_device.len(), DEVICES, "every device was asked");
    let (bundles, distinct): (i64, i64) =
        sqlx::query_as("SELECT count(*), count(DISTINCT task_id) FROM bundle").fetch_one(&mut connection).await.expect("the bundles");
    assert_eq!((bundles, distinct), (DEVICES as i64, DEVICES as i64), "none lost, none doubled");
    assert_eq!(fleet.stats().max_bundles_at_once, 1, "no device was asked for two bundles at the same time");
    fleet.stop().await;
    drop((connection, controllers));
    database.drop_now().await;
}
