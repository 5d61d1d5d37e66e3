//! Files of other programs that become blobs.

use std::os::unix::fs::MetadataExt as _;

use blob_store::{AdoptMode, Adopted, IngestError};
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
