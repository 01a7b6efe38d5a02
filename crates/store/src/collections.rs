//! Reading collections, and what was done to them.

use std::time::Duration;

use muster_wire::CollectionId;
use muster_wire::http::{
    CollectionOptions, CollectionRequest, CollectionState, CollectionView, ConsentKind, EscalationStep, MAX_PAGE, MAX_TEXT_CHARS, Origin,
    PaceView, Paused, Priority, Retry, Rollout, StepOf, TargetView, Window,
};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::connect::Store;
use crate::consent::kind_of;
use crate::counters::Tally;
use crate::dialect::{Row, Tx, Value};
use crate::entity::{collection, collection_event};
use crate::error::{StoreError, run};
use crate::instant::{from_ms, maybe_from_ms, to_ms};
use crate::text::{bounded, clean_json};

/// Most collections read by one statement.
const MAX_READ: usize = 500;

/// A collection as it was asked for, and how it ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Collection {
    /// Its id.
    pub id: CollectionId,
    /// What is asked of each device.
    pub request: CollectionRequest,
    /// How the devices were chosen.
    pub target: TargetView,
    /// Why, in words.
    pub reason: Option<String>,
    /// Support case.
    pub case: Option<String>,
    /// Who asked.
    pub created_by: String,
    /// What made it.
    pub origin: Origin,
    /// The consent without which no device of it may be asked.
    pub needs_consent: Option<ConsentKind>,
    /// When.
    pub created_at: OffsetDateTime,
    /// After this, what is not done expires.
    pub expires_at: OffsetDateTime,
    /// Time for one attempt.
    pub attempt_timeout: Duration,
    /// Attempts per task as asked for.
    pub max_attempts: u8,
    /// Highest attempt number allowed now: a rerun allows `max_attempts` more.
    pub attempt_limit: u8,
    /// Most devices asked at the same time over all controllers, where that was asked for.
    pub in_flight: Option<u32>,
    /// Who goes first.
    pub priority: Priority,
    /// How it is paced.
    pub rollout: Rollout,
    /// When a failed attempt is repeated, where that was asked for.
    pub retry: Option<Retry>,
    /// When devices may be asked.
    pub window: Option<Window>,
    /// Also takes devices that meet the target later.
    pub standing: bool,
    /// Deeper steps it was asked for with.
    pub steps: Vec<EscalationStep>,
    /// Which step of which collection this is; absent for one that was asked for by itself.
    pub step_of: Option<StepOf>,
    /// Pattern over the answers that decides who gets the next step.
    pub when_matches: Option<String>,
    /// Why it asks nobody at present.
    pub paused: Option<Paused>,
    /// Number of tasks.
    pub targeted: u64,
    /// When it was cancelled.
    pub cancelled_at: Option<OffsetDateTime>,
    /// When its last task became final.
    pub closed_at: Option<OffsetDateTime>,
    /// Final counters, once closed.
    pub outcome: Option<Tally>,
}

/// All that changes of a collection while it is open. Two that are equal stand for the same [`Collection`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    paused_at: Option<i64>,
    cancelled_at: Option<i64>,
    expires_at: i64,
    attempt_timeout_ms: i64,
    attempt_limit: i16,
    in_flight: i64,
    targeted: i64,
}

/// Which collections, newest first.
#[derive(Debug, Clone, Default)]
pub struct CollectionFilter {
    /// Older than this one.
    pub before: Option<CollectionId>,
    /// At most so many; cut at [`MAX_PAGE`].
    pub limit: u32,
    /// Only these.
    pub state: Option<CollectionState>,
    /// Only this kind of request.
    pub kind: Option<String>,
    /// Only for this case.
    pub case: Option<String>,
    /// Only by this person.
    pub created_by: Option<String>,
}

/// Something that was done to a collection.
#[derive(Debug, Clone, PartialEq)]
pub struct CollectionEvent {
    /// When.
    pub at: OffsetDateTime,
    /// Who.
    pub who: String,
    /// What: `created`, `paused`, `resumed`, `stage_passed`, `aborted`, `cancelled`, `rerun`.
    pub what: String,
    /// More.
    pub detail: serde_json::Value,
}

