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
    pub(crate) ack: Ack,
}

impl DeviceAlert {
    /// Its effect is committed; the broker may forget it. Dropped without this, it comes again with the next connection.
    pub fn committed(self) {
        self.ack.done();
    }

    /// The same, for when it has been taken apart.
    pub fn into_parts(self) -> (DeviceId, Option<String>, Vec<(String, String)>, Bytes, impl FnOnce() + Send + 'static) {
        let Self { device, content_type, properties, payload, ack } = self;
        (device, content_type, properties, payload, move || ack.done())
    }
}
