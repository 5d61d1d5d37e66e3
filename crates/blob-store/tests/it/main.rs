//! The store as other crates and other processes see it.

mod adopt;
mod collection;
mod crash;
mod ingest;
mod scrub;
mod uploads;

use std::time::{Duration, SystemTime};

use blob_store::{BlobStore, CollectMode, CollectOptions, RefName};

/// A store in a directory of its own.
fn store() -> (tempfile::TempDir, BlobStore) {
    let directory = tempfile::tempdir().expect("a directory");
    let store = BlobStore::open(directory.path().join("blobs")).expect("a store");
    (directory, store)
}

fn name(text: &str) -> RefName {
    text.parse().expect("a ref name")
}

/// Collects whatever nothing keeps, however new it is.
fn collect_now() -> CollectOptions {
    CollectOptions {
        now: SystemTime::now() + Duration::from_secs(5),
        delay: Duration::ZERO,
        upload_idle_max: Duration::from_secs(3600),
        mode: CollectMode::Apply,
    }
}
