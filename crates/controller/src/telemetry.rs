//! Logs to standard error, and the metrics that `/metrics` renders.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::settings::{LogFormat, Telemetry};

/// Buckets of every histogram of seconds.
const SECONDS_BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];
/// Buckets of every histogram of batch sizes.
const BATCH_BUCKETS: [f64; 8] = [1.0, 2.0, 5.0, 20.0, 100.0, 500.0, 2000.0, 10000.0];

/// The embedded broker logs every connect and disconnect at INFO, which for 20,000 devices drowns everything else, and the schema steps are told
/// by the controller itself. A level for them given in the settings still wins.
const QUIETER: [&str; 3] = ["mqtt5=warn", "mqtt5_protocol=warn", "sea_orm_migration=warn"];

/// Reads a log filter.
///
/// # Errors
/// When it is none.
pub(crate) fn filter(text: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    let mut filter = EnvFilter::builder().parse(text)?;
    for directive in QUIETER {
        let module = directive.split('=').next().unwrap_or(directive);
        if !text.contains(module) {
            filter = filter.add_directive(directive.parse()?);
        }
    }
    Ok(filter)
}

/// Starts logging as the settings say. A subscriber that the program installed before stays.
pub fn install_logs(telemetry: &Telemetry) {
    let filter = filter(&telemetry.log).expect("checked when the settings were read");
    let registry = tracing_subscriber::registry().with(filter);
    let stderr = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    // Already installed means that the program or an earlier controller of this process did it: theirs is as good as ours.
    let _already_installed = match telemetry.format {
        LogFormat::Json => registry.with(stderr.json().flatten_event(true)).try_init(),
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            registry.with(stderr.with_ansi(colours)).try_init()
        }
    };
}

/// The recorder of this process. Several controllers in one process, as in tests, share it; absent when the program installed another recorder.
pub(crate) fn metrics() -> Option<&'static PrometheusHandle> {
    static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let install = || {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
            .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_batch".to_owned()), &BATCH_BUCKETS))
            .expect("the buckets are not empty");
        builder.install_recorder().inspect_err(|error| tracing::warn!(%error, "metrics are not recorded by this controller")).ok()
    };
    RECORDER.get_or_init(install).as_ref()
}