pub(crate) fn collection_id(uuid: Uuid) -> Result<CollectionId, StoreError> {
    CollectionId::from_uuid(uuid).ok_or_else(|| StoreError::Inconsistent(format!("collection id {uuid}")))
}

pub(crate) fn parse<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Inconsistent(format!("{what}: {error}")))
}

pub(crate) fn number<T: TryFrom<i64>>(what: &str, value: impl Into<i64>) -> Result<T, StoreError> {
    let value = value.into();
    T::try_from(value).map_err(|_| StoreError::Inconsistent(format!("{what} is {value}")))
}

impl TryFrom<collection::Model> for Collection {
    type Error = StoreError;

    fn try_from(row: collection::Model) -> Result<Self, StoreError> {
        let id = collection_id(row.id)?;
        Ok(Self {
            id,
            request: parse("the request of a collection", &row.request)?,
            target: parse("the target of a collection", &row.target)?,
            reason: row.reason,
            case: row.case_id,
            created_by: row.created_by,
            origin: row.origin.map(|text| parse("the origin of a collection", &text)).transpose()?.unwrap_or_default(),
            needs_consent: row.consent_kind.map(|word| kind_of(&word)).transpose()?,
            created_at: from_ms(row.created_at)?,
            expires_at: from_ms(row.expires_at)?,
            attempt_timeout: Duration::from_millis(number("an attempt timeout", row.attempt_timeout_ms)?),
            max_attempts: number("a number of attempts", row.max_attempts)?,
            attempt_limit: number("an attempt limit", row.attempt_limit)?,
            in_flight: Some(number("an in-flight window", row.in_flight)?).filter(|window| *window > 0),
            priority: Priority::from_code(row.priority)
                .ok_or_else(|| StoreError::Inconsistent(format!("the priority of {id} is {}", row.priority)))?,
            rollout: row.rollout.map(|text| parse("a rollout", &text)).transpose()?.unwrap_or_default(),
            retry: row.retry.map(|text| parse("a schedule of retries", &text)).transpose()?,
            window: row.time_window.map(|text| parse("a window", &text)).transpose()?,
            standing: row.standing != 0,
            steps: row.steps.map(|text| parse("the steps of a collection", &text)).transpose()?.unwrap_or_default(),
            step_of: match row.step_of {
                Some(of) => Some(StepOf { collection: collection_id(of)?, step: number("the number of a step", row.step)? }),
                None => None,
            },
            when_matches: row.when_matches,
            paused: match row.paused_at {
                Some(at) => {
                    Some(Paused { at: from_ms(at)?, by: row.paused_by.unwrap_or_default(), why: row.paused_why.unwrap_or_default() })
                }
                None => None,
            },
            targeted: number("a number of tasks", row.targeted)?,
            cancelled_at: maybe_from_ms(row.cancelled_at)?,
            closed_at: maybe_from_ms(row.closed_at)?,
            outcome: row.outcome.map(|text| parse("the outcome of a collection", &text)).transpose()?,
        })
    }
}

impl Collection {
    /// What can change of it, as it was when it was read.
    pub fn stamp(&self) -> Stamp {
        Stamp {
            paused_at: self.paused.as_ref().map(|paused| to_ms(paused.at)),
            cancelled_at: self.cancelled_at.map(to_ms),
            expires_at: to_ms(self.expires_at),
            attempt_timeout_ms: i64::try_from(self.attempt_timeout.as_millis()).unwrap_or(i64::MAX),
            attempt_limit: i16::from(self.attempt_limit),
            in_flight: self.in_flight.map_or(0, i64::from),
            targeted: i64::try_from(self.targeted).unwrap_or(i64::MAX),
        }
    }

    /// Where it stands.
    pub fn state(&self) -> CollectionState {
        match (self.cancelled_at, self.closed_at) {
            (Some(_), _) => CollectionState::Cancelled,
            (None, Some(_)) => CollectionState::Finished,
            (None, None) => CollectionState::Running,
        }
    }

