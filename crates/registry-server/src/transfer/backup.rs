//! Backups: the metadata at one moment, and every blob that it needs.
//!
//! | path in a backup | content |
//! |---|---|
//! | `format` | the line `shipway registry-backup 1` |
//! | `snapshots/<time>` | all tables at that time, the format of the shared log's snapshots |
//! | `blobs/<algorithm>/<hex>` | blobs; only ever added to |
//!
//! A snapshot is written after all its blobs, so whatever snapshot is there can be restored. An
//! older one stays good as long as no blob is removed from the backup.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use blob_store::{AdoptMode, Adopted, IngestError};
use oci_model::{Algorithm, Digest, Hasher};

use super::copy::{CopyError, copy_verified};
use super::{Offline, TransferError, TransferReport};
use crate::metadata::{Metadata, MetadataError};

const FORMAT: &str = "shipway registry-backup 1\n";

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
    let mut seen = BTreeSet::new();
    for (manifest, digests) in &kept {
        for digest in digests {
            if !seen.insert(*digest) {
                continue;
            }
            // It stays until the snapshot is written, whatever is deleted meanwhile.
            lease.add(digest).map_err(|error| offline.state(error))?;
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
    }
    if !dry_run {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512] {
            let path = target.join("blobs").join(algorithm.name());
            sync_directory(&path).map_err(failed(&path))?;
        }
        let path = target.join("snapshots").join(name);
        write_whole(&path, snapshot).map_err(failed(&path))?;
    }
    Ok(report)
}

/// Makes the registry hold exactly what a snapshot of the backup says; blobs that it has stay.
pub(super) fn restore(
    offline: &Offline,
    source: &Path,
    name: Option<&str>,
    mode: AdoptMode,
    replace: bool,
    dry_run: bool,
) -> Result<TransferReport, TransferError> {
    let path = snapshot_path(source, name)?;
    let failed = |source| TransferError::File { path: path.clone(), source };
    let snapshot = std::fs::read(&path).map_err(failed)?;
    let kept = Metadata::kept_in(&snapshot).map_err(|error| offline.state(error))?;
    let database = offline.directory.join("metadata.redb");
    if database.exists() {
        // It must not run, and what it has must not be lost by accident.
        offline.open()?.close();
        if !replace && !dry_run {
            return Err(TransferError::NotEmpty { path: database });
        }
    }
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
    if !dry_run {
        offline.store.settle().map_err(|error| offline.state(error))?;
        Metadata::replace(&offline.directory, &snapshot).map_err(|error| offline.state(error))?;
        // Sets the refs of the store.
        offline.open()?.close();
    }
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
        .ok_or_else(not_a)
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
