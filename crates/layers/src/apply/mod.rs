//! Applies a layer archive to a directory tree, never writing outside of it.
//!
//! One thread decompresses and hashes, the calling thread reads the archive and makes
//! directories, links and devices, and a few threads create files. Nothing is synced: who needs
//! the tree to survive a power failure syncs once at the end.

mod directories;
mod inode;
mod stream;
mod whiteouts;
mod writers;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_model::DiffId;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use self::directories::{Directories, Directory, type_at};
pub use self::inode::SkippedPart;
use self::inode::{Creator, times};
use self::stream::TarStream;
use self::writers::{FILE_BYTES_MAX, FileJob, Writers, create_replacing};
use crate::archive_read::{ArchiveError, ArchiveReader};
use crate::entry::{Entry, EntryKind, Timestamp, Whiteout};

/// Most bytes of one uncompressed layer unless the caller says otherwise (64 GiB).
pub const TAR_BYTES_MAX: u64 = 64 << 30;
/// Most entries of one layer unless the caller says otherwise. 16 bytes are kept per entry.
pub const ENTRIES_MAX: u64 = 16_000_000;
/// Threads that create files; more only contend for the journal of one file system.
const WRITERS_MAX: usize = 4;

/// What removal markers of the archive become in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Whiteouts {
    /// The tree holds the lower layers: the named paths are removed from it.
    Remove,
    /// The tree is a layer of an overlay mounted with CAP_SYS_ADMIN: character devices 0/0 and
    /// `trusted.overlay.opaque`.
    OverlayTrusted,
    /// The tree is a layer of an overlay mounted with `userxattr` in a user namespace:
    /// character devices 0/0 and `user.overlay.opaque`.
    OverlayUser,
    /// Both spellings of opaque directories, so that either kind of mount can use the tree.
    OverlayBoth,
    /// Markers are ordinary names (ADD of a local archive).
    Literal,
}

/// Whose the created files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ownership {
    /// Owner and group of the archive.
    Keep,
    /// The process', because it may not give files away.
    Current,
}

/// What to do about devices and extended attributes that the process may not create.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnForbidden {
    /// Fail.
    Fail,
    /// Leave them out and list them in [`Applied::skipped`].
    Skip,
}

/// Whether an entry for the root itself (`./`) changes the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RootEntry {
    /// Mode, owner and time are set.
    Apply,
    /// It is passed over (ADD of a local archive).
    Ignore,
}

/// How a layer is applied.
#[derive(Debug, Clone)]
pub struct ApplyOptions {
    /// What removal markers become.
    pub whiteouts: Whiteouts,
    /// Whose the files are.
    pub ownership: Ownership,
    /// What to do about forbidden devices and attributes.
    pub on_forbidden: OnForbidden,
    /// Whether `./` changes the root.
    pub root_entry: RootEntry,
    /// Paths relative to the root that are left as they are, with everything below them: mount
    /// points and the caller's own files where the root is the one the caller runs in.
    pub exclude: Vec<PathBuf>,
    /// Most bytes of the uncompressed archive.
    pub tar_bytes_max: u64,
    /// Most entries of the archive.
    pub entries_max: u64,
}

impl ApplyOptions {
    /// Options for the rights that this process has: root keeps ownership and must be able to
    /// create everything, others own what they unpack and leave devices out.
    pub fn for_this_process(whiteouts: Whiteouts) -> Self {
        let root = rustix::process::geteuid().is_root();
        let initial = root && !in_user_namespace();
        Self {
            whiteouts,
            ownership: if root { Ownership::Keep } else { Ownership::Current },
            on_forbidden: if initial { OnForbidden::Fail } else { OnForbidden::Skip },
            root_entry: RootEntry::Apply,
            exclude: Vec::new(),
            tar_bytes_max: TAR_BYTES_MAX,
            entries_max: ENTRIES_MAX,
        }
    }
}

