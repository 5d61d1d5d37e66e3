//! Leases: digests that a running process needs before it can set a ref.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use oci_model::Digest;

use crate::durable::{lock, remove_file, try_lock, unlock};
use crate::error::{Context as _, DiskError};
use crate::store::{BlobStore, create_new};

/// Guards blobs against collection until the last clone is dropped or the process dies.
#[derive(Clone, Debug)]
pub struct Lease {
    inner: Arc<LeaseFile>,
}

#[derive(Debug)]
struct LeaseFile {
    store: BlobStore,
    path: PathBuf,
    file: Mutex<File>,
}

impl BlobStore {
    /// Begins a lease that guards nothing yet.
    ///
    /// # Errors
    /// A failure of the disk.
    pub fn lease(&self) -> Result<Lease, DiskError> {
        // A collection must not find the file between its creation and its lock.
        let _guard = self.share_with_collection()?;
        let name = uuid::Uuid::new_v4().simple().to_string();
        let path = self.inner.root.join("leases").join(name);
        let file = create_new(&path)?;
        try_lock(&file, &path)?;
        let inner = LeaseFile { store: self.clone(), path, file: Mutex::new(file) };
        Ok(Lease { inner: Arc::new(inner) })
    }
}

impl Lease {
    /// Guards `digest`, which may not be in the store yet, and says whether it is. If it is, it
    /// stays until the lease ends.
    ///
    /// # Errors
    /// A failure of the disk.
    pub fn add(&self, digest: &Digest) -> Result<bool, DiskError> {
        let _guard = self.inner.store.share_with_collection()?;
        let mut file = lock(&self.inner.file);
        file.write_all(format!("{digest}\n").as_bytes()).doing("write", &self.inner.path)?;
        drop(file);
        Ok(self.inner.store.contains(digest))
    }
}

impl Drop for LeaseFile {
    fn drop(&mut self) {
        // If it fails, a collection finds the file unlocked and removes it.
        let _ = remove_file(&self.path);
        unlock(&lock(&self.file));
    }
}

/// The digests of all living leases; the files of dead ones are removed.
///
/// The caller holds the collection lock exclusively.
pub(crate) fn living(store: &BlobStore) -> Result<Vec<Digest>, DiskError> {
    let directory = store.inner.root.join("leases");
    let mut digests = Vec::new();
    for entry in std::fs::read_dir(&directory).doing("list", &directory)? {
        let path = entry.doing("list", &directory)?.path();
        let Ok(file) = OpenOptions::new().read(true).open(&path) else { continue };
        if try_lock(&file, &path)? {
            remove_file(&path)?;
            continue;
        }
        // By the open file: its holder may let go, and remove the path, at any moment.
        let mut text = String::new();
        (&file).read_to_string(&mut text).doing("read", &path)?;
        digests.extend(text.lines().filter_map(|line| line.parse::<Digest>().ok()));
    }
    Ok(digests)
}
