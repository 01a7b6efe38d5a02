use muster_wire::ConsentId;
use muster_wire::http::{
    Actor, Basis, Channel, ConsentKind, ConsentRecord, ConsentScope, ConsentState, Decision, MAX_FLAG_AGE, Role, TermsDefault, TermsRef,
};
use muster_wire::presence::ProactiveConsent;
use proptest::prelude::*;
use time::{Duration, OffsetDateTime};

use super::effective::{Effective, Known, OnRecord, effective};
use super::record::last;
use super::transition::{By, Facts, Refusal, What, transition};
use super::{covers, is_built};
use ConsentState::{Declined, Expired, Granted, None as Nothing, Revoked, Suspended};

const NOW: OffsetDateTime = time::macros::datetime!(2026-11-28 08:00 UTC);

fn facts(by: By) -> Facts {
    Facts { by, kind: ConsentKind::Proactive, default: TermsDefault::OptIn, material: false }
}

/// C1: the reference, row by row, written down a second time; and every pair that is not here is refused.
#[test]
fn every_row_holds_and_every_other_pair_is_refused() {
    let customer = facts(By::Customer);
    let device = facts(By::Device);
    let rule = facts(By::Rule);
    let case = Facts { kind: ConsentKind::Identity, ..rule };
    let on = Facts { default: TermsDefault::DefaultOn, ..device };
    let material = Facts { material: true, ..rule };
    let reference: &[(ConsentState, What, Facts, ConsentState)] = &[
        (Nothing, What::Activated, on, Granted),
        (Nothing, What::Activated, device, Nothing),
        (Nothing, What::Enable, customer, Granted),
        (Nothing, What::Enable, device, Granted),
        (Nothing, What::Disable, customer, Declined),
        (Nothing, What::Disable, device, Declined),
        (Declined, What::Enable, customer, Granted),
        (Declined, What::Enable, device, Granted),
        (Granted, What::Disable, customer, Revoked),
        (Granted, What::Disable, device, Revoked),
        (Granted, What::TimeUp, rule, Expired),
        (Granted, What::CaseClosed, case, Expired),
        (Granted, What::Unsynchronised, rule, Suspended),
        (Suspended, What::Synchronised, device, Granted),
        (Suspended, What::Disable, device, Revoked),
        (Granted, What::TermsPublished, material, Suspended),
        (Granted, What::TermsPublished, rule, Granted),
        (Revoked, What::Enable, customer, Granted),
        (Expired, What::Enable, customer, Granted),
        (Granted, What::IndicatorAdded, rule, Granted),
        (Granted, What::Moved, rule, Revoked),
        // A suspension lies over a grant on record.
        (Suspended, What::Disable, customer, Revoked),
        (Suspended, What::Enable, customer, Granted),
        (Suspended, What::TimeUp, rule, Expired),
        (Suspended, What::CaseClosed, case, Expired),
        (Suspended, What::Moved, rule, Revoked),
    ];
    for (from, what, facts, to) in reference {
        assert_eq!(transition(*from, *what, facts), Ok(*to), "{from} {what:?} {facts:?}");
    }
    let listed: std::collections::HashSet<(ConsentState, What)> = reference.iter().map(|(from, what, ..)| (*from, *what)).collect();
    let mut refused = 0;
    for &from in ConsentState::ALL {
        for &what in What::ALL {
            for facts in [customer, device, rule, case, on, material] {
                if !listed.contains(&(from, what)) {
                    assert_eq!(transition(from, what, &facts), Err(Refusal::NotInTable { from }), "{from} {what:?} {facts:?}");
                    refused += 1;
                }
            }
        }
    }
    // Sixty pairs, less those that are listed.
    assert_eq!(refused, (60 - listed.len()) * 6);
    assert_eq!(transition(Granted, What::CaseClosed, &rule), Err(Refusal::NotInTable { from: Granted }), "it is not about a case");
    assert_eq!(transition(Granted, What::Unsynchronised, &case), Err(Refusal::NotInTable { from: Granted }), "no device confirms it");
}

