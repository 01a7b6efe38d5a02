//! What was refused, and what was removed: lines that are only ever added.

use muster_wire::http::{ConsentKind, ConsentScope, MAX_CONSENT_TEXT_CHARS, MAX_PAGE};
use muster_wire::{AttemptId, DeviceId};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{kind_of, scope_of, scope_tenant, word};
use crate::connect::Store;
use crate::dialect::{Row, Tx, Value};
use crate::error::{StoreError, run};
use crate::instant::{from_ms, to_ms};
use crate::text::{MAX_DETAIL_CHARS, bounded};

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditWhat {
    /// A decision that was not recorded.
    Refused,
    /// An object of an upload that was not complete when its consent ended; written before it is removed.
    ObjectRemoved,
    /// An inbox that was closed, and with it every grant for it.
    InboxClosed,
}

impl AuditWhat {
    const ALL: &[Self] = &[Self::Refused, Self::ObjectRemoved, Self::InboxClosed];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::ObjectRemoved => "object_removed",
            Self::InboxClosed => "inbox_closed",
        }
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditLine {
    /// Its id; their order is the order in which they were written.
    pub id: Uuid,
    /// When.
    pub at: OffsetDateTime,
    /// Whose token, or which part of the product.
    pub who: String,
    /// What.
    pub what: AuditWhat,
    /// About which kind of consent.
    pub kind: ConsentKind,
    /// Of which scope.
    pub scope: ConsentScope,
    /// Of which attempt.
    pub attempt: Option<AttemptId>,
    /// Of which object.
    pub object: Option<String>,
    /// More, for a person.
    pub detail: Option<String>,
}

impl AuditLine {
    /// A line about a device.
    pub fn about(what: AuditWhat, kind: ConsentKind, device: DeviceId, at: OffsetDateTime) -> Self {
        let scope = ConsentScope::Device { id: device };
        Self { id: Uuid::now_v7(), at, who: "muster".to_owned(), what, kind, scope, attempt: None, object: None, detail: None }
    }
}

/// Writes lines, in the transaction that does what they say. An object of an attempt is written down once.
pub(super) async fn write(tx: &mut Tx, lines: &[AuditLine]) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO consent_audit (id, at, who, what, kind, scope_type, scope_tenant, scope_id, attempt_id, object, detail) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING";
    // One by one: these are the lines of a person's mistake, or of one attempt.
    for line in lines {
        let detail = line.detail.as_deref().map(|text| bounded(text, MAX_DETAIL_CHARS));
        let object = line.object.as_deref().map(|text| bounded(text, MAX_DETAIL_CHARS));
        let values = [
            Value::Id(line.id),
            Value::Number(to_ms(line.at)),
            Value::Text(&bounded(&line.who, MAX_CONSENT_TEXT_CHARS)),
            Value::Text(line.what.as_str()),
            Value::Text(line.kind.as_str()),
            Value::Text(line.scope.kind()),
            Value::Text(scope_tenant(&line.scope)),
            Value::Text(line.scope.id()),
            Value::MaybeId(line.attempt.map(AttemptId::uuid)),
            Value::MaybeText(object.as_deref()),
            Value::MaybeText(detail.as_deref()),
        ];
        tx.execute(SQL, &values, None).await?;
    }
    Ok(())
}

fn line(row: &Row) -> Result<AuditLine, StoreError> {
    let what: String = row.get(3)?;
    Ok(AuditLine {
        id: row.get(0)?,
        at: from_ms(row.get(1)?)?,
        who: row.get(2)?,
        what: word("a line of the audit", &what, AuditWhat::ALL.iter().copied().find(|known| known.as_str() == what))?,
        kind: kind_of(&row.get::<String>(4)?)?,
        scope: scope_of(&row.get::<String>(5)?, row.get(6)?, row.get(7)?)?,
        attempt: row.get::<Option<Uuid>>(8)?.and_then(AttemptId::from_uuid),
        object: row.get(9)?,
        detail: row.get(10)?,
    })
}

impl Store {
    /// A page of lines, newest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn consent_audit(&self, before: Option<Uuid>, limit: u32) -> Result<Vec<AuditLine>, StoreError> {
        run("reading the audit of consent", || async {
            let sql = "SELECT id, at, who, what, kind, scope_type, scope_tenant, scope_id, attempt_id, object, detail FROM consent_audit \
                 WHERE id < $1 ORDER BY id DESC LIMIT $2";
            let values = [Value::Id(before.unwrap_or(Uuid::max())), Value::Number(i64::from(limit.min(MAX_PAGE)))];
            self.reader().await?.fetch(sql, &values, None).await?.iter().map(line).collect()
        })
        .await
    }
}
