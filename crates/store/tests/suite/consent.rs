//! Consent on record, and what hangs on it.

use std::time::Duration;

use muster_domain::consent::{By, Refusal, What};
use muster_store::{
    Birth, Decided, Deciding, DeviceEntry, LAST_LOOK_AFTER, MAX_SUSPENSION, NewCollection, Published, RECHECK_SUSPENDED, StandingFilter,
    StepOutcome, Store,
};
use muster_wire::http::{Actor, Basis, Channel, ConsentKind, ConsentScope, ConsentState, Decision, NewTerms, Role, TermsDefault, Verdict};
use muster_wire::presence::{Presence, ProactiveConsent};
use muster_wire::{CollectionId, DeviceId, Reason, TaskState};
use serde_json::json;
use time::OffsetDateTime;

use crate::harness::{Database, MINUTE, NOW, birth, claim_request, device, devices, new_collection};
use crate::seal::seal;

const KIND: ConsentKind = ConsentKind::Proactive;
const HOUR: Duration = Duration::from_secs(3600);

fn of_device(n: usize) -> ConsentScope {
    ConsentScope::Device { id: device(n) }
}

fn deciding(scope: ConsentScope, what: What) -> Deciding {
    Deciding {
        kind: KIND,
        scope,
        what,
        by: By::Customer,
        actor: Actor { id: "ada@contoso.example".to_owned(), role: Role::TenantOwner, auth: Some("mfa".to_owned()) },
        channel: Channel::Portal,
        recorded_by: "ops".to_owned(),
        tenant: None,
        terms_version: None,
        locale: None,
        expires_at: None,
        reason: None,
        case: None,
        expect_version: None,
    }
}

async fn decide(store: &Store, scope: ConsentScope, what: What) -> Decided {
    store.decide_consent(&deciding(scope, what), NOW).await.expect("asked")
}

async fn grant(store: &Store, scope: ConsentScope) -> muster_wire::ConsentId {
    match decide(store, scope, What::Enable).await {
        Decided::Recorded { record, .. } => record.consent_id,
        other => panic!("not granted: {other:?}"),
    }
}

async fn revoke(store: &Store, scope: ConsentScope) -> u64 {
    match decide(store, scope, What::Disable).await {
        Decided::Recorded { cancelled, .. } => cancelled,
        other => panic!("not revoked: {other:?}"),
    }
}

fn says(word: ProactiveConsent, said_at: Option<OffsetDateTime>) -> Presence {
    Presence { proactive_consent: Some(word), proactive_consent_at: said_at, ..birth() }
}

async fn born(store: &Store, n: usize, presence: Presence, at: OffsetDateTime) {
    store.record_births(&[Birth { device: device(n), presence, at, retained: false }]).await.expect("recorded");
}

/// Devices of one tenant and site whose births say `enabled`, and no decision but those.
async fn heard(db: &Database, count: usize) {
    db.store
        .record_births(
            &devices(count).into_iter().map(|device| Birth { device, presence: birth(), at: NOW, retained: false }).collect::<Vec<_>>(),
        )
        .await
        .expect("recorded");
    let tag =
        |n| DeviceEntry { device: device(n), tags: Some(json!({"tenant": "contoso", "site": format!("site-{}", n % 2)})), parent: None };
    let entries: Vec<_> = (0..count).map(tag).collect();
    db.store.change_devices(&entries, "ada", NOW).await.expect("tagged");
    // Their own word is there without a decision of their own: as if an older version had noted it.
    db.sql("UPDATE device SET consent = 'enabled'").await;
}

fn proactive(count: usize) -> NewCollection {
    NewCollection { needs_consent: Some(KIND), ..new_collection(&devices(count)) }
}

async fn made(store: &Store, new: NewCollection) -> CollectionId {
    store.create_collection(&new).await.expect("made");
    new.id
}

async fn state(store: &Store, n: usize, now: OffsetDateTime) -> ConsentState {
    store.consent(KIND, &of_device(n), now).await.expect("read").expect("a device").state
}

async fn reasons(db: &Database, id: CollectionId, count: u32) -> Vec<(TaskState, Option<Reason>)> {
    let mut all = Vec::new();
    for n in 0..count {
        let task = db.store.task(id.task(n)).await.expect("read").expect("a task").task;
        all.push((task.state, task.reason));
    }
    all
}

