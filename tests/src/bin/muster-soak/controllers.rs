//! Three controllers, one killed every ten seconds, the broker restarted twice.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use muster_domain::rollout::rate::burst;
use muster_tests::broker::{Mosquitto, Tuning};
use muster_tests::controllers::Controllers;
use muster_tests::postgres::Database;
use muster_tests::trace::{Trace, most_within};
use muster_wire::TaskState;
use muster_wire::http::{CollectionState, Rate};
use muster_wire::method::Method;

use crate::edges::Edges;
use crate::fleet::{self, Fleets, Group};
use crate::{Findings, Plan};

const KILL_EVERY: Duration = Duration::from_secs(10);
/// Spans the rate is held against.
const SPANS: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(60)];

pub(crate) async fn run(plan: &Plan, directory: &Path) -> Result<Findings> {
    let mut broker = Mosquitto::start(directory, Tuning::Ours).await;
    let database = Database::create().await;
    let settings = [("dispatch.look_first", "5s"), ("telemetry.log", "warn")];
    let mut controllers = Controllers::start(3, directory, &broker.url(), &database.url, &settings).await;
    let group =
        Group { name: "soak", devices: plan.devices, bundle_kb: plan.bundle_kb, faults: &["slow=100%"], consent: false, slow_ms: 800 };
    let mut edges = Edges::start(directory, broker.port, plan.devices, plan.edges).await;
    let fleets = Fleets::start(directory, &mut edges, &group).await;
    fleet::until(controllers.api(0), "online", plan.devices, Duration::from_secs(300)).await;
    let mut new = muster_tests::api::bundles_from_all(120, 5);
    new.options.in_flight = Some(plan.in_flight);
    new.rollout.rate = Some(Rate { per_minute: plan.rate, ramp: None });
    let began = Instant::now();
    let id = controllers.api(0).create(&new).await.id;

    let mut restarts = vec![plan.span * 2 / 3, plan.span / 3];
    let (mut kills, mut next_kill, mut samples, mut most_out, mut wrong) = (0, KILL_EVERY, 0_u64, 0, 0_u64);
    let view = loop {
        let asked = kills % controllers.count();
        if let Ok(view) = controllers.api(asked).collection(id).await {
            samples += 1;
            wrong += u64::from(view.counters.sum() != view.counters.targeted);
            most_out = most_out.max(view.counters.dispatched + view.counters.accepted);
            if view.state != CollectionState::Running {
                break view;
            }
            if began.elapsed() > plan.span * 4 + Duration::from_secs(120) {
                break view;
            }
        }
        if began.elapsed() >= next_kill && began.elapsed() < plan.span {
            controllers.kill_and_restart((kills + 1) % 3);
            (kills, next_kill) = (kills + 1, next_kill + KILL_EVERY);
            eprintln!("{:>4} s: controller killed, kill {kills}", began.elapsed().as_secs());
        }
        if restarts.last().is_some_and(|at| began.elapsed() >= *at) {
            restarts.pop();
            broker.crash_and_restart(Duration::from_millis(500)).await;
            eprintln!("{:>4} s: broker killed and started again", began.elapsed().as_secs());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let took = began.elapsed();
    for number in 0..controllers.count() {
        controllers.ready(number).await;
    }
    let tasks = controllers.api(0).tasks(id).await;
    let trace = Trace::read(&fleets.traces, Method::UploadSupportBundle);
    let mut connection = database.connect().await;
    let sent: Vec<i64> = sqlx::query_scalar("SELECT dispatched_at FROM task WHERE dispatched_at IS NOT NULL UNION ALL SELECT dispatched_at FROM attempt WHERE dispatched_at IS NOT NULL")
        .fetch_all(&mut connection)
        .await?;
    let (bundles, distinct): (i64, i64) =
        sqlx::query_as("SELECT count(*), count(DISTINCT task_id) FROM bundle").fetch_one(&mut connection).await?;
    let verified = tasks.iter().filter(|task| task.state == TaskState::Verified).count();

    let mut findings = Findings::default();
    findings.note("devices", plan.devices);
    findings.note("took", format!("{:.0} s", took.as_secs_f64()));
    findings.check("controllers killed with -9", kills, "one each 10 s", kills > 0 || plan.span < KILL_EVERY);
    findings.check("broker restarted", 2 - restarts.len(), "2", restarts.is_empty());
    findings.check("tasks that are final", view.counters.done(), view.counters.targeted, view.counters.done() == view.counters.targeted);
    findings.check("verified", verified, plan.devices, verified == plan.devices);
    findings.check(
        "bundles / of different tasks",
        format!("{bundles} / {distinct}"),
        verified,
        bundles == distinct && distinct == verified as i64,
    );
    findings.check("samples whose counters do not add up", wrong, format!("0 of {samples}"), wrong == 0);
    for span in SPANS {
        // A claim notes its moment before it waits for its turn: a second is more than that.
        let per_second = plan.rate / 60.0;
        let allowed = per_second * (span.as_secs_f64() + 1.0) + f64::from(burst(plan.rate));
        let late = allowed + f64::from(plan.in_flight);
        let (sent, arrived) = (most_within(sent.clone(), span), trace.most_within(span));
        findings.check(&format!("most sent in any {} s", span.as_secs()), sent, format!("<= {allowed:.0}"), sent as f64 <= allowed);
        findings.check(
            &format!("most arrived at the devices in any {} s", span.as_secs()),
            arrived,
            format!("<= {late:.0}, what waited at the broker included"),
            arrived as f64 <= late,
        );
    }
    findings.check("most in flight, by the counters", most_out, format!("<= {}", plan.in_flight), most_out <= u64::from(plan.in_flight));
    findings.check(
        "most at once at the devices",
        trace.most_at_once(),
        format!("<= {}", plan.in_flight),
        trace.most_at_once() <= i64::from(plan.in_flight),
    );
    findings.note("requests that came twice to a device", trace.repeated);
    findings.note("attempts / devices", format!("{} / {}", trace.arrived(), trace.per_device.len()));
    drop((connection, controllers, fleets));
    database.drop_now().await;
    Ok(findings)
}
