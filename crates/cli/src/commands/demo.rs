//! `muster demo`: everything in one process, honestly reported.
//!
//! A controller with all its embedded parts, a fleet of simulated devices of which a fixed few misbehave, and a client that asks all of them
//! for a support bundle over the HTTP API, as any client would. Then devices raise alerts of their own, with and without the consent of their
//! owners. At the end each device is held against what its fault must lead to, and each alert against what its owner said.

mod alerts;
mod report;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use muster_agent::{Fault, FaultFigures, FaultRule, Fleet, FleetOptions, Who};
use muster_controller::{Controller, Settings};
use muster_wire::DeviceId;
use muster_wire::http::{
    CollectionOptions, CollectionRequest, CollectionView, DeviceView, NewCollection, PresenceState, Target, TaskDetail, TaskView,
};
use tokio::time::Instant;

use crate::args::Connection;
use crate::client::{Client, Query};
use crate::commands::collect::create;
use crate::commands::operate::unusable;
use crate::commands::serve;
use crate::failure::{Failure, chain, exit};
use crate::follow::draw;
use crate::present::Out;
use crate::present::units::counted;
use crate::progress;
use crate::signals::Signals;
use report::{Ended, Report};

const EXAMPLES: &str = "\
Examples:
  muster demo
  muster demo --exit                        # ends by itself: 0 when every device ended as it should
  muster demo --devices 1000 --data ./demo
  muster demo --listen 127.0.0.1:7300";

/// Most devices of a demo: beyond it, run `muster-agent fleet` on machines of its own.
const MAX_DEVICES: u32 = 5_000;
/// How long the fleet may take to introduce itself, whatever its size.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(30);
/// And how much longer per device.
const ARRIVAL_PER_DEVICE: Duration = Duration::from_millis(20);
/// How often the registry is read meanwhile.
const ARRIVAL_POLL: Duration = Duration::from_millis(250);
/// Time for one attempt: long enough for a slow device, short enough to watch a deaf one.
const ATTEMPT: Duration = Duration::from_secs(6);
/// Attempts per device.
const ATTEMPTS: u8 = 2;
/// Life of the collection.
const EXPIRY: Duration = Duration::from_secs(120);
/// How late a slow device is, and how long one that leaves stays away: both well within an attempt.
const FIGURES: FaultFigures =
    FaultFigures { slow_delay: Duration::from_secs(2), away: Duration::from_secs(3), clock_skew: Duration::from_secs(7 * 3600) };

/// Try everything: a controller, a simulated fleet, and a collection from all of it, in one process
///
/// Some devices misbehave on purpose. The table at the end says for each of them whether the controller found the right reason. Then devices
/// raise alerts, with and without the consent of their owners, and a second table says what was collected and what was not. Nothing is installed, no fixed port is taken, and nothing is written outside a temporary directory or --data.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct DemoArgs {
    /// Simulated devices
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_DEVICES)))]
    devices: u32,
    /// The same seed gives the same devices, logs and faults
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Directory for database and bundles; kept afterwards (default: a temporary one, removed at the end)
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address and port of the HTTP API (default: a free port on loopback)
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// End after the report instead of staying up until Ctrl-C
    #[arg(long)]
    exit: bool,
}

/// Where the demo writes.
struct Place {
    dir: PathBuf,
    /// Removes the directory when it is dropped.
    temporary: Option<tempfile::TempDir>,
}

