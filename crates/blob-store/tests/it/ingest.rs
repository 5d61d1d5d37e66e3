use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;

use blob_store::{BlobStore, IngestError, OpenError, ReadError, Verdict};
use oci_model::{Algorithm, Digest, Hasher};
use proptest::prelude::*;

use crate::store;

fn staged_files(store: &BlobStore) -> usize {
    fs::read_dir(store.root().join("staging")).expect("a directory").count()
}

fn sha512(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(bytes);
    hasher.finish()
}

#[test]
fn a_blob_is_visible_only_after_its_commit() {
    let (_directory, store) = store();
    let digest = Digest::of(b"hello");
    let mut ingest = store.ingest().expect("an ingest");
    ingest.write_all(b"hel").expect("a write");
    ingest.write_all(b"lo").expect("a write");
    assert!(!store.contains(&digest));
    ingest.commit(&digest).expect("a commit");
    assert_eq!(store.size(&digest), Some(5));
    assert_eq!(store.read(&digest, 5).expect("the blob"), b"hello");
    assert_eq!(staged_files(&store), 0);
}

#[test]
fn other_bytes_than_promised_leave_no_trace() {
    let (_directory, store) = store();
    let mut ingest = store.ingest().expect("an ingest");
    ingest.write_all(b"evil").expect("a write");
    let error = ingest.commit(&Digest::of(b"good")).expect_err("a mismatch");
    assert!(matches!(error, IngestError::DigestMismatch { .. }), "{error}");
    assert!(!store.contains(&Digest::of(b"good")) && !store.contains(&Digest::of(b"evil")));
    assert_eq!(staged_files(&store), 0);
}

#[test]
fn a_dropped_ingest_leaves_no_trace() {
    let (_directory, store) = store();
    let mut ingest = store.ingest().expect("an ingest");
    ingest.write_all(&vec![7; 300_000]).expect("a write");
    drop(ingest);
    assert_eq!(staged_files(&store), 0);
}

#[test]
fn the_layout_is_the_documented_one() {
    let (_directory, store) = store();
    store.put(b"").expect("a blob");
    let root = store.root();
    assert_eq!(fs::read_to_string(root.join("format")).expect("text"), "shipway blob-store 1\n");
    let path = root.join("sha256/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_eq!(fs::metadata(path).expect("the blob").permissions().mode() & 0o777, 0o400);
    assert_eq!(fs::metadata(root).expect("the root").permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_store_of_another_format_is_refused() {
    let (_directory, store) = store();
    fs::write(store.root().join("format"), "shipway blob-store 9\n").expect("a write");
    let error = BlobStore::open(store.root()).expect_err("another format");
    assert!(matches!(error, OpenError::Format { .. }), "{error}");
}

#[test]
fn sha512_works_with_and_without_notice() {
    let (_directory, store) = store();
    let digest = sha512(b"long");
    for ingest in [store.ingest(), store.ingest_with(Algorithm::Sha512)] {
        let mut ingest = ingest.expect("an ingest");
        ingest.write_all(b"long").expect("a write");
        ingest.commit(&digest).expect("a commit");
        assert_eq!(store.read(&digest, 100).expect("the blob"), b"long");
    }
}

#[test]
fn damaged_bytes_are_found_and_put_away() {
    let (_directory, store) = store();
    let (read, verified) = (store.put(b"first").expect("a"), store.put(b"second").expect("b"));
    assert_eq!(store.verify(&verified).expect("a verdict"), Verdict::Intact);
    for digest in [&read, &verified] {
        let path = store.path(digest);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a chmod");
        fs::write(&path, b"third").expect("a write");
    }
    let error = store.read(&read, 100).expect_err("damage");
    assert!(matches!(error, ReadError::Corrupt { .. }), "{error}");
    assert_eq!(store.verify(&verified).expect("a verdict"), Verdict::Quarantined);
    assert!(!store.contains(&read) && !store.contains(&verified));
    assert_eq!(fs::read_dir(store.root().join("quarantine")).expect("a directory").count(), 2);
    assert_eq!(store.put(b"first").expect("a fresh copy"), read);
    assert_eq!(store.read(&read, 100).expect("the blob"), b"first");
}

#[test]
fn a_truncated_blob_is_healed_by_the_next_ingest() {
    let (_directory, store) = store();
    let digest = store.put(b"whole").expect("a blob");
    let path = store.path(&digest);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a chmod");
    fs::write(&path, b"wh").expect("a write");
    store.put(b"whole").expect("a blob");
    assert_eq!(store.read(&digest, 100).expect("the blob"), b"whole");
}

#[test]
fn a_read_names_what_is_missing_or_too_large() {
    let (_directory, store) = store();
    let digest = store.put(b"12345").expect("a blob");
    let error = store.read(&digest, 4).expect_err("too large");
    assert!(matches!(error, ReadError::TooLarge { size: 5, bytes_max: 4, .. }), "{error}");
    let error = store.open_blob(&Digest::of(b"?")).expect_err("missing");
    assert!(matches!(error, ReadError::Missing { .. }), "{error}");
}

#[test]
fn fifty_threads_may_store_the_same_blob() {
    let (_directory, store) = store();
    let bytes = vec![42; 200_000];
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| store.put(&bytes).expect("a blob"));
        }
    });
    assert_eq!(store.read(&Digest::of(&bytes), 200_000).expect("the blob"), bytes);
    assert_eq!(staged_files(&store), 0);
}

#[test]
fn a_full_disk_is_an_error_of_its_own() {
    // A file system of 256 KiB needs a mount; without the right to mount there is nothing to show.
    let directory = tempfile::tempdir().expect("a directory");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
        .arg(directory.path())
        .status()
        .expect("the mount program");
    assert!(mounted.success(), "this test needs the right to mount a tmpfs");
    let result = std::panic::catch_unwind(|| {
        let store = BlobStore::open(directory.path().join("blobs")).expect("a store");
        let kept = store.put(b"kept").expect("a blob");
        let mut ingest = store.ingest().expect("an ingest");
        let error = ingest.write_all(&vec![1; 1 << 20]).expect_err("a full disk");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let error = IngestError::from_write(error, &ingest);
        assert!(matches!(error, IngestError::NoSpace { .. }), "{error}");
        drop(ingest);
        let error = store.put(&vec![1; 1 << 20]).expect_err("a full disk");
        assert!(matches!(error, IngestError::NoSpace { .. }), "{error}");
        assert_eq!(store.read(&kept, 10).expect("the blob"), b"kept");
        store.put(b"there is room again").expect("a blob");
    });
    std::process::Command::new("umount").arg(directory.path()).status().expect("an unmount");
    result.expect("the checks");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_pieces_make_the_same_blob(pieces: Vec<Vec<u8>>, large in 0usize..300_000) {
        let (_directory, store) = store();
        let mut ingest = store.ingest().expect("an ingest");
        let mut whole = Vec::new();
        for piece in pieces.iter().chain([&vec![9; large], &vec![3; 5]]) {
            ingest.write_all(piece).expect("a write");
            whole.extend_from_slice(piece);
        }
        prop_assert_eq!(ingest.size(), whole.len() as u64);
        let digest = ingest.commit_any().expect("a commit");
        prop_assert_eq!(digest, Digest::of(&whole));
        let mut read = Vec::new();
        store.open_blob(&digest).expect("the blob").read_to_end(&mut read).expect("a read");
        prop_assert_eq!(read, whole);
    }
}
