//! Sealing: the bundle and the move of its task to `verified` are one transaction.

use muster_wire::TaskState;
use muster_wire::http::{BundleManifest, ConsentKind};

use crate::apply::{self, Step, StepOutcome};
use crate::connect::Store;
use crate::consent::end_unconsented;
use crate::dialect::{Batch, Tx};
use crate::error::{StoreError, run};
use crate::instant::to_ms;

/// A sealed bundle to be recorded.
#[derive(Debug, Clone)]
pub struct Seal {
    /// The move of its task to `verified`.
    pub step: Step,
    /// What was sealed.
    pub manifest: BundleManifest,
    /// SHA-256 of the manifest as it lies in the landing zone.
    pub manifest_sha256: String,
    /// Where the objects lie.
    pub location: String,
    /// The consent the collection needs: asked once more in the transaction that makes the bundle.
    pub consent: Option<ConsentKind>,
}

/// Which of the bundles have the consent they need; `None` when none of them needs any.
async fn allowed(tx: &mut Tx, seals: &[Seal]) -> Result<Option<Vec<bool>>, StoreError> {
    if seals.iter().all(|seal| seal.consent.is_none()) {
        return Ok(None);
    }
    let mut allowed = vec![true; seals.len()];
    for &kind in ConsentKind::ALL {
        let places: Vec<usize> = (0..seals.len()).filter(|&place| seals[place].consent == Some(kind)).collect();
        let Some(now) = places.iter().map(|&place| seals[place].step.at).max() else { continue };
        let tasks: Vec<_> = places
            .iter()
            .map(|&place| (seals[place].step.attempt.task(), seals[place].step.attempt.number(), &seals[place].manifest.device))
            .collect();
        for (place, may) in places.into_iter().zip(end_unconsented(tx, kind, &tasks, now).await?) {
            allowed[place] = may;
        }
    }
    Ok(Some(allowed))
}

impl Store {
    /// Moves the tasks and records the bundles of those that moved, in one transaction. A bundle whose step does not apply is not recorded:
    /// after [`StepOutcome::Repeated`] it already is. One that needs a consent which is gone is not recorded either, and its task is
    /// cancelled; one whose consent is suspended stays where it is.
    ///
    /// # Errors
    /// [`StoreError::Misuse`] for a step that is not to `verified` or whose manifest is about another attempt; otherwise the database's,
    /// and then nothing was recorded.
    pub async fn seal(&self, seals: &[Seal]) -> Result<Vec<StepOutcome>, StoreError> {
        let steps: Vec<Step> = seals.iter().map(|seal| seal.step.clone()).collect();
        apply::check(&steps)?;
        let mut manifests = Vec::with_capacity(seals.len());
        for seal in seals {
            if seal.step.to != TaskState::Verified || seal.manifest.attempt != seal.step.attempt {
                return Err(StoreError::Misuse(format!("{} is sealed by a step to verified of the same attempt", seal.manifest.attempt)));
            }
            let text = serde_json::to_string(&seal.manifest).map_err(|error| {
                StoreError::Misuse(format!("the manifest of {} could not be written as JSON: {error}", seal.step.attempt))
            })?;
            manifests.push(text);
        }
        if seals.is_empty() {
            return Ok(Vec::new());
        }
        run("sealing bundles", || async {
            let mut tx = self.begin().await?;
            let allowed = allowed(&mut tx, seals).await?;
            let outcomes = match &allowed {
                None => apply::apply_in(&mut tx, &steps).await?,
                // A task that was ended here for want of consent is not where its step may come from; one whose consent is suspended is
                // left where it is.
                Some(allowed) => {
                    let steps: Vec<Step> = steps.iter().zip(allowed).filter(|(_, may)| **may).map(|(step, _)| step.clone()).collect();
                    let mut applied = apply::apply_in(&mut tx, &steps).await?.into_iter();
                    allowed.iter().map(|may| if *may { applied.next().expect("one for each step") } else { StepOutcome::NotAllowed }).collect()
                }
            };
            let applied = || seals.iter().zip(&manifests).zip(&outcomes).filter(|(_, o)| **o == StepOutcome::Applied).map(|(pair, _)| pair);
            let size = |seal: &Seal| seal.manifest.objects.iter().map(|object| object.size_bytes).sum::<u64>();
            if applied().next().is_some() {
                let batch = Batch::default()
                    .ids("task_id", applied().map(|(seal, _)| seal.step.attempt.task().uuid()))
                    .smalls("attempt", applied().map(|(seal, _)| Some(i16::from(seal.step.attempt.number()))))
                    .texts("device", applied().map(|(seal, _)| Some(seal.manifest.device.as_str())))
                    .texts("verdict", applied().map(|(seal, _)| Some(seal.manifest.verdict.as_str())))
                    .numbers("size", applied().map(|(seal, _)| Some(i64::try_from(size(seal)).unwrap_or(i64::MAX))))
                    .numbers("objects", applied().map(|(seal, _)| Some(i64::try_from(seal.manifest.objects.len()).unwrap_or(i64::MAX))))
                    .texts("sha256", applied().map(|(seal, _)| Some(seal.manifest_sha256.as_str())))
                    .texts("manifest", applied().map(|(_, text)| Some(text.as_str())))
                    .texts("location", applied().map(|(seal, _)| Some(seal.location.as_str())))
                    .numbers("at", applied().map(|(seal, _)| Some(to_ms(seal.manifest.sealed_at))));
                let sql = "INSERT INTO bundle (task_id, attempt, device_id, verdict, size_bytes, objects, manifest_sha256, manifest, location, sealed_at) \
                     SELECT v.task_id, v.attempt, v.device, v.verdict, v.size, v.objects, v.sha256, v.manifest, v.location, v.at FROM [[v]]";
                tx.execute(sql, &[], Some(&batch)).await?;
            }
            tx.commit().await?;
            Ok(outcomes)
        })
        .await
    }
}
