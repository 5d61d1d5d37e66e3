//! Blobs that rot, and files that become blobs.

use std::ops::ControlFlow;
use std::time::Duration;

use blob_store::{BlobStore, DiskReserve, IngestError};
use oci_model::{Algorithm, Digest};

use crate::{collect_now, name, store};

/// Changes a byte of a blob on disk.
fn damage(store: &BlobStore, digest: &Digest) {
    use std::os::unix::fs::PermissionsExt as _;
    let path = store.path(digest);
    let mut bytes = std::fs::read(&path).expect("the blob");
    bytes[0] ^= 1;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    std::fs::write(&path, bytes).expect("damage");
}

fn scrub_all(store: &BlobStore) -> blob_store::Scrubbed {
    store.scrub(u64::MAX, |_| ControlFlow::Continue(()), |_| {}).expect("a pass")
}

#[test]
fn damaged_blobs_go_out_of_sight_and_come_back_with_the_next_push() {
    let (_directory, store) = store();
    let digests: Vec<Digest> =
        (0..40).map(|n| store.put(format!("blob {n}").as_bytes()).expect("a blob")).collect();
    store.set_ref(&name("node/x"), &digests).expect("a ref");
    let (bad, short) = (digests[7], digests[8]);
    damage(&store, &bad);
    std::fs::remove_file(store.path(&short)).expect("the blob");
    std::fs::write(store.path(&short), b"bl").expect("a short file");
    let mut told = Vec::new();
    let scrubbed = store
        .scrub(u64::MAX, |_| ControlFlow::Continue(()), |digest| told.push(*digest))
        .expect("a pass");
    let mut expected = vec![bad, short];
    expected.sort();
    assert_eq!((scrubbed.blobs, scrubbed.complete), (40, true));
    assert_eq!((&scrubbed.damaged, &told), (&expected, &expected));
    assert!(!store.contains(&bad) && !store.contains(&short));
    let mut missing = Vec::new();
    let count = store.for_each_missing(|name, digest| missing.push((name.to_owned(), *digest)));
    missing.sort_by_key(|(_, digest)| *digest);
    assert_eq!(count.expect("refs"), 2);
    assert_eq!(missing, expected.iter().map(|d| ("node/x".to_owned(), *d)).collect::<Vec<_>>());

    store.put(b"blob 7").expect("the blob again");
    let quarantined = store.quarantined().expect("a list");
    let repaired: Vec<_> = quarantined.iter().map(|blob| (blob.digest, blob.repaired)).collect();
    assert_eq!(repaired, expected.iter().map(|d| (*d, *d == bad)).collect::<Vec<_>>());
    assert_eq!(scrub_all(&store).damaged, []);
    store.collect(&collect_now(), |_, _| {}).expect("a collection");
    let left: Vec<_> = store.quarantined().expect("a list").iter().map(|b| b.digest).collect();
    assert_eq!(left, [short], "the bytes of what was repaired are not kept for ever");
}

#[test]
fn a_scrub_asks_for_the_time_that_its_bytes_take() {
    let (_directory, store) = store();
    for n in 0..4u8 {
        store.put(&vec![n; 500_000]).expect("a blob");
    }
    let mut waited = Duration::ZERO;
    let wait = |time: Duration| {
        waited += time;
        ControlFlow::Continue(())
    };
    let scrubbed = store.scrub(1_000_000, wait, |_| {}).expect("a pass");
    assert_eq!(scrubbed.bytes, 2_000_000);
    assert_eq!(waited.as_millis(), 2000);
}

#[test]
fn a_stopped_scrub_goes_on_where_it_stopped_in_another_process_too() {
    let (_directory, store) = store();
    for n in 0..30 {
        store.put(format!("blob {n}").as_bytes()).expect("a blob");
    }
    let mut passes = Vec::new();
    for _ in 0..4 {
        let store = BlobStore::open(store.root()).expect("another view");
        let mut left = 10;
        let wait = |_| {
            left -= 1;
            if left < 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let scrubbed = store.scrub(u64::MAX, wait, |_| {}).expect("a part of a pass");
        passes.push((scrubbed.blobs, scrubbed.complete));
    }
    // Thirty blobs in all; then the next pass begins.
    assert!(store.last_scrub().is_some());
    assert_eq!(passes, [(10, false), (10, false), (10, true), (10, false)]);
}

#[test]
fn writers_of_a_reserving_store_are_refused_and_others_are_not() {
    let (_directory, store) = store();
    let everything = DiskReserve { percent: 100, bytes_max: u64::MAX };
    let full = store.reserving(everything);
    assert!(matches!(full.ingest(), Err(IngestError::NoSpace { .. })));
    let refused = full.begin_upload("label", Algorithm::Sha256).expect_err("no room");
    assert!(refused.to_string().contains("no space"), "{refused}");
    store.put(b"x").expect("the store itself reserves nothing");
    let space = full.disk_space().expect("numbers");
    assert_eq!(space.reserved, space.total);
}

#[test]
fn a_blob_that_cannot_be_read_is_told_and_the_scrub_goes_on() {
    let (_directory, store) = store();
    for n in 0..9 {
        store.put(format!("blob {n}").as_bytes()).expect("a blob");
    }
    let unreadable = Digest::of(b"unreadable");
    std::fs::create_dir(store.path(&unreadable)).expect("a directory in its place");
    let scrubbed = scrub_all(&store);
    assert_eq!((scrubbed.blobs, scrubbed.complete), (9, true));
    assert_eq!(scrubbed.damaged, [unreadable]);
}
