//! Files of other programs that become blobs: by a hard link where that can be, else by a copy.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use oci_model::Digest;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

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
            if self.link_file(path, &source, expected)? {
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

    /// Gives the file a name in the store; `false` if the file systems do not allow it, or
    /// something of that name is there, which a copy replaces.
    fn link_file(&self, path: &Path, source: &File, digest: &Digest) -> Result<bool, DiskError> {
        rustix::fs::fdatasync(source).doing("sync", path)?;
        // Recent before it is visible, or a collection may find it due.
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        };
        if rustix::fs::futimens(source, &times).is_err() {
            return Ok(false);
        }
        // The file that was hashed, whatever `path` names by now; and no staged name, which a
        // sweep could take for one of a dead process.
        let opened = format!("/proc/self/fd/{}", source.as_raw_fd());
        let target = self.path(digest);
        if rustix::fs::linkat(CWD, opened, CWD, &target, AtFlags::SYMLINK_FOLLOW).is_err() {
            return Ok(false);
        }
        self.directory(digest.algorithm()).mark();
        Ok(true)
    }
}
