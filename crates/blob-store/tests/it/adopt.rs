//! Files of other programs that become blobs.

use std::os::unix::fs::MetadataExt as _;

use blob_store::{AdoptMode, Adopted, DiskReserve, IngestError};
use oci_model::{Algorithm, Digest, Hasher};

use crate::store;

#[test]
fn a_file_becomes_a_blob_by_link_or_copy() {
    let (directory, store) = store();
    for (mode, expected) in [(AdoptMode::Link, Adopted::Linked), (AdoptMode::Copy, Adopted::Copied)]
    {
        let bytes = format!("{mode:?}").repeat(100_000);
        let digest = Digest::of(bytes.as_bytes());
        let path = directory.path().join("source");
        std::fs::write(&path, &bytes).expect("a file");
        assert_eq!(store.adopt_file(&path, &digest, mode).expect("a blob"), expected);
        assert_eq!(store.adopt_file(&path, &digest, mode).expect("a blob"), Adopted::Present);
        let same = |path: &std::path::Path| std::fs::metadata(path).expect("a file").ino();
        assert_eq!(same(&path) == same(&store.path(&digest)), mode == AdoptMode::Link);
        assert_eq!(store.read(&digest, u64::MAX).expect("the blob"), bytes.as_bytes());
        std::fs::remove_file(&path).expect("the source");
    }
    let path = directory.path().join("source");
    std::fs::write(&path, "512").expect("a file");
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(b"512");
    let digest = hasher.finish();
    store.adopt_file(&path, &digest, AdoptMode::Copy).expect("a blob");
    assert!(store.contains(&digest));
}

#[test]
fn a_file_of_other_content_is_refused_and_leaves_nothing() {
    let (directory, store) = store();
    let path = directory.path().join("source");
    std::fs::write(&path, "other").expect("a file");
    let digest = Digest::of(b"expected");
    for mode in [AdoptMode::Link, AdoptMode::Copy] {
        let refused = store.adopt_file(&path, &digest, mode).expect_err("another digest");
        assert!(matches!(refused, IngestError::DigestMismatch { .. }), "{refused}");
    }
    assert!(!store.contains(&digest));
    assert_eq!(std::fs::read_dir(store.root().join("staging")).expect("a list").count(), 0);
}

#[test]
fn a_copy_leaves_the_reserve_free() {
    let (directory, store) = store();
    let store = store.reserving(DiskReserve { percent: 1, bytes_max: 1 });
    let path = directory.path().join("source");
    let source = std::fs::File::create(&path).expect("a file");
    // A hole: it is refused before anything is read.
    source.set_len(store.disk_space().expect("numbers").total).expect("a size");
    let refused = store.adopt_file(&path, &Digest::of(b""), AdoptMode::Copy);
    assert!(matches!(refused, Err(IngestError::NoSpace { .. })), "{refused:?}");
}

#[test]
fn a_link_replaces_a_file_of_the_wrong_size() {
    let (directory, store) = store();
    let (path, digest) = (directory.path().join("source"), Digest::of(b"content"));
    std::fs::write(&path, "content").expect("a file");
    std::fs::write(store.path(&digest), "con").expect("a short file");
    let adopted = store.adopt_file(&path, &digest, AdoptMode::Link).expect("a blob");
    assert_eq!(adopted, Adopted::Copied);
    assert_eq!(store.read(&digest, 100).expect("the blob"), b"content");
}
