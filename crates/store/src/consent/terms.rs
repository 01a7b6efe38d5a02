//! Terms: texts that are published once and never changed.

use muster_wire::http::{ConsentKind, NewTerms, TermsDefault, TermsRef, TermsView};
use time::OffsetDateTime;

use super::{kind_of, word};
use crate::collections::number;
use crate::connect::Store;
use crate::dialect::{Row, Tx, Value};
use crate::error::{StoreError, run};
use crate::instant::{from_ms, to_ms};
use crate::text::bounded;
use muster_wire::http::{MAX_CONSENT_TEXT_CHARS, MAX_TERMS, MAX_TERMS_CHARS};

/// One text, without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Number of its version.
    pub number: u32,
    /// What stands in a record.
    pub named: TermsRef,
    /// What silence means under it.
    pub default: TermsDefault,
}

/// What came of a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// It is there.
    New(Box<TermsView>),
    /// This version was published in this language before, or its other languages have another meaning.
    Exists,
    /// There are [`MAX_TERMS`] already.
    TooMany,
}

const COLUMNS: &str = "kind, terms_id, version, locale, number, sha256, default_is, material, published_at, published_by";

fn view(row: &Row, text: Option<String>) -> Result<TermsView, StoreError> {
    let default: String = row.get(6)?;
    Ok(TermsView {
        kind: kind_of(&row.get::<String>(0)?)?,
        id: row.get(1)?,
        version: row.get(2)?,
        locale: row.get(3)?,
        number: number("the number of terms", row.get::<i64>(4)?)?,
        sha256: row.get(5)?,
        default: word("what silence means", &default, TermsDefault::from_word(&default))?,
        material: row.get::<i16>(7)? == 1,
        published_at: from_ms(row.get(8)?)?,
        published_by: row.get(9)?,
        text,
    })
}

/// All texts of a kind, oldest version first.
pub(super) async fn terms_in(tx: &mut Tx, kind: ConsentKind) -> Result<Vec<Terms>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM consent_terms WHERE kind = $1 ORDER BY number, locale");
    let rows = tx.fetch(&sql, &[Value::Text(kind.as_str())], None).await?;
    let terms = rows.iter().map(|row| {
        let TermsView { id, version, locale, number, sha256, default, material, .. } = view(row, None)?;
        Ok(Terms { number, named: TermsRef { id, version, sha256, locale, material }, default })
    });
    terms.collect()
}

impl Store {
    /// All texts, the current version first; without the text itself.
    ///
    /// # Errors
    /// The database's.
    pub async fn terms(&self, kind: ConsentKind) -> Result<Vec<TermsView>, StoreError> {
        run("reading terms", || async {
            let sql = format!("SELECT {COLUMNS} FROM consent_terms WHERE kind = $1 ORDER BY number DESC, locale");
            let rows = self.reader().await?.fetch(&sql, &[Value::Text(kind.as_str())], None).await?;
            rows.iter().map(|row| view(row, None)).collect()
        })
        .await
    }

    /// One version with its text; in any language when none is named.
    ///
    /// # Errors
    /// The database's.
    pub async fn terms_text(&self, kind: ConsentKind, version: &str, locale: Option<&str>) -> Result<Option<TermsView>, StoreError> {
        run("reading terms", || async {
            let sql = format!(
                "SELECT {COLUMNS}, body FROM consent_terms WHERE kind = $1 AND version = $2 AND ($3 IS NULL OR locale = $3) ORDER BY locale LIMIT 1"
            );
            let values = [Value::Text(kind.as_str()), Value::Text(version), Value::MaybeText(locale)];
            let rows = self.reader().await?.fetch(&sql, &values, None).await?;
            rows.first().map(|row| view(row, Some(row.get(10)?))).transpose()
        })
        .await
    }

    /// Publishes a text. A version that is not there becomes the current one; with `material`, all grants to earlier ones are suspended from
    /// this moment.
    ///
    /// # Errors
    /// The database's.
    pub async fn publish_terms(&self, new: &NewTerms, sha256: &str, who: &str, now: OffsetDateTime) -> Result<Published, StoreError> {
        let text = bounded(&new.text, MAX_TERMS_CHARS);
        let who = bounded(who, MAX_CONSENT_TEXT_CHARS);
        run("publishing terms", || async {
            let mut tx = self.begin().await?;
            let known = terms_in(&mut tx, new.kind).await?;
            if known.len() as u64 >= MAX_TERMS {
                return Ok(Published::TooMany);
            }
            let same = known.iter().find(|terms| terms.named.version == new.version);
            if same.is_some_and(|terms| terms.default != new.default || terms.named.material != new.material) {
                return Ok(Published::Exists);
            }
            let newest = known.last().map_or(0, |terms| terms.number);
            let number = same.map_or(newest + 1, |terms| terms.number);
            let id = known.first().map_or_else(|| new.kind.as_str().to_owned(), |terms| terms.named.id.clone());
            let sql = "INSERT INTO consent_terms (kind, terms_id, version, locale, number, sha256, default_is, material, body, published_at, published_by) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, CAST($8 AS smallint), $9, $10, $11) ON CONFLICT (kind, version, locale) DO NOTHING";
            let values = [
                Value::Text(new.kind.as_str()),
                Value::Text(&id),
                Value::Text(&new.version),
                Value::Text(&new.locale),
                Value::Number(i64::from(number)),
                Value::Text(sha256),
                Value::Text(new.default.as_str()),
                Value::Number(i64::from(new.material)),
                Value::Text(&text),
                Value::Number(to_ms(now)),
                Value::Text(&who),
            ];
            if tx.execute(sql, &values, None).await? == 0 {
                return Ok(Published::Exists);
            }
            tx.commit().await?;
            Ok(Published::New(Box::new(TermsView {
                kind: new.kind,
                id,
                version: new.version.clone(),
                locale: new.locale.clone(),
                number,
                sha256: sha256.to_owned(),
                default: new.default,
                material: new.material,
                published_at: now,
                published_by: who.clone().into_owned(),
                text: None,
            })))
        })
        .await
    }
}
