//! A bundle and the end of its task are one transaction.

use muster_store::{BundleFilter, Cancel, Seal, StepOutcome};
use muster_wire::http::{BundleManifest, BundleObject, Depth, Missing, ObjectKind, Verdict};
use muster_wire::{AttemptId, DeviceId, Reason, TaskState};

use crate::harness::*;

/// A bundle of two objects.
pub(crate) fn seal(attempt: AttemptId, device: DeviceId, verdict: Verdict) -> Seal {
    let reason = if verdict == Verdict::Complete { Reason::Collected } else { Reason::CollectedPartial };
    let missing =
        if verdict == Verdict::Partial { vec![Missing { what: "edgeHub".to_owned(), why: "no log".to_owned() }] } else { Vec::new() };
    let object = |name: &str, size_bytes| BundleObject {
        name: name.to_owned(),
        size_bytes,
        sha256: "ab".repeat(32),
        kind: ObjectKind::Zip,
        entries: Some(3),
        depth: Depth::Full,
    };
    Seal {
        step: step(attempt, TaskState::Verified).because(reason),
        manifest: BundleManifest {
            version: "1.0".to_owned(),
            task: attempt.task(),
            attempt,
            collection: attempt.task().collection(),
            device,
            correlation_id: None,
            case: Some("48213".to_owned()),
            consent: None,
            verdict,
            reason,
            missing,
            objects: vec![object("a.zip", 1_000), object("b.zip", 3_000_000_000)],
            sealed_at: NOW,
        },
        manifest_sha256: "cd".repeat(32),
        location: format!("sealed/{attempt}"),
        consent: None,
    }
}

on_both! {
    /// Sealed once, with all its facts, wherever it is read.
    async fn a_bundle_is_recorded_with_its_task(db) {
        let collection = db.collection(3).await;
        let claimed = db.claim(collection, 3).await;
        db.store.apply(&[step(claimed[0].attempt, TaskState::Uploaded)]).await.expect("applied");
        let seals = [seal(claimed[0].attempt, device(0), Verdict::Complete), seal(claimed[1].attempt, device(1), Verdict::Partial)];
        assert_eq!(db.store.seal(&seals).await.expect("sealed"), [StepOutcome::Applied, StepOutcome::Applied]);
        assert_eq!(db.store.seal(&seals).await.expect("answered"), [StepOutcome::Repeated, StepOutcome::Repeated]);

        let bundle = db.store.bundle(collection.task(1)).await.expect("a read").expect("there");
        assert_eq!(bundle.manifest, seals[1].manifest);
        assert_eq!((bundle.view.size_bytes, bundle.view.objects, bundle.view.verdict), (3_000_001_000, 2, Verdict::Partial));
        assert_eq!((&bundle.view.manifest_sha256, &bundle.view.location), (&seals[1].manifest_sha256, &seals[1].location));
        let task = db.store.task(collection.task(1)).await.expect("a read").expect("there").task;
        assert_eq!((task.state, task.reason), (TaskState::Verified, Some(Reason::CollectedPartial)));
        let short = task.bundle.expect("a bundle");
        assert_eq!((short.verdict, short.missing.len(), short.size_bytes), (Verdict::Partial, 1, 3_000_001_000));
        assert!(db.store.bundle(collection.task(2)).await.expect("a read").is_none());
        assert_eq!(db.store.tally(collection).await.expect("counted").expect("there").bundle_bytes, 6_000_002_000);

        let list = async |filter: BundleFilter| { db.store.bundles(&filter).await.expect("a read").into_iter().map(|b| b.task.ordinal()).collect::<Vec<_>>() };
        let all = BundleFilter { limit: 10, ..BundleFilter::default() };
        assert_eq!(list(all.clone()).await, [1, 0]);
        assert_eq!(list(BundleFilter { limit: 1, ..all.clone() }).await, [1]);
        assert_eq!(list(BundleFilter { before: Some(collection.task(1)), ..all.clone() }).await, [0]);
        assert_eq!(list(BundleFilter { device: Some(device(0)), ..all.clone() }).await, [0]);
        assert!(list(BundleFilter { collection: Some(muster_wire::CollectionId::new()), ..all }).await.is_empty());
    }

    /// Cancelled in between: no bundle exists for others.
    async fn what_is_no_longer_wanted_is_not_recorded(db) {
        let collection = db.collection(2).await;
        let claimed = db.claim(collection, 2).await;
        db.store.cancel_collection(collection, Cancel::All, "ada", NOW).await.expect("cancelled");
        let outcome = db.store.seal(&[seal(claimed[0].attempt, device(0), Verdict::Complete)]).await.expect("answered");
        assert_eq!(outcome, [StepOutcome::Superseded { state: TaskState::Cancelled, attempt: 1 }]);
        assert!(db.store.bundle(collection.task(0)).await.expect("a read").is_none());
    }

    /// Only a step to verified, and only for the attempt of the manifest.
    async fn a_seal_must_fit(db) {
        let collection = db.collection(2).await;
        let claimed = db.claim(collection, 2).await;
        let mut wrong = seal(claimed[0].attempt, device(0), Verdict::Complete);
        wrong.step = step(claimed[0].attempt, TaskState::Failed);
        assert!(db.store.seal(&[wrong]).await.is_err());
        let mut wrong = seal(claimed[0].attempt, device(0), Verdict::Complete);
        wrong.step.attempt = claimed[1].attempt;
        assert!(db.store.seal(&[wrong]).await.is_err());
        assert_eq!(db.state(collection.task(0)).await, TaskState::Dispatched);
    }
}