pub(crate) async fn run(args: DemoArgs, out: &mut Out) -> Result<u8, Failure> {
    let place = Place::make(args.data.as_deref())?;
    let settings = settings(&place, listen_address(args.listen, out))?;
    let mut signals = Signals::listen()?;
    let controller = tokio::select! {
        started = progress::waiting("starting the controller", serve::start(settings)) => started?,
        asked = signals.next() => return Ok(asked.exit_code()),
    };
    let fleet = start_fleet(&args, &controller).await;
    let fleet = match fleet {
        Ok(fleet) => fleet,
        Err(failure) => {
            controller.stop().await;
            return Err(failure);
        }
    };
    let result = tokio::select! {
        result = Box::pin(show(&args, &place, &controller, &fleet, out)) => result,
        asked = signals.next() => Ok(asked.exit_code()),
    };
    let result = match result {
        Ok(code) if !args.exit && matches!(code, exit::DONE | exit::SOME_NOT) => {
            let ended = tokio::select! {
                ended = controller.wait() => ended.map_err(|error| Failure::local("keep the demo running", chain(&error))),
                _ = signals.next() => Ok(()),
            };
            ended.map(|()| code)
        }
        other => other,
    };
    signals.insist();
    progress::waiting("stopping", async {
        fleet.stop().await;
        controller.stop().await;
    })
    .await;
    drop(place);
    result
}

/// Collects from everyone and reports.
async fn show(args: &DemoArgs, place: &Place, controller: &Controller, fleet: &Fleet, out: &mut Out) -> Result<u8, Failure> {
    let client = Client::new(&Connection { url: controller.api_url().to_owned(), token: None, token_file: None })?;
    let faults: BTreeMap<DeviceId, Option<Fault>> = fleet.devices().into_iter().collect();
    out.note(&format!("controller  {}", client.url()));
    out.note(&format!("broker      {}", controller.mqtt_url()));
    let faulty = faults.values().filter(|fault| fault.is_some()).count() as u64;
    out.note(&format!("fleet       {}, {} on purpose", counted(faults.len() as u64, "device"), counted(faulty, "faulty one")));
    arrival(&client, faults.len()).await?;
    let started = Instant::now();
    let new = NewCollection {
        reason: Some("muster demo".to_owned()),
        case: Some("demo".to_owned()),
        options: CollectionOptions {
            attempt_timeout_seconds: Some(ATTEMPT.as_secs()),
            max_attempts: Some(ATTEMPTS),
            expires_in_seconds: Some(EXPIRY.as_secs()),
            ..CollectionOptions::default()
        },
        // However many devices were asked for: they are not there by a slip.
        confirmed: true,
        ..NewCollection::new(CollectionRequest::Bundle { since: None, edge_runtime_only: false }, Target::All {})
    };
    let created = create(&client, &new, None).await?.created;
    out.note(&format!("collection  {}", created.id));
    let view: CollectionView = draw(&client, created.id, out).await?;
    let took = started.elapsed();
    let mut ended = Vec::new();
    client
        .pages("read the tasks", &["collections", &created.id.to_string(), "tasks"], &Query::new(), None, |tasks: Vec<TaskView>| {
            ended.extend(tasks.into_iter().map(|task| Ended {
                fault: faults.get(&task.device).copied().flatten(),
                task,
                earlier: Vec::new(),
            }));
            Ok(())
        })
        .await?;
    for ended in ended.iter_mut().filter(|ended| ended.task.attempt > 1) {
        let detail: TaskDetail = client.get("read a task", &["tasks", &ended.task.id.to_string()], &[]).await?;
        ended.earlier = detail.attempts.iter().filter_map(|attempt| attempt.reason).collect();
    }
    let shown = alerts::show(&client, fleet).await?;
    let report = Report::new(&view, ended, faults.len() as u64, took, peak_memory_bytes(), shown);
    let next = Next { place, client: &client, controller, stays: !args.exit };
    report.print(out, |report, out| next.text(report, out))?;
    out.flush()?;
    Ok(if report.as_expected() { exit::DONE } else { exit::SOME_NOT })
}

