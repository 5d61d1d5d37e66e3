//! Creates one inode with all its metadata, in the order in which the kernel keeps it.
//!
//! Ownership comes first, because changing it clears setuid bits and file capabilities; then
//! extended attributes, then the mode, and times last.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::directories::Directory;
use super::{OnForbidden, Ownership};
use crate::entry::{Entry, EntryKind, Timestamp};

/// What of the process matters for the metadata of a new file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Creator {
    ownership: Ownership,
    on_forbidden: OnForbidden,
    uid: u32,
    gid: u32,
    /// Bits that the kernel takes from the mode of a new file; unknown means all.
    umask: u32,
}

/// Parts of an entry's metadata that could not be made here and were passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SkippedPart {
    /// A device node: making it needs CAP_MKNOD outside of user namespaces.
    Device,
    /// An extended attribute that the file system or our rights do not admit.
    Xattr(std::ffi::OsString),
}

impl Creator {
    pub(super) fn new(ownership: Ownership, on_forbidden: OnForbidden) -> Self {
        Self {
            ownership,
            on_forbidden,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            umask: read_umask().unwrap_or(0o7777),
        }
    }

    /// Opens a new file; `Errno::EXIST` when the name is taken.
    pub(super) fn create_file(
        &self,
        directory: &Directory,
        name: &OsStr,
        entry: &Entry,
    ) -> Result<OwnedFd, Errno> {
        let mut mode = entry.mode & 0o777;
        if !entry.xattrs.is_empty() {
            mode |= 0o200;
        }
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC
            | OFlags::NOCTTY;
        rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(mode))
    }

    /// Finishes a file whose content is written.
    pub(super) fn finish_file(
        &self,
        file: &OwnedFd,
        directory: &Directory,
        entry: &Entry,
        skipped: &mut Vec<SkippedPart>,
    ) -> Result<(), Errno> {
        self.chown_fd(file, entry, directory.setgid)?;
        self.set_xattrs(file, entry, skipped)?;
        let special = entry.mode & 0o7000 != 0;
        let masked = entry.mode & self.umask != 0;
        if special || masked || !entry.xattrs.is_empty() {
            rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode))?;
        }
        rustix::fs::futimens(file, &times(entry.mtime))
    }

    /// Gives an existing directory the owner, attributes and mode of its entry. The time comes
    /// at the end of the layer, when nothing is created in the directory any more.
    pub(super) fn finish_directory(
        &self,
        directory: &OwnedFd,
        entry: &Entry,
        mode: u32,
        skipped: &mut Vec<SkippedPart>,
    ) -> Result<(), Errno> {
        self.chown_fd(directory, entry, true)?;
        self.set_xattrs(directory, entry, skipped)?;
        rustix::fs::fchmod(directory, Mode::from_raw_mode(mode))
    }

    /// Makes a link, device or pipe; `Errno::EXIST` when the name is taken.
    pub(super) fn create_special(
        &self,
        directory: &Directory,
        name: &OsStr,
        entry: &Entry,
        skipped: &mut Vec<SkippedPart>,
    ) -> Result<(), Errno> {
        let made = match &entry.kind {
            EntryKind::Symlink { target } => rustix::fs::symlinkat(target, directory, name),
            EntryKind::CharDevice { major, minor } => {
                mknod(directory, name, FileType::CharacterDevice, (*major, *minor))
            }
            EntryKind::BlockDevice { major, minor } => {
                mknod(directory, name, FileType::BlockDevice, (*major, *minor))
            }
            EntryKind::Fifo => mknod(directory, name, FileType::Fifo, (0, 0)),
            EntryKind::File { .. } | EntryKind::Directory | EntryKind::Hardlink { .. } => {
                return Err(Errno::INVAL);
            }
        };
        let device =
            matches!(entry.kind, EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. });
        match made {
            Err(Errno::PERM | Errno::ACCESS)
                if device && self.on_forbidden == OnForbidden::Skip =>
            {
                skipped.push(SkippedPart::Device);
                return Ok(());
            }
            made => made?,
        }
        if self.ownership == Ownership::Keep {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(directory, name, Some(uid), Some(gid), flags)?;
        }
        if !matches!(entry.kind, EntryKind::Symlink { .. }) {
            let mode = Mode::from_raw_mode(entry.mode);
            rustix::fs::chmodat(directory, name, mode, AtFlags::empty())?;
        }
        for key in entry.xattrs.keys() {
            // The kernel admits only security.* and trusted.* on these, and no call sets an
            // attribute through a descriptor and a name; images do not use them.
            skipped.push(SkippedPart::Xattr(key.clone()));
        }
        let times = times(entry.mtime);
        rustix::fs::utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn chown_fd(&self, fd: &OwnedFd, entry: &Entry, inherits: bool) -> Result<(), Errno> {
        let ours = entry.uid == self.uid && entry.gid == self.gid && !inherits;
        if self.ownership == Ownership::Current || ours {
            return Ok(());
        }
        rustix::fs::fchown(fd, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
    }

    fn set_xattrs(
        &self,
        fd: &OwnedFd,
        entry: &Entry,
        skipped: &mut Vec<SkippedPart>,
    ) -> Result<(), Errno> {
        for (key, value) in &entry.xattrs {
            if !admits(key.as_bytes()) {
                skipped.push(SkippedPart::Xattr(key.clone()));
                continue;
            }
            match rustix::fs::fsetxattr(fd, key, value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP) => skipped.push(SkippedPart::Xattr(key.clone())),
                Err(Errno::PERM | Errno::ACCESS | Errno::INVAL)
                    if self.on_forbidden == OnForbidden::Skip =>
                {
                    skipped.push(SkippedPart::Xattr(key.clone()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Attributes that an archive may set. Those of overlayfs would let a layer rewrite what lies
/// under it, and labels belong to the machine, not to the image.
fn admits(key: &[u8]) -> bool {
    !(key.starts_with(b"trusted.")
        || key.starts_with(b"user.overlay.")
        || key == b"security.selinux"
        || key == b"security.ima"
        || key == b"security.evm")
}

pub(super) fn times(mtime: Timestamp) -> Timestamps {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: i64::from(mtime.nanoseconds) };
    Timestamps { last_access: time, last_modification: time }
}

pub(super) fn mknod(
    directory: impl AsFd,
    name: &OsStr,
    kind: FileType,
    (major, minor): (u32, u32),
) -> Result<(), Errno> {
    let device = rustix::fs::makedev(major, minor);
    rustix::fs::mknodat(directory, name, kind, Mode::from_raw_mode(0o600), device)
}

/// The umask cannot be asked for without setting it, except through /proc.
fn read_umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(line.trim(), 8).ok()
}
