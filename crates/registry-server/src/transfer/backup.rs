//! Backups: the metadata at one moment, and every blob that it needs.
//!
//! | path in a backup | content |
//! |---|---|
//! | `format` | the line `shipway registry-backup 1` |
//! | `snapshots/<time>` | all tables at that time, the format of the shared log's snapshots |
//! | `snapshots/<time>.incomplete` | the same, of a moment when blobs were missing or damaged |
//! | `blobs/<algorithm>/<hex>` | blobs; only ever added to |
//!
//! A snapshot is written after all its blobs, so each that is not called incomplete can be
//! restored whole as long as no blob of the backup is removed or rots. An incomplete one is
//! restored only by its name and with leave.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use blob_store::{AdoptMode, Adopted, IngestError};
use oci_model::{Algorithm, Digest, Hasher};

use super::copy::{CopyError, copy_verified};
use super::{Offline, RestoreOptions, TransferError, TransferReport};
use crate::metadata::{Metadata, MetadataError};

const FORMAT: &str = "shipway registry-backup 1\n";

/// Extension of snapshots whose blobs were not all there.
const INCOMPLETE: &str = "incomplete";

/// Bytes hashed at once.
const HASH_BYTES: usize = 256 * 1024;

/// Writes a snapshot and the blobs that the backup lacks.
pub(super) fn write(
    offline: &Offline,
    snapshot: &[u8],
    target: &Path,
    name: &str,
    dry_run: bool,
) -> Result<TransferReport, TransferError> {
    let damaged = |error: MetadataError| offline.state(error);
    let kept = Metadata::kept_in(snapshot).map_err(damaged)?;
    let lease = offline.store.lease().map_err(|error| offline.state(error))?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| TransferError::File { path, source }
    };
    if !dry_run {
        prepare(target)?;
    }
    let mut report = TransferReport::default();
    let repositories: BTreeSet<&str> =
        kept.iter().filter_map(|(name, _)| name.rsplit_once('@')).map(|(name, _)| name).collect();
    report.repositories = repositories.len() as u64;
    report.manifests = kept.len() as u64;
    let mut wanted = Vec::new();
    let mut seen = BTreeSet::new();
    for (manifest, digests) in &kept {
        for digest in digests {
            if seen.insert(*digest) {
                // It stays until the snapshot is written, whatever is deleted meanwhile. All of
                // them before the first is copied: copying takes long.
                lease.add(digest).map_err(|error| offline.state(error))?;
                wanted.push((manifest, digest));
            }
        }
    }
    for (manifest, digest) in wanted {
        let Ok(mut blob) = offline.store.open_blob(digest) else {
            report.problem(manifest.clone(), format!("blob {digest} is missing"));
            continue;
        };
        let size = blob.size();
        let path = blob_path(target, digest);
        if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() == size) {
            report.present += 1;
        } else if !dry_run {
            match copy_verified(digest, &mut blob, &path) {
                Ok(()) => {}
                Err(CopyError::OtherContent) => {
                    // Out of sight with it, as the scrubber does.
                    let _ = offline.store.verify(digest);
                    report.problem(manifest.clone(), format!("blob {digest} is damaged"));
                    continue;
                }
                Err(CopyError::File(source)) => return Err(failed(&path)(source)),
            }
        }
        report.blobs += 1;
        report.bytes += size;
    }
    if !dry_run {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512] {
            let path = target.join("blobs").join(algorithm.name());
            sync_directory(&path).map_err(failed(&path))?;
        }
        let mut path = target.join("snapshots").join(name);
        if !report.problems.is_empty() {
            path.add_extension(INCOMPLETE);
        }
        write_whole(&path, snapshot).map_err(failed(&path))?;
    }
    Ok(report)
}

