//! Messages that were no alert, or none that may be acted on, kept until somebody has looked.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_wire::ParkedId;
use muster_wire::alert::{AlertVia, Poison};
use muster_wire::http::{MAX_PAGE, MAX_PARKED_BYTES, MAX_TEXT_CHARS, ParkedState, ParkedView};
use time::OffsetDateTime;
use uuid::Uuid;

use super::read::word;
use super::write::MAX_WHY_CHARS;
use super::{NewParked, ParkedFilter};
use crate::collections::{number, parse};
use crate::connect::Store;
use crate::dialect::{Batch, ID_BYTES, Row, Tx, VALUE_BYTES, Value, parcels};
use crate::error::{StoreError, run};
use crate::instant::{from_ms, maybe_from_ms, to_ms};
use crate::text::bounded;

const COLUMNS: &str = "p.id, p.received_at, p.via, p.sender, p.reason, p.detail, p.state, p.changed_by, p.changed_at, p.bytes, p.cut, \
    p.content_type, p.attributes";

fn view(row: &Row) -> Result<ParkedView, StoreError> {
    let (via, reason, state): (String, String, String) = (row.get(2)?, row.get(4)?, row.get(6)?);
    Ok(ParkedView {
        id: ParkedId::from_uuid(row.get(0)?),
        received_at: from_ms(row.get(1)?)?,
        via: word("the way of a message", &via, AlertVia::from_word(&via))?,
        from: row.get(3)?,
        reason: word("why a message was refused", &reason, Poison::from_word(&reason))?,
        detail: row.get(5)?,
        state: word("the state of a parked message", &state, ParkedState::from_word(&state))?,
        changed_by: row.get(7)?,
        changed_at: maybe_from_ms(row.get(8)?)?,
        bytes: number("a number of bytes", row.get::<i64>(9)?)?,
        body: None,
        body_base64: None,
        cut: row.get::<i16>(10)? == 1,
        content_type: row.get(11)?,
        attributes: row.get::<Option<String>>(12)?.map(|text| parse("attributes of a message", &text)).transpose()?.unwrap_or_default(),
    })
}

/// A body as a column of text takes it: as it is where it is text, otherwise in base64.
struct Body {
    text: String,
    in_base64: bool,
    cut: bool,
}

impl Body {
    fn new(bytes: &[u8]) -> Self {
        let cut = bytes.len() > MAX_PARKED_BYTES;
        let kept = &bytes[..bytes.len().min(MAX_PARKED_BYTES)];
        // A text that is cut within a character is a text still.
        let text = match std::str::from_utf8(kept) {
            Ok(text) => Some(text),
            Err(error) if cut && error.error_len().is_none() => std::str::from_utf8(&kept[..error.valid_up_to()]).ok(),
            Err(_) => None,
        };
        match text.filter(|text| !text.contains('\0')) {
            Some(text) => Self { text: text.to_owned(), in_base64: false, cut },
            None => Self { text: STANDARD.encode(kept), in_base64: true, cut },
        }
    }
}

/// Of these digests those that are parked, with the ids of their rows.
async fn parked_before(tx: &mut Tx, digests: &[&str]) -> Result<HashMap<String, ParkedId>, StoreError> {
    const SQL: &str = "SELECT p.digest, p.id FROM [[v]] JOIN parked_alert p ON p.digest = v.digest AND p.state = 'parked'";
    let mut ids = HashMap::with_capacity(digests.len());
    for parcel in parcels(digests, |digest| VALUE_BYTES + digest.len()) {
        let batch = Batch::default().texts("digest", parcel.iter().map(|digest| Some(*digest)));
        for row in tx.fetch(SQL, &[], Some(&batch)).await? {
            ids.insert(row.get(0)?, ParkedId::from_uuid(row.get(1)?));
        }
    }
    Ok(ids)
}

