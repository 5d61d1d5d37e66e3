//! Applies a layer archive to a directory tree, never writing outside of it.
//!
//! One thread decompresses and hashes, the calling thread reads the archive and makes
//! directories, links and devices, and a few threads create files. Nothing is synced: who needs
//! the tree to survive a power failure syncs once at the end.

mod applier;
mod directories;
mod inode;
mod stream;
mod whiteouts;
mod writers;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use oci_model::DiffId;
use rustix::io::Errno;

use self::applier::Applier;
use self::directories::Directories;
use self::inode::Creator;
pub use self::inode::SkippedPart;
use self::writers::Writers;
use crate::archive_read::{ArchiveError, ArchiveReader};
use crate::entry::{Entry, Whiteout};

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
    /// Whether a path is excluded itself.
    fn is_excluded(&self, path: &Path) -> bool {
        self.exclude.iter().any(|excluded| path.starts_with(excluded))
    }

    /// Whether something below a path is excluded, so that the path must stay.
    fn holds_excluded(&self, path: &Path) -> bool {
        self.exclude.iter().any(|excluded| excluded.starts_with(path))
    }

    /// Whether an entry, or what it removes, is none of our business.
    fn excludes(&self, entry: &Entry) -> bool {
        if self.exclude.is_empty() {
            return false;
        }
        let removed = match entry.whiteout() {
            Some(Whiteout::Name { directory, name }) => Some(directory.join(name)),
            Some(Whiteout::Opaque { .. } | Whiteout::AufsMetadata) | None => None,
        };
        self.is_excluded(removed.as_deref().unwrap_or(&entry.path))
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
        let writers = Writers::start(scope, creator, threads).map_err(ApplyError::Thread)?;
        let mut applier = Applier::new(options, creator, directories, writers);
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

    #[test]
    fn removals_above_excluded_paths_spare_them() {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(root.path().join("var/run/ours")).expect("a directory");
        std::fs::write(root.path().join("var/run/ours/f"), "kept").expect("a file");
        std::fs::write(root.path().join("var/run/theirs"), "x").expect("a file");
        let layer = |write: &dyn Fn(&mut LayerWriter<Vec<u8>>)| {
            let mut writer = LayerWriter::new(Vec::new(), Timestamps::Keep);
            write(&mut writer);
            writer.finish().expect("memory")
        };
        let mut options = ApplyOptions::for_this_process(Whiteouts::Remove);
        options.exclude = vec!["var/run/ours".into()];
        let whole = layer(&|writer| writer.whiteout(Path::new("var")).expect("memory"));
        let opaque = layer(&|writer| writer.opaque(Path::new("var/run")).expect("memory"));
        let file = layer(&|writer| writer.add(&Entry::file("var", 0o644, 0)).expect("memory"));
        for archive in [opaque, whole] {
            apply(&archive[..], root.path(), &options).expect("a good archive");
            assert!(root.path().join("var/run/ours/f").exists());
            assert!(!root.path().join("var/run/theirs").exists());
        }
        let error = apply(&file[..], root.path(), &options).expect_err("nothing else is right");
        assert!(error.to_string().contains("excluded"), "{error}");
        assert!(root.path().join("var/run/ours/f").exists());
    }
}