/// C6: no vendor identity decides, wherever consent stands; and a role decides for its own scope only.
#[test]
fn the_vendor_and_a_smaller_role_decide_nothing() {
    for &from in ConsentState::ALL {
        for what in [What::Enable, What::Disable, What::Activated] {
            assert_eq!(transition(from, what, &facts(By::Vendor)), Err(Refusal::Vendor), "{from} {what:?}");
            assert_eq!(transition(from, what, &facts(By::SmallerRole)), Err(Refusal::Role), "{from} {what:?}");
        }
    }
    let device = ConsentScope::Device { id: "press-1".parse().expect("an id") };
    let site = ConsentScope::Site { id: "oslo".to_owned(), tenant: "contoso".to_owned() };
    let tenant = ConsentScope::Tenant { id: "contoso".to_owned() };
    let covered = |role| [&device, &site, &tenant].map(|scope| covers(role, scope));
    assert_eq!(covered(Role::DeviceOwner), [true, false, false]);
    assert_eq!(covered(Role::SiteOwner), [true, true, false]);
    assert_eq!(covered(Role::TenantOwner), [true, true, true]);
    assert_eq!((covered(Role::Vendor), covered(Role::System)), ([false; 3], [false; 3]));
    assert_eq!(ConsentKind::ALL.iter().filter(|kind| is_built(**kind)).count(), 1);
}

fn on_record(decision: Decision) -> OnRecord {
    OnRecord {
        consent: ConsentId::new(),
        decision,
        basis: Basis::Explicit,
        expires_at: None,
        terms_number: Some(1),
        tenant: Some("contoso".to_owned()),
    }
}

fn known<'a>(device: Option<&'a OnRecord>, site: Option<&'a OnRecord>, of_tenant: Option<&'a OnRecord>) -> Known<'a> {
    Known { tenant: Some("contoso"), device, site, of_tenant, flag: ProactiveConsent::Enabled, heard_at: Some(NOW), newest_material: None }
}

#[test]
fn a_refusal_anywhere_wins_and_otherwise_the_most_specific_grant() {
    let (yes, also, no) = (on_record(Decision::Granted), on_record(Decision::Granted), on_record(Decision::Revoked));
    let at = |known: Known<'_>| effective(&known, NOW);
    assert_eq!(at(known(None, None, None)).state, Nothing);
    assert_eq!(at(known(Some(&yes), Some(&also), None)).consent, Some(yes.consent));
    assert_eq!(at(known(None, Some(&also), Some(&yes))).consent, Some(also.consent));
    assert_eq!(at(known(None, None, Some(&yes))).consent, Some(yes.consent));
    for place in 0..3 {
        let mut levels = [Some(&yes); 3];
        levels[place] = Some(&no);
        let seen = at(known(levels[0], levels[1], levels[2]));
        assert_eq!((seen.state, seen.consent), (Revoked, None), "{place}: {}", seen.why);
    }
    let expired = OnRecord { expires_at: Some(NOW), ..on_record(Decision::Granted) };
    assert_eq!(at(known(Some(&expired), None, None)).state, Expired);
    assert_eq!(at(known(Some(&expired), None, Some(&yes))).consent, Some(yes.consent), "what ran out is no refusal");
    let material = Known { newest_material: Some(2), ..known(Some(&yes), None, None) };
    assert_eq!(at(material).state, Suspended);
    let renewed = OnRecord { terms_number: Some(2), ..on_record(Decision::Granted) };
    assert_eq!(at(Known { newest_material: Some(2), ..known(Some(&renewed), None, None) }).state, Granted);
    let moved = Known { tenant: Some("fabrikam"), ..known(Some(&no), None, None) };
    assert_eq!(at(moved).state, Nothing, "a new owner starts anew");
    assert_eq!(at(Known { tenant: Some("fabrikam"), ..known(Some(&yes), None, None) }).state, Nothing);
    let before_any = OnRecord { tenant: None, ..on_record(Decision::Granted) };
    assert!(at(known(Some(&before_any), None, None)).is_granted(), "made before the device had a tenant");
}

