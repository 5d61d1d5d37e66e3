use std::time::{Duration, SystemTime};

use blob_store::{BlobStore, IngestError, UploadError};
use oci_model::{Algorithm, Digest};

use crate::{collect_now, store};

#[test]
fn an_upload_goes_on_in_another_process() {
    let (_directory, first) = store();
    let mut upload = first.begin_upload("team/app alice", Algorithm::Sha256).expect("an upload");
    upload.append(b"one ").expect("bytes");
    let id = upload.id();
    drop(upload);
    // A second open shares no memory with the first, as another process would not.
    let second = BlobStore::open(first.root()).expect("the store");
    let mut upload = second.resume_upload(id).expect("the upload");
    assert_eq!((upload.label(), upload.size()), ("team/app alice", 4));
    upload.append(b"two").expect("bytes");
    drop(upload);
    // The first still remembers a hash state of four bytes, which no longer counts.
    let upload = first.resume_upload(id).expect("the upload");
    upload.commit(&Digest::of(b"one two")).expect("a commit");
    assert!(first.contains(&Digest::of(b"one two")));
    assert!(matches!(first.resume_upload(id), Err(UploadError::Unknown { .. })));
    assert!(matches!(second.upload_status(id), Err(UploadError::Unknown { .. })));
}

#[test]
fn an_upload_is_written_by_one_at_a_time() {
    let (_directory, store) = store();
    let upload = store.begin_upload("", Algorithm::Sha256).expect("an upload");
    assert!(matches!(store.resume_upload(upload.id()), Err(UploadError::Busy { .. })));
    assert_eq!(store.upload_status(upload.id()).expect("a status").size, 0);
}

#[test]
fn wrong_bytes_end_the_upload() {
    let (_directory, store) = store();
    let mut upload = store.begin_upload("", Algorithm::Sha256).expect("an upload");
    let id = upload.id();
    upload.append(b"evil").expect("bytes");
    let error = upload.commit(&Digest::of(b"good")).expect_err("a mismatch");
    assert!(matches!(error, IngestError::DigestMismatch { .. }), "{error}");
    assert!(matches!(store.resume_upload(id), Err(UploadError::Unknown { .. })));
    assert_eq!(std::fs::read_dir(store.root().join("uploads")).expect("a directory").count(), 0);
}

#[test]
fn only_idle_uploads_expire() {
    let (_directory, store) = store();
    let held = store.begin_upload("held", Algorithm::Sha256).expect("an upload");
    let idle = store.begin_upload("idle", Algorithm::Sha256).expect("an upload").id();
    let day = Duration::from_secs(86_400);
    let now = SystemTime::now();
    assert_eq!(store.remove_idle_uploads(now, day).expect("a sweep"), 0);
    assert_eq!(store.remove_idle_uploads(now + 2 * day, day).expect("a sweep"), 1);
    assert!(matches!(store.upload_status(idle), Err(UploadError::Unknown { .. })));
    held.commit(&Digest::of(b"")).expect("a commit");
}

#[test]
fn a_collection_leaves_running_uploads_alone() {
    let (_directory, store) = store();
    let mut upload = store.begin_upload("", Algorithm::Sha512).expect("an upload");
    upload.append(b"bytes").expect("bytes");
    let id = upload.id();
    drop(upload);
    store.collect(&collect_now(), |_, _| {}).expect("a collection");
    store.resume_upload(id).expect("the upload").commit(&Digest::of(b"bytes")).expect("a commit");
}
