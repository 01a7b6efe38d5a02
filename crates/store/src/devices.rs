//! Reading the registry.

use muster_domain::condition::{Column, Comparison, Condition, Literal, Path, Place, Test};
use muster_wire::DeviceId;
use muster_wire::http::{DeviceView, MAX_PAGE, PingView, PresenceState};
use muster_wire::presence::AgentName;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use time::OffsetDateTime;

use crate::apply::device_id;
use crate::collections::parse;
use crate::connect::Store;
use crate::dialect::{Batch, VALUE_BYTES, parcels};
use crate::entity::device;
use crate::error::{StoreError, run};
use crate::instant::{from_ms, maybe_from_ms};
use crate::presence::{OFFLINE, ONLINE, UNKNOWN};

/// Most ids in one answer of [`Store::all_device_ids`] and [`Store::matching_devices`].
pub(crate) const MAX_IDS: u32 = 10_000;

/// The tag that says whose device it is, of `device AS d`.
pub(crate) const TENANT_OF: &str = "CAST(d.tags->>'tenant' AS text)";
/// What people say a device is, else what it says itself.
pub(crate) const MODEL_OF: &str = "CAST(COALESCE(d.tags->>'model', d.reported->>'model') AS text)";

/// What has to be known of a device before it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownDevice {
    /// Its id.
    pub id: DeviceId,
    /// Connected or not.
    pub presence: PresenceState,
    /// Methods it answers; `None` when it was never born.
    pub methods: Option<Vec<String>>,
    /// Protocol forms it wants, best first.
    pub proto: Vec<String>,
    /// When its agent started, by its own clock.
    pub agent_started: Option<OffsetDateTime>,
    /// Its clock minus ours at its last birth.
    pub clock_skew_ms: Option<i64>,
}

/// Which devices, by id.
#[derive(Debug, Clone, Default)]
pub struct DeviceFilter {
    /// Behind this one.
    pub after: Option<DeviceId>,
    /// At most so many; cut at [`MAX_PAGE`].
    pub limit: u32,
    /// Only these.
    pub presence: Option<PresenceState>,
    /// Only ids that begin like this.
    pub prefix: Option<String>,
    /// Only those that meet this.
    pub condition: Option<Condition>,
}

impl DeviceFilter {
    /// A condition that also says what else is asked for, so that a page of it is full.
    fn narrowed(&self, condition: &Condition) -> Condition {
        let presence = self.presence.map(|state| {
            let word = Literal::Text(state.as_str().to_owned());
            Condition::Test(Path::Column(Column::Presence), Test::Compare(Comparison::Equal, word))
        });
        let prefix = self.prefix.as_ref().filter(|prefix| prefix.parse::<DeviceId>().is_ok());
        let prefix = prefix.map(|prefix| Condition::Test(Path::Column(Column::DeviceId), Test::Holds(Place::Start, prefix.clone())));
        Condition::All([Some(condition.clone()), presence, prefix].into_iter().flatten().collect())
    }
}

fn presence(code: i16) -> Result<PresenceState, StoreError> {
    match code {
        UNKNOWN => Ok(PresenceState::Unknown),
        ONLINE => Ok(PresenceState::Online),
        OFFLINE => Ok(PresenceState::Offline),
        other => Err(StoreError::Inconsistent(format!("presence {other}"))),
    }
}

fn presence_code(state: PresenceState) -> i16 {
    match state {
        PresenceState::Unknown => UNKNOWN,
        PresenceState::Online => ONLINE,
        PresenceState::Offline => OFFLINE,
    }
}

fn view(row: device::Model) -> Result<DeviceView, StoreError> {
    Ok(DeviceView {
        id: device_id(row.id)?,
        presence: presence(row.presence)?,
        last_seen: maybe_from_ms(row.last_seen)?,
        first_seen: from_ms(row.first_seen)?,
        methods: row.methods.map(|text| parse("a list of methods", &text)).transpose()?.unwrap_or_default(),
        agent: row.agent_name.map(|name| AgentName { name, version: row.agent_version.unwrap_or_default() }),
        started: maybe_from_ms(row.started_at)?,
        clock_skew_ms: row.clock_skew_ms,
        parent: row.parent.map(device_id).transpose()?,
        ping: maybe_from_ms(row.pinged_at)?.map(|at| PingView {
            at,
            round_trip_ms: row.ping_ms.and_then(|ms| u64::try_from(ms).ok()),
            failed_in_a_row: row.ping_failed.and_then(|count| u32::try_from(count).ok()).unwrap_or_default(),
        }),
        reported: row.reported,
        tags: row.tags,
    })
}