impl ApplyOptions {
    /// Whether an entry, or what it removes, is none of our business.
    fn excludes(&self, entry: &Entry) -> bool {
        if self.exclude.is_empty() {
            return false;
        }
        let removed = match entry.whiteout() {
            Some(Whiteout::Name { directory, name }) => Some(directory.join(name)),
            Some(Whiteout::Opaque { .. } | Whiteout::AufsMetadata) | None => None,
        };
        let path = removed.as_deref().unwrap_or(&entry.path);
        self.exclude.iter().any(|excluded| path.starts_with(excluded))
    }
}

/// In the initial namespace all ids map to themselves; a device node made elsewhere is refused.
/// A container whose root lacks CAP_MKNOD counts as restricted as well.
fn in_user_namespace() -> bool {
    const CAP_MKNOD: u32 = 27;
    let mapped = std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|_| {
        std::fs::read_link("/proc/self/ns/user")
            .is_ok_and(|link| link != Path::new("user:[4026531837]"))
    });
    let capable = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(line.trim(), 16).ok()
    });
    mapped || capable.is_some_and(|mask| mask & (1 << CAP_MKNOD) == 0)
}

/// What was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Digest of the uncompressed archive.
    pub diff_id: DiffId,
    /// Bytes of the uncompressed archive.
    pub tar_bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Directories that entries needed and no entry described: made with mode 0755, owned by
    /// root. A layer below may know better.
    pub implied_directories: Vec<PathBuf>,
    /// What was left out because of [`OnForbidden::Skip`] or because no image may set it.
    pub skipped: Vec<Skipped>,
}

/// Something of an entry that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The entry.
    pub path: PathBuf,
    /// What of it.
    pub part: SkippedPart,
}

