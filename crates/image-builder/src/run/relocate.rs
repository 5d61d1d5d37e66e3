//! Trees that change their place: by rename where that works, by copy where it does not.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

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
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => remove_tree(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
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
