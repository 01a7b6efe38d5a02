//! Alerts of devices, on their way to whoever takes them.

use bytes::Bytes;
use muster_wire::DeviceId;

use crate::session::Ack;

/// What a device published on its alert topic, unread.
#[derive(Debug)]
pub struct DeviceAlert {
    /// Whose topic it was; the broker's permissions vouch for it.
    pub device: DeviceId,
    /// Content type; MQTT 3.1.1 has none.
    pub content_type: Option<String>,
    /// User properties.
    pub properties: Vec<(String, String)>,
    /// The event.
    pub payload: Bytes,
    /// Done once its effect is committed; dropped without that, it comes again with the next connection.
    pub ack: Ack,
}
