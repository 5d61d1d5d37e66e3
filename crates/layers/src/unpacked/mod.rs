//! The store of unpacked layers: one directory per layer, named by its diffID, shared by all
//! processes of a state directory.
//!
//! ```text
//! trees/sha256/<hex>/fs            the layer's tree
//! trees/sha256/<hex>/record.json   see `on_disk`
//! trees/sha256/<hex>/durable       present once the tree was synced
//! staging/<random>/                a tree being unpacked; locked by its process
//! locks/<hex>                      held while a layer is unpacked or removed
//! locks/held-<hex>                 held, shared, while somebody uses a layer
//! patches/<hex>/fs                 metadata of directories that layers forgot to describe
//! ```
//!
//! A tree is renamed into place whole, so that a killed process leaves only a staging directory,
//! which the next process removes. Nothing is synced while unpacking: instead the record names
//! the boot in which it was written, and after a power failure a tree that was never synced is
//! unpacked again.

mod hold;
mod on_disk;
mod stack;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use oci_model::DiffId;
use rustix::fs::{FlockOperation, XattrFlags};

pub use self::hold::{LayerHold, RemovedLayers};
use self::on_disk::{Record, VERSION};
use crate::apply::{ApplyError, ApplyOptions, Whiteouts, apply};

/// Unpacked layers below one directory. Cloning is cheap; processes may share the directory.
#[derive(Debug, Clone)]
pub struct UnpackedLayers {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    whiteouts: Whiteouts,
}

/// A layer that is unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackedLayer {
    /// Which layer.
    pub diff_id: DiffId,
    /// Its tree, usable as a lower directory of an overlay mount. Never write into it.
    pub path: PathBuf,
    /// Bytes of the uncompressed archive.
    pub tar_bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Directories that the archive used and did not describe.
    pub implied_directories: Vec<PathBuf>,
}

/// Why the store of unpacked layers failed.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The store's own files.
    #[error("cannot use the layer store at {path:?}")]
    Store {
        /// The file or directory.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The blob of the layer could not be opened.
    #[error("cannot open the blob of layer {diff_id}")]
    Open {
        /// The layer.
        diff_id: DiffId,
        /// What the opener said.
        source: io::Error,
    },
    /// The blob could not be unpacked.
    #[error("cannot unpack layer {diff_id}")]
    Apply {
        /// The layer.
        diff_id: DiffId,
        /// What went wrong.
        source: ApplyError,
    },
    /// The blob holds another layer than the image config promises.
    #[error("layer {expected} unpacks to {actual}: the image config and its layers do not match")]
    DiffIdMismatch {
        /// What the image config says.
        expected: DiffId,
        /// What the blob is.
        actual: DiffId,
    },
}

impl UnpackError {
    fn store(path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Store { path: path.to_owned(), source: source.into() }
    }

    /// Whether the disk is full.
    pub fn is_out_of_space(&self) -> bool {
        match self {
            Self::Store { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::Apply { source, .. } => source.is_out_of_space(),
            Self::Open { .. } | Self::DiffIdMismatch { .. } => false,
        }
    }
}

impl UnpackedLayers {
    /// Opens or creates the store, and removes what dead processes left behind.
    ///
    /// Removal marks are written so that both kinds of overlay mount understand them, as far as
    /// this process may write them.
    ///
    /// # Errors
    /// [`UnpackError::Store`].
    pub fn open(root: &Path) -> Result<Self, UnpackError> {
        // Overlay mounts need absolute paths.
        let root = std::path::absolute(root).map_err(|source| UnpackError::store(root, source))?;
        for part in ["trees/sha256", "trees/sha384", "trees/sha512", "staging", "locks", "patches"]
        {
            let path = root.join(part);
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(|source| UnpackError::store(&path, source))?;
        }
        let whiteouts = whiteouts_possible(&root.join("staging"));
        let store = Self { inner: Arc::new(Inner { root, whiteouts }) };
        store.remove_dead_staging()?;
        Ok(store)
    }

    /// The directory of the store.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// The layer, if it is unpacked.
    ///
    /// # Errors
    /// [`UnpackError::Store`].
    pub fn get(&self, diff_id: &DiffId) -> Result<Option<UnpackedLayer>, UnpackError> {
        let home = self.home(diff_id);
        let record_path = home.join("record.json");
        let text = match fs::read(&record_path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(UnpackError::store(&record_path, source)),
        };
        let Some(record) =
            serde_json::from_slice::<Record>(&text).ok().filter(|record| record.version == VERSION)
        else {
            // Torn by a power failure, or written by another version: as good as absent.
            return Ok(None);
        };
        let this_boot = record.boot.is_some() && record.boot == boot_id();
        if !this_boot && !home.join("durable").exists() {
            return Ok(None);
        }
        let mut implied_directories = Vec::new();
        for text in &record.implied {
            let Ok(bytes) = BASE64.decode(text) else { return Ok(None) };
            implied_directories.push(PathBuf::from(std::ffi::OsString::from_vec(bytes)));
        }
        Ok(Some(UnpackedLayer {
            diff_id: *diff_id,
            path: home.join("fs"),
            tar_bytes: record.tar_bytes,
            entries: record.entries,
            implied_directories,
        }))
    }