    fn view(self, tally: Tally, pace: Option<PaceView>) -> CollectionView {
        let state = self.state();
        CollectionView {
            id: self.id,
            request: self.request,
            target: self.target,
            reason: self.reason,
            case: self.case,
            created_by: self.created_by,
            origin: self.origin,
            needs_consent: self.needs_consent,
            created_at: self.created_at,
            expires_at: self.expires_at,
            finished_at: self.closed_at,
            state,
            options: CollectionOptions {
                attempt_timeout_seconds: Some(self.attempt_timeout.as_secs()),
                max_attempts: Some(self.max_attempts),
                expires_in_seconds: Some(u64::try_from((self.expires_at - self.created_at).whole_seconds()).unwrap_or(0)),
                in_flight: self.in_flight,
                priority: Some(self.priority),
                retry: self.retry,
            },
            rollout: self.rollout,
            pace,
            paused: self.paused,
            window: self.window,
            window_now: None,
            standing: self.standing,
            steps: self.steps,
            later_steps: Vec::new(),
            step_of: self.step_of,
            counters: tally.counters,
            reasons: tally.reasons,
            bundle_bytes: tally.bundle_bytes,
        }
    }
}

impl Store {
    /// A collection; `None` when there is none with this id.
    ///
    /// # Errors
    /// The database's.
    pub async fn collection(&self, id: CollectionId) -> Result<Option<Collection>, StoreError> {
        run("reading a collection", || async {
            let row = collection::Entity::find_by_id(id.uuid()).one(self.entities()).await?;
            row.map(Collection::try_from).transpose()
        })
        .await
    }

    /// The collections that are not closed, oldest first: those with work left, and those that wait for [`Store::close_finished`].
    ///
    /// # Errors
    /// The database's.
    pub async fn open_collections(&self) -> Result<Vec<Collection>, StoreError> {
        run("reading open collections", || async {
            let rows = collection::Entity::find()
                .filter(collection::Column::ClosedAt.is_null())
                .order_by_asc(collection::Column::Id)
                .all(self.entities())
                .await?;
            rows.into_iter().map(Collection::try_from).collect()
        })
        .await
    }

    /// Those of these collections that are not closed.
    ///
    /// # Errors
    /// The database's.
    pub async fn open_collections_of(&self, ids: &[CollectionId]) -> Result<Vec<Collection>, StoreError> {
        run("reading open collections", || async {
            let mut open = Vec::with_capacity(ids.len());
            for some in ids.chunks(MAX_READ) {
                let rows = collection::Entity::find()
                    .filter(collection::Column::Id.is_in(some.iter().map(|id| id.uuid())))
                    .filter(collection::Column::ClosedAt.is_null())
                    .all(self.entities())
                    .await?;
                for row in rows {
                    open.push(Collection::try_from(row)?);
                }
            }
            Ok(open)
        })
        .await
    }

    /// The ids of the collections that are not closed, oldest first, each with what can have changed since it was read.
    ///
    /// # Errors
    /// The database's.
    pub async fn open_stamps(&self) -> Result<Vec<(CollectionId, Stamp)>, StoreError> {
        const SQL: &str = "SELECT c.id, c.paused_at, c.cancelled_at, c.expires_at, c.attempt_timeout_ms, c.attempt_limit, c.in_flight, c.targeted \
            FROM collection c WHERE c.closed_at IS NULL ORDER BY c.id";
        run("listing open collections", || async {
            let rows = self.reader().await?.fetch(SQL, &[], None).await?;
            let stamp = |row: &Row| {
                let stamp = Stamp {
                    paused_at: row.get(1)?,
                    cancelled_at: row.get(2)?,
                    expires_at: row.get(3)?,
                    attempt_timeout_ms: row.get(4)?,
                    attempt_limit: row.get(5)?,
                    in_flight: row.get(6)?,
                    targeted: row.get(7)?,
                };
                Ok((collection_id(row.get(0)?)?, stamp))
            };
            rows.iter().map(stamp).collect()
        })
        .await
    }

