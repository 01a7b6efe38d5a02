//! Lists: filters and pages.

use muster_store::{Cancel, CollectionFilter, TaskFilter};
use muster_wire::http::{CollectionRequest, CollectionState};
use muster_wire::{Reason, TaskState};

use crate::harness::*;

on_both! {
    /// Newest first, filtered, paged.
    async fn collections_are_listed(db) {
        let mut ids = Vec::new();
        for n in 0..5 {
            let mut new = new_collection(&devices(n));
            if n == 2 {
                new.request = CollectionRequest::Bundle { since: None, edge_runtime_only: false };
                new.case = Some("7".to_owned());
                new.created_by = "bob".to_owned();
            }
            db.store.create_collection(&new).await.expect("made");
            ids.push(new.id);
            // Ids of one millisecond are not in order.
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        db.store.close_finished(NOW).await.expect("closed the empty one");
        db.store.cancel_collection(ids[1], Cancel::All, "ada", NOW).await.expect("cancelled");
        let list = async |filter: CollectionFilter| { db.store.collections(&filter).await.expect("a read").into_iter().map(|view| view.id).collect::<Vec<_>>() };
        let all = CollectionFilter { limit: 100, ..CollectionFilter::default() };
        assert_eq!(list(all.clone()).await, [ids[4], ids[3], ids[2], ids[1], ids[0]]);
        assert_eq!(list(CollectionFilter { limit: 2, before: Some(ids[4]), ..all.clone() }).await, [ids[3], ids[2]]);
        assert_eq!(list(CollectionFilter { state: Some(CollectionState::Running), ..all.clone() }).await, [ids[4], ids[3], ids[2]]);
        assert_eq!(list(CollectionFilter { state: Some(CollectionState::Finished), ..all.clone() }).await, [ids[0]]);
        assert_eq!(list(CollectionFilter { state: Some(CollectionState::Cancelled), ..all.clone() }).await, [ids[1]]);
        assert_eq!(list(CollectionFilter { kind: Some("bundle".to_owned()), ..all.clone() }).await, [ids[2]]);
        assert_eq!(list(CollectionFilter { case: Some("7".to_owned()), ..all.clone() }).await, [ids[2]]);
        assert_eq!(list(CollectionFilter { created_by: Some("bob".to_owned()), ..all.clone() }).await, [ids[2]]);
        assert!(list(CollectionFilter { created_by: Some("\0".to_owned()), ..all }).await.is_empty());
    }

    /// In order, filtered by state, reason and device, paged.
    async fn tasks_are_listed(db) {
        let collection = db.collection(30).await;
        let claimed = db.claim(collection, 20).await;
        let steps: Vec<_> = claimed
            .iter()
            .enumerate()
            .filter_map(|(n, task)| match n % 4 {
                0 => Some(step(task.attempt, TaskState::Failed).because(Reason::NoAnswer)),
                1 => Some(step(task.attempt, TaskState::Failed).because(Reason::DeviceError)),
                2 => Some(step(task.attempt, TaskState::Verified)),
                _ => None,
            })
            .collect();
        db.store.apply(&steps).await.expect("applied");
        db.store.record_offline(&[(device(25), NOW), (device(3), NOW)]).await.expect("recorded");
        let list = async |filter: TaskFilter| { db.store.tasks(collection, &filter).await.expect("a read") };
        let ordinals = |views: Vec<muster_wire::http::TaskView>| views.iter().map(|view| view.id.ordinal()).collect::<Vec<_>>();
        let all = TaskFilter { limit: 100, ..TaskFilter::default() };
        let views = list(all.clone()).await;
        assert_eq!(views.iter().filter(|view| view.waiting).map(|view| view.id.ordinal()).collect::<Vec<_>>(), [25], "a dispatched one does not wait");
        assert_eq!(ordinals(views), (0..30).collect::<Vec<_>>());
        assert_eq!(ordinals(list(TaskFilter { after: Some(collection.task(9)), limit: 3, ..all.clone() }).await), [10, 11, 12]);
        assert_eq!(ordinals(list(TaskFilter { states: vec![TaskState::Verified], ..all.clone() }).await), [2, 6, 10, 14, 18]);
        assert_eq!(ordinals(list(TaskFilter { states: vec![TaskState::Failed], reasons: vec![Reason::DeviceError], ..all.clone() }).await), [1, 5, 9, 13, 17]);
        assert_eq!(ordinals(list(TaskFilter { device: Some(device(7)), ..all.clone() }).await), [7]);
        assert_eq!(list(TaskFilter { limit: 100_000, ..all }).await.len(), 30);
        assert!(db.store.task(muster_wire::CollectionId::new().task(0)).await.expect("a read").is_none());
    }

    /// All a device was ever asked, newest first.
    async fn the_tasks_of_a_device_are_listed(db) {
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.push(db.collection(20).await);
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        let tasks = db.store.device_tasks(&device(11), 2).await.expect("a read");
        assert_eq!(tasks.iter().map(|task| task.id).collect::<Vec<_>>(), [ids[2].task(11), ids[1].task(11)]);
        assert!(db.store.device_tasks(&device(21), 2).await.expect("a read").is_empty());
    }
}
