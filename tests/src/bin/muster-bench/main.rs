//! `make bench`: what Muster costs beside what the same machine can do at all, in the same run.
//!
//! Every figure is a ratio inside one run, or CPU and bytes per operation, so it can be read on a noisy machine. Rows, goals and
//! moonshots are those of the performance table in `docs/OPERATIONS.md`; what a row needs that is not there is said in its place.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints a table")]

mod embedded;
mod parts;
mod raw;
mod rivals;
mod rows;
mod table;
mod tracked;

use anyhow::Result;

use crate::table::Table;

/// What to measure.
pub(crate) struct Plan {
    pub(crate) pairs: usize,
    pub(crate) tasks: usize,
    pub(crate) many_tasks: usize,
    pub(crate) rows: Vec<String>,
}

impl Plan {
    fn from_arguments() -> Self {
        let mut plan = Self { pairs: 5, tasks: 20_000, many_tasks: 100_000, rows: Vec::new() };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut number = || arguments.next().and_then(|n| n.parse().ok()).unwrap_or_else(|| usage(&argument));
            match argument.as_str() {
                "--pairs" => plan.pairs = number(),
                "--tasks" => plan.tasks = number(),
                "--many-tasks" => plan.many_tasks = number(),
                "--rows" => plan.rows = arguments.next().unwrap_or_default().split(',').map(str::to_owned).collect(),
                _ => usage(&argument),
            }
        }
        plan
    }

    pub(crate) fn wants(&self, row: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|wanted| wanted == row)
    }
}

fn usage(argument: &str) -> ! {
    eprintln!(
        "muster-bench: {argument:?} is not understood.\nUsage: muster-bench [--rows P1,P11] [--pairs 5] [--tasks 20000] [--many-tasks 100000]"
    );
    std::process::exit(2);
}

#[tokio::main]
async fn main() -> Result<()> {
    let plan = Plan::from_arguments();
    let mut table = Table::default();
    // One that cannot be measured does not take the others with it.
    let parts = [
        ("P1–P4, P8, P9", rows::throughput(&plan, &mut table).await),
        ("P5", rivals::rivals_beside(&plan, &mut table).await),
        ("P6", rows::many_in_flight(&plan, &mut table).await),
        ("P7", parts::store(&plan, &mut table).await),
        ("P10", rows::latency(&plan, &mut table).await),
        ("P11", rows::stock_broker(&plan, &mut table).await),
        ("P12", parts::intake(&plan, &mut table).await),
        ("P13", parts::landing(&plan, &mut table).await),
        ("P14", rows::simulator(&plan, &mut table).await),
        ("P16, P17", embedded::embedded(&plan, &mut table).await),
    ];
    println!("{table}");
    let mut failed = Vec::new();
    for (rows, outcome) in parts {
        if let Err(error) = outcome {
            eprintln!("{rows}: could not be measured to the end: {error:#}");
            failed.push(rows);
        }
    }
    anyhow::ensure!(failed.is_empty(), "not measured to the end: {}", failed.join("; "));
    Ok(())
}
