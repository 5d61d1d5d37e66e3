//! Trees that change their place: by rename where that works, by copy where it does not.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, RenameFlags, Timespec, Timestamps, Uid};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::workspace::remove_tree;

/// Renames, or copies and removes where the paths lie on different file systems.
pub(super) fn move_tree(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            copy_tree(from, to)?;
            remove(from)
        }
        renamed => renamed,
    }
}

/// Swaps two paths at once, so that nobody finds either of them missing.
pub(super) fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

/// Writes what has to be known if this process is killed; complete or not at all.
pub(super) fn write_journal(path: &Path, journal: &impl Serialize) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let text = serde_json::to_vec(journal).map_err(io::Error::other)?;
    fs::write(&new, text)?;
    fs::rename(&new, path)
}

/// Reads what [`write_journal`] wrote, if it did.
pub(super) fn read_journal<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Device and inode number of what stands at a path itself.
pub(super) fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Removes whatever stands at a path; nothing is fine too.
///
/// # Errors
/// Something is mounted there or below: then nothing is removed, because it is not the build's.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            refuse_mounts(path, &mount_points(&fs::read("/proc/self/mountinfo")?))?;
            remove_tree(path)
        }
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn refuse_mounts(path: &Path, mounts: &[PathBuf]) -> io::Result<()> {
    let path = fs::canonicalize(path)?;
    match mounts.iter().find(|mount| mount.starts_with(&path)) {
        None => Ok(()),
        Some(mount) => Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("{} is mounted in {}", mount.display(), path.display()),
        )),
    }
}

/// The mount points of a process but its root (proc(5), `mountinfo`, fifth field).
pub(super) fn mount_points(mountinfo: &[u8]) -> Vec<PathBuf> {
    let lines = mountinfo.split(|byte| *byte == b'\n');
    let points = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    points
        .map(unescape)
        .map(|path| PathBuf::from(OsStr::from_bytes(&path)))
        .filter(|path| path != Path::new("/"))
        .collect()
}

/// Blanks in mountinfo are octal escapes (`\040`).
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut at = 0;
    while let Some(byte) = field.get(at) {
        let octal = (*byte == b'\\').then(|| field.get(at + 1..at + 4)).flatten();
        let value =
            octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(value.unwrap_or(*byte));
        at += if value.is_some() { 4 } else { 1 };
    }
    bytes
}

/// Copies a tree with modes, owners and times; sockets are left out.
pub(super) fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(from)?;
    if !metadata.is_dir() {
        return copy_one(from, to);
    }
    fs::create_dir(to)?;
    for item in fs::read_dir(from)? {
        let item = item?;
        copy_tree(&item.path(), &to.join(item.file_name()))?;
    }
    dress(to, &metadata)
}

/// Copies anything but a directory.
pub(super) fn copy_one(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(from)?;
    let kind = metadata.file_type();
    if kind.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from)?, to)?;
    } else if kind.is_file() {
        fs::copy(from, to)?;
    } else {
        let kind = if kind.is_fifo() {
            FileType::Fifo
        } else if kind.is_char_device() {
            FileType::CharacterDevice
        } else if kind.is_block_device() {
            FileType::BlockDevice
        } else {
            return Ok(());
        };
        let mode = Mode::from_raw_mode(metadata.mode() & 0o7777);
        rustix::fs::mknodat(CWD, to, kind, mode, metadata.rdev())?;
    }
    dress(to, &metadata)
}

/// Gives a path the owner, mode and times of another.
pub(super) fn dress(path: &Path, like: &fs::Metadata) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = (Uid::from_raw(like.uid()), Gid::from_raw(like.gid()));
        rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if !like.is_symlink() {
        let mode = Mode::from_raw_mode(like.mode() & 0o7777);
        rustix::fs::chmodat(CWD, path, mode, AtFlags::empty())?;
    }
    restore_times(path, like)
}

/// Sets the times of a path, not followed, to what they were.
pub(super) fn restore_times(path: &Path, like: &fs::Metadata) -> io::Result<()> {
    Ok(rustix::fs::utimensat(CWD, path, &times_of(like), AtFlags::SYMLINK_NOFOLLOW)?)
}

pub(super) fn times_of(like: &fs::Metadata) -> Timestamps {
    let at = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    Timestamps {
        last_access: at(like.atime(), like.atime_nsec()),
        last_modification: at(like.mtime(), like.mtime_nsec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let text = b"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / /proc rw - proc p rw\n\
                     3 1 0:3 / /with\\040blank rw - tmpfs t rw\n";
        assert_eq!(mount_points(text), [Path::new("/proc"), Path::new("/with blank")]);
    }

    #[test]
    fn nothing_is_removed_where_something_is_mounted_below() {
        let directory = tempfile::tempdir().expect("a directory");
        let tree = directory.path().join("tree");
        fs::create_dir_all(tree.join("a/workspace")).expect("a directory");
        let real = fs::canonicalize(&tree).expect("there");
        let refused = |mount: PathBuf| refuse_mounts(&tree, &[mount]).map_err(|e| e.kind());
        assert_eq!(refused(real.join("a/workspace")), Err(io::ErrorKind::ResourceBusy));
        assert_eq!(refused(real.clone()), Err(io::ErrorKind::ResourceBusy));
        assert_eq!(refused(directory.path().join("tree-2")), Ok(()));
        remove(&tree).expect("nothing is mounted");
        assert!(!tree.exists());
        // A mount that every machine has.
        let error = remove(Path::new("/proc")).expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    }
}