/// C3 and C4.
#[test]
fn the_device_has_the_last_word_and_has_to_have_said_it_lately() {
    let yes = on_record(Decision::Granted);
    let by_default = OnRecord { basis: Basis::DefaultOn, ..on_record(Decision::Granted) };
    let with = |record: &OnRecord, flag, heard_at| effective(&Known { flag, heard_at, ..known(Some(record), None, None) }, NOW).state;
    assert_eq!(with(&yes, ProactiveConsent::Enabled, Some(NOW)), Granted);
    assert_eq!(with(&yes, ProactiveConsent::Disabled, Some(NOW)), Suspended);
    assert_eq!(with(&yes, ProactiveConsent::Unknown, Some(NOW)), Suspended);
    assert_eq!(with(&yes, ProactiveConsent::Default, Some(NOW)), Suspended, "silence is no explicit yes");
    assert_eq!(with(&by_default, ProactiveConsent::Default, Some(NOW)), Granted);
    assert_eq!(with(&yes, ProactiveConsent::Enabled, None), Suspended);
    assert_eq!(with(&yes, ProactiveConsent::Enabled, Some(NOW - MAX_FLAG_AGE)), Granted);
    assert_eq!(with(&yes, ProactiveConsent::Enabled, Some(NOW - MAX_FLAG_AGE - Duration::MILLISECOND)), Suspended);
    assert_eq!(with(&yes, ProactiveConsent::Enabled, Some(NOW - Duration::hours(49))), Suspended);
}

fn record(
    version: u32,
    decision: Decision,
    before: Option<&ConsentRecord>,
    tenant: &str,
    expires_at: Option<OffsetDateTime>,
) -> ConsentRecord {
    ConsentRecord {
        consent_id: ConsentId::new(),
        kind: ConsentKind::Proactive,
        tenant: Some(tenant.to_owned()),
        scope: ConsentScope::Device { id: "press-1".parse().expect("an id") },
        version,
        decision,
        basis: Basis::Explicit,
        terms: Some(TermsRef {
            id: "t".to_owned(),
            version: "1".to_owned(),
            sha256: String::new(),
            locale: "en-GB".to_owned(),
            material: false,
        }),
        catalogue_version_at_decision: None,
        actor: Actor { id: "ada".to_owned(), role: Role::DeviceOwner, auth: None },
        channel: Channel::Portal,
        recorded_by: "ops".to_owned(),
        reason: None,
        decided_at: NOW,
        effective_at: NOW,
        expires_at,
        case_number: None,
        supersedes: before.map(|before| before.consent_id),
    }
}

#[test]
fn a_broken_history_is_told() {
    let first = record(1, Decision::Granted, None, "contoso", None);
    let second = record(2, Decision::Revoked, Some(&first), "contoso", None);
    assert_eq!(last([&first, &second]), Ok(Some(&second)));
    assert_eq!(last([]), Ok(None));
    assert!(last([&second]).is_err(), "the first is missing");
    assert!(last([&first, &ConsentRecord { supersedes: None, ..second.clone() }]).is_err());
    assert!(last([&first, &record(2, Decision::Declined, Some(&first), "contoso", None)]).is_err(), "a grant is withdrawn, not declined");
    assert!(last([&first, &record(2, Decision::Declined, Some(&first), "fabrikam", None)]).is_ok(), "the new owner declines");
    assert!(last([&second, &first]).is_err());
    assert!(last([&record(1, Decision::Revoked, None, "contoso", None)]).is_err());
}

#[derive(Debug, Clone, Copy)]
enum Happens {
    Enable { expires_in_hours: Option<u8> },
    Disable,
    Says(u8),
    Hours(u8),
    Publish { material: bool },
    Move,
    Indicator,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => prop::option::of(1..90_u8).prop_map(|expires_in_hours| Happens::Enable { expires_in_hours }),
        3 => Just(Happens::Disable),
        4 => (0..3_u8).prop_map(Happens::Says),
        4 => (1..60_u8).prop_map(Happens::Hours),
        1 => any::<bool>().prop_map(|material| Happens::Publish { material }),
        1 => Just(Happens::Move),
        1 => Just(Happens::Indicator),
    ]
}

/// One consent as it lives: every event goes through the table at its moment, and the state is carried along. It writes the records that a
/// store would, but never reads them.
struct Live {
    state: ConsentState,
    history: Vec<ConsentRecord>,
    terms: Vec<u32>,
    now: OffsetDateTime,
    flag: ProactiveConsent,
    heard_at: Option<OffsetDateTime>,
    tenant: u8,
    /// Of the grant that is in force or suspended.
    expires_at: Option<OffsetDateTime>,
    granted_under: u32,
    newest: u32,
    newest_material: Option<u32>,
}

impl Live {
    fn step(&mut self, what: What, by: By, material: bool) -> bool {
        let facts = Facts { by, kind: ConsentKind::Proactive, default: TermsDefault::OptIn, material };
        match transition(self.state, what, &facts) {
            Ok(to) => {
                self.state = to;
                true
            }
            Err(_) => false,
        }
    }

