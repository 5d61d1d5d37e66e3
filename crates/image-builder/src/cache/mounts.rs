//! Cache mounts that outlive their machine: directories of `RUN --mount=type=cache` packed as
//! layers beside the records of steps, and unpacked again where a directory does not exist yet.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use blob_store::{BlobStore, Lease};
use layers::{ApplyOptions, Compression, Timestamps, Whiteouts};
use oci_model::{Descriptor, Digest};
use rustix::fs::{Gid, Mode, Uid};
use serde::{Deserialize, Serialize};

use crate::commit::{self, LayerForm};
use crate::content_digest::Framed;
use crate::error::StepError;
use crate::workspace::remove_tree;

/// How directories are packed.
const FORM: LayerForm = LayerForm {
    compression: Compression::ZSTD_DEFAULT,
    timestamps: Timestamps::Keep,
    ignored: None,
};
/// Most paths of one directory; more are not exported.
const PATHS_MAX: u64 = 2_000_000;

/// An exported cache mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountRecord {
    /// The id as the Dockerfile has it, with its namespace.
    pub(crate) id: String,
    /// Digest of names, modes, owners, sizes and times of all files.
    pub(crate) fingerprint: Digest,
    /// All files.
    pub(crate) layer: Descriptor,
    /// Bytes of all files.
    pub(crate) bytes: u64,
    /// Mode and owner of the directory itself.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// When it was last used, unix seconds.
    pub(crate) used: i64,
}

/// What is in a directory, without reading files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) fingerprint: Digest,
    /// Bytes of all files.
    pub(crate) bytes: u64,
}

/// Looks a directory through.
pub(crate) fn summarize(directory: &Path) -> io::Result<Summary> {
    let mut framed = Framed::new("cache mount");
    let mut bytes = 0;
    let mut paths = 0;
    let mut waiting = vec![PathBuf::new()];
    while let Some(below) = waiting.pop() {
        let mut names = Vec::new();
        for item in std::fs::read_dir(directory.join(&below))? {
            names.push(item?.file_name());
        }
        names.sort_unstable();
        for name in names {
            paths += 1;
            if PATHS_MAX < paths {
                return Err(io::Error::other(format!("it has more than {PATHS_MAX} paths")));
            }
            let path = below.join(name);
            let metadata = std::fs::symlink_metadata(directory.join(&path))?;
            framed.field(path.as_os_str().as_bytes());
            for number in [metadata.mode(), metadata.uid(), metadata.gid()] {
                framed.field(&number.to_le_bytes());
            }
            if metadata.is_dir() {
                waiting.push(path);
                continue;
            }
            // Layers have whole seconds, so nothing finer survives the way there and back.
            framed.field(&metadata.mtime().to_le_bytes());
            framed.field(&metadata.len().to_le_bytes());
            if metadata.is_symlink() {
                let target = std::fs::read_link(directory.join(&path))?;
                framed.field(target.as_os_str().as_bytes());
            }
            bytes += metadata.len();
        }
    }
    Ok(Summary { fingerprint: framed.finish(), bytes })
}

/// Packs a directory; an empty one has no layer.
pub(crate) fn pack(
    id: &str,
    directory: &Path,
    summary: Summary,
    store: &BlobStore,
    lease: &Lease,
    now: i64,
) -> Result<Option<MountRecord>, StepError> {
    let mut writer = commit::writer(store, lease, FORM)?;
    layers::pack_upper(directory, &[], &mut writer)
        .map_err(|error| StepError::layer(format!("cannot pack cache mount {id}"), error))?;
    let Some((layer, _)) = commit::finish(writer)? else { return Ok(None) };
    let metadata = std::fs::metadata(directory).map_err(|error| StepError::io(directory, error))?;
    Ok(Some(MountRecord {
        id: id.to_owned(),
        fingerprint: summary.fingerprint,
        layer: layer.descriptor,
        bytes: summary.bytes,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        used: now,
    }))
}

/// Unpacks an exported directory to `to`, which does not exist yet and appears whole.
pub(crate) fn unpack(record: &MountRecord, blob: File, to: &Path) -> Result<(), StepError> {
    let io = |error: io::Error| StepError::io(to, error);
    let parent = to.parent().unwrap_or(Path::new("."));
    let part = tempfile::Builder::new().prefix("restore-").tempdir_in(parent).map_err(io)?.keep();
    let made = (|| {
        let options = ApplyOptions::for_this_process(Whiteouts::Remove);
        layers::apply(blob, &part, &options).map_err(|error| {
            StepError::layer(format!("cannot unpack cache mount {}", record.id), error)
        })?;
        if rustix::process::geteuid().is_root() {
            let (uid, gid) = (Uid::from_raw(record.uid), Gid::from_raw(record.gid));
            rustix::fs::chown(&part, Some(uid), Some(gid)).map_err(|e| io(e.into()))?;
        }
        rustix::fs::chmod(&part, Mode::from_raw_mode(record.mode)).map_err(|e| io(e.into()))?;
        std::fs::rename(&part, to).map_err(io)
    })();
    if made.is_err() {
        // Nobody saw it; what cannot be removed only takes space.
        let _ = remove_tree(&part);
    }
    made
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_directory_comes_back_with_modes_links_and_the_same_fingerprint() {
        let root = tempfile::tempdir().expect("a directory");
        let store = BlobStore::open(root.path().join("blobs")).expect("a store");
        let lease = store.lease().expect("a lease");
        let from = root.path().join("from");
        std::fs::create_dir_all(from.join("d/empty")).expect("a directory");
        std::fs::write(from.join("d/file"), "text").expect("a file");
        std::os::unix::fs::symlink("file", from.join("d/link")).expect("a link");
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("ours");
        };
        mode(&from.join("d/file"), 0o4711);
        mode(&from, 0o1777);
        let summary = summarize(&from).expect("readable");
        assert_eq!(summary.bytes, 8);
        let record = pack("id", &from, summary, &store, &lease, 7).expect("a layer");
        let record = record.expect("not empty");
        let to = root.path().join("to");
        let blob = store.open_blob(&record.layer.digest).expect("there").into_file();
        unpack(&record, blob, &to).expect("unpacked");
        assert_eq!(summarize(&to).expect("readable"), summary);
        assert_eq!(std::fs::metadata(&to).expect("there").mode() & 0o7777, 0o1777);
        assert_eq!(std::fs::read(to.join("d/file")).expect("there"), b"text");
        std::fs::write(to.join("d/file"), "other").expect("ours");
        assert_ne!(summarize(&to).expect("readable").fingerprint, summary.fingerprint);
    }
}
