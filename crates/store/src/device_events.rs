//! What people did to devices of the registry, written in the transaction that does it.

use muster_wire::DeviceId;
use muster_wire::http::MAX_TEXT_CHARS;
use time::OffsetDateTime;
use uuid::{NoContext, Timestamp, Uuid};

use crate::dialect::{Batch, ID_BYTES, Tx, VALUE_BYTES, Value, parcels};
use crate::error::StoreError;
use crate::instant::to_ms;
use crate::text::{MAX_DETAIL_CHARS, bounded};

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceDeed {
    /// It came with a list, or was changed by one.
    Imported,
    /// Its tags were changed.
    Tagged,
    /// It is behind another gateway.
    Moved,
    /// It was taken out of the registry.
    Forgotten,
}

impl DeviceDeed {
    fn as_str(self) -> &'static str {
        match self {
            Self::Imported => "imported",
            Self::Tagged => "tagged",
            Self::Moved => "moved",
            Self::Forgotten => "forgotten",
        }
    }
}

/// Something that was done to a device.
pub(crate) struct DeviceEvent<'a> {
    device: &'a DeviceId,
    deed: DeviceDeed,
    detail: Option<String>,
}

impl<'a> DeviceEvent<'a> {
    pub(crate) fn new(device: &'a DeviceId, deed: DeviceDeed, detail: Option<String>) -> Self {
        Self { device, deed, detail: detail.map(|text| bounded(&text, MAX_DETAIL_CHARS).into_owned()) }
    }
}

/// Lowest id of what was written down at this moment.
pub(crate) fn lowest_id(at: OffsetDateTime) -> Uuid {
    let ms = u64::try_from(to_ms(at)).unwrap_or_default();
    uuid::Builder::from_unix_timestamp_millis(ms, &[0; 10]).into_uuid()
}

/// Writes into the history of devices.
pub(crate) async fn record_device_events(tx: &mut Tx, events: &[DeviceEvent<'_>], who: &str, at: OffsetDateTime) -> Result<(), StoreError> {
    let ms = u64::try_from(to_ms(at)).unwrap_or_default();
    let moment = Timestamp::from_unix(NoContext, ms / 1000, u32::try_from(ms % 1000 * 1_000_000).unwrap_or_default());
    let who = bounded(who, MAX_TEXT_CHARS);
    let values = [Value::Number(to_ms(at)), Value::Text(&who)];
    let sql = "INSERT INTO device_event (id, device_id, at, who, what, detail) SELECT v.id, v.device, $1, $2, v.what, v.detail FROM [[v]]";
    let bytes = |event: &DeviceEvent<'_>| {
        let texts = event.device.as_str().len() + event.deed.as_str().len() + event.detail.as_ref().map_or(0, String::len);
        ID_BYTES + 3 * VALUE_BYTES + texts
    };
    for parcel in parcels(events, bytes) {
        let batch = Batch::default()
            .ids("id", parcel.iter().map(|_| Uuid::new_v7(moment)))
            .texts("device", parcel.iter().map(|event| Some(event.device.as_str())))
            .texts("what", parcel.iter().map(|event| Some(event.deed.as_str())))
            .texts("detail", parcel.iter().map(|event| event.detail.as_deref()));
        tx.execute(sql, &values, Some(&batch)).await?;
    }
    Ok(())
}
