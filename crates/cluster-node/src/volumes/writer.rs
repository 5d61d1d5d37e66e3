//! Writes a projected volume so that readers see either the old or the new set of files.
//!
//! Files live in `..<stamp>/`; the symlink `..data` points there and is swapped by one rename;
//! `name` is a symlink to `..data/name` (mini-kubernetes.md 8.4).

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::content::Payload;
use super::ownership::Owner;

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

/// Whether a write changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Changed,
    Unchanged,
}

/// Makes `directory` hold exactly `payload`.
///
/// # Errors
/// The directory cannot be written; readers still see the old files.
pub(crate) fn write(
    directory: &Path,
    payload: &Payload,
    owner: Owner,
    stamp: &str,
) -> io::Result<Written> {
    let data = directory.join(DATA);
    if holds(&data, payload) {
        return Ok(Written::Unchanged);
    }
    let fresh_name = format!("..{stamp}");
    let fresh = directory.join(&fresh_name);
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    owner.apply(&fresh)?;
    for (path, file) in payload {
        let target = fresh.join(path);
        if let Some(parent) = target.parent() {
            create_directories(&fresh, parent, owner)?;
        }
        let mut output =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target)?;
        output.write_all(&file.bytes)?;
        owner.apply(&target)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(owner.file_mode(file.mode)))?;
    }
    let old = fs::read_link(&data).ok();
    let next = directory.join(DATA_NEXT);
    remove_if_present(&next)?;
    symlink(&fresh_name, &next)?;
    fs::rename(&next, &data)?;
    link_names(directory, payload)?;
    if let Some(old) = old {
        fs::remove_dir_all(directory.join(old))?;
    }
    Ok(Written::Changed)
}

fn create_directories(root: &Path, directory: &Path, owner: Owner) -> io::Result<()> {
    if directory == root || directory.exists() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        create_directories(root, parent, owner)?;
    }
    fs::create_dir(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    owner.apply(directory)
}

/// Gives every first path component its symlink and removes those of files that are gone.
fn link_names(directory: &Path, payload: &Payload) -> io::Result<()> {
    let names: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &names {
        let link = directory.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let gone =
            name.to_str().is_some_and(|name| !name.starts_with("..") && !names.contains(name));
        if gone && entry.file_type()?.is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn remove_if_present(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether the directory behind `data` holds exactly the payload.
fn holds(data: &Path, payload: &Payload) -> bool {
    let mut present = BTreeSet::new();
    if list(data, PathBuf::new(), &mut present).is_err() {
        return false;
    }
    present.len() == payload.len()
        && payload.iter().all(|(path, file)| {
            present.contains(Path::new(path))
                && fs::read(data.join(path)).is_ok_and(|bytes| bytes == file.bytes)
        })
}

fn list(root: &Path, below: PathBuf, into: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(&below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(root, path, into)?;
        } else {
            into.insert(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::content::FileContent;

    fn payload(files: &[(&str, &str, u32)]) -> Payload {
        files
            .iter()
            .map(|(path, text, mode)| {
                let content = FileContent { bytes: text.as_bytes().to_vec(), mode: *mode };
                ((*path).to_owned(), content)
            })
            .collect()
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .expect("directory")
            .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// mini-kubernetes.md 14, row 71.
    #[test]
    fn row_71_update_swaps_all_files_at_once() {
        let root = tempfile::tempdir().expect("tempdir");
        let dir = root.path();
        let first = payload(&[("a", "1", 0o644), ("d/b", "2", 0o600)]);
        assert_eq!(write(dir, &first, Owner::default(), "s1").expect("write"), Written::Changed);
        assert_eq!(names(dir), ["..data", "..s1", "a", "d"]);
        assert_eq!(fs::read_to_string(dir.join("d/b")).expect("read"), "2");
        assert_eq!(fs::read_link(dir.join("a")).expect("link"), Path::new("..data/a"));
        let mode = fs::metadata(dir.join("d/b")).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);

        assert_eq!(write(dir, &first, Owner::default(), "s2").expect("write"), Written::Unchanged);
        let second = payload(&[("a", "9", 0o644), ("c", "3", 0o644)]);
        assert_eq!(write(dir, &second, Owner::default(), "s3").expect("write"), Written::Changed);
        assert_eq!(names(dir), ["..data", "..s3", "a", "c"]);
        assert_eq!(fs::read_to_string(dir.join("a")).expect("read"), "9");
    }

    #[test]
    fn interrupted_write_is_repaired_by_the_next() {
        let root = tempfile::tempdir().expect("tempdir");
        let dir = root.path();
        symlink("nowhere", dir.join(DATA_NEXT)).expect("leftover");
        let files = payload(&[("a", "1", 0o644)]);
        write(dir, &files, Owner::default(), "s1").expect("write");
        assert_eq!(fs::read_to_string(dir.join("a")).expect("read"), "1");
    }

    #[test]
    fn empty_payload_makes_an_empty_volume() {
        let root = tempfile::tempdir().expect("tempdir");
        write(root.path(), &Payload::new(), Owner::default(), "s1").expect("write");
        assert_eq!(names(root.path()), ["..data", "..s1"]);
    }
}
