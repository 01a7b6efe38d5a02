//! Our own bundle:
//!
//! ```text
//! check.json                     our health check
//! logs/{module}_log.txt          the text of every module's log
//! inspect/{module}.json          what the container engine knows, without secrets
//! network/{name}.json            its networks
//! system/…                       facts about the machine
//! agent/…                        our settings without secrets, our own recent log, our counters
//! manifest.json                  what is in it, and what is missing and why
//! ```

use std::sync::Arc;

use muster_wire::method::filter::{Mode, Plan};
use muster_wire::method::render::Origin;
use muster_wire::method::{ContentType, Encoding, LogFilter};
use serde::Serialize;
use time::format_description::well_known::Rfc3339;

use super::archive::{Archive, Entry, entry_part};
use super::{BundleError, Window, check, redact, system};
use crate::device::Device;
use crate::logs::{self, Form, LogError};
use crate::machine::Machine;
use crate::modules::{Kind, Module};
use crate::upload::content::Content;

/// Most of one module's log in a bundle.
pub(crate) const MAX_MODULE_LOG_BYTES: u64 = 256 * 1024 * 1024;
/// The modules that `edgeRuntimeOnly` leaves in.
const RUNTIME_MODULES: &[&str] = &["edgeAgent", "edgeHub"];

#[derive(Debug, Serialize)]
struct Missing {
    what: String,
    why: String,
}

#[derive(Debug, Serialize)]
struct ManifestWindow<'a> {
    since: Option<&'a str>,
    until: Option<&'a str>,
    #[serde(rename = "edgeRuntimeOnly")]
    edge_runtime_only: bool,
}

#[derive(Debug, Serialize)]
struct Manifest<'a> {
    version: &'static str,
    device: &'a str,
    created: String,
    window: ManifestWindow<'a>,
    missing: &'a [Missing],
    entries: &'a [Entry],
}

/// Makes the bundle. What cannot be had is listed as missing; only the disk and the window can make it fail.
pub(crate) async fn own_bundle(
    device: &Arc<Device>,
    machine: &Machine,
    window: &Window,
    note: Option<String>,
) -> Result<Content, BundleError> {
    let filter = LogFilter { since: window.since.clone(), until: window.until.clone(), ..LogFilter::default() };
    // A window nobody can read is an error now, not an empty bundle later.
    Plan::new(&filter, Mode::GetText, window.asked_unix, true)?;
    let mut archive = Archive::begin(&device.shared().temp, device.shared().max_object_bytes);
    let mut missing: Vec<Missing> = note.into_iter().map(|why| Missing { what: "iotedge support-bundle".to_owned(), why }).collect();

    archive.add("check.json", check::report(device, machine).await).await?;
    for fact in system::facts(device.clock()).await {
        let name = format!("system/{}", fact.name);
        match fact.text {
            Ok(text) => archive.add(&name, text.into_bytes()).await?,
            Err(why) => missing.push(Missing { what: name, why }),
        }
    }
    archive.add("agent/settings.toml", machine.settings_text.clone().into_bytes()).await?;
    archive.add("agent/log.txt", machine.recent.text().into_bytes()).await?;
    archive.add("agent/counters.json", serde_json::to_vec_pretty(&device.counters().stats()).expect("numbers are always JSON")).await?;

    match machine.modules.list().await {
        Ok(modules) => {
            for module in modules.iter().filter(|m| !window.edge_runtime_only || RUNTIME_MODULES.contains(&m.name.as_str())) {
                add_log(device, &mut archive, &mut missing, module, &filter, window.asked_unix).await?;
                add_inspection(machine, &mut archive, &mut missing, module).await?;
            }
        }
        Err(error) => missing.push(Missing { what: "logs".to_owned(), why: error.to_string() }),
    }
    add_networks(machine, &mut archive, &mut missing).await?;

    let manifest = Manifest {
        version: "1.0",
        device: device.id().as_str(),
        created: device.clock().format(&Rfc3339).unwrap_or_default(),
        window: ManifestWindow {
            since: window.since.as_deref(),
            until: window.until.as_deref(),
            edge_runtime_only: window.edge_runtime_only,
        },
        missing: &missing,
        entries: archive.entries(),
    };
    let manifest = serde_json::to_vec_pretty(&manifest).expect("strings and numbers are always JSON");
    archive.add("manifest.json", manifest).await?;
    archive.finish().await
}

async fn add_log(
    device: &Arc<Device>,
    archive: &mut Archive,
    missing: &mut Vec<Missing>,
    module: &Module,
    filter: &LogFilter,
    now: i64,
) -> Result<(), BundleError> {
    let name = format!("logs/{}_log.txt", entry_part(&module.name));
    let plan = Plan::new(filter, Mode::GetText, now, true)?;
    let writer = archive.start(&name).await?.limited(MAX_MODULE_LOG_BYTES);
    let written = writer.written();
    let outcome = device
        .with_lines(module, plan.runtime(), move |device, module, lines| {
            let origin = Origin { iothub: &device.shared().hub, device: device.id().as_str(), module };
            logs::for_upload(&plan, &Form { origin, content_type: ContentType::Text, encoding: Encoding::None }, lines, writer)
        })
        .await;
    archive.ended(written.load(std::sync::atomic::Ordering::Relaxed));
    if let Err(error) = outcome {
        let why = match error {
            LogError::Write(e) if e.kind() == std::io::ErrorKind::FileTooLarge => format!("cut after {MAX_MODULE_LOG_BYTES} bytes"),
            other => other.to_string(),
        };
        missing.push(Missing { what: name, why });
    }
    Ok(())
}

async fn add_inspection(machine: &Machine, archive: &mut Archive, missing: &mut Vec<Missing>, module: &Module) -> Result<(), BundleError> {
    let (Some(docker), Kind::Container { id }) = (&machine.modules.docker, &module.kind) else { return Ok(()) };
    let name = format!("inspect/{}.json", entry_part(&module.name));
    match docker.inspect(id).await {
        Ok(mut inspection) => {
            redact::redact(&mut inspection);
            archive.add(&name, serde_json::to_vec_pretty(&inspection).expect("JSON stays JSON")).await
        }
        Err(error) => {
            missing.push(Missing { what: name, why: error.to_string() });
            Ok(())
        }
    }
}

async fn add_networks(machine: &Machine, archive: &mut Archive, missing: &mut Vec<Missing>) -> Result<(), BundleError> {
    let Some(docker) = &machine.modules.docker else { return Ok(()) };
    match docker.networks().await {
        Ok(networks) => {
            for mut network in networks {
                let name = format!("network/{}.json", entry_part(network.get("Name").and_then(|n| n.as_str()).unwrap_or_default()));
                redact::redact(&mut network);
                archive.add(&name, serde_json::to_vec_pretty(&network).expect("JSON stays JSON")).await?;
            }
        }
        Err(error) => missing.push(Missing { what: "network".to_owned(), why: error.to_string() }),
    }
    Ok(())
}