/// Waits until the registry knows every device: the ones that are away at first introduce themselves when they come back.
async fn arrival(client: &Client, expected: usize) -> Result<(), Failure> {
    let patience = ARRIVAL_TIMEOUT + ARRIVAL_PER_DEVICE * u32::try_from(expected).unwrap_or(u32::MAX);
    let deadline = Instant::now() + patience;
    let bar = progress::spinner("the fleet introduces itself");
    loop {
        let (mut known, mut online) = (0, 0);
        client
            .pages("list the devices", &["devices"], &Query::new(), None, |devices: Vec<DeviceView>| {
                known += devices.len();
                online += devices.iter().filter(|device| device.presence == PresenceState::Online).count();
                Ok(())
            })
            .await?;
        bar.set_message(format!("the fleet introduces itself: {known} of {expected} known, {online} online"));
        if known >= expected {
            bar.finish_and_clear();
            return Ok(());
        }
        if Instant::now() > deadline {
            bar.finish_and_clear();
            return Err(Failure::local(
                "run the demo",
                format!("after {} s only {known} of {expected} devices have introduced themselves", patience.as_secs()),
            )
            .with_next("this machine may be too slow for so many: try --devices 50"));
        }
        tokio::time::sleep(ARRIVAL_POLL).await;
    }
}

impl Place {
    fn make(data: Option<&Path>) -> Result<Self, Failure> {
        let Some(dir) = data else {
            let temporary = tempfile::Builder::new().prefix("muster-demo-").tempdir();
            let temporary = temporary
                .map_err(|error| Failure::local("make a temporary directory", error.to_string()).with_next("name one with --data"))?;
            return Ok(Self { dir: temporary.path().to_owned(), temporary: Some(temporary) });
        };
        std::fs::create_dir_all(dir).map_err(|error| Failure::local(format!("make the directory {}", dir.display()), error.to_string()))?;
        let dir = dir.canonicalize().map_err(|error| Failure::local(format!("use the directory {}", dir.display()), error.to_string()))?;
        Ok(Self { dir, temporary: None })
    }
}

/// Settings of the demo alone: no file and no environment of a real installation is looked at.
fn settings(place: &Place, listen: SocketAddr) -> Result<Settings, Failure> {
    let data = place.dir.to_str().ok_or_else(|| Failure::usage("--data", "the path is not UTF-8"))?;
    let overrides = [
        ("server.listen", listen.to_string()),
        ("server.data_dir", data.to_owned()),
        ("mqtt.embedded_listen", "127.0.0.1:0".to_owned()),
        ("dispatch.look_first", "1s".to_owned()),
        ("dispatch.look_max", "2s".to_owned()),
        ("dispatch.grace", "1s".to_owned()),
        ("dispatch.backoff_first", "500ms".to_owned()),
        ("dispatch.scan_every", "500ms".to_owned()),
        ("telemetry.log", "error".to_owned()),
    ];
    let overrides: Vec<(String, String)> = overrides.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Settings::load_from(None, std::iter::empty(), &overrides).map_err(|error| unusable(&error))
}

/// The address asked for, or a free port when it is taken.
fn listen_address(wanted: Option<SocketAddr>, out: &Out) -> SocketAddr {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let Some(wanted) = wanted else { return free };
    match TcpListener::bind(wanted) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            out.note(&format!("{wanted} is taken by another program: taking a free port instead; --listen names another"));
            SocketAddr::new(wanted.ip(), 0)
        }
        // Free, or not ours to use: then the controller says why.
        _ => wanted,
    }
}

async fn start_fleet(args: &DemoArgs, controller: &Controller) -> Result<Fleet, Failure> {
    let options = FleetOptions {
        mqtt_url: controller.mqtt_url(),
        devices: args.devices as usize,
        seed: args.seed,
        faults: fault_rules(args.devices),
        figures: FIGURES,
        ..FleetOptions::default()
    };
    let fleet = progress::waiting("starting the fleet", Box::pin(Fleet::start(options))).await;
    fleet.map_err(|error| Failure::local_error("start the simulated fleet", &error).or_next("try fewer: --devices 50"))
}

/// A fixed few of each fault, spread over the fleet: one per hundred devices and at least one, and never more than half of the fleet in all.
fn fault_rules(devices: u32) -> Vec<FaultRule> {
    let faults = Fault::ALL.len();
    let devices = devices as usize;
    let faulty = (faults * (devices / 100).max(1)).min(devices / 2);
    let mut numbers: Vec<Vec<usize>> = vec![Vec::new(); faults];
    for slot in 0..faulty {
        // Slots are at least two devices apart, so no device is taken twice.
        numbers[slot % faults].push(slot * devices / faulty + 1);
    }
    Fault::ALL
        .iter()
        .zip(numbers)
        .filter(|(_, numbers)| !numbers.is_empty())
        .map(|(&fault, numbers)| FaultRule { fault, who: Who::Numbers(numbers) })
        .collect()
}

