//! Files that appear when they are complete.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::OutputTarget;
use crate::error::StepError;

/// Bytes gathered before a write.
const BUFFER_BYTES: usize = 256 * 1024;

/// Whether a directory can be made or is there.
pub(super) fn check_directory(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(io::ErrorKind::NotADirectory.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether a file can be made: its directory must be there, as with docker.
pub(super) fn check_file(target: &OutputTarget) -> io::Result<()> {
    let OutputTarget::File(path) = target else { return Ok(()) };
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = parent(path);
            if parent.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
        }
        Err(error) => Err(error),
    }
}

fn parent(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// A file on its way; dropped unfinished, it was never there.
pub(super) struct Destination(BufWriter<Inner>);

enum Inner {
    /// Beside its place until it is complete.
    Staged(NamedTempFile, PathBuf),
    /// A pipe or a device, which cannot be renamed.
    Direct(Box<dyn Write + Send>),
}

impl Destination {
    pub(super) fn open(target: &OutputTarget) -> Result<Self, StepError> {
        let inner = match target {
            OutputTarget::Stdout => Inner::Direct(Box::new(io::stdout())),
            OutputTarget::File(path) => {
                let failed = |error| StepError::io(path, error);
                let special = fs::metadata(path).is_ok_and(|found| !found.is_file());
                if special {
                    Inner::Direct(Box::new(File::create(path).map_err(failed)?))
                } else {
                    // The mode is what the umask leaves, as for every new file.
                    let staged = tempfile::Builder::new()
                        .prefix(".shipway-")
                        .permissions(Permissions::from_mode(0o666))
                        .tempfile_in(parent(path));
                    Inner::Staged(staged.map_err(failed)?, path.clone())
                }
            }
        };
        Ok(Self(BufWriter::with_capacity(BUFFER_BYTES, inner)))
    }

    /// Puts the file into its place.
    pub(super) fn finish(mut self) -> Result<(), StepError> {
        let unwritten = |error| StepError::layer("cannot write the output", error);
        self.0.flush().map_err(unwritten)?;
        let (inner, _) = self.0.into_parts();
        match inner {
            Inner::Direct(_) => Ok(()),
            Inner::Staged(file, path) => {
                file.persist(&path).map(|_| ()).map_err(|error| StepError::io(&path, error.error))
            }
        }
    }
}

impl Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Write for Inner {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Staged(file, _) => file.write(bytes),
            Self::Direct(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Staged(file, _) => file.flush(),
            Self::Direct(out) => out.flush(),
        }
    }
}

/// Writes a small file whole.
pub(super) fn whole(path: &Path, bytes: &[u8]) -> Result<(), StepError> {
    let mut file = Destination::open(&OutputTarget::File(path.to_owned()))?;
    file.write_all(bytes).map_err(|error| StepError::io(path, error))?;
    file.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let listing = fs::read_dir(directory).expect("a directory");
        listing.map(|item| item.expect("a name").file_name().to_string_lossy().into()).collect()
    }

    #[test]
    fn an_unfinished_file_was_never_there() {
        let root = tempfile::tempdir().expect("a directory");
        let target = OutputTarget::File(root.path().join("image.tar"));
        let mut file = Destination::open(&target).expect("writable");
        file.write_all(b"half").expect("memory");
        drop(file);
        assert_eq!(names(root.path()), Vec::<String>::new());
        let mut file = Destination::open(&target).expect("writable");
        file.write_all(b"whole").expect("memory");
        file.finish().expect("renamed");
        assert_eq!(names(root.path()), ["image.tar"]);
    }

    #[test]
    fn a_failed_file_leaves_the_older_one() {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("image.tar");
        fs::write(&path, "older").expect("a file");
        let file = Destination::open(&OutputTarget::File(path.clone())).expect("writable");
        drop(file);
        assert_eq!(fs::read(&path).expect("a file"), b"older");
    }

    #[test]
    fn directories_of_files_must_exist() {
        let root = tempfile::tempdir().expect("a directory");
        let check = |below: &str| check_file(&OutputTarget::File(root.path().join(below)));
        assert!(check("image.tar").is_ok());
        assert_eq!(check("no/image.tar").map_err(|e| e.kind()), Err(io::ErrorKind::NotFound));
        assert_eq!(check("").map_err(|e| e.kind()), Err(io::ErrorKind::IsADirectory));
        assert!(!root.path().join("no").exists());
    }
}
