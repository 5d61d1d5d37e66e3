//! The entries of one archive, put into a tree one after the other.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::directories::{self, Directories, Directory, type_at};
use super::inode::{Creator, SkippedPart, times};
use super::stream::TarStream;
use super::writers::{FILE_BYTES_MAX, FileJob, Writers, create_replacing};
use super::{ApplyError, ApplyOptions, RootEntry, Skipped, Whiteouts};
use crate::archive_read::{ArchiveError, ArchiveReader};
use crate::entry::{Entry, EntryKind, Timestamp, Whiteout};

/// A set of paths that keeps 8 bytes per path. The hash is keyed by chance, so that no archive
/// can be made to collide.
#[derive(Default)]
pub(super) struct PathSet {
    state: RandomState,
    hashes: HashSet<u64>,
}

impl PathSet {
    /// Whether the path is new.
    pub(super) fn insert(&mut self, path: &Path) -> bool {
        self.hashes.insert(self.state.hash_one(path.as_os_str()))
    }

    pub(super) fn contains(&self, path: &Path) -> bool {
        !self.hashes.is_empty() && self.hashes.contains(&self.state.hash_one(path.as_os_str()))
    }

    pub(super) fn remove(&mut self, path: &Path) -> bool {
        !self.hashes.is_empty() && self.hashes.remove(&self.state.hash_one(path.as_os_str()))
    }
}

pub(super) struct Applier<'options, 'scope> {
    pub(super) options: &'options ApplyOptions,
    creator: Creator,
    pub(super) directories: Directories,
    pub(super) writers: Writers<'scope>,
    /// Paths that this layer made, and their ancestors: lower-layer removals spare them.
    pub(super) seen: PathSet,
    /// Paths where this layer's removal stands as an overlay whiteout.
    pub(super) whited_out: PathSet,
    /// What is left to set on directories once nothing is created in them any more.
    directory_ends: Vec<DirectoryEnd>,
    implied: Vec<PathBuf>,
    skipped: Vec<Skipped>,
}

struct DirectoryEnd {
    path: PathBuf,
    mtime: Timestamp,
    /// A mode that would have kept the process itself from creating entries.
    mode: Option<u32>,
}

impl<'options, 'scope> Applier<'options, 'scope> {
    pub(super) fn new(
        options: &'options ApplyOptions,
        creator: Creator,
        directories: Directories,
        writers: Writers<'scope>,
    ) -> Self {
        Self {
            options,
            creator,
            directories,
            writers,
            seen: PathSet::default(),
            whited_out: PathSet::default(),
            directory_ends: Vec::new(),
            implied: Vec::new(),
            skipped: Vec::new(),
        }
    }

    pub(super) fn apply(
        &mut self,
        entry: &Entry,
        reader: &mut ArchiveReader<TarStream>,
    ) -> Result<(), ApplyError> {
        if self.options.whiteouts != Whiteouts::Literal {
            match entry.whiteout() {
                None => {}
                Some(Whiteout::AufsMetadata) => return Ok(()),
                Some(Whiteout::Opaque { directory }) => return self.opaque(directory),
                Some(Whiteout::Name { directory, name }) => {
                    return self.whiteout(&entry.path, directory, name);
                }
            }
        }
        let Some(name) = entry.path.file_name() else {
            return self.root_entry(entry);
        };
        if !entry.is_directory() && self.options.holds_excluded(&entry.path) {
            let reason = "it would replace a directory with excluded paths in it";
            return Err(ApplyError::refused(&entry.path, reason));
        }
        let parent = entry.path.parent().unwrap_or(Path::new(""));
        let directory = self.parent(parent, &entry.path)?;
        if !self.seen.insert(&entry.path) && !self.directories.knows(&entry.path) {
            // The archive names the path twice: keep the order.
            self.writers.drain()?;
        }
        let removed_before = self.whited_out.remove(&entry.path);
        if removed_before && self.options.whiteouts != Whiteouts::Remove {
            self.replace(&directory, name, &entry.path)?;
        }
        match &entry.kind {
            EntryKind::Directory => self.directory(entry, &directory, name, removed_before),
            EntryKind::File { size } if *size <= FILE_BYTES_MAX => {
                self.small_file(entry, directory, name, reader)
            }
            EntryKind::File { .. } => self.large_file(entry, &directory, name, reader),
            EntryKind::Hardlink { target } => self.hardlink(entry, target, &directory, name),
            EntryKind::Symlink { .. }
            | EntryKind::CharDevice { .. }
            | EntryKind::BlockDevice { .. }
            | EntryKind::Fifo => self.special(entry, &directory, name),
        }
    }

