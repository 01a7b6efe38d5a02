//! One device on one line of time, on both databases.

use std::time::Duration;

use muster_store::{Birth, DeviceEntry, LinePlace, Rerun, RerunLimits};
use muster_wire::http::{TimelineEntry, TimelineWhat, Verdict};
use muster_wire::{Reason, TaskState};
use serde_json::json;
use time::OffsetDateTime;

use crate::harness::*;
use crate::seal::seal;

const SECOND: Duration = Duration::from_secs(1);

impl Database {
    /// The whole line of a device, read in pages of this size.
    async fn line(&self, n: usize, page: u32) -> Vec<TimelineEntry> {
        let mut line: Vec<TimelineEntry> = Vec::new();
        let mut before: Option<LinePlace> = None;
        loop {
            let got = self.store.timeline(&device(n), before, page).await.expect("a page");
            let Some((last, _)) = got.last() else { return line };
            // The place travels as text.
            before = Some(last.to_string().parse().expect("a place"));
            line.extend(got.into_iter().map(|(_, entry)| entry));
        }
    }
}

fn told(line: &[TimelineEntry]) -> Vec<(i64, &str, Option<u8>, Option<Reason>)> {
    let seconds = |at: OffsetDateTime| (at - NOW).whole_seconds();
    line.iter().map(|entry| (seconds(entry.at), entry.what.as_str(), entry.attempt, entry.reason)).collect()
}

