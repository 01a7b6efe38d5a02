//! `muster serve`: a controller until it is told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use muster_controller::{Controller, Settings, StartError};

use crate::commands::operate::SettingsArgs;
use crate::failure::{Failure, chain, exit};
use crate::present::Out;
use crate::signals::Signals;

const EXAMPLES: &str = "\
Examples:
  muster serve
  muster serve --data /var/lib/muster --listen 127.0.0.1:7300
  muster serve --config /etc/muster/muster.toml
  muster serve --set mqtt.url=mqtt://broker:1883 --set database.url_file=/run/secrets/database";

/// Run a controller: database, broker and storage are built in unless configured otherwise
///
/// SIGTERM or Ctrl-C stops it softly: what is under way may end, nothing is lost. A second one stops it at once; nothing is lost then either.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Address and port of the HTTP API; port 0 takes a free one [setting server.listen]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Directory for the database, the bundles and the broker's files; made if missing [setting server.data_dir]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub(crate) async fn run(args: ServeArgs, out: &mut Out) -> Result<u8, Failure> {
    let mut more = Vec::new();
    more.extend(args.listen.map(|listen| ("server.listen".to_owned(), listen.to_string())));
    if let Some(dir) = args.data {
        let text = dir.to_str().ok_or_else(|| Failure::usage("--data", "the path is not UTF-8"))?;
        more.push(("server.data_dir".to_owned(), text.to_owned()));
    }
    let settings = args.settings.load(more, out)?;
    // Before the start: a signal during it must not be lost.
    let mut signals = Signals::listen()?;
    let controller = tokio::select! {
        started = start(settings) => started?,
        asked = signals.next() => return Ok(asked.exit_code()),
    };
    out.text(&format!("muster is ready: API {}  devices connect to {}\n", controller.api_url(), controller.mqtt_url()))?;
    out.flush()?;
    tokio::select! {
        ended = controller.wait() => {
            ended.map_err(|error| Failure::local("keep the controller running", chain(&error)).with_next("muster doctor says what is wrong"))?;
        }
        _ = signals.next() => {
            out.note("stopping; once more stops at once");
            signals.insist();
        }
    }
    controller.stop().await;
    Ok(exit::DONE)
}

/// Starts a controller; a start that fails says what to do.
pub(crate) async fn start(settings: Settings) -> Result<Controller, Failure> {
    Box::pin(Controller::start(settings)).await.map_err(|error: StartError| {
        Failure::local_error("start the controller", &error)
            .or_next("muster doctor tries everything a controller needs and says what is wrong")
    })
}