/// Writes those down that are not parked yet, each with its digest; what somebody else parks at the same time stays as it is.
async fn insert(tx: &mut Tx, new: &[(&NewParked, &str)]) -> Result<(), StoreError> {
    let bodies: Vec<Body> = new.iter().map(|(parked, _)| Body::new(&parked.body)).collect();
    let attributes =
        |parked: &NewParked| (!parked.attributes.is_empty()).then(|| serde_json::to_string(&parked.attributes)).and_then(Result::ok);
    let attributes: Vec<Option<String>> = new.iter().map(|(parked, _)| attributes(parked)).collect();
    let rows: Vec<_> = new.iter().zip(&bodies).zip(&attributes).map(|((new, body), attributes)| (new, body, attributes)).collect();
    let bytes = |((parked, digest), body, attributes): &(&(&NewParked, &str), &Body, &Option<String>)| {
        let texts = parked.from.len() + parked.refused.detail.len() + digest.len() + body.text.len();
        let maybe = parked.content_type.as_ref().map_or(0, String::len) + attributes.as_ref().map_or(0, String::len);
        ID_BYTES + 13 * VALUE_BYTES + 60 + texts + maybe
    };
    let sql = format!(
        "INSERT INTO parked_alert (id, digest, received_at, via, sender, reason, detail, state, bytes, cut, in_base64, content_type, \
         attributes, body) SELECT v.id, v.digest, v.received_at, v.via, v.sender, v.reason, v.detail, '{}', v.bytes, v.cut, v.in_base64, \
         v.content_type, v.attributes, v.body FROM [[v]] WHERE true ON CONFLICT (digest) WHERE state = 'parked' DO NOTHING",
        ParkedState::Parked
    );
    for parcel in parcels(&rows, bytes) {
        let parked = || parcel.iter().map(|((parked, _), ..)| *parked);
        let clean = |text: &str, most: usize| bounded(text, most).into_owned();
        let from: Vec<String> = parked().map(|parked| clean(&parked.from, MAX_TEXT_CHARS)).collect();
        let details: Vec<String> = parked().map(|parked| clean(&parked.refused.detail, MAX_WHY_CHARS)).collect();
        let types: Vec<Option<String>> =
            parked().map(|parked| parked.content_type.as_deref().map(|text| clean(text, MAX_TEXT_CHARS))).collect();
        let batch = Batch::default()
            .ids("id", parked().map(|parked| parked.id.uuid()))
            .texts("digest", parcel.iter().map(|((_, digest), ..)| Some(*digest)))
            .numbers("received_at", parked().map(|parked| Some(to_ms(parked.received_at))))
            .texts("via", parked().map(|parked| Some(parked.via.as_str())))
            .texts("sender", from.iter().map(|text| Some(text.as_str())))
            .texts("reason", parked().map(|parked| Some(parked.refused.reason.as_str())))
            .texts("detail", details.iter().map(|text| Some(text.as_str())))
            .numbers("bytes", parked().map(|parked| i64::try_from(parked.body.len()).ok()))
            .smalls("cut", parcel.iter().map(|(_, body, _)| Some(i16::from(body.cut))))
            .smalls("in_base64", parcel.iter().map(|(_, body, _)| Some(i16::from(body.in_base64))))
            .texts("content_type", types.iter().map(Option::as_deref))
            .texts("attributes", parcel.iter().map(|(.., attributes)| attributes.as_deref()))
            .texts("body", parcel.iter().map(|(_, body, _)| Some(body.text.as_str())));
        tx.execute(&sql, &[], Some(&batch)).await?;
    }
    Ok(())
}

