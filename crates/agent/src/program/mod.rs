//! What the commands do.

pub(crate) mod arguments;
mod output;
mod script;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use muster_agent::alert::MAX_RAISE_RATE;
use muster_agent::consent::{self, Word};
use muster_agent::recent::RecentLog;
use muster_agent::settings::{DEFAULTS, LogFormat, ModuleSettings, Settings, read_bounded};
use muster_agent::upload::UploadOptions;
use muster_agent::{Agent, ConsentShares, Fault, FaultFigures, Fleet, FleetOptions, Raised, Raising, SettingsError, TlsFiles};
use muster_wire::presence::ProactiveConsent;
use time::OffsetDateTime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::MakeWriterExt;

use arguments::{ActivateArguments, Arguments, Command, FleetArguments, RaiseArguments, RunArguments, YesNo};
use output::Progress;

/// Exit code of a hard stop: killed by the second signal.
const HARD_STOP: i32 = 130;

pub(crate) fn main(arguments: Arguments) -> ExitCode {
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&in_one_line(&error));
            ExitCode::from(if error.is::<SettingsError>() || error.is::<Usage>() { 2 } else { 1 })
        }
    }
}

/// An error with its causes, each said once.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            text = if text.is_empty() { cause } else { format!("{text}: {cause}") };
        }
    }
    text
}

/// A mistake on the command line that only shows here.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Config => output::text(DEFAULTS),
        Command::CheckConfig(arguments) => {
            let settings = settings(&arguments)?;
            output::text(&settings.masked())
        }
        Command::Faults => {
            let mut text = String::new();
            for fault in Fault::ALL {
                let expected: Vec<&str> = fault.expected().iter().map(|reason| reason.as_str()).collect();
                text.push_str(&format!("{:20} {}\n{:20} expected: {}\n", fault.as_str(), fault.description(), "", expected.join(", or ")));
            }
            output::text(&text)
        }
        Command::Activate(arguments) => activate(&arguments),
        Command::Raise(arguments) => raise(arguments),
        Command::Run(arguments) => {
            let settings = settings(&arguments)?;
            let recent = RecentLog::default();
            start_log(&settings.log.level, settings.log.format, Some(recent.clone()))?;
            runtime()?.block_on(device(&settings, recent))
        }
        Command::Fleet(arguments) => {
            start_log(&arguments.log, LogFormat::Text, None)?;
            runtime()?.block_on(Box::pin(fleet(*arguments)))
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("the async runtime cannot be started")
}

fn settings(arguments: &RunArguments) -> Result<Settings, SettingsError> {
    let mut settings = Settings::load(arguments.config.as_deref())?;
    let text = |setting: &mut String, flag: &Option<String>| {
        if let Some(value) = flag {
            setting.clone_from(value);
        }
    };
    text(&mut settings.device.id, &arguments.device);
    text(&mut settings.mqtt.url, &arguments.mqtt);
    text(&mut settings.mqtt.username, &arguments.username);
    text(&mut settings.mqtt.prefix, &arguments.prefix);
    text(&mut settings.log.level, &arguments.log);
    let paths = [
        (&mut settings.mqtt.password_file, &arguments.password_file),
        (&mut settings.mqtt.ca_file, &arguments.ca_file),
        (&mut settings.device.state_dir, &arguments.state_dir),
        (&mut settings.sources.docker_socket, &arguments.docker_socket),
    ];
    for (setting, flag) in paths {
        if let Some(value) = flag {
            setting.clone_from(value);
        }
    }
    for (module, pattern) in &arguments.files {
        let module: &mut ModuleSettings = settings.modules.entry(module.clone()).or_default();
        module.files.get_or_insert_default().push(pattern.clone());
    }
    for (module, unit) in &arguments.journal {
        let module: &mut ModuleSettings = settings.modules.entry(module.clone()).or_default();
        module.journal.get_or_insert_default().extend((!unit.is_empty()).then(|| unit.clone()));
    }
    settings.finish()
}

/// Keeps the owner's word where a running agent finds it.
fn activate(arguments: &ActivateArguments) -> anyhow::Result<()> {
    let settings = settings(&arguments.run)?;
    let proactive_consent = match arguments.proactive_logs {
        Some(YesNo::Yes) => ProactiveConsent::Enabled,
        Some(YesNo::No) => ProactiveConsent::Disabled,
        None => ProactiveConsent::Default,
    };
    consent::write(&settings.device.state_dir, Word { proactive_consent, at: Some(OffsetDateTime::now_utc()) })?;
    let means = match proactive_consent {
        ProactiveConsent::Enabled => "the owner agrees to proactive log collection",
        ProactiveConsent::Disabled => "the owner does not agree to proactive log collection; the agent refuses it",
        ProactiveConsent::Default | ProactiveConsent::Unknown => "proactive log collection is left to what the terms say of silence",
    };
    output::text(&format!("{}: {means}\n", settings.device.id))
}

/// Says that something happened; the id of the event is printed.
fn raise(arguments: RaiseArguments) -> anyhow::Result<()> {
    let RaiseArguments { indicator, severity, resolved, origin, description, run } = arguments;
    muster_agent::alert::check_indicator(&indicator).map_err(Usage)?;
    let settings = settings(&run)?;
    let raised = Raised { indicator, severity, resolved, origin, description };
    let id = runtime()?.block_on(muster_agent::alert::raise(&settings, &raised))?;
    output::text(&format!("{id}\n"))
}

