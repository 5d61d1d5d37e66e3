//! Files of other programs that become blobs: by a hard link where that can be, else by a copy.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use oci_model::Digest;

use crate::durable::remove_file;
use crate::error::{Context as _, DiskError, IngestError};
use crate::scrub::hash_whole;
use crate::store::BlobStore;

/// How a file gets into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdoptMode {
    /// A second name of the same file if both are on one file system; a copy otherwise. Nobody
    /// may write to the file afterwards.
    Link,
    /// A copy; file systems that can share the blocks do.
    Copy,
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// The store had the blob.
    Present,
    /// It is a hard link now.
    Linked,
    /// It was copied.
    Copied,
}

impl BlobStore {
    /// Takes in the file at `path` as the blob `expected`, after its bytes were hashed. The
    /// directory entry becomes durable with the next synced ref or [`BlobStore::settle`].
    ///
    /// # Errors
    /// [`IngestError::DigestMismatch`]: the file is not that blob, and nothing changed.
    pub fn adopt_file(
        &self,
        path: &Path,
        expected: &Digest,
        mode: AdoptMode,
    ) -> Result<Adopted, IngestError> {
        let mut source = File::open(path).doing("open", path)?;
        let metadata = source.metadata().doing("stat", path)?;
        if self.adopt_present(expected, metadata.len())? {
            self.directory(expected.algorithm()).mark();
            return Ok(Adopted::Present);
        }
        self.require_room()?;
        if mode == AdoptMode::Link {
            let actual =
                hash_whole(&mut source, expected.algorithm()).doing("read", path)?.finish();
            if actual != *expected {
                let (expected, actual) = (Box::new(*expected), Box::new(actual));
                return Err(IngestError::DigestMismatch { expected, actual });
            }
            if self.link_file(path, &source, &metadata, expected)? {
                return Ok(Adopted::Linked);
            }
        }
        let mut ingest = self.ingest_with(expected.algorithm())?;
        use std::io::Seek as _;
        source.seek(io::SeekFrom::Start(0)).doing("seek in", path)?;
        ingest.fill_from(&mut source)?;
        ingest.commit_deferred(expected)?;
        Ok(Adopted::Copied)
    }

    /// Gives the file a name in the store; `false` if the file systems do not allow it.
    fn link_file(
        &self,
        path: &Path,
        source: &File,
        metadata: &std::fs::Metadata,
        digest: &Digest,
    ) -> Result<bool, DiskError> {
        let staged = self.root().join("staging").join(uuid::Uuid::new_v4().simple().to_string());
        if std::fs::hard_link(path, &staged).is_err() {
            return Ok(false);
        }
        let linked = std::fs::metadata(&staged).doing("stat", &staged)?;
        if (linked.dev(), linked.ino()) != (metadata.dev(), metadata.ino()) {
            // The path names another file than the one that was hashed.
            remove_file(&staged)?;
            return Ok(false);
        }
        rustix::fs::fdatasync(source).doing("sync", path)?;
        crate::store::touch_now(&staged)?;
        let target = self.path(digest);
        std::fs::rename(&staged, &target).doing("publish", &target)?;
        self.directory(digest.algorithm()).mark();
        Ok(true)
    }
}