on_both! {
    /// Two attempts, the second sealed; what people did; what the device said: everything once, in the order of time, whatever the page.
    async fn everything_is_on_one_line_once(db) {
        let at = |seconds: u32| NOW + SECOND * seconds;
        let mut born = birth();
        (born.started, born.clock) = (Some(at(4) - 180 * MINUTE), Some(at(5) - 180 * MINUTE));
        db.store.enter_devices(&[DeviceEntry { device: device(0), tags: Some(json!({"site": "oslo"})), parent: Some(Some(device(7))) }], "ada", at(1)).await.expect("entered");
        db.store.record_births(&[Birth { device: device(0), presence: born, at: at(5), retained: false }]).await.expect("born");
        db.store.change_devices(&[DeviceEntry { device: device(0), tags: Some(json!({"site": null})), parent: None }], "bob", at(6)).await.expect("changed");
        db.store.change_devices(&[DeviceEntry { device: device(0), tags: None, parent: Some(None) }], "bob", at(7)).await.expect("changed");
        // All was so before: nothing happened.
        db.store.change_devices(&[DeviceEntry { device: device(0), tags: None, parent: Some(None) }], "bob", at(8)).await.expect("unchanged");

        let new = muster_store::NewCollection { created_at: at(10), ..new_collection(&devices(2)) };
        db.store.create_collection(&new).await.expect("a collection");
        let claim = async |seconds| {
            let request = muster_store::ClaimRequest { now: at(seconds), lease_until: at(seconds) + MINUTE, limit: 1, ..claim_request(new.id, 1) };
            db.store.claim(&request).await.expect("a claim").tasks[0].attempt
        };
        let first = claim(11).await;
        let mut lost = step(first, TaskState::Queued);
        (lost.at, lost.detail) = (at(13), Some("gone".to_owned()));
        db.store.apply(&[muster_store::Step { at: at(12), ..step(first, TaskState::Accepted) }, lost]).await.expect("applied");
        let before_retry = db.line(0, 100).await;
        assert_eq!(told(&before_retry)[..4], [
            (13, "attempt_ended", Some(1), Some(Reason::NoAnswer)), (12, "answered", Some(1), None), (11, "sent", Some(1), None), (10, "asked", None, None),
        ], "history and task tell the same moment once");

        let second = claim(14).await;
        db.store.apply(&[muster_store::Step { at: at(15), ..step(second, TaskState::Uploaded) }]).await.expect("applied");
        let mut sealed = seal(second, device(0), Verdict::Complete);
        (sealed.step.at, sealed.manifest.sealed_at) = (at(16), at(16));
        db.store.seal(&[sealed]).await.expect("sealed");
        db.store.record_offline(&[(device(0), at(17))]).await.expect("gone");

        let expected = [
            (17, "offline", None, None),
            (16, "ended", Some(2), Some(Reason::Collected)),
            (16, "sealed", Some(2), None),
            (15, "uploaded", Some(2), None),
            (14, "sent", Some(2), None),
            (13, "attempt_ended", Some(1), Some(Reason::NoAnswer)),
            (12, "answered", Some(1), None),
            (11, "sent", Some(1), None),
            (10, "asked", None, None),
            (7, "moved", None, None),
            (6, "tagged", None, None),
            // Its clock is three hours behind; the line is not.
            (4, "agent_started", None, None),
            (1, "first_seen", None, None),
            (1, "imported", None, None),
        ];
        for page in [100, 1, 3] {
            let line = db.line(0, page).await;
            let mut seen = told(&line);
            // Within one moment the two things done by one list have no order.
            seen.retain(|entry| *entry != (1, "moved", None, None));
            assert_eq!(seen, expected, "pages of {page}");
            assert_eq!(line.len(), expected.len() + 1, "and the gateway the list said");
        }
        let line = db.line(0, 100).await;
        let of = |what| line.iter().find(|entry| entry.what == what).expect("there");
        let asked = of(TimelineWhat::Asked);
        assert_eq!((asked.who.as_deref(), asked.detail.as_deref(), asked.collection), (Some("ada"), Some("ping: it hums (case 48213)"), Some(new.id)));
        assert_eq!(of(TimelineWhat::Sealed).detail.as_deref(), Some("complete, 3000001000 bytes"));
        assert_eq!(of(TimelineWhat::AttemptEnded).detail.as_deref(), Some("gone"));
        assert_eq!((of(TimelineWhat::Tagged).who.as_deref(), of(TimelineWhat::Tagged).detail.as_deref()), (Some("bob"), Some("{\"site\":null}")));
        assert_eq!(of(TimelineWhat::Moved).detail.as_deref(), Some("behind no gateway"));
        assert_eq!(of(TimelineWhat::AgentStarted).detail.as_deref(), Some("agent 1.2"));
        assert_eq!(db.line(9, 10).await, [], "a device nobody heard of has no line");
        assert_eq!(db.line(1, 10).await.len(), 1, "each device its own");
    }

    /// A rerun makes history of an end; both ends stay on the line. A pinged device says how long it took.
    async fn an_end_that_was_not_the_last_stays_one(db) {
        let collection = db.collection(1).await;
        let first = db.claim(collection, 1).await[0].attempt;
        db.store.apply(&[muster_store::Step { at: NOW + SECOND, ..step(first, TaskState::Failed) }]).await.expect("applied");
        let rerun = Rerun { collection, who: "ada", reasons: &[], expires_at: NOW + 60 * MINUTE, limits: RerunLimits::default(), now: NOW + SECOND * 2 };
        db.store.rerun(&rerun).await.expect("rerun");
        let request = muster_store::ClaimRequest { now: NOW + SECOND * 3, ..claim_request(collection, 1) };
        let second = db.store.claim(&request).await.expect("a claim").tasks[0].attempt;
        db.store.apply(&[muster_store::Step { at: NOW + SECOND * 4, ..step(second, TaskState::Verified).because(Reason::Answered) }]).await.expect("applied");
        let line = db.line(0, 2).await;
        let words: Vec<_> = told(&line).into_iter().map(|(at, what, attempt, _)| (at, what, attempt)).collect();
        assert_eq!(words, [(4, "ended", Some(2)), (3, "sent", Some(2)), (1, "ended", Some(1)), (0, "sent", Some(1)), (0, "asked", None)]);
        assert_eq!(line[0].detail.as_deref(), Some("after 1000 ms"));
    }

    /// What was done with a forgotten device is still told, and who forgot it.
    async fn forgetting_is_on_the_line(db) {
        db.register(&devices(1)).await;
        db.store.forget_device(&device(0), "eve\0", NOW + SECOND).await.expect("forgotten");
        let line = db.line(0, 10).await;
        assert_eq!(told(&line), [(1, "forgotten", None, None), (0, "imported", None, None)]);
        assert_eq!(line[0].who.as_deref(), Some("eve\u{fffd}"));
    }

    /// Entries of one page are bounded whatever is asked for.
    async fn a_page_is_bounded(db) {
        for n in 0..3 {
            let entries = vec![DeviceEntry { device: device(0), tags: Some(json!({"n": n})), parent: None }];
            db.store.enter_devices(&entries, "ada", NOW + SECOND * n).await.expect("entered");
        }
        assert_eq!(db.store.timeline(&device(0), None, 0).await.expect("a page").len(), 0);
        assert_eq!(db.store.timeline(&device(0), None, 2).await.expect("a page").len(), 2);
    }
}
