//! `muster-soak`: long runs of the whole system with several controllers, a large fleet and things that die, each measured at the devices.
//! It prints a table and ends with 1 when a row is not as it should be. Sizes are flags; small ones prove that it works.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints a table")]

mod alerts;
mod controllers;
mod edges;
mod fleet;
mod large;
mod priority;
mod small;

use std::time::Duration;

use anyhow::Result;

/// What to run, and how large.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) run: String,
    pub(crate) devices: usize,
    pub(crate) span: Duration,
    pub(crate) rate: f64,
    pub(crate) in_flight: u32,
    pub(crate) requests: usize,
    pub(crate) collections: usize,
    pub(crate) bundle_kb: usize,
    /// Messages of a stream, repetitions included.
    pub(crate) alerts: usize,
    /// Times that a controller is killed.
    pub(crate) kills: usize,
    /// Messages that are no alerts.
    pub(crate) poison: usize,
    /// Brokers between the devices and the core, beside those that so many devices need.
    pub(crate) edges: usize,
}

const USAGE: &str = "\
Usage: muster-soak RUN [--devices N] [--seconds S] [--rate N] [--in-flight N] [--requests N]
                       [--collections N] [--bundle-kb N] [--edges N] [--alerts N] [--kills N] [--poison N]

Runs:
  controllers  three controllers, one killed every 10 s, the broker restarted twice; limits measured at the devices
  priority     one-device requests while a large collection runs, beside the same on an idle system
  small        tens of thousands of collections of one device, all at once, and a stream of them beside many that wait
  alerts       alerts from RabbitMQ, all of these parts or one of them:
    alerts-stream  with repetitions, shuffled; beside the bare queue, and from the publisher to the device
    alerts-kills   a controller killed between commit and acknowledgement, again and again
    alerts-outage  RabbitMQ stopped for --seconds in the middle of a stream
    alerts-storm   nearly all devices raise the same within a minute
    alerts-poison  messages that are no alerts among good ones
  large        a large collection: 20 % offline at the start, 5 % faulty, ramp, window, abort rule; counters at every sample

More than 12,500 devices are spread over brokers of their own, for a process may have only so many open files; --edges N has at least N of
them. Their messages go to and from the broker of the controllers.

Examples:
  muster-soak controllers --devices 2400 --seconds 120 --rate 1200 --in-flight 60
  muster-soak priority --devices 50000 --requests 300
  muster-soak small --devices 2000 --collections 35000 --seconds 20 --rate 1000
  muster-soak alerts-stream --devices 2400 --alerts 50000 --rate 300
  muster-soak alerts-storm --devices 5000
  muster-soak large --devices 50000 --in-flight 2000 --seconds 1800";

impl Plan {
    fn from_arguments() -> Self {
        let mut arguments = std::env::args().skip(1);
        let run = arguments.next().unwrap_or_default();
        let mut plan = Self {
            run,
            devices: 2400,
            span: Duration::from_secs(120),
            rate: 1200.0,
            in_flight: 60,
            requests: 300,
            collections: 35_000,
            bundle_kb: 4,
            alerts: 50_000,
            kills: 50,
            poison: 10_000,
            edges: 0,
        };
        while let Some(argument) = arguments.next() {
            let number = arguments.next().and_then(|n| n.parse::<usize>().ok()).unwrap_or_else(|| usage(&argument));
            match argument.as_str() {
                "--devices" => plan.devices = number.max(10),
                "--seconds" => plan.span = Duration::from_secs(number as u64),
                "--rate" => plan.rate = number.max(1) as f64,
                "--in-flight" => plan.in_flight = u32::try_from(number).unwrap_or(u32::MAX).max(1),
                "--requests" => plan.requests = number.max(1),
                "--collections" => plan.collections = number.max(1),
                "--bundle-kb" => plan.bundle_kb = number,
                "--alerts" => plan.alerts = number.max(10),
                "--kills" => plan.kills = number.max(1),
                "--poison" => plan.poison = number.max(20),
                "--edges" => plan.edges = number,
                _ => usage(&argument),
            }
        }
        plan
    }
}

fn usage(argument: &str) -> ! {
    eprintln!("muster-soak: {argument:?} is not understood.\n{USAGE}");
    std::process::exit(2);
}

/// The table: what was measured, what is allowed, and whether that holds.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<(String, String, String, bool)>);

impl Findings {
    /// A figure without a bound.
    pub(crate) fn note(&mut self, what: &str, measured: impl ToString) {
        self.0.push((what.to_owned(), measured.to_string(), String::new(), true));
    }

    /// A figure and what it has to be.
    pub(crate) fn check(&mut self, what: &str, measured: impl ToString, allowed: impl ToString, holds: bool) {
        self.0.push((what.to_owned(), measured.to_string(), allowed.to_string(), holds));
    }

    fn print(&self) -> bool {
        let width =
            |pick: fn(&(String, String, String, bool)) -> &String| self.0.iter().map(|row| pick(row).chars().count()).max().unwrap_or(0);
        let (a, b, c) = (width(|row| &row.0), width(|row| &row.1), width(|row| &row.2));
        for (what, measured, allowed, holds) in &self.0 {
            let line = format!("{what:<a$}  {measured:>b$}  {allowed:<c$}  {}", if *holds { "" } else { "NOT AS IT SHOULD BE" });
            println!("{}", line.trim_end());
        }
        self.0.iter().all(|(_, _, _, holds)| *holds)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let plan = Plan::from_arguments();
    let directory = tempfile::tempdir()?;
    let findings = match plan.run.as_str() {
        "controllers" => controllers::run(&plan, directory.path()).await?,
        "priority" => priority::run(&plan, directory.path()).await?,
        run if run == "alerts" || run.starts_with("alerts-") => alerts::run(&plan, directory.path()).await?,
        "small" => small::run(&plan, directory.path()).await?,
        "large" => large::run(&plan, directory.path()).await?,
        "--help" | "-h" => {
            println!("{USAGE}");
            return Ok(());
        }
        other => usage(other),
    };
    let as_it_should_be = findings.print();
    // After the table: the bundles of a large fleet are so many files that it takes minutes.
    drop(directory);
    if !as_it_should_be {
        std::process::exit(1);
    }
    Ok(())
}
