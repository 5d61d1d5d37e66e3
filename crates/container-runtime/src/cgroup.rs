//! Control groups: limits of a container, version 1 and 2.

use std::fs;
use std::io;
use std::path::PathBuf;

/// Removes groups that have no process left.
pub(crate) fn remove(dirs: &[PathBuf]) -> io::Result<()> {
    for dir in dirs {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
