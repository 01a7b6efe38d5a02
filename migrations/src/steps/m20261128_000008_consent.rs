//! Consent: decisions, terms, what was refused or removed; which collections need it, and what devices say of it.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[sea_orm_migration::async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        super::run(manager, POSTGRES, SQLITE).await?;
        let text = TERMS.replace('\'', "''");
        let insert = format!(
            "INSERT INTO consent_terms (kind, terms_id, version, locale, number, sha256, default_is, material, body, published_at, published_by) \
             VALUES ('proactive', 'proactive-log-collection', '2026-11-28', 'en-GB', 1, '{TERMS_SHA256}', 'opt_in', 0, '{text}', {PUBLISHED_MS}, 'muster')"
        );
        super::run(manager, &insert, &insert).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        super::run(manager, POSTGRES_DOWN, SQLITE_DOWN).await
    }
}

/// The terms that come with the program: opt-in. An operator publishes others as a new version.
const TERMS: &str = include_str!("../terms/proactive-log-collection.2026-11-28.en-GB.txt");
/// Of that file; a test of the store computes it.
const TERMS_SHA256: &str = "42f7792862a9ea57b700a13d7e391eefa7be475eff8c8127bd5c8a55be5a94b6";
/// 2026-11-28 00:00 UTC.
const PUBLISHED_MS: i64 = 1_795_824_000_000;

// A record is written once and never again. What holds for a scope is its row with the highest version, and two writers cannot both write
// the next one. The tenant of a device is not part of its key: its own decisions say whose device it was.
const POSTGRES: &str = r#"
CREATE TABLE consent_record (
    id uuid PRIMARY KEY,
    kind text NOT NULL,
    scope_type text NOT NULL,
    scope_tenant text NOT NULL,
    scope_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    decision text NOT NULL,
    basis text NOT NULL,
    tenant text,
    terms_id text,
    terms_version text,
    terms_sha256 text,
    terms_locale text,
    terms_material smallint,
    terms_number bigint,
    catalogue_version bigint,
    actor_id text NOT NULL,
    actor_role text NOT NULL,
    actor_auth text,
    channel text NOT NULL,
    recorded_by text NOT NULL,
    reason text,
    decided_at bigint NOT NULL,
    effective_at bigint NOT NULL,
    expires_at bigint,
    case_number text,
    supersedes uuid
);
CREATE UNIQUE INDEX consent_record_scope ON consent_record (kind, scope_type, scope_tenant, scope_id, version);

CREATE TABLE consent_terms (
    kind text NOT NULL,
    terms_id text NOT NULL,
    version text NOT NULL,
    locale text NOT NULL,
    number bigint NOT NULL,
    sha256 text NOT NULL,
    default_is text NOT NULL,
    material smallint NOT NULL,
    body text NOT NULL,
    published_at bigint NOT NULL,
    published_by text NOT NULL,
    PRIMARY KEY (kind, version, locale)
);

CREATE TABLE consent_audit (
    id uuid PRIMARY KEY,
    at bigint NOT NULL,
    who text NOT NULL,
    what text NOT NULL,
    kind text NOT NULL,
    scope_type text NOT NULL,
    scope_tenant text NOT NULL,
    scope_id text NOT NULL,
    attempt_id uuid,
    object text,
    detail text
);
CREATE UNIQUE INDEX consent_audit_object ON consent_audit (attempt_id, object) WHERE attempt_id IS NOT NULL;

CREATE TABLE consent_cleanup (
    attempt_id uuid PRIMARY KEY,
    device_id text NOT NULL,
    kind text NOT NULL,
    since bigint NOT NULL,
    next_at bigint NOT NULL,
    looks bigint NOT NULL DEFAULT 0
);

