//! Scrubbing: every blob is read again, slowly, and damaged ones go out of sight.

use std::fs::File;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oci_model::{Algorithm, Digest, Hasher};
use rustix::fs::Advice;

use crate::durable::{remove_file, replace_file};
use crate::error::{Context as _, DiskError, ReadError};
use crate::store::{BlobStore, READ_CHUNK_BYTES, Verdict};

/// Blobs between two notes of the place reached.
const NOTE_EVERY_BLOBS: u64 = 256;

/// Bytes between two notes of the place reached.
const NOTE_EVERY_BYTES: u64 = 1024 * 1024 * 1024;

/// What one pass of the scrubber found, or the part of a pass that it got to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Blobs read.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that did not hash to their name and are in quarantine now, and those that cannot be
    /// read at all.
    pub damaged: Vec<Digest>,
    /// Whether the pass reached the last blob; otherwise the next one goes on where it stopped.
    pub complete: bool,
}

/// A blob that was put out of sight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// The name that its bytes do not hash to.
    pub digest: Digest,
    /// Size of the damaged file, in bytes.
    pub size: u64,
    /// Whether an intact copy came in since.
    pub repaired: bool,
}

impl BlobStore {
    /// Reads every blob again, each after asking `wait` for the time that its bytes take at
    /// `bytes_per_second`; damaged ones go into quarantine and are told to `damaged` at once. Goes
    /// on where an earlier pass was stopped by a `Break`, also one of another process.
    ///
    /// # Errors
    /// A failure of the disk that is not about one blob.
    pub fn scrub(
        &self,
        bytes_per_second: u64,
        mut wait: impl FnMut(Duration) -> ControlFlow<()>,
        mut damaged: impl FnMut(&Digest),
    ) -> Result<Scrubbed, DiskError> {
        let mut scrubbed = Scrubbed::default();
        let mut after = self.scrubbed_up_to();
        let mut noted = (0, 0);
        for algorithm in [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512] {
            for shard in "0123456789abcdef".chars() {
                let mut digests = self.shard(algorithm, shard)?;
                digests.retain(|digest| after.is_none_or(|after| *digest > after));
                digests.sort_unstable();
                for digest in digests {
                    let pace = |bytes: u64| wait(time_for(bytes, bytes_per_second));
                    let read = match self.verify_at_pace(&digest, pace) {
                        Ok(read) => read,
                        // Collected meanwhile.
                        Err(ReadError::Missing { .. }) => continue,
                        Err(ReadError::Disk(error)) if error.is_shortage() => return Err(error),
                        // Else no blob after it would ever be read again.
                        Err(ReadError::Disk(_)) => {
                            damaged(&digest);
                            scrubbed.damaged.push(digest);
                            after = Some(digest);
                            continue;
                        }
                        Err(ReadError::TooLarge { .. } | ReadError::Corrupt { .. }) => continue,
                    };
                    let ControlFlow::Continue((verdict, bytes)) = read else {
                        self.note_scrubbed(after.as_ref())?;
                        return Ok(scrubbed);
                    };
                    scrubbed.blobs += 1;
                    scrubbed.bytes += bytes;
                    if verdict == Verdict::Quarantined {
                        damaged(&digest);
                        scrubbed.damaged.push(digest);
                    }
                    after = Some(digest);
                    if scrubbed.blobs - noted.0 >= NOTE_EVERY_BLOBS
                        || scrubbed.bytes - noted.1 >= NOTE_EVERY_BYTES
                    {
                        noted = (scrubbed.blobs, scrubbed.bytes);
                        self.note_scrubbed(after.as_ref())?;
                    }
                }
            }
        }
        self.note_scrubbed(None)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        replace_file(&self.root().join("scrub-done"), format!("{now}\n").as_bytes())?;
        scrubbed.complete = true;
        Ok(scrubbed)
    }

    /// When the last whole pass of the scrubber ended, to the second; `None` before the first.
    pub fn last_scrub(&self) -> Option<SystemTime> {
        let text = std::fs::read_to_string(self.root().join("scrub-done")).ok()?;
        Some(UNIX_EPOCH + Duration::from_secs(text.trim().parse().ok()?))
    }