fn start_log(level: &str, format: LogFormat, recent: Option<RecentLog>) -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_new(level).map_err(|e| Usage(format!("log level {level:?}: {e}; write error, warn, info, debug or trace")))?;
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours && recent.is_none());
    let started = match (format, recent) {
        (LogFormat::Text, None) => builder.with_writer(std::io::stderr).try_init(),
        (LogFormat::Text, Some(recent)) => builder.with_writer(std::io::stderr.and(recent)).try_init(),
        (LogFormat::Json, None) => builder.json().with_writer(std::io::stderr).try_init(),
        (LogFormat::Json, Some(recent)) => builder.json().with_writer(std::io::stderr.and(recent)).try_init(),
    };
    started.map_err(|e| anyhow::anyhow!("the log cannot be started: {e}"))
}

/// The signals that ask to stop, caught from here on: before anything is started that would want a goodbye.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn catch() -> anyhow::Result<Self> {
        let catch = |kind| signal(kind).context("signals cannot be caught");
        Ok(Self { terminate: catch(SignalKind::terminate())?, interrupt: catch(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for the first one; the second one ends the process at once.
    async fn asked(mut self) {
        self.next().await;
        tokio::spawn(async move {
            self.next().await;
            std::process::exit(HARD_STOP);
        });
    }
}

async fn device(settings: &Settings, recent: RecentLog) -> anyhow::Result<()> {
    let stop = StopSignals::catch()?;
    let agent = Agent::start(settings, recent).await?;
    tracing::info!(device.id = %settings.device.id, broker = %settings.mqtt.url, "started; Ctrl-C stops");
    stop.asked().await;
    tracing::info!("stopping; once more stops at once");
    let stats = agent.stop().await;
    tracing::info!(requests = stats.requests, uploads = stats.uploads_completed, "stopped");
    Ok(())
}

fn fleet_options(arguments: &FleetArguments) -> anyhow::Result<FleetOptions> {
    let mut figures = FaultFigures::default();
    let mut faults = match &arguments.script {
        Some(path) => script::read(path, &mut figures)?,
        None => Vec::new(),
    };
    faults.extend(arguments.faults.iter().cloned());
    for (flag, figure) in [
        (arguments.slow_delay, &mut figures.slow_delay),
        (arguments.away, &mut figures.away),
        (arguments.clock_skew, &mut figures.clock_skew),
    ] {
        if let Some(value) = flag {
            *figure = value;
        }
    }
    let password = match &arguments.password_file {
        Some(path) => {
            Some(read_bounded("password file", path, muster_agent::settings::MAX_SECRET_BYTES)?.trim_end_matches(['\r', '\n']).to_owned())
        }
        None => None,
    };
    if !(0.0..=MAX_RAISE_RATE).contains(&arguments.raise_rate) {
        return Err(Usage(format!("--raise-rate {}: from 0 to {MAX_RAISE_RATE} alerts a second", arguments.raise_rate)).into());
    }
    if arguments.uploads == 0 {
        return Err(Usage("--uploads must be at least 1".to_owned()).into());
    }
    Ok(FleetOptions {
        mqtt_url: arguments.mqtt.clone(),
        tls: TlsFiles { ca: arguments.ca_file.clone(), ..TlsFiles::default() },
        username: arguments.username.clone(),
        password,
        client_id: arguments.client_id.clone(),
        prefix: arguments.prefix.parse().map_err(|e: muster_wire::topic::InvalidPrefix| Usage(e.to_string()))?,
        name: arguments.name.clone(),
        devices: arguments.devices,
        seed: arguments.seed,
        hub: arguments.hub.clone(),
        bundle_kb: arguments.bundle_kb,
        log_lines: arguments.log_lines,
        faults,
        figures,
        consent: ConsentShares::of(&arguments.consent).map_err(Usage)?,
        raising: Raising { rules: arguments.raise.clone(), after: arguments.raise_after, rate: arguments.raise_rate },
        keep_alive: arguments.keep_alive,
        upload: UploadOptions { connections: arguments.uploads, ..UploadOptions::default() },
        upload_ca: arguments.upload_ca_file.clone(),
        trace_file: arguments.trace_file.clone(),
        ..FleetOptions::default()
    })
}

async fn fleet(arguments: FleetArguments) -> anyhow::Result<()> {
    let options = fleet_options(&arguments)?;
    let stop = StopSignals::catch()?;
    let mut progress = Progress::new(arguments.stats_file.as_deref(), options.devices)?;
    let fleet = Fleet::start(options).await?;
    let faulty = fleet.devices().iter().filter(|(_, fault)| fault.is_some()).count();
    tracing::info!(devices = arguments.devices, faulty, "the fleet is started");
    let stop = stop.asked();
    tokio::pin!(stop);
    let over = async {
        match arguments.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(over);
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    {
        let all_connected = fleet.connected(arguments.devices, Duration::MAX);
        tokio::pin!(all_connected);
        let mut waiting = true;
        loop {
            tokio::select! {
                () = &mut stop => break,
                () = &mut over => break,
                _ = tick.tick() => progress.show(&fleet.stats())?,
                _ = &mut all_connected, if waiting => {
                    waiting = false;
                    progress.show(&fleet.stats())?;
                }
            }
        }
    }
    let stats = fleet.stop().await;
    progress.end(&stats)
}