    /// The layer, unpacked from the blob that `open` yields unless it is there already. Of
    /// several callers in any process one unpacks and the others wait for it.
    ///
    /// # Errors
    /// See [`UnpackError`]; the store is then as before.
    pub fn ensure<R: Read + Send>(
        &self,
        diff_id: &DiffId,
        open: impl FnOnce() -> io::Result<R>,
    ) -> Result<UnpackedLayer, UnpackError> {
        if let Some(layer) = self.get(diff_id)? {
            return Ok(layer);
        }
        let _lock = self.lock(diff_id)?;
        if let Some(layer) = self.get(diff_id)? {
            return Ok(layer);
        }
        let blob = open().map_err(|source| UnpackError::Open { diff_id: *diff_id, source })?;
        let staging = self.stage()?;
        let tree = staging.path.join("fs");
        make_directory(&tree)?;
        let options = ApplyOptions::for_this_process(self.inner.whiteouts);
        let applied = apply(blob, &tree, &options)
            .map_err(|source| UnpackError::Apply { diff_id: *diff_id, source })?;
        if applied.diff_id != *diff_id {
            let (expected, actual) = (*diff_id, applied.diff_id);
            return Err(UnpackError::DiffIdMismatch { expected, actual });
        }
        self.publish(
            staging,
            diff_id,
            &Record {
                version: VERSION,
                tar_bytes: applied.tar_bytes,
                entries: applied.entries,
                implied: encode_paths(&applied.implied_directories),
                boot: boot_id(),
            },
        )
    }

    /// Takes over a tree, such as the upper directory of a finished RUN, as the layer that was
    /// packed from it. The tree must be on the same file system and is gone from its old place
    /// afterwards, also when the layer was there already.
    ///
    /// # Errors
    /// See [`UnpackError`].
    pub fn adopt(
        &self,
        tree: &Path,
        diff_id: &DiffId,
        tar_bytes: u64,
        entries: u64,
    ) -> Result<UnpackedLayer, UnpackError> {
        let _lock = self.lock(diff_id)?;
        let staging = self.stage()?;
        let target = staging.path.join("fs");
        fs::rename(tree, &target).map_err(|source| UnpackError::store(tree, source))?;
        if let Some(layer) = self.get(diff_id)? {
            return Ok(layer);
        }
        self.spread_opaque_marks(&target)?;
        self.publish(
            staging,
            diff_id,
            &Record { version: VERSION, tar_bytes, entries, implied: Vec::new(), boot: boot_id() },
        )
    }

    /// The layers that are unpacked, in no order.
    ///
    /// # Errors
    /// [`UnpackError::Store`].
    pub fn list(&self) -> Result<Vec<UnpackedLayer>, UnpackError> {
        let mut layers = Vec::new();
        for algorithm in ["sha256", "sha384", "sha512"] {
            for name in self.names(&Path::new("trees").join(algorithm))? {
                let digest = format!("{algorithm}:{}", name.to_string_lossy());
                if let Ok(digest) = digest.parse() {
                    layers.extend(self.get(&DiffId(digest))?);
                }
            }
        }
        Ok(layers)
    }

    /// Syncs the file system once and marks all present layers as safe from power failures.
    /// May take as long as the disk needs for everything that is not yet written.
    ///
    /// # Errors
    /// [`UnpackError::Store`].
    pub fn make_durable(&self) -> Result<(), UnpackError> {
        let layers = self.list()?;
        let root = self.root();
        let handle = File::open(root).map_err(|source| UnpackError::store(root, source))?;
        rustix::fs::syncfs(&handle).map_err(|error| UnpackError::store(root, error))?;
        for layer in layers {
            let mark = self.home(&layer.diff_id).join("durable");
            match File::create(&mark) {
                Ok(_) => {}
                // Removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(UnpackError::store(&mark, source)),
            }
        }
        Ok(())
    }

    fn home(&self, diff_id: &DiffId) -> PathBuf {
        let name = diff_id.to_string();
        let (algorithm, hex) = name.split_once(':').unwrap_or(("sha256", &name));
        self.root().join("trees").join(algorithm).join(hex)
    }

    fn lock(&self, diff_id: &DiffId) -> Result<File, UnpackError> {
        lock_file(&self.lock_path(diff_id), FlockOperation::LockExclusive)
    }

    fn lock_path(&self, diff_id: &DiffId) -> PathBuf {
        self.root().join("locks").join(diff_id.to_string().replace(':', "-"))
    }