    /// The blobs in quarantine.
    ///
    /// # Errors
    /// A failure of the disk.
    pub fn quarantined(&self) -> Result<Vec<Quarantined>, DiskError> {
        let directory = self.root().join("quarantine");
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&directory).doing("list", &directory)? {
            let entry = entry.doing("list", &directory)?;
            let name = entry.file_name();
            let digest = name.to_str().and_then(|name| name.split_once('-'));
            let digest =
                digest.and_then(|(algorithm, hex)| format!("{algorithm}:{hex}").parse().ok());
            let (Some(digest), Ok(metadata)) = (digest, entry.metadata()) else { continue };
            let repaired = self.contains(&digest);
            found.push(Quarantined { digest, size: metadata.len(), repaired });
        }
        found.sort_by_key(|blob| blob.digest);
        Ok(found)
    }

    /// Removes the damaged bytes of blobs that came in again.
    pub(crate) fn drop_repaired(&self) -> Result<(), DiskError> {
        for blob in self.quarantined()? {
            if blob.repaired {
                remove_file(&self.quarantine_path(&blob.digest))?;
            }
        }
        Ok(())
    }

    /// Hashes a blob again, asking `pace` before each piece; one that does not match its name, or
    /// that the disk cannot read, goes into quarantine.
    fn verify_at_pace(
        &self,
        digest: &Digest,
        mut pace: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<ControlFlow<(), (Verdict, u64)>, ReadError> {
        let mut file = self.open_blob(digest)?.into_file();
        // What the memory holds says nothing about the disk.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        let mut hasher = Hasher::new(digest.algorithm());
        let mut buffer = vec![0; READ_CHUNK_BYTES];
        let mut bytes = 0;
        let intact = loop {
            match file.read(&mut buffer) {
                Ok(0) => break hasher.finish() == *digest,
                Ok(count) => {
                    if pace(count as u64).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                    hasher.update(&buffer[..count]);
                    bytes += count as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if is_media_error(&error) => break false,
                Err(source) => {
                    return Err(DiskError::new("read", &self.path(digest), source).into());
                }
            }
        };
        // Reading everything once must not push what pulls need out of the memory.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        if intact {
            return Ok(ControlFlow::Continue((Verdict::Intact, bytes)));
        }
        self.quarantine(digest)?;
        Ok(ControlFlow::Continue((Verdict::Quarantined, bytes)))
    }

    /// Blobs whose digest begins with `first`: a part of all, so that memory stays small.
    fn shard(&self, algorithm: Algorithm, first: char) -> Result<Vec<Digest>, DiskError> {
        let directory = self.root().join(algorithm.name());
        let mut digests = Vec::new();
        for entry in std::fs::read_dir(&directory).doing("list", &directory)? {
            let name = entry.doing("list", &directory)?.file_name();
            let Some(hex) = name.to_str().filter(|hex| hex.starts_with(first)) else { continue };
            digests.extend(format!("{algorithm}:{hex}").parse::<Digest>());
        }
        Ok(digests)
    }

    fn scrub_path(&self) -> PathBuf {
        self.root().join("scrubbed")
    }

    /// The last blob of an unfinished pass.
    fn scrubbed_up_to(&self) -> Option<Digest> {
        std::fs::read_to_string(self.scrub_path()).ok()?.trim().parse().ok()
    }

    fn note_scrubbed(&self, last: Option<&Digest>) -> Result<(), DiskError> {
        match last {
            Some(digest) => replace_file(&self.scrub_path(), format!("{digest}\n").as_bytes()),
            None => remove_file(&self.scrub_path()),
        }
    }
}

/// Whether the disk says that it lost the bytes.
pub(crate) fn is_media_error(error: &std::io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    errno == Some(rustix::io::Errno::IO) || errno == Some(rustix::io::Errno::NODATA)
}

/// How long `bytes` take at `bytes_per_second`.
fn time_for(bytes: u64, bytes_per_second: u64) -> Duration {
    let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_second.max(1));
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

/// Hashes what a file holds, from its beginning, into a hasher that can go on.
pub(crate) fn hash_whole(file: &mut File, algorithm: Algorithm) -> std::io::Result<Hasher> {
    use std::io::{Seek as _, SeekFrom};
    let mut hasher = Hasher::new(algorithm);
    file.seek(SeekFrom::Start(0))?;
    let mut buffer = vec![0; READ_CHUNK_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