    fn root_entry(&mut self, entry: &Entry) -> Result<(), ApplyError> {
        if !entry.is_directory() {
            return Err(ApplyError::refused(Path::new("."), "the root must stay a directory"));
        }
        if self.options.root_entry == RootEntry::Ignore {
            return Ok(());
        }
        let root = self.open(Path::new(""))?;
        self.finish_directory(&root, entry)
    }

    fn directory(
        &mut self,
        entry: &Entry,
        parent: &Directory,
        name: &OsStr,
        hides_lower: bool,
    ) -> Result<(), ApplyError> {
        let failed = |error| ApplyError::write(&entry.path, error);
        let mode = Mode::from_raw_mode((entry.mode & 0o777) | 0o700);
        match rustix::fs::mkdirat(parent, name, mode) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                if type_at(parent, name).map_err(failed)? != Some(FileType::Directory) {
                    self.writers.drain()?;
                    self.replace(parent, name, &entry.path)?;
                    rustix::fs::mkdirat(parent, name, mode).map_err(failed)?;
                }
                self.directories.forget(&entry.path);
            }
            Err(error) => return Err(failed(error)),
        }
        let mut directory = parent.child(name).map_err(failed)?;
        self.finish_directory(&directory, entry)?;
        if hides_lower {
            self.mark_opaque(&directory, &entry.path)?;
        }
        directory.setgid = entry.mode & 0o2000 != 0;
        // Its children come next.
        self.directories.keep(&entry.path, directory);
        Ok(())
    }

    fn finish_directory(&mut self, directory: &Directory, entry: &Entry) -> Result<(), ApplyError> {
        let failed = |error| ApplyError::write(&entry.path, error);
        let closed = entry.mode & 0o700 != 0o700 && !rustix::process::geteuid().is_root();
        let mode = if closed { entry.mode | 0o700 } else { entry.mode };
        let handle = directory.readable().map_err(failed)?;
        let mut parts = Vec::new();
        self.creator.finish_directory(&handle, entry, mode, &mut parts).map_err(failed)?;
        self.skip(&entry.path, parts);
        self.directory_ends.push(DirectoryEnd {
            path: entry.path.clone(),
            mtime: entry.mtime,
            mode: closed.then_some(entry.mode),
        });
        Ok(())
    }

    fn small_file(
        &mut self,
        entry: &Entry,
        directory: Arc<Directory>,
        name: &OsStr,
        reader: &mut ArchiveReader<TarStream>,
    ) -> Result<(), ApplyError> {
        let mut content = self.writers.buffer();
        content.resize(entry.content_bytes() as usize, 0);
        let offset = reader.offset();
        reader
            .content()
            .read_exact(&mut content)
            .map_err(|source| ArchiveError::Read { offset, source })?;
        let (name, entry) = (name.to_owned(), entry.clone());
        self.writers.submit(FileJob { directory, name, entry, content })
    }

    fn large_file(
        &mut self,
        entry: &Entry,
        directory: &Directory,
        name: &OsStr,
        reader: &mut ArchiveReader<TarStream>,
    ) -> Result<(), ApplyError> {
        let failed = |error| ApplyError::write(&entry.path, error);
        let file: OwnedFd =
            create_replacing(directory, name, entry, self.creator).map_err(failed)?;
        let mut file = std::fs::File::from(file);
        let mut buffer = vec![0; FILE_BYTES_MAX as usize];
        loop {
            let offset = reader.offset();
            let read = reader
                .content()
                .read(&mut buffer)
                .map_err(|source| ArchiveError::Read { offset, source })?;
            if read == 0 {
                break;
            }
            io::Write::write_all(&mut file, &buffer[..read])
                .map_err(|source| ApplyError::Write { path: entry.path.clone(), source })?;
        }
        let mut parts = Vec::new();
        self.creator.finish_file(&file.into(), directory, entry, &mut parts).map_err(failed)?;
        self.skip(&entry.path, parts);
        Ok(())
    }

    fn hardlink(
        &mut self,
        entry: &Entry,
        target: &Path,
        directory: &Directory,
        name: &OsStr,
    ) -> Result<(), ApplyError> {
        let Some(target_name) = target.file_name() else {
            return Err(ApplyError::refused(&entry.path, "hard link to the root"));
        };
        if target == entry.path {
            return Ok(());
        }
        self.writers.drain()?;
        let absent = || {
            let reason = format!("hard link to {target:?}, which is not in the layer");
            ApplyError::refused(&entry.path, reason)
        };
        let from = match self.directories.get(target.parent().unwrap_or(Path::new(""))) {
            Ok(from) => from,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Err(absent()),
            Err(error) => return Err(ApplyError::write(target, error)),
        };
        let link = || rustix::fs::linkat(&*from, target_name, directory, name, AtFlags::empty());
        let linked = match link() {
            Err(Errno::EXIST) => {
                self.replace(directory, name, &entry.path)?;
                link()
            }
            linked => linked,
        };
        match linked {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => Err(absent()),
            // A device that was left out cannot be linked to either.
            Err(error) => match type_at(&from, target_name) {
                Ok(Some(FileType::Directory)) => {
                    Err(ApplyError::refused(&entry.path, "hard link to a directory"))
                }
                _ => Err(ApplyError::write(&entry.path, error)),
            },
        }
    }

    fn special(
        &mut self,
        entry: &Entry,
        directory: &Directory,
        name: &OsStr,
    ) -> Result<(), ApplyError> {
        let mut parts = Vec::new();
        let made = match self.creator.create_special(directory, name, entry, &mut parts) {
            Err(Errno::EXIST) => {
                self.replace(directory, name, &entry.path)?;
                self.creator.create_special(directory, name, entry, &mut parts)
            }
            made => made,
        };
        made.map_err(|error| ApplyError::write(&entry.path, error))?;
        self.skip(&entry.path, parts);
        Ok(())
    }

    /// Frees a name, whatever stands there.
    pub(super) fn replace(
        &mut self,
        directory: &Directory,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), ApplyError> {
        self.writers.drain()?;
        self.directories.forget_all();
        directories::remove_tree(directory, name).map_err(|error| ApplyError::write(path, error))
    }

    fn open(&mut self, path: &Path) -> Result<Arc<Directory>, ApplyError> {
        self.directories.get(path).map_err(|error| ApplyError::write(path, error))
    }

    /// Opens the directory that an entry goes into, and makes it when nobody described it.
    pub(super) fn parent(
        &mut self,
        path: &Path,
        needed_by: &Path,
    ) -> Result<Arc<Directory>, ApplyError> {
        if path.as_os_str().is_empty() || self.directories.knows(path) {
            return self.open(path);
        }
        let mut ancestors = path.ancestors().take_while(|path| !path.as_os_str().is_empty());
        if ancestors.next().is_some_and(|path| !self.seen.insert(path)) {
            // The archive named it before: perhaps as a file that is still being written.
            self.writers.drain()?;
        } else {
            for ancestor in ancestors {
                if !self.seen.insert(ancestor) {
                    break;
                }
            }
        }
        match self.directories.get(path) {
            Ok(directory) => Ok(directory),
            Err(Errno::NOENT) => self.imply(path, needed_by),
            Err(Errno::NOTDIR) if self.stands_whited_out(path) => self.imply(path, needed_by),
            Err(Errno::NOTDIR) => {
                // The file may be one that this archive is still writing; it stays an error.
                let reason = format!("{path:?} is not a directory");
                Err(ApplyError::refused(needed_by, reason))
            }
            Err(Errno::LOOP) => {
                let reason = format!("too many symbolic links in {path:?}");
                Err(ApplyError::refused(needed_by, reason))
            }
            Err(error) => Err(ApplyError::write(path, error)),
        }
    }

    fn stands_whited_out(&self, path: &Path) -> bool {
        path.ancestors().any(|ancestor| self.whited_out.contains(ancestor))
    }

    fn imply(&mut self, path: &Path, needed_by: &Path) -> Result<Arc<Directory>, ApplyError> {
        let Some(name) = path.file_name() else { return self.open(path) };
        let parent = self.parent(path.parent().unwrap_or(Path::new("")), needed_by)?;
        let hides_lower = self.whited_out.remove(path);
        if hides_lower && self.options.whiteouts != Whiteouts::Remove {
            self.replace(&parent, name, path)?;
        }
        match rustix::fs::mkdirat(&*parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => self.implied.push(path.to_owned()),
            Err(Errno::EXIST) => match type_at(&parent, name) {
                Ok(Some(FileType::Directory)) => {}
                Ok(Some(FileType::Symlink)) => {
                    let reason = format!("{path:?} is a symbolic link that leads nowhere");
                    return Err(ApplyError::refused(needed_by, reason));
                }
                _ => {
                    let reason = format!("{path:?} is not a directory");
                    return Err(ApplyError::refused(needed_by, reason));
                }
            },
            Err(error) => return Err(ApplyError::write(path, error)),
        }
        let directory = parent.child(name).map_err(|error| ApplyError::write(path, error))?;
        directory
            .readable()
            .and_then(|handle| rustix::fs::fchmod(handle, Mode::from_raw_mode(0o755)))
            .map_err(|error| ApplyError::write(path, error))?;
        if hides_lower {
            self.mark_opaque(&directory, path)?;
        }
        self.open(path)
    }

    fn skip(&mut self, path: &Path, parts: Vec<SkippedPart>) {
        let path = path.to_owned();
        self.skipped.extend(parts.into_iter().map(|part| Skipped { path: path.clone(), part }));
    }

    pub(super) fn finish(mut self) -> Result<(Vec<PathBuf>, Vec<Skipped>), ApplyError> {
        self.writers.drain()?;
        for end in std::mem::take(&mut self.directory_ends) {
            self.end_directory(&end)?;
        }
        let mut skipped = self.writers.finish()?;
        skipped.append(&mut self.skipped);
        Ok((self.implied, skipped))
    }

    fn end_directory(&mut self, end: &DirectoryEnd) -> Result<(), ApplyError> {
        let times = times(end.mtime);
        let Some(name) = end.path.file_name() else {
            let root = self.open(Path::new(""))?;
            let set = root.readable().and_then(|handle| rustix::fs::futimens(handle, &times));
            return set.map_err(|error| ApplyError::write(&end.path, error));
        };
        let set =
            self.directories.get(end.path.parent().unwrap_or(Path::new(""))).and_then(|parent| {
                if let Some(mode) = end.mode {
                    let flags =
                        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let handle = rustix::fs::openat(&*parent, name, flags, Mode::empty())?;
                    rustix::fs::futimens(&handle, &times)?;
                    return rustix::fs::fchmod(&handle, Mode::from_raw_mode(mode));
                }
                rustix::fs::utimensat(&*parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            });
        match set {
            // A later entry of the same archive put something else there.
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(error) => Err(ApplyError::write(&end.path, error)),
        }
    }
}
