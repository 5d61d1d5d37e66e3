//! Content that is written elsewhere, checked while it passes.

use std::io::{Read, Write as _};
use std::path::Path;

use oci_model::{Digest, Hasher};

/// Bytes copied at once.
const COPY_BYTES: usize = 256 * 1024;

/// Why content was not written.
#[derive(Debug)]
pub(super) enum CopyError {
    /// It is not what its digest says.
    OtherContent,
    /// It cannot be read or written.
    File(std::io::Error),
}

/// Writes content to `path`, where it is whole, synced and right, or not at all.
pub(super) fn copy_verified(
    digest: &Digest,
    content: &mut dyn Read,
    path: &Path,
) -> Result<(), CopyError> {
    let staged = path.with_added_extension(format!("{}.new", uuid::Uuid::new_v4().simple()));
    let copied = copy(digest, content, &staged, path);
    if copied.is_err() {
        let _ = std::fs::remove_file(&staged);
    }
    copied
}

fn copy(
    digest: &Digest,
    content: &mut dyn Read,
    staged: &Path,
    path: &Path,
) -> Result<(), CopyError> {
    let mut file = std::fs::File::create_new(staged).map_err(CopyError::File)?;
    let mut hasher = Hasher::new(digest.algorithm());
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let count = match content.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::File(error)),
        };
        hasher.update(&buffer[..count]);
        file.write_all(&buffer[..count]).map_err(CopyError::File)?;
    }
    if hasher.finish() != *digest {
        return Err(CopyError::OtherContent);
    }
    file.sync_data().map_err(CopyError::File)?;
    std::fs::rename(staged, path).map_err(CopyError::File)
}
