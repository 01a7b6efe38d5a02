//! Our own health check: what `iotedge check` is for IoT Edge.

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::system;
use crate::device::Device;
use crate::machine::Machine;

/// Free share of a disk below which it is reported.
pub(crate) const LOW_DISK_SHARE: f64 = 0.05;
/// No clock of this century's third decade is before this: one that is has never been set.
const CLOCK_FLOOR_UNIX: i64 = 1_735_689_600;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Ok,
    Warning,
    Error,
}

#[derive(Debug, Serialize)]
pub(crate) struct Check {
    pub id: &'static str,
    pub result: Verdict,
    pub detail: String,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    version: &'static str,
    created: String,
    device: &'a str,
    agent: &'static str,
    result: Verdict,
    checks: Vec<Check>,
}

fn check(id: &'static str, fine: bool, otherwise: Verdict, detail: impl Into<String>) -> Check {
    Check { id, result: if fine { Verdict::Ok } else { otherwise }, detail: detail.into() }
}

/// The report as JSON.
pub(crate) async fn report(device: &Device, machine: &Machine) -> Vec<u8> {
    let stats = device.counters().stats();
    let now = OffsetDateTime::now_utc();
    let mut checks = vec![
        check("broker-connected", stats.connected > 0, Verdict::Error, format!("{} connections since the start", stats.connects)),
        check(
            "broker-permissions",
            stats.refused_by_broker == 0,
            Verdict::Warning,
            format!("{} messages refused by the broker", stats.refused_by_broker),
        ),
        check("clock-set", now.unix_timestamp() > CLOCK_FLOOR_UNIX, Verdict::Error, now.format(&Rfc3339).unwrap_or_default()),
    ];
    for (id, path) in [("disk-state", machine.state.as_path()), ("disk-temp", device.shared().temp.as_path())] {
        let share = system::free_share(path);
        let detail = share.map_or_else(
            || format!("{} cannot be asked", path.display()),
            |share| format!("{:.0} % free at {}", share * 100.0, path.display()),
        );
        checks.push(check(id, share.is_some_and(|share| share > LOW_DISK_SHARE), Verdict::Warning, detail));
    }
    match &machine.modules.docker {
        None => checks.push(check("container-engine", true, Verdict::Ok, "not configured")),
        Some(docker) => checks.push(match docker.containers().await {
            Ok(found) => check("container-engine", true, Verdict::Ok, format!("{} containers", found.len())),
            Err(error) => check("container-engine", false, Verdict::Error, error.to_string()),
        }),
    }
    let modules = machine.modules.list().await.map_or(0, |modules| modules.len());
    checks.push(check("modules", modules > 0, Verdict::Warning, format!("{modules} modules have logs")));
    let result = if checks.iter().any(|c| c.result == Verdict::Error) {
        Verdict::Error
    } else if checks.iter().any(|c| c.result == Verdict::Warning) {
        Verdict::Warning
    } else {
        Verdict::Ok
    };
    let report = Report {
        version: "1.0",
        created: now.format(&Rfc3339).unwrap_or_default(),
        device: device.id().as_str(),
        agent: concat!("muster-agent ", env!("CARGO_PKG_VERSION")),
        result,
        checks,
    };
    serde_json::to_vec_pretty(&report).expect("strings are always JSON")
}