ALTER TABLE collection ADD COLUMN origin text, ADD COLUMN consent_kind text;
CREATE INDEX collection_consent ON collection (id) WHERE consent_kind IS NOT NULL AND closed_at IS NULL;
ALTER TABLE task ADD COLUMN consent_id uuid;
ALTER TABLE device ADD COLUMN consent_at bigint, ADD COLUMN heard_at bigint;
"#;

const SQLITE: &str = r#"
CREATE TABLE consent_record (
    id BLOB NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    scope_type TEXT NOT NULL,
    scope_tenant TEXT NOT NULL,
    scope_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    decision TEXT NOT NULL,
    basis TEXT NOT NULL,
    tenant TEXT,
    terms_id TEXT,
    terms_version TEXT,
    terms_sha256 TEXT,
    terms_locale TEXT,
    terms_material INTEGER,
    terms_number INTEGER,
    catalogue_version INTEGER,
    actor_id TEXT NOT NULL,
    actor_role TEXT NOT NULL,
    actor_auth TEXT,
    channel TEXT NOT NULL,
    recorded_by TEXT NOT NULL,
    reason TEXT,
    decided_at INTEGER NOT NULL,
    effective_at INTEGER NOT NULL,
    expires_at INTEGER,
    case_number TEXT,
    supersedes BLOB
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX consent_record_scope ON consent_record (kind, scope_type, scope_tenant, scope_id, version);

CREATE TABLE consent_terms (
    kind TEXT NOT NULL,
    terms_id TEXT NOT NULL,
    version TEXT NOT NULL,
    locale TEXT NOT NULL,
    number INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    default_is TEXT NOT NULL,
    material INTEGER NOT NULL,
    body TEXT NOT NULL,
    published_at INTEGER NOT NULL,
    published_by TEXT NOT NULL,
    PRIMARY KEY (kind, version, locale)
) STRICT, WITHOUT ROWID;

CREATE TABLE consent_audit (
    id BLOB NOT NULL PRIMARY KEY,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    what TEXT NOT NULL,
    kind TEXT NOT NULL,
    scope_type TEXT NOT NULL,
    scope_tenant TEXT NOT NULL,
    scope_id TEXT NOT NULL,
    attempt_id BLOB,
    object TEXT,
    detail TEXT
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX consent_audit_object ON consent_audit (attempt_id, object) WHERE attempt_id IS NOT NULL;

CREATE TABLE consent_cleanup (
    attempt_id BLOB NOT NULL PRIMARY KEY,
    device_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    since INTEGER NOT NULL,
    next_at INTEGER NOT NULL,
    looks INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

ALTER TABLE collection ADD COLUMN origin TEXT;
ALTER TABLE collection ADD COLUMN consent_kind TEXT;
CREATE INDEX collection_consent ON collection (id) WHERE consent_kind IS NOT NULL AND closed_at IS NULL;
ALTER TABLE task ADD COLUMN consent_id BLOB;
ALTER TABLE device ADD COLUMN consent_at INTEGER;
ALTER TABLE device ADD COLUMN heard_at INTEGER;
"#;

const POSTGRES_DOWN: &str = r#"
DROP INDEX collection_consent;
ALTER TABLE collection DROP COLUMN origin, DROP COLUMN consent_kind;
ALTER TABLE task DROP COLUMN consent_id;
ALTER TABLE device DROP COLUMN consent_at, DROP COLUMN heard_at;
DROP TABLE consent_cleanup; DROP TABLE consent_audit; DROP TABLE consent_terms; DROP TABLE consent_record;
"#;

const SQLITE_DOWN: &str = r#"
DROP INDEX collection_consent;
ALTER TABLE collection DROP COLUMN origin;
ALTER TABLE collection DROP COLUMN consent_kind;
ALTER TABLE task DROP COLUMN consent_id;
ALTER TABLE device DROP COLUMN consent_at;
ALTER TABLE device DROP COLUMN heard_at;
DROP TABLE consent_cleanup; DROP TABLE consent_audit; DROP TABLE consent_terms; DROP TABLE consent_record;
"#;