/// Why a layer could not be applied. The tree is then in between and should be thrown away.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The stream or the archive is bad.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The archive asks for something that would reach out of the root, or makes no sense.
    #[error("refused entry {path:?}: {reason}")]
    Refused {
        /// The entry.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The archive has more entries than allowed.
    #[error("the layer has more than {entries_max} entries")]
    TooManyEntries {
        /// The limit.
        entries_max: u64,
    },
    /// The tree could not be changed.
    #[error("cannot write {path:?} of the layer")]
    Write {
        /// The path below the root.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The root could not be opened.
    #[error("cannot open {root:?} to unpack a layer")]
    Root {
        /// The root.
        root: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// A thread panicked: a defect of ours.
    #[error("a thread that unpacks the layer panicked")]
    Panicked,
}

impl ApplyError {
    fn write(path: &Path, error: Errno) -> Self {
        Self::Write { path: path.to_owned(), source: error.into() }
    }

    fn refused(path: &Path, reason: impl Into<String>) -> Self {
        Self::Refused { path: path.to_owned(), reason: reason.into() }
    }

    /// Whether the disk is full.
    pub fn is_out_of_space(&self) -> bool {
        match self {
            Self::Write { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::Archive(_)
            | Self::Refused { .. }
            | Self::TooManyEntries { .. }
            | Self::Root { .. }
            | Self::Thread(_)
            | Self::Panicked => false,
        }
    }
}

/// Applies one layer blob, compressed or not, to the tree at `root`.
///
/// # Errors
/// See [`ApplyError`]. Whatever happens, nothing outside of `root` changes.
///
/// Source: OCI image-spec, layer, "Applying Changesets".
pub fn apply(
    blob: impl Read + Send,
    root: &Path,
    options: &ApplyOptions,
) -> Result<Applied, ApplyError> {
    let directories = Directories::new(root)
        .map_err(|error| ApplyError::Root { root: root.to_owned(), source: error.into() })?;
    let creator = Creator::new(options.ownership, options.on_forbidden);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(WRITERS_MAX);
    std::thread::scope(|scope| {
        let (stream, decoder) =
            stream::start(scope, blob, options.tar_bytes_max).map_err(ApplyError::Thread)?;
        let mut reader = ArchiveReader::new(stream);
        let mut applier = Applier {
            options,
            creator,
            directories,
            writers: Writers::start(scope, creator, threads).map_err(ApplyError::Thread)?,
            seen: PathSet::default(),
            whited_out: PathSet::default(),
            directory_ends: Vec::new(),
            implied: Vec::new(),
            skipped: Vec::new(),
        };
        let mut entries = 0;
        while let Some(entry) = reader.next_entry()? {
            entries += 1;
            if options.entries_max < entries {
                return Err(ApplyError::TooManyEntries { entries_max: options.entries_max });
            }
            if !options.excludes(&entry) {
                applier.apply(&entry, &mut reader)?;
            }
        }
        let offset = reader.offset();
        let mut stream = reader.into_inner();
        stream.drain().map_err(|source| ArchiveError::Read { offset, source })?;
        drop(stream);
        let (implied_directories, skipped) = applier.finish()?;
        let decoded = decoder.join().ok().flatten().ok_or(ApplyError::Panicked)?;
        Ok(Applied {
            diff_id: decoded.diff_id,
            tar_bytes: decoded.tar_bytes,
            entries,
            implied_directories,
            skipped,
        })
    })
}

/// A set of paths that keeps 8 bytes per path. The hash is keyed by chance, so that no archive
/// can be made to collide.
#[derive(Default)]
struct PathSet {
    state: RandomState,
    hashes: HashSet<u64>,
}

impl PathSet {
    /// Whether the path is new.
    fn insert(&mut self, path: &Path) -> bool {
        self.hashes.insert(self.state.hash_one(path.as_os_str()))
    }

    fn contains(&self, path: &Path) -> bool {
        !self.hashes.is_empty() && self.hashes.contains(&self.state.hash_one(path.as_os_str()))
    }

    fn remove(&mut self, path: &Path) -> bool {
        !self.hashes.is_empty() && self.hashes.remove(&self.state.hash_one(path.as_os_str()))
    }
}

struct Applier<'options, 'scope> {
    options: &'options ApplyOptions,
    creator: Creator,
    directories: Directories,
    writers: Writers<'scope>,
    /// Paths that this layer made, and their ancestors: lower-layer removals spare them.
    seen: PathSet,
    /// Paths where this layer's removal stands as an overlay whiteout.
    whited_out: PathSet,
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

impl Applier<'_, '_> {
    fn apply(
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
    fn replace(
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
    fn parent(&mut self, path: &Path, needed_by: &Path) -> Result<Arc<Directory>, ApplyError> {
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

    fn finish(mut self) -> Result<(Vec<PathBuf>, Vec<Skipped>), ApplyError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer_writer::{LayerWriter, Timestamps};

    #[test]
    fn excluded_paths_are_neither_written_nor_removed() {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(root.path().join("ours")).expect("a directory");
        std::fs::write(root.path().join("ours/f"), "kept").expect("a file");
        std::fs::write(root.path().join("mounted"), "kept").expect("a file");
        let mut writer = LayerWriter::new(Vec::new(), Timestamps::Keep);
        writer.whiteout(Path::new("mounted")).expect("memory");
        writer.add_with(&Entry::file("ours/f", 0o644, 3), &b"new"[..]).expect("memory");
        writer.add_with(&Entry::file("theirs", 0o644, 3), &b"new"[..]).expect("memory");
        let archive = writer.finish().expect("memory");
        let mut options = ApplyOptions::for_this_process(Whiteouts::Remove);
        options.exclude = vec!["ours".into(), "mounted".into()];
        apply(&archive[..], root.path(), &options).expect("a good archive");
        let read = |path: &str| std::fs::read_to_string(root.path().join(path)).expect(path);
        assert_eq!([read("ours/f"), read("mounted"), read("theirs")], ["kept", "kept", "new"]);
    }
}
