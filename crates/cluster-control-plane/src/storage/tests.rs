//! Revisions, durability, snapshots of the past and compaction.

use serde_json::json;

use super::*;
use crate::object;

fn put(name: &str, expected: Expected, value: i64) -> Write {
    Write {
        storage: "secrets",
        key: Key::new("default", name),
        expected,
        operation: Operation::Put(json!({"metadata": {"name": name}, "value": value})),
    }
}

fn open() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(&dir.path().join("state.redb")).expect("opens");
    (dir, store)
}

#[tokio::test]
async fn writes_take_growing_revisions_and_are_conditional() {
    let (_dir, store) = open();
    let a = store.write(put("a", Expected::Absent, 1)).await.expect("created");
    let b = store.write(put("b", Expected::Absent, 1)).await.expect("created");
    assert!(object::resource_version(&a) < object::resource_version(&b));
    let stale = store.write(put("a", Expected::Revision(1), 2)).await;
    assert!(matches!(stale, Err(WriteError::Unexpected)));
    let again = store.write(put("a", Expected::Absent, 2)).await;
    assert!(matches!(again, Err(WriteError::Unexpected)));
    let revision = object::resource_version(&a);
    store.write(put("a", Expected::Revision(revision), 2)).await.expect("updated");
}

#[tokio::test]
async fn state_and_revision_survive_reopening() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("state.redb");
    let revision = {
        let store = Store::open(&path).expect("opens");
        for n in 0..20 {
            store.write(put(&format!("s{n}"), Expected::Absent, n)).await.expect("created");
        }
        store.revision()
    };
    // The writer thread ends when the last store is dropped; until then the file is locked.
    let store = loop {
        match Store::open(&path) {
            Ok(store) => break store,
            Err(StorageError::InUse { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(store.revision(), revision);
    assert_eq!(store.kind("secrets").expect("kind").count(), 20);
}

#[tokio::test]
async fn second_opener_is_told_the_file_is_in_use() {
    let (dir, _store) = open();
    let second = Store::open(&dir.path().join("state.redb"));
    assert!(matches!(second, Err(StorageError::InUse { .. })));
}

#[tokio::test]
async fn past_revision_shows_the_state_of_that_time() {
    let (_dir, store) = open();
    let a = store.write(put("a", Expected::Absent, 1)).await.expect("created");
    let b = store.write(put("b", Expected::Absent, 1)).await.expect("created");
    let then = store.revision();
    store
        .write(put("a", Expected::Revision(object::resource_version(&a)), 2))
        .await
        .expect("updated");
    store.write(put("c", Expected::Absent, 1)).await.expect("created");
    let delete = Write {
        operation: Operation::Delete,
        ..put("b", Expected::Revision(object::resource_version(&b)), 0)
    };
    store.write(delete).await.expect("deleted");

    let kind = store.kind("secrets").expect("kind");
    let past = kind.snapshot_at("default", None, then).expect("in the window");
    let names: Vec<&str> = past.items.iter().map(|(key, _)| key.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(past.items[0].1["value"], 1);
    let now = kind.snapshot("", None, store.revision());
    let names: Vec<&str> = now.items.iter().map(|(key, _)| key.name.as_str()).collect();
    assert_eq!(names, ["a", "c"]);
}

#[test]
fn history_is_bounded_and_older_revisions_are_compacted() {
    let kind = KindCache::new(1);
    for revision in 2..5000_u64 {
        let object = Arc::new(json!({"metadata": {"name": "x"}}));
        kind.publish(Arc::new(Event {
            revision,
            key: Key::new("", "x"),
            change: Change::Put(object),
            previous: None,
            bytes: 10,
        }));
    }
    let compacted = kind.events_after(1, 10).expect_err("compacted");
    assert!(1 < compacted.oldest);
    let events = kind.events_after(4990, 100).expect("in the window");
    assert_eq!(events.len(), 9);
    assert_eq!(events[0].revision, 4991);
}