/// Makes the registry hold exactly what a snapshot of the backup says; blobs that it has stay.
pub(super) fn restore(
    offline: &Offline,
    source: &Path,
    name: Option<&str>,
    options: RestoreOptions,
) -> Result<TransferReport, TransferError> {
    let RestoreOptions { mode, replace, with_missing, dry_run } = options;
    let path = snapshot_path(source, name)?;
    let failed = |source| TransferError::File { path: path.clone(), source };
    let snapshot = std::fs::read(&path).map_err(failed)?;
    let kept = Metadata::kept_in(&snapshot).map_err(|error| offline.state(error))?;
    let database = offline.directory.join("metadata.redb");
    // A registry that began meanwhile would lose what it acknowledges.
    let held = if database.exists() || !dry_run {
        let held = Metadata::hold(&offline.directory).map_err(|error| offline.unusable(error))?;
        // What it has must not be lost by accident.
        let unused = held.is_unused().map_err(|error| offline.state(error))?;
        if !unused && !replace && !dry_run {
            return Err(TransferError::NotEmpty { path: database });
        }
        Some(held)
    } else {
        None
    };
    let lease = offline.store.lease().map_err(|error| offline.state(error))?;
    let mut report = TransferReport::default();
    let mut seen = BTreeSet::new();
    let repositories: BTreeSet<&str> =
        kept.iter().filter_map(|(name, _)| name.rsplit_once('@')).map(|(name, _)| name).collect();
    report.repositories = repositories.len() as u64;
    report.manifests = kept.len() as u64;
    for (manifest, digests) in &kept {
        for digest in digests {
            if !seen.insert(*digest) {
                continue;
            }
            let path = blob_path(source, digest);
            let had = if dry_run {
                check(&path, digest)
            } else {
                lease.add(digest).map_err(|error| offline.state(error))?;
                take_in(offline, &path, digest, mode)?
            };
            match had {
                Ok(adopted) => {
                    report.blobs += 1;
                    report.bytes += std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
                    report.present += u64::from(adopted == Some(Adopted::Present));
                    report.linked += u64::from(adopted == Some(Adopted::Linked));
                }
                // A drill is about the backup alone.
                Err(reason) if !dry_run && offline.store.contains(digest) => {
                    tracing::debug!(%digest, reason, "the store itself still has the blob");
                    report.blobs += 1;
                    report.present += 1;
                }
                Err(reason) => report.problem(manifest.clone(), format!("blob {digest} {reason}")),
            }
        }
    }
    if !dry_run && !with_missing && !report.problems.is_empty() {
        return Err(TransferError::Incomplete { problems: report.problems });
    }
    if !dry_run {
        offline.store.settle().map_err(|error| offline.state(error))?;
        Metadata::replace(&offline.directory, &snapshot).map_err(|error| offline.state(error))?;
        match offline.open() {
            // It has set the refs of the store.
            Ok(metadata) => metadata.close(),
            // So has a registry that was quicker.
            Err(TransferError::InUse { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    drop(held);
    Ok(report)
}

/// The newest snapshot of a backup, or the named one.
fn snapshot_path(source: &Path, name: Option<&str>) -> Result<PathBuf, TransferError> {
    let not_a = || TransferError::NotA { path: source.to_owned(), expected: "a registry backup" };
    if std::fs::read_to_string(source.join("format")).ok().as_deref() != Some(FORMAT) {
        return Err(not_a());
    }
    let directory = source.join("snapshots");
    if let Some(name) = name {
        return Ok(directory.join(Path::new(name).file_name().ok_or_else(not_a)?));
    }
    let entries = std::fs::read_dir(&directory).map_err(|_| not_a())?;
    entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_none())
        .max()
        .ok_or_else(|| TransferError::NotA {
            path: source.to_owned(),
            expected: "a registry backup with a complete snapshot",
        })
}

fn blob_path(backup: &Path, digest: &Digest) -> PathBuf {
    backup.join("blobs").join(digest.algorithm().name()).join(digest.encoded())
}

fn take_in(
    offline: &Offline,
    path: &Path,
    digest: &Digest,
    mode: AdoptMode,
) -> Result<Result<Option<Adopted>, String>, TransferError> {
    match offline.store.adopt_file(path, digest, mode) {
        Ok(adopted) => Ok(Ok(Some(adopted))),
        Err(IngestError::NoSpace { .. }) => Err(TransferError::NoSpace),
        Err(error) => Ok(Err(format!("cannot be had: {error}"))),
    }
}

/// Hashes a blob of the backup.
fn check(path: &Path, digest: &Digest) -> Result<Option<Adopted>, String> {
    use std::io::Read as _;
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    let mut file = std::fs::File::open(path).map_err(unreadable)?;
    let mut hasher = Hasher::new(digest.algorithm());
    let mut buffer = vec![0; HASH_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
    if hasher.finish() == *digest { Ok(None) } else { Err("is damaged".to_owned()) }
}

fn prepare(target: &Path) -> Result<(), TransferError> {
    let failed = |source| TransferError::File { path: target.to_owned(), source };
    let format = target.join("format");
    if format.exists() && std::fs::read_to_string(&format).map_err(failed)? != FORMAT {
        let path = target.to_owned();
        return Err(TransferError::NotA { path, expected: "a backup of this version" });
    }
    for name in ["snapshots", "blobs/sha256", "blobs/sha384", "blobs/sha512"] {
        std::fs::create_dir_all(target.join(name)).map_err(failed)?;
    }
    if !format.exists() {
        write_whole(&format, FORMAT.as_bytes()).map_err(failed)?;
    }
    Ok(())
}

/// Writes a file that is there whole or not at all.
fn write_whole(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let staged = path.with_added_extension("new");
    let mut file = std::fs::File::create(&staged)?;
    file.write_all(content)?;
    file.sync_data()?;
    std::fs::rename(&staged, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    std::fs::File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use blob_store::BlobStore;
    use oci_model::Repository;

    use super::*;
    use crate::metadata::{CachedBlob, Change, Stamp};

    const OPTIONS: RestoreOptions = RestoreOptions {
        mode: AdoptMode::Copy,
        replace: false,
        with_missing: false,
        dry_run: false,
    };

    fn registry(path: &Path) -> Offline {
        let store = BlobStore::open(path.join("blobs")).expect("a store");
        Offline { directory: path.join("registry"), store }
    }

    /// A registry that needs one blob, and a backup of it.
    async fn backed_up(root: &Path) -> (Offline, Digest) {
        let offline = registry(&root.join("first"));
        let digest = offline.store.put(b"layer").expect("a blob");
        let repository = Repository::new("team/app").expect("a name");
        let blob = CachedBlob { repository, digest, size: 5, key: None };
        let metadata = offline.open().expect("a database");
        metadata.submit(Change::CacheBlob(blob), Stamp::system()).await.expect("a change");
        metadata.close();
        drop(metadata);
        let snapshot = offline.snapshot().await.expect("a snapshot");
        let report = offline.back_up(snapshot, &root.join("backup"), "1", false).await;
        assert_eq!(report.expect("a backup").problems, []);
        (offline, digest)
    }

    #[tokio::test]
    async fn a_backup_that_lacks_blobs_is_restored_only_with_leave() {
        let directory = tempfile::tempdir().expect("a directory");
        let (backup, again) = (directory.path().join("backup"), directory.path().join("again"));
        let (_, digest) = backed_up(directory.path()).await;
        std::fs::write(blob_path(&backup, &digest), b"rotten").expect("damage");
        let other = registry(&directory.path().join("other"));
        let refused = other.restore(&backup, None, OPTIONS).await.expect_err("a blob is damaged");
        assert!(matches!(&refused, TransferError::Incomplete { problems } if problems.len() == 1));
        assert!(refused.to_string().contains(&digest.to_string()), "{refused}");
        // Nothing was replaced, so this needs no other leave.
        let options = RestoreOptions { with_missing: true, ..OPTIONS };
        let report = other.restore(&backup, None, options).await.expect("what there is");
        assert_eq!((report.blobs, report.problems.len()), (0, 1));
        // A backup of that says what it is.
        let snapshot = other.snapshot().await.expect("a snapshot");
        assert_eq!(Metadata::kept_in(&snapshot).expect("refs").len(), 1);
        let report = other.back_up(snapshot, &again, "2", false).await.expect("a backup");
        assert_eq!(report.problems.len(), 1);
        assert!(
            again.join("snapshots/2.incomplete").exists() && !again.join("snapshots/2").exists()
        );
        let third = registry(&directory.path().join("third"));
        let refused = third.restore(&again, None, options).await.expect_err("none is complete");
        assert!(matches!(refused, TransferError::NotA { .. }), "{refused}");
        let named = Some("2.incomplete".to_owned());
        third.restore(&again, named, options).await.expect("what there is");
    }

    #[tokio::test]
    async fn no_registry_starts_and_no_restore_begins_while_the_database_is_held() {
        let directory = tempfile::tempdir().expect("a directory");
        let (offline, _) = backed_up(directory.path()).await;
        let held = Metadata::hold(&offline.directory).expect("the lock");
        assert!(!held.is_unused().expect("an answer"));
        assert!(matches!(offline.open(), Err(TransferError::InUse { .. })));
        let options = RestoreOptions { replace: true, ..OPTIONS };
        let refused = offline.restore(&directory.path().join("backup"), None, options).await;
        assert!(matches!(refused, Err(TransferError::InUse { .. })), "{refused:?}");
        drop(held);
        let restored = offline.restore(&directory.path().join("backup"), None, options).await;
        assert_eq!(restored.expect("a restore").blobs, 1);
    }
}