async fn claim_at(db: &Database, id: CollectionId, now: OffsetDateTime) -> Vec<DeviceId> {
    let request = muster_store::ClaimRequest { consent: Some(KIND), now, lease_until: now + MINUTE, ..claim_request(id, 100) };
    db.store.claim(&request).await.expect("a claim").tasks.into_iter().map(|task| task.device).collect()
}

on_both! {
    /// Who agreed, when, by which channel, to which terms; and what happens to who may not (C6).
    async fn a_decision_names_its_customer(db) {
        heard(&db, 2).await;
        let vendor = Deciding {
            by: By::Vendor,
            actor: Actor { id: "ops".to_owned(), role: Role::Vendor, auth: None },
            ..deciding(of_device(0), What::Enable)
        };
        let refused = db.store.decide_consent(&vendor, NOW).await.expect("asked");
        assert_eq!(refused, Decided::Refused { refusal: Refusal::Vendor, state: ConsentState::None });
        let smaller = Deciding { by: By::SmallerRole, ..deciding(of_device(0), What::Enable) };
        assert!(matches!(db.store.decide_consent(&smaller, NOW).await.expect("asked"), Decided::Refused { refusal: Refusal::Role, .. }));
        assert_eq!(state(&db.store, 0, NOW).await, ConsentState::None);
        let audit = db.store.consent_audit(None, 10).await.expect("read");
        assert_eq!(audit.len(), 2);
        assert!(audit.iter().all(|line| line.what.as_str() == "refused" && line.who == "ops" && line.scope == of_device(0)), "{audit:?}");
        assert!(audit[1].detail.as_deref().is_some_and(|detail| detail.contains("the vendor does not decide")), "{audit:?}");

        let id = grant(&db.store, of_device(0)).await;
        let view = db.store.consent(KIND, &of_device(0), NOW).await.expect("read").expect("a device");
        assert_eq!((view.state, view.consent, view.tenant.as_deref(), view.site.as_deref()), (ConsentState::Granted, Some(id), Some("contoso"), Some("site-0")));
        let record = &view.history[0];
        assert_eq!((record.decision, record.basis, record.channel, record.version), (Decision::Granted, Basis::Explicit, Channel::Portal, 1));
        assert_eq!((record.actor.id.as_str(), record.decided_at, record.recorded_by.as_str()), ("ada@contoso.example", NOW, "ops"));
        let terms = record.terms.as_ref().expect("terms");
        let shipped = db.store.terms_text(KIND, &terms.version, Some(&terms.locale)).await.expect("read").expect("shipped");
        assert_eq!((shipped.sha256.as_str(), shipped.default, shipped.number), (terms.sha256.as_str(), TermsDefault::OptIn, 1));
        assert!(shipped.text.expect("a text").contains("You can withdraw at any time"));
        assert!(matches!(decide(&db.store, of_device(0), What::Enable).await, Decided::Refused { refusal: Refusal::NotInTable { .. }, .. }), "it is granted");
        assert_eq!(revoke(&db.store, of_device(0)).await, 0);
        let again = grant(&db.store, of_device(0)).await;
        let view = db.store.consent(KIND, &of_device(0), NOW).await.expect("read").expect("a device");
        assert_eq!(view.history.iter().map(|record| record.version).collect::<Vec<_>>(), [3, 2, 1]);
        assert_eq!((view.history[0].consent_id, view.history[1].supersedes), (again, Some(id)), "earlier data keeps its old id");
        let unknown = ConsentScope::Device { id: "nobody".parse().expect("an id") };
        assert_eq!(decide(&db.store, unknown, What::Enable).await, Decided::UnknownDevice);
        let other_terms = Deciding { terms_version: Some("1999-01-01".to_owned()), ..deciding(of_device(1), What::Enable) };
        assert_eq!(db.store.decide_consent(&other_terms, NOW).await.expect("asked"), Decided::NotTheTerms);
        let filter = StandingFilter { kind: KIND, before: None, limit: 10, tenant: Some("contoso"), scope_type: Some("device"), state: Some(ConsentState::Granted) };
        assert_eq!(db.store.consents(&filter, NOW).await.expect("listed").len(), 1);
        assert!(db.store.consents(&StandingFilter { state: Some(ConsentState::Revoked), ..filter }, NOW).await.expect("listed").is_empty());
    }

    /// The first and the second check: when a collection is made, and in the transaction that claims.
    async fn nothing_is_made_or_claimed_without_consent(db) {
        heard(&db, 4).await;
        grant(&db.store, ConsentScope::Tenant { id: "contoso".to_owned() }).await;
        revoke_unasked(&db, of_device(1)).await;
        let id = made(&db.store, proactive(4)).await;
        let skipped = (TaskState::Skipped, Some(Reason::ConsentMissing));
        let queued = (TaskState::Queued, None);
        assert_eq!(reasons(&db, id, 4).await, [queued, skipped, queued, queued]);
        // Ended by nobody: the record says so when the claim asks.
        db.sql("UPDATE consent_record SET expires_at = 1 WHERE scope_type = 'tenant'").await;
        let own = grant(&db.store, of_device(2)).await;
        assert_eq!(claim_at(&db, id, NOW).await, [device(2)]);
        let named = |n| { let db = db.clone(); async move { db.store.task(id.task(n)).await.expect("read").expect("a task").task.consent } };
        assert_eq!((named(2).await, named(1).await), (Some(own), None), "the decision in force when it was sent");
        assert_eq!(reasons(&db, id, 4).await, [skipped, skipped, (TaskState::Dispatched, None), skipped]);
        // Without a need there is no question.
        let plain = made(&db.store, new_collection(&devices(4))).await;
        assert_eq!(db.claim(plain, 10).await.len(), 4);
    }

    /// C3 and C4: the device's word, and how old it may be.
    async fn a_suspended_consent_waits_and_then_ends(db) {
        heard(&db, 2).await;
        grant(&db.store, of_device(0)).await;
        grant(&db.store, of_device(1)).await;
        let new = NewCollection { expires_at: NOW + 90 * 24 * HOUR, ..proactive(2) };
        let id = made(&db.store, new).await;
        born(&db.store, 1, says(ProactiveConsent::Unknown, None), NOW).await;
        let late = NOW + 49 * HOUR;
        assert_eq!((state(&db.store, 0, late).await, state(&db.store, 1, NOW).await), (ConsentState::Suspended, ConsentState::Suspended));
        assert!(claim_at(&db, id, NOW + 47 * HOUR).await == [device(0)]);
        assert!(claim_at(&db, id, late).await.is_empty());
        assert_eq!(reasons(&db, id, 2).await[1], (TaskState::Queued, None));
        // It says enabled again: granted, and claimed after the pause.
        born(&db.store, 1, says(ProactiveConsent::Enabled, None), late).await;
        assert!(claim_at(&db, id, late + RECHECK_SUSPENDED - Duration::from_secs(1)).await.is_empty());
        assert_eq!(claim_at(&db, id, late + RECHECK_SUSPENDED).await, [device(1)]);
        // Not for ever.
        let suspended = made(&db.store, NewCollection { created_at: late, ..proactive(2) }).await;
        assert_eq!(reasons(&db, suspended, 2).await[0].0, TaskState::Skipped, "no new task while it is suspended");
        assert_eq!(db.store.end_unconsented(KIND, NOW + MAX_SUSPENSION).await.expect("swept"), 0, "still granted then");
        assert!(db.store.end_unconsented(KIND, late + 49 * HOUR + MAX_SUSPENSION).await.expect("swept") > 0);
    }

    /// 3.5: what is queued and what is under way ends with the decision; what was sealed stays; the rest is handed to the clean-up.
    async fn a_withdrawal_ends_what_is_open_and_leaves_what_is_sealed(db) {
        heard(&db, 5).await;
        let site = ConsentScope::Site { id: "site-0".to_owned(), tenant: "contoso".to_owned() };
        grant(&db.store, ConsentScope::Tenant { id: "contoso".to_owned() }).await;
        let id = made(&db.store, proactive(5)).await;
        let plain = made(&db.store, new_collection(&devices(5))).await;
        for n in [0, 2, 3] {
            db.force(id.task(n), TaskState::Uploaded).await;
        }
        db.force(id.task(1), TaskState::Accepted).await;
        let good = muster_store::Seal { consent: Some(KIND), ..seal(id.task(0).attempt(1), device(0), Verdict::Complete) };
        assert_eq!(db.store.seal(std::slice::from_ref(&good)).await.expect("sealed"), [StepOutcome::Applied]);
        // A refusal of the site wins over the grant of the tenant: devices 0, 2 and 4 are there.
        let Decided::Recorded { cancelled, record } = decide(&db.store, site, What::Disable).await else { panic!("not recorded") };
        assert_eq!((cancelled, record.decision), (2, Decision::Declined));
        let ended = (TaskState::Cancelled, Some(Reason::ConsentMissing));
        let all = reasons(&db, id, 5).await;
        assert_eq!((all[0].0, all[2], all[4]), (TaskState::Verified, ended, ended));
        assert_eq!((all[1].0, all[3].0), (TaskState::Accepted, TaskState::Uploaded), "another site");
        assert!(reasons(&db, plain, 5).await.iter().all(|(state, _)| *state == TaskState::Queued), "asked for by a person");
        assert!(db.store.bundle(id.task(0)).await.expect("read").is_some(), "sealed before stays");
        // What was under way and not sealed left something behind; what was queued did not.
        let lease = NOW + MINUTE;
        let due = db.store.take_cleanups(NOW, lease).await.expect("taken");
        assert_eq!(due.iter().map(|due| (due.attempt, due.device.clone())).collect::<Vec<_>>(), [(id.task(2).attempt(1), device(2))]);
        assert!(db.store.take_cleanups(NOW, lease).await.expect("taken").is_empty(), "one at a time");
        // Whoever took it died.
        assert_eq!(db.store.take_cleanups(lease, lease + MINUTE).await.expect("taken"), due);
        db.store.cleaned_up(&due[0], lease).await.expect("noted");
        assert_eq!(db.store.cleanups_waiting().await.expect("counted"), 0);
        assert_eq!(db.store.take_cleanups(NOW + LAST_LOOK_AFTER, NOW + LAST_LOOK_AFTER + MINUTE).await.expect("taken"), due, "looked at once more");
        db.store.cleaned_up(&due[0], NOW + LAST_LOOK_AFTER).await.expect("noted");
        assert!(db.store.take_cleanups(NOW + 24 * HOUR, NOW + 25 * HOUR).await.expect("taken").is_empty());
    }

    /// The fourth check: in the transaction that makes the bundle.
    async fn nothing_is_sealed_without_consent(db) {
        heard(&db, 3).await;
        for n in 0..3 {
            grant(&db.store, of_device(n)).await;
        }
        let id = made(&db.store, proactive(3)).await;
        for n in 0..3 {
            db.force(id.task(n), TaskState::Uploaded).await;
        }
        let seals: Vec<_> = (0..3u32)
            .map(|n| muster_store::Seal { consent: Some(KIND), ..seal(id.task(n).attempt(1), device(n as usize), Verdict::Complete) })
            .collect();
        // Ended by nobody yet: one ran out, one is suspended.
        db.sql("UPDATE consent_record SET expires_at = 1 WHERE scope_id = 'press-00000'").await;
        db.sql("UPDATE device SET consent = 'unknown' WHERE id = 'press-00001'").await;
        let outcomes = db.store.seal(&seals).await.expect("asked");
        assert_eq!(outcomes, [StepOutcome::NotAllowed, StepOutcome::NotAllowed, StepOutcome::Applied]);
        let all = reasons(&db, id, 3).await;
        assert_eq!(all[0], (TaskState::Cancelled, Some(Reason::ConsentMissing)));
        assert_eq!((all[1].0, all[2].0), (TaskState::Uploaded, TaskState::Verified), "suspended waits");
        assert!(db.store.bundle(id.task(0)).await.expect("read").is_none());
        assert_eq!(db.store.take_cleanups(NOW, NOW + MINUTE).await.expect("taken").len(), 1);
    }

    /// A birth decides only by what is new in it.
    async fn births_decide_once(db) {
        let said = |minutes: u32| Some(NOW - HOUR + MINUTE * minutes);
        born(&db.store, 0, says(ProactiveConsent::Enabled, said(0)), NOW).await;
        let view = db.store.consent(KIND, &of_device(0), NOW).await.expect("read").expect("a device");
        assert_eq!((view.state, view.history[0].channel, view.history[0].actor.role), (ConsentState::Granted, Channel::Activation, Role::DeviceOwner));
        born(&db.store, 0, says(ProactiveConsent::Enabled, said(0)), NOW).await;
        let id = made(&db.store, proactive(1)).await;
        // Withdrawn in the portal: the device comes back with what it said before, and that is no new yes.
        assert_eq!(revoke(&db.store, of_device(0)).await, 1);
        born(&db.store, 0, says(ProactiveConsent::Enabled, said(0)), NOW + MINUTE).await;
        assert_eq!(state(&db.store, 0, NOW + MINUTE).await, ConsentState::Revoked);
        assert_eq!(reasons(&db, id, 1).await, [(TaskState::Cancelled, Some(Reason::ConsentMissing))]);
        // Said anew at the device: a new decision.
        born(&db.store, 0, says(ProactiveConsent::Enabled, said(5)), NOW + MINUTE).await;
        let view = db.store.consent(KIND, &of_device(0), NOW + MINUTE).await.expect("read").expect("a device");
        assert_eq!((view.state, view.history.len(), view.history[0].channel), (ConsentState::Granted, 3, Channel::DeviceShell));
        let id = made(&db.store, NewCollection { created_at: NOW + MINUTE, ..proactive(1) }).await;
        assert_eq!(reasons(&db, id, 1).await, [(TaskState::Queued, None)]);
        born(&db.store, 0, says(ProactiveConsent::Disabled, said(6)), NOW + MINUTE).await;
        assert_eq!(state(&db.store, 0, NOW + MINUTE).await, ConsentState::Revoked);
        assert_eq!(reasons(&db, id, 1).await, [(TaskState::Cancelled, Some(Reason::ConsentMissing))]);
        // A broker that came back with an old message.
        born(&db.store, 0, says(ProactiveConsent::Enabled, said(1)), NOW + MINUTE).await;
        assert_eq!(state(&db.store, 0, NOW + MINUTE).await, ConsentState::Revoked);
        // Refused at activation, and never agreed to.
        born(&db.store, 1, says(ProactiveConsent::Disabled, None), NOW).await;
        assert_eq!(state(&db.store, 1, NOW).await, ConsentState::Declined);
        // Left open, under terms where silence is a no.
        born(&db.store, 2, says(ProactiveConsent::Default, None), NOW).await;
        assert_eq!(state(&db.store, 2, NOW).await, ConsentState::None);
        assert!(db.store.consent_audit(None, 10).await.expect("read").is_empty(), "devices repeat themselves; nothing of it is refused");
    }

    /// Material changes ask again, others do not; and where silence is a yes, it is on record as that for ever.
    async fn terms_are_published_once_and_may_ask_again(db) {
        heard(&db, 1).await;
        grant(&db.store, of_device(0)).await;
        let new = |version: &str, locale: &str, material, default| NewTerms {
            kind: KIND,
            version: version.to_owned(),
            locale: locale.to_owned(),
            default,
            material,
            text: "new words".to_owned(),
        };
        let publish = async |terms: NewTerms| db.store.publish_terms(&terms, &"ab".repeat(32), "ops", NOW).await.expect("asked");
        let Published::New(first) = publish(new("2027-01-01", "en-GB", false, TermsDefault::OptIn)).await else { panic!("not published") };
        assert_eq!((first.number, first.id.as_str()), (2, "proactive-log-collection"));
        assert_eq!(state(&db.store, 0, NOW).await, ConsentState::Granted);
        assert_eq!(publish(new("2027-01-01", "en-GB", false, TermsDefault::OptIn)).await, Published::Exists);
        assert_eq!(publish(new("2027-01-01", "de-DE", true, TermsDefault::OptIn)).await, Published::Exists, "a language is no change");
        let Published::New(german) = publish(new("2027-01-01", "de-DE", false, TermsDefault::OptIn)).await else { panic!("not published") };
        assert_eq!(german.number, 2);
        publish(new("2027-02-01", "en-GB", true, TermsDefault::DefaultOn)).await;
        assert_eq!(state(&db.store, 0, NOW).await, ConsentState::Suspended);
        let filter = StandingFilter { kind: KIND, before: None, limit: 10, tenant: None, scope_type: None, state: Some(ConsentState::Suspended) };
        assert_eq!(db.store.consents(&filter, NOW).await.expect("listed").len(), 1);
        grant(&db.store, of_device(0)).await;
        assert_eq!(state(&db.store, 0, NOW).await, ConsentState::Granted, "agreed to the new ones");
        born(&db.store, 7, says(ProactiveConsent::Default, None), NOW).await;
        let view = db.store.consent(KIND, &of_device(7), NOW).await.expect("read").expect("a device");
        assert_eq!((view.state, view.history[0].basis), (ConsentState::Granted, Basis::DefaultOn));
        assert_eq!(view.history[0].terms.as_ref().map(|terms| terms.version.as_str()), Some("2027-02-01"));
        assert_eq!(db.store.terms(KIND).await.expect("listed").len(), 4);
    }

    /// A device that goes to another tenant takes no consent with it.
    async fn a_new_owner_starts_at_none(db) {
        heard(&db, 2).await;
        grant(&db.store, of_device(0)).await;
        grant(&db.store, ConsentScope::Tenant { id: "contoso".to_owned() }).await;
        let id = made(&db.store, proactive(2)).await;
        let to = |n, tenant: serde_json::Value| DeviceEntry { device: device(n), tags: Some(json!({ "tenant": tenant })), parent: None };
        db.store.change_devices(&[to(0, json!("fabrikam")), to(1, json!("fabrikam"))], "ada", NOW).await.expect("moved");
        let view = db.store.consent(KIND, &of_device(0), NOW).await.expect("read").expect("a device");
        assert_eq!((view.state, view.history.len()), (ConsentState::None, 2), "{}", view.why);
        let record = &view.history[0];
        assert_eq!((record.decision, record.tenant.as_deref(), record.actor.role), (Decision::Revoked, Some("contoso"), Role::System));
        assert_eq!((record.reason.as_deref(), record.terms.as_ref()), (Some("ownership_change"), None));
        let ended = (TaskState::Cancelled, Some(Reason::ConsentMissing));
        assert_eq!(reasons(&db, id, 2).await, [ended, ended], "also where it was the tenant that had agreed");
        // The device still says what its old owner said.
        born(&db.store, 0, says(ProactiveConsent::Enabled, None), NOW + MINUTE).await;
        assert_eq!(state(&db.store, 0, NOW + MINUTE).await, ConsentState::None);
        grant(&db.store, of_device(0)).await;
        assert_eq!(state(&db.store, 0, NOW + MINUTE).await, ConsentState::Granted);
    }

    /// C7: of two writers one wins, and no record is lost.
    async fn of_two_writers_one_wins(db) {
        heard(&db, 2).await;
        let first: Vec<_> = (0..8)
            .map(|_| {
                let store = db.store.clone();
                tokio::spawn(async move {
                    let deciding = Deciding { expect_version: Some(0), ..deciding(of_device(0), What::Enable) };
                    store.decide_consent(&deciding, NOW).await.expect("asked")
                })
            })
            .collect();
        let mut outcomes = Vec::new();
        for task in first {
            outcomes.push(task.await.expect("no panic"));
        }
        assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Decided::Recorded { .. })).count(), 1, "{outcomes:?}");
        assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Decided::Conflict { .. })).count(), 7, "{outcomes:?}");
        // Without a word about what was seen, both are judged one after the other by what stands then.
        let mut writers = Vec::new();
        for n in 0..16 {
            let store = db.store.clone();
            let what = if n % 2 == 0 { What::Enable } else { What::Disable };
            writers.push(tokio::spawn(async move { store.decide_consent(&deciding(of_device(1), what), NOW).await.expect("asked") }));
        }
        let mut recorded = 0;
        for writer in writers {
            match writer.await.expect("no panic") {
                Decided::Recorded { .. } => recorded += 1,
                Decided::Refused { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        // The read checks that the history has no hole.
        let view = db.store.consent(KIND, &of_device(1), NOW).await.expect("a whole history").expect("a device");
        assert_eq!(view.history.len(), recorded);
    }

    /// C5 over the database: what is read out of the rows is what the last recorded answer said, along random decisions.
    async fn the_rows_say_what_was_answered(db) {
        heard(&db, 1).await;
        let mut seed = 12_345_u32;
        let mut random = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed >> 16
        };
        let mut stands = ConsentState::None;
        for n in 0..120 {
            let what = if random() % 2 == 0 { What::Enable } else { What::Disable };
            let expected = match (stands, what) {
                (ConsentState::Granted, What::Disable) => Some(ConsentState::Revoked),
                (ConsentState::None, What::Disable) => Some(ConsentState::Declined),
                (ConsentState::Granted, _) | (_, What::Disable) => None,
                _ => Some(ConsentState::Granted),
            };
            let decided = decide(&db.store, of_device(0), what).await;
            assert_eq!(matches!(decided, Decided::Recorded { .. }), expected.is_some(), "{n}: {stands} {what:?} {decided:?}");
            stands = expected.unwrap_or(stands);
            assert_eq!(state(&db.store, 0, NOW).await, stands, "{n}");
        }
    }
}

/// A refusal for a device, as its own customer.
async fn revoke_unasked(db: &Database, scope: ConsentScope) {
    let decided = decide(&db.store, scope, What::Disable).await;
    assert!(matches!(decided, Decided::Recorded { .. }), "{decided:?}");
}