impl Store {
    /// Parks messages; one that was parked before (same digest, still parked) keeps its row and its id. Returns the ids, in order.
    ///
    /// # Errors
    /// The database's; then nothing was parked.
    pub async fn park(&self, parked: &[NewParked]) -> Result<Vec<ParkedId>, StoreError> {
        if parked.is_empty() {
            return Ok(Vec::new());
        }
        run("parking messages", || async {
            let mut tx = self.begin().await?;
            // Somebody who sends the same again and again costs a look, and not the body each time.
            let digests: Vec<Cow<'_, str>> = parked.iter().map(|parked| bounded(&parked.digest, MAX_TEXT_CHARS)).collect();
            let mut ids = parked_before(&mut tx, &digests.iter().map(AsRef::as_ref).collect::<Vec<_>>()).await?;
            let mut seen = HashSet::new();
            let with_digest = parked.iter().zip(&digests).map(|(parked, digest)| (parked, digest.as_ref()));
            let new: Vec<(&NewParked, &str)> =
                with_digest.filter(|(_, digest)| !ids.contains_key(*digest) && seen.insert(*digest)).collect();
            if !new.is_empty() {
                insert(&mut tx, &new).await?;
                ids.extend(parked_before(&mut tx, &new.iter().map(|(_, digest)| *digest).collect::<Vec<_>>()).await?);
                tx.commit().await?;
            }
            let id = |(parked, digest): (&NewParked, &Cow<'_, str>)| {
                ids.get(digest.as_ref()).copied().ok_or_else(|| StoreError::Inconsistent(format!("{} was not parked", parked.id)))
            };
            parked.iter().zip(&digests).map(id).collect()
        })
        .await
    }

    /// Parked messages, newest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn parked(&self, filter: &ParkedFilter) -> Result<Vec<ParkedView>, StoreError> {
        run("reading parked messages", || async {
            let sql = format!(
                "SELECT {COLUMNS} FROM parked_alert p WHERE p.id < $1 AND ($2 IS NULL OR p.state = $2) AND ($3 IS NULL OR p.reason = $3) \
                 ORDER BY p.id DESC LIMIT $4"
            );
            let values = [
                Value::Id(filter.before.map_or(Uuid::max(), ParkedId::uuid)),
                Value::MaybeText(filter.state.map(ParkedState::as_str)),
                Value::MaybeText(filter.reason.map(Poison::as_str)),
                Value::Number(i64::from(filter.limit.min(MAX_PAGE))),
            ];
            self.reader().await?.fetch(&sql, &values, None).await?.iter().map(view).collect()
        })
        .await
    }

    /// One parked message with its body.
    ///
    /// # Errors
    /// The database's.
    pub async fn parked_message(&self, id: ParkedId) -> Result<Option<ParkedView>, StoreError> {
        run("reading a parked message", || async {
            let sql = format!("SELECT {COLUMNS}, p.in_base64, p.body FROM parked_alert p WHERE p.id = $1");
            let rows = self.reader().await?.fetch(&sql, &[Value::Id(id.uuid())], None).await?;
            let Some(row) = rows.first() else { return Ok(None) };
            let body = Some(row.get::<String>(14)?);
            let (body, body_base64) = if row.get::<i16>(13)? == 1 { (None, body) } else { (body, None) };
            Ok(Some(ParkedView { body, body_base64, ..view(row)? }))
        })
        .await
    }

    /// Marks parked messages replayed or dropped; false: it is not parked (any more).
    ///
    /// # Errors
    /// The database's.
    pub async fn mark_parked(&self, id: ParkedId, state: ParkedState, who: &str, now: OffsetDateTime) -> Result<bool, StoreError> {
        run("marking a parked message", || async {
            let mut tx = self.begin().await?;
            let sql = "UPDATE parked_alert SET state = $1, changed_by = $2, changed_at = $3 WHERE id = $4 AND state = 'parked'";
            let who = bounded(who, MAX_TEXT_CHARS);
            let values = [Value::Text(state.as_str()), Value::Text(&who), Value::Number(to_ms(now)), Value::Id(id.uuid())];
            let marked = tx.execute(sql, &values, None).await? == 1;
            tx.commit().await?;
            Ok(marked)
        })
        .await
    }
}
