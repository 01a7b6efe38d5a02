//! A real machine: its modules, its bundle, and what of our own settings and log may be shown.

use std::path::PathBuf;
use std::sync::Arc;

use crate::bundle::{self, BundleError, Window};
use crate::device::Device;
use crate::modules::Modules;
use crate::recent::RecentLog;
use crate::upload::content::Content;

/// What a real device is made of.
#[derive(Debug)]
pub(crate) struct Machine {
    pub modules: Modules,
    /// IoT Edge's own program; empty where it is not to be used.
    pub iotedge: String,
    /// Where our state is kept.
    pub state: PathBuf,
    /// Our effective settings, secrets masked.
    pub settings_text: String,
    pub recent: RecentLog,
    /// What we report about ourselves, as a JSON object.
    pub reported: serde_json::Value,
}

impl Machine {
    /// A support bundle: IoT Edge's where that program exists and works, else our own, which then says what went wrong.
    pub(crate) async fn bundle(&self, device: &Arc<Device>, window: Window) -> Result<Content, BundleError> {
        let mut note = None;
        if !self.iotedge.is_empty() {
            match bundle::from_iotedge(&self.iotedge, &device.shared().temp, &window, device.shared().max_object_bytes).await {
                Ok(Some(content)) => return Ok(content),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(device.id = %device.id(), %error, "falling back to our own bundle");
                    note = Some(error.to_string());
                }
            }
        }
        bundle::own_bundle(device, self, &window, note).await
    }
}
