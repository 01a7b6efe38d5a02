//! The commands, one file per noun or verb. Each file holds its arguments, its help and what it does.

pub(crate) mod alerts;
pub(crate) mod apply;
pub(crate) mod bundles;
pub(crate) mod collect;
pub(crate) mod collections;
pub(crate) mod completions;
pub(crate) mod consent;
pub(crate) mod demo;
pub(crate) mod devices;
pub(crate) mod indicators;
pub(crate) mod line_of_time;
pub(crate) mod logs;
pub(crate) mod operate;
pub(crate) mod parked;
pub(crate) mod prune;
pub(crate) mod registry;
pub(crate) mod rules;
pub(crate) mod schedules;
pub(crate) mod serve;
pub(crate) mod storms;

use crate::args::{Cli, Command};
use crate::client::Client;
use crate::failure::Failure;
use crate::present::Out;

/// Does what was typed; the exit code follows from what came of it.
pub(crate) async fn run(cli: Cli) -> Result<u8, Failure> {
    let mut out = Out::new(&cli.look);
    let client = || Client::new(&cli.connection);
    let code = match cli.command {
        Command::Demo(args) => demo::run(args, &mut out).await,
        Command::Serve(args) => serve::run(args, &mut out).await,
        Command::Migrate(args) => operate::migrate(args, &mut out).await,
        Command::CheckConfig(args) => operate::check_config(args, &mut out),
        Command::Doctor(args) => operate::doctor(args, &mut out).await,
        Command::Openapi(_) => operate::openapi(&mut out),
        Command::Apply(args) if args.wants_schema() => apply::schema(&mut out),
        Command::Apply(args) => apply::run(args, &client()?, &mut out).await,
        Command::Collect(args) => collect::run(*args, &client()?, &mut out).await,
        Command::Logs(args) => logs::run(args, &client()?, &mut out).await,
        Command::Collections(args) => collections::run(args, &client()?, &mut out).await,
        Command::Devices(args) => devices::run(args, &client()?, &mut out).await,
        Command::Bundles(args) => bundles::run(args, &client()?, &mut out).await,
        Command::Schedules(args) => schedules::run(args, &client()?, &mut out).await,
        Command::Alerts(args) => alerts::run(args, &client()?, &mut out).await,
        Command::Rules(args) => rules::run(args, &client()?, &mut out).await,
        Command::Indicators(args) => indicators::run(args, &client()?, &mut out).await,
        Command::Consent(args) => consent::run(args, &client()?, &mut out).await,
        Command::Completions(args) => completions::run(&args, &mut out),
    }?;
    out.flush()?;
    Ok(code)
}