    fn write(&mut self, decision: Decision) {
        let tenant = format!("tenant-{}", self.tenant);
        let version = u32::try_from(self.history.len()).expect("short") + 1;
        self.history.push(record(
            version,
            decision,
            self.history.last(),
            &tenant,
            self.expires_at.filter(|_| decision == Decision::Granted),
        ));
        self.terms.push(self.newest);
    }

    fn confirmed(&self) -> bool {
        self.flag == ProactiveConsent::Enabled
            && self.heard_at.is_some_and(|at| self.now - at <= MAX_FLAG_AGE)
            && self.newest_material <= Some(self.granted_under)
    }

    /// What follows from the clock and from what the device last said.
    fn settle(&mut self) {
        if matches!(self.state, Granted | Suspended) && self.expires_at.is_some_and(|end| end <= self.now) {
            self.step(What::TimeUp, By::Rule, false);
        }
        match (self.state, self.confirmed()) {
            (Granted, false) => drop(self.step(What::Unsynchronised, By::Rule, false)),
            (Suspended, true) => drop(self.step(What::Synchronised, By::Device, false)),
            _ => {}
        }
    }

    fn happen(&mut self, event: Happens) {
        match event {
            Happens::Hours(hours) => self.now += Duration::hours(hours.into()),
            Happens::Indicator => drop(self.step(What::IndicatorAdded, By::Rule, false)),
            Happens::Publish { material } => {
                self.newest += 1;
                if material {
                    self.newest_material = Some(self.newest);
                }
                self.step(What::TermsPublished, By::Rule, material);
            }
            Happens::Enable { expires_in_hours } => {
                if self.step(What::Enable, By::Customer, false) {
                    self.expires_at = expires_in_hours.map(|hours| self.now + Duration::hours(hours.into()));
                    self.granted_under = self.newest;
                    self.write(Decision::Granted);
                }
            }
            Happens::Disable => self.disable(By::Customer),
            Happens::Says(0) => {
                self.flag = ProactiveConsent::Enabled;
                self.heard_at = Some(self.now);
            }
            Happens::Says(1) => {
                self.flag = ProactiveConsent::Disabled;
                self.heard_at = Some(self.now);
                self.disable(By::Device);
            }
            Happens::Says(_) => {
                self.flag = ProactiveConsent::Unknown;
                self.heard_at = Some(self.now);
            }
            Happens::Move => {
                let moved = self.step(What::Moved, By::Rule, false);
                if moved {
                    self.write(Decision::Revoked);
                }
                // Whatever came of it for the old owner: the new one starts at none.
                self.tenant += 1;
                self.state = Nothing;
            }
        }
        self.settle();
    }

    fn disable(&mut self, by: By) {
        if self.step(What::Disable, by, false) {
            self.write(if self.state == Declined { Decision::Declined } else { Decision::Revoked });
        }
    }
}

/// The same out of the records and what the registry knows, at one look.
fn rebuilt(live: &Live) -> Effective {
    let last = last(&live.history).expect("a sound history");
    let device = last.map(|record| OnRecord {
        consent: record.consent_id,
        decision: record.decision,
        basis: record.basis,
        expires_at: record.expires_at,
        terms_number: live.terms.last().copied(),
        tenant: record.tenant.clone(),
    });
    let tenant = format!("tenant-{}", live.tenant);
    let known = Known {
        tenant: Some(&tenant),
        device: device.as_ref(),
        site: None,
        of_tenant: None,
        flag: live.flag,
        heard_at: live.heard_at,
        newest_material: live.newest_material,
    };
    effective(&known, live.now)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    /// C5.
    #[test]
    fn what_is_rebuilt_from_the_records_is_what_lived(events in prop::collection::vec(happens(), 1..40)) {
        let mut live = Live {
            state: Nothing,
            history: Vec::new(),
            terms: Vec::new(),
            now: NOW,
            flag: ProactiveConsent::Unknown,
            heard_at: None,
            tenant: 0,
            expires_at: None,
            granted_under: 0,
            newest: 1,
            newest_material: None,
        };
        for event in events {
            live.happen(event);
            let rebuilt = rebuilt(&live);
            prop_assert_eq!(rebuilt.state, live.state, "after {:?}: {}", event, rebuilt.why);
            prop_assert_eq!(rebuilt.consent.is_some(), live.state == Granted);
        }
    }
}
