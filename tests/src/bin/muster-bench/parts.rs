//! P7, P12, P13: rows about one crate alone. Their programs are examples of those crates, for they use what no other crate sees; what they
//! measured comes as one line of JSON for each row.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use muster_tests::postgres::Database;
use muster_tests::program::built;
use serde::Deserialize;

use crate::Plan;
use crate::table::{Bar, Table};

/// A figure, by its name, and how to show it.
#[derive(Deserialize)]
struct Figure {
    figure: String,
    value: f64,
    measured: String,
}

/// P7: the store beside the bare database.
pub(crate) async fn store(plan: &Plan, table: &mut Table) -> Result<()> {
    if !plan.wants("P7") {
        return Ok(());
    }
    let arguments = ["--figures", "yes", "--only", "postgres", "--passes", &plan.pairs.to_string()];
    for Figure { figure, value, measured } in figures("bench_store", &arguments).await? {
        if figure == "create" {
            let what = "making 100,000 tasks ÷ a bare insert of as many rows";
            table.judged("P7", what, measured, value, Bar::at_least(50.0, 80.0, " %"));
        }
    }
    Ok(())
}

/// P12: the intake of alerts beside a consumer that does nothing.
pub(crate) async fn intake(plan: &Plan, table: &mut Table) -> Result<()> {
    if !plan.wants("P12") {
        return Ok(());
    }
    let database = Database::create().await;
    let arguments = ["--figures", "--database", &database.url, "--passes", &plan.pairs.to_string()];
    for Figure { figure, value, measured } in figures("bench_intake", &arguments).await? {
        match figure.as_str() {
            "multiple" => {
                table.judged("P12", "alerts recorded ÷ bare consume", measured, value, Bar::at_least(40.0, 55.0, " %"));
                table.distance("batches are decided one after the other, each a transaction of some fourteen statements, one of them in parcels of 60 kB");
            }
            "each" => table.judged("P12", "beside a consumer that acknowledges each", measured, value, Bar::at_least(1.0, 1.0, " ×")),
            _ => {}
        }
    }
    database.drop_now().await;
    Ok(())
}

/// P13: the landing zone beside the plainest upload handler, and beside Azurite.
pub(crate) async fn landing(plan: &Plan, table: &mut Table) -> Result<()> {
    if !plan.wants("P13") {
        return Ok(());
    }
    for Figure { figure, value, measured } in figures("bench_put", &["--figures"]).await? {
        match figure.as_str() {
            "plain" => table.judged("P13", "uploads with digest ÷ a plain PUT handler", measured, value, Bar::at_least(60.0, 85.0, " %")),
            "azurite" => table.judged("P13", "beside Azurite", measured, value, Bar::at_least(3.0, 3.0, " ×")),
            // Held against its own bound: twice the buffers of all uploads.
            "memory" => {
                table.judged("P13", "memory at 64 uploads ÷ their buffers", measured, value, Bar::at_most(2.0, 2.0, " ×"));
                table.distance(
                    "the allocator's arenas, one for each of many threads: with MALLOC_ARENA_MAX=1 in the environment it is 1.6 ×",
                );
            }
            _ => {}
        }
    }
    Ok(())
}

async fn figures(example: &str, arguments: &[&str]) -> Result<Vec<Figure>> {
    let mut command = tokio::process::Command::new(built(&format!("examples/{example}")));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("{example} does not start"))?;
    ensure!(output.status.success(), "{example} ended with {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let figure = |line: &str| serde_json::from_str(line).with_context(|| format!("{example} said {line:?}"));
    text.lines().filter(|line| line.starts_with('{')).map(figure).collect()
}