    /// A fresh staging directory that is removed when dropped.
    fn stage(&self) -> Result<Staging, UnpackError> {
        // Between its creation and its lock the directory looks dead; the cleaner waits.
        let _cleaning = self.lock_cleaning(FlockOperation::LockShared)?;
        let name = format!("{}-{:016x}", std::process::id(), fastrand::u64(..));
        let path = self.root().join("staging").join(name);
        make_directory(&path)?;
        let handle = File::open(&path).map_err(|source| UnpackError::store(&path, source))?;
        rustix::fs::flock(&handle, FlockOperation::LockExclusive)
            .map_err(|error| UnpackError::store(&path, error))?;
        Ok(Staging { path, _lock: handle })
    }

    fn publish(
        &self,
        staging: Staging,
        diff_id: &DiffId,
        record: &Record,
    ) -> Result<UnpackedLayer, UnpackError> {
        let path = staging.path.join("record.json");
        let text = serde_json::to_vec(record).map_err(|error| UnpackError::store(&path, error))?;
        fs::write(&path, text).map_err(|source| UnpackError::store(&path, source))?;
        let home = self.home(diff_id);
        if home.exists() {
            // Unreadable or from before a power failure.
            let grave = self.stage()?;
            fs::rename(&home, grave.path.join("removed"))
                .map_err(|source| UnpackError::store(&home, source))?;
        }
        fs::rename(&staging.path, &home).map_err(|source| UnpackError::store(&home, source))?;
        let missing = || UnpackError::store(&home, io::Error::from(io::ErrorKind::NotFound));
        self.get(diff_id)?.ok_or_else(missing)
    }

    /// An upper directory is marked for the kind of mount that it came from; the layer must
    /// serve both kinds.
    fn spread_opaque_marks(&self, directory: &Path) -> Result<(), UnpackError> {
        if self.inner.whiteouts != Whiteouts::OverlayBoth {
            return Ok(());
        }
        let failed = |source: io::Error| UnpackError::store(directory, source);
        if crate::inode_read::is_opaque(directory) {
            for key in ["trusted.overlay.opaque", "user.overlay.opaque"] {
                rustix::fs::lsetxattr(directory, key, b"y", XattrFlags::empty())
                    .map_err(|error| failed(error.into()))?;
            }
        }
        for entry in fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_dir() {
                self.spread_opaque_marks(&entry.path())?;
            }
        }
        Ok(())
    }

    fn lock_cleaning(&self, operation: FlockOperation) -> Result<File, UnpackError> {
        lock_file(&self.root().join("locks").join("staging"), operation)
    }

    fn remove_dead_staging(&self) -> Result<(), UnpackError> {
        let Ok(_cleaning) = self.lock_cleaning(FlockOperation::NonBlockingLockExclusive) else {
            // Somebody is at work; the next start will do.
            return Ok(());
        };
        for name in self.names(Path::new("staging"))? {
            let path = self.root().join("staging").join(name);
            let Ok(handle) = File::open(&path) else { continue };
            if rustix::fs::flock(&handle, FlockOperation::NonBlockingLockExclusive).is_ok() {
                remove_directory(&path)?;
            }
        }
        Ok(())
    }

    fn names(&self, part: &Path) -> Result<Vec<std::ffi::OsString>, UnpackError> {
        let path = self.root().join(part);
        let failed = |source| UnpackError::store(&path, source);
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name());
        }
        Ok(names)
    }
}

/// A directory that nobody else uses; what is left of it when it is dropped is removed.
#[derive(Debug)]
struct Staging {
    path: PathBuf,
    _lock: File,
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After a publication there is nothing left; a failure here leaves a dead directory,
        // which the next start removes.
        if self.path.exists() {
            let _ = remove_directory(&self.path);
        }
    }
}

fn make_directory(path: &Path) -> Result<(), UnpackError> {
    let mode = if path.ends_with("fs") { 0o755 } else { 0o700 };
    fs::DirBuilder::new().mode(mode).create(path).map_err(|source| UnpackError::store(path, source))
}

fn remove_directory(path: &Path) -> Result<(), UnpackError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            // Without root, directories of an image may be closed to their owner.
            open_up(path);
            fs::remove_dir_all(path).map_err(|source| UnpackError::store(path, source))
        }
        Err(source) => Err(UnpackError::store(path, source)),
    }
}

fn open_up(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

fn lock_file(path: &Path, operation: FlockOperation) -> Result<File, UnpackError> {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|source| UnpackError::store(path, source))?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&file, operation))
        .map_err(|error| UnpackError::store(path, error))?;
    Ok(file)
}

fn encode_paths(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path| BASE64.encode(path.as_os_str().as_bytes())).collect()
}

/// Identity of the running kernel; nothing where /proc is absent.
fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// The removal marks that this process can write on this file system.
fn whiteouts_possible(directory: &Path) -> Whiteouts {
    let admits = |key: &str| {
        let set = rustix::fs::setxattr(directory, key, b"y", XattrFlags::empty()).is_ok();
        set && rustix::fs::removexattr(directory, key).is_ok()
    };
    match (admits("trusted.overlay.opaque"), admits("user.overlay.opaque")) {
        (true, true) => Whiteouts::OverlayBoth,
        (true, false) => Whiteouts::OverlayTrusted,
        (false, _) => Whiteouts::OverlayUser,
    }
}