impl Store {
    /// Those of the devices that are in the registry, in no order.
    ///
    /// # Errors
    /// The database's.
    pub async fn known_devices(&self, devices: &[DeviceId]) -> Result<Vec<KnownDevice>, StoreError> {
        const SQL: &str =
            "SELECT d.id, d.presence, d.methods, d.proto, d.started_at, d.clock_skew_ms FROM [[v]] JOIN device d ON d.id = v.id";
        run("looking up devices", || async {
            let mut reader = self.reader().await?;
            let mut known = Vec::with_capacity(devices.len());
            for chunk in parcels(devices, |device| VALUE_BYTES + device.as_str().len()) {
                let batch = Batch::default().texts("id", chunk.iter().map(|device| Some(device.as_str())));
                for row in reader.fetch(SQL, &[], Some(&batch)).await? {
                    known.push(KnownDevice {
                        id: device_id(row.get(0)?)?,
                        presence: presence(row.get(1)?)?,
                        methods: row.get::<Option<String>>(2)?.map(|text| parse("a list of methods", &text)).transpose()?,
                        proto: parse("a list of protocol forms", &row.get::<String>(3)?)?,
                        agent_started: maybe_from_ms(row.get(4)?)?,
                        clock_skew_ms: row.get(5)?,
                    });
                }
            }
            Ok(known)
        })
        .await
    }

    /// Ids of the registry, sorted, at most 10,000 of them behind `after`.
    ///
    /// # Errors
    /// The database's.
    pub async fn all_device_ids(&self, after: Option<&DeviceId>, limit: u32) -> Result<Vec<DeviceId>, StoreError> {
        run("listing device ids", || async {
            let mut query = device::Entity::find().select_only().column(device::Column::Id);
            if let Some(after) = after {
                query = query.filter(device::Column::Id.gt(after.as_str()));
            }
            let limit = u64::from(limit.min(MAX_IDS));
            let ids = query.order_by_asc(device::Column::Id).limit(limit).into_tuple::<String>().all(self.entities()).await?;
            ids.into_iter().map(device_id).collect()
        })
        .await
    }

    /// A device; `None` when it is not in the registry.
    ///
    /// # Errors
    /// The database's.
    pub async fn device(&self, id: &DeviceId) -> Result<Option<DeviceView>, StoreError> {
        run("reading a device", || async { device::Entity::find_by_id(id.as_str()).one(self.entities()).await?.map(view).transpose() })
            .await
    }

    /// A page of devices, sorted by id.
    ///
    /// # Errors
    /// The database's.
    pub async fn devices(&self, filter: &DeviceFilter) -> Result<Vec<DeviceView>, StoreError> {
        use device::Column;
        let chosen = match &filter.condition {
            Some(condition) => {
                Some(self.matching_devices(&filter.narrowed(condition), filter.after.as_ref(), filter.limit.min(MAX_PAGE)).await?)
            }
            None => None,
        };
        run("listing devices", || async {
            let mut query = device::Entity::find();
            if let Some(chosen) = &chosen {
                query = query.filter(Column::Id.is_in(chosen.iter().map(DeviceId::as_str)));
            }
            if let Some(prefix) = filter.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
                // What is not the beginning of an id begins none.
                if prefix.parse::<DeviceId>().is_err() && prefix != "." && prefix != ".." {
                    return Ok(Vec::new());
                }
                // `~` comes after every character an id may have.
                query = query.filter(Column::Id.gte(prefix)).filter(Column::Id.lt(format!("{prefix}~")));
            }
            if let Some(after) = &filter.after {
                query = query.filter(Column::Id.gt(after.as_str()));
            }
            if let Some(state) = filter.presence {
                query = query.filter(Column::Presence.eq(presence_code(state)));
            }
            let rows = query.order_by_asc(Column::Id).limit(u64::from(filter.limit.min(MAX_PAGE))).all(self.entities()).await?;
            rows.into_iter().map(view).collect()
        })
        .await
    }
}