/// Peak memory of this process: controller, broker, fleet and client together.
fn peak_memory_bytes() -> Option<u64> {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    // Linux counts kilobytes, macOS bytes.
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    u64::try_from(usage.max_rss()).ok().map(|peak| peak * unit)
}

/// What to say after the report: where things are and what to type next.
struct Next<'a> {
    place: &'a Place,
    client: &'a Client,
    controller: &'a Controller,
    stays: bool,
}

impl Next<'_> {
    fn text(&self, report: &Report, out: &Out) -> String {
        let dir = self.place.dir.display();
        let mut text = match (&self.place.temporary, self.stays) {
            (None, _) => format!("Bundles and database are in {dir}\n"),
            (Some(_), true) => format!("Bundles and database are in {dir}, removed when the demo ends; --data DIR keeps them\n"),
            (Some(_), false) => {
                "Bundles and database were in a temporary directory and are removed now; --data DIR keeps them\n".to_owned()
            }
        };
        if !self.stays {
            if self.place.temporary.is_none() {
                text.push_str(&format!("\nTo look at them again:\n  {} serve --data {dir}\n", program()));
            }
            return text;
        }
        text.push_str(&format!("\n{}\n", out.bold("Try, in another terminal:")));
        text.push_str(&format!("  export MUSTER_URL={}\n", self.client.url()));
        let id = report.collection();
        for words in [
            format!("collections show {id} --tasks --not-verified"),
            format!("collections download {id} --dir ./demo-bundles"),
            format!("bundles verify --collection {id}"),
        ] {
            text.push_str(&format!("  {} {words}\n", program()));
        }
        if let Some(good) = report.one_good() {
            text.push_str(&format!("  {0} logs {1} --tail 20\n  {0} bundles files {2}\n", program(), good.device, good.id));
        }
        if let Some(alert) = report.one_alert() {
            text.push_str(&format!("  {} alerts show {alert}\n", program()));
        }
        text.push_str(&format!("Devices of your own connect to {}\n\nThe demo stays up; Ctrl-C ends it.\n", self.controller.mqtt_url()));
        text
    }
}

/// How this program was called, so that what is printed can be typed.
fn program() -> String {
    std::env::args().next().filter(|name| name.contains('/')).unwrap_or_else(|| "muster".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn faults_are_spread_and_no_device_has_two() {
        for devices in [1, 2, 3, 10, 31, 32, 33, 100, 200, 999, 5000] {
            let rules = fault_rules(devices);
            let mut seen = HashSet::new();
            for rule in &rules {
                let Who::Numbers(numbers) = &rule.who else { panic!("numbers") };
                for number in numbers {
                    assert!((1..=devices as usize).contains(number), "{devices}: {number}");
                    assert!(seen.insert(*number), "{devices}: device {number} twice");
                }
            }
            assert!(seen.len() <= devices as usize / 2);
            if devices >= 100 {
                assert_eq!(rules.len(), Fault::ALL.len(), "{devices}: every fault is there");
                assert_eq!(seen.len(), Fault::ALL.len() * (devices as usize / 100));
            }
        }
    }

    #[test]
    fn a_port_that_is_taken_is_not_insisted_on() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("an address");
        let out = Out::for_test(None);
        assert_eq!(listen_address(Some(address), &out).port(), 0);
        drop(taken);
        assert_eq!(listen_address(Some(address), &out), address);
        assert_eq!(listen_address(None, &out).port(), 0);
    }

    #[test]
    fn a_directory_is_made_only_where_it_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = Place::make(Some(&dir.path().join("demo"))).expect("made");
        assert!(place.dir.is_dir() && place.temporary.is_none());
        let place = Place::make(None).expect("made");
        let path = place.dir.clone();
        assert!(path.is_dir());
        drop(place);
        assert!(!path.exists());
    }
}