    /// A collection with its counters, as the API shows it.
    ///
    /// # Errors
    /// The database's.
    pub async fn collection_view(&self, id: CollectionId) -> Result<Option<CollectionView>, StoreError> {
        match self.collection(id).await? {
            None => Ok(None),
            Some(row) => {
                let tally = self.tally_of(id, row.targeted, row.outcome.clone()).await?;
                let pace = self.pace_of(&row).await?;
                Ok(Some(row.view(tally, pace)))
            }
        }
    }

    /// A page of collections with their counters, newest first. Closed ones cost one row each, open ones are counted.
    ///
    /// # Errors
    /// The database's.
    pub async fn collections(&self, filter: &CollectionFilter) -> Result<Vec<CollectionView>, StoreError> {
        use collection::Column;
        let rows = run("listing collections", || async {
            let mut query = collection::Entity::find();
            if let Some(before) = filter.before {
                query = query.filter(Column::Id.lt(before.uuid()));
            }
            query = match filter.state {
                None => query,
                Some(CollectionState::Running) => query.filter(Column::ClosedAt.is_null()).filter(Column::CancelledAt.is_null()),
                Some(CollectionState::Finished) => query.filter(Column::ClosedAt.is_not_null()).filter(Column::CancelledAt.is_null()),
                Some(CollectionState::Cancelled) => query.filter(Column::CancelledAt.is_not_null()),
            };
            for (column, wanted) in [(Column::Kind, &filter.kind), (Column::CaseId, &filter.case), (Column::CreatedBy, &filter.created_by)]
            {
                if let Some(wanted) = wanted {
                    query = query.filter(column.eq(bounded(wanted, MAX_TEXT_CHARS).into_owned()));
                }
            }
            let limit = u64::from(filter.limit.min(MAX_PAGE));
            Ok(query.order_by_desc(Column::Id).limit(limit).all(self.entities()).await?)
        })
        .await?;
        let mut views = Vec::with_capacity(rows.len());
        for row in rows {
            let row = Collection::try_from(row)?;
            let tally = self.tally_of(row.id, row.targeted, row.outcome.clone()).await?;
            let pace = self.pace_of(&row).await?;
            views.push(row.view(tally, pace));
        }
        Ok(views)
    }

    /// What was done to a collection, oldest first; at most [`MAX_PAGE`] events.
    ///
    /// # Errors
    /// The database's.
    pub async fn collection_events(&self, id: CollectionId) -> Result<Vec<CollectionEvent>, StoreError> {
        run("reading the history of a collection", || async {
            let rows = collection_event::Entity::find()
                .filter(collection_event::Column::CollectionId.eq(id.uuid()))
                .order_by_asc(collection_event::Column::Id)
                .limit(u64::from(MAX_PAGE))
                .all(self.entities())
                .await?;
            rows.into_iter()
                .map(|row| {
                    Ok(CollectionEvent {
                        at: from_ms(row.at)?,
                        who: row.who,
                        what: row.what,
                        detail: parse("a collection event", &row.detail)?,
                    })
                })
                .collect()
        })
        .await
    }
}

/// Writes into the history of a collection, in the transaction that does it.
pub(crate) async fn record_event(
    tx: &mut Tx,
    collection: CollectionId,
    at: OffsetDateTime,
    who: &str,
    what: &str,
    detail: &serde_json::Value,
) -> Result<(), StoreError> {
    let detail = clean_json(detail);
    let values = [
        Value::Id(Uuid::now_v7()),
        Value::Id(collection.uuid()),
        Value::Number(to_ms(at)),
        Value::Text(&bounded(who, MAX_TEXT_CHARS)),
        Value::Text(what),
        Value::Text(&detail),
    ];
    tx.execute("INSERT INTO collection_event (id, collection_id, at, who, what, detail) VALUES ($1, $2, $3, $4, $5, $6)", &values, None)
        .await
        .map(|_| ())
}
