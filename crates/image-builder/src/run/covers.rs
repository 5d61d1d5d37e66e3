//! What stands over paths of a tree while a command runs, in place of mounts.
//!
//! A cover is put by rename or copy, what was there moves aside, and both go back afterwards.
//! None of it reaches a layer: covered paths are left out when changes are looked for, and
//! directories that were made for them are removed if nothing else came into them.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::mounts::{Ownership, Ready, ReadyMount, ReadySource};
use super::relocate::{
    copy_one, copy_tree, exchange, identity, move_tree, read_journal, remove, restore_times,
    times_of, write_journal,
};
use super::root_swap::RootSwap;
use super::sandbox;
use crate::error::StepError;
use crate::layer_stack::LayerStack;
use crate::tree::resolve;

/// Where names are looked up; a tree has none of its own.
const NETWORK_FILES: [&str; 2] = ["etc/resolv.conf", "etc/hosts"];

/// Devices of every container, with their numbers (Linux, `devices.txt`).
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// How a command gets a tree as its root.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way<'a> {
    /// By `chroot(2)`.
    Chroot,
    /// The tree takes the place of the root of this process.
    Swap(&'a RootSwap),
}

/// Covers in the order they were put.
pub(super) struct Covers<'a> {
    root: &'a Path,
    way: Way<'a>,
    /// Holds what was moved out of the way.
    aside: PathBuf,
    covers: Vec<Cover>,
    /// Directories that did not exist, outermost first.
    created: Vec<PathBuf>,
    /// Covered paths relative to the root: never part of the layer.
    pub(super) targets: Vec<PathBuf>,
    lent: Vec<Lent>,
}

/// A cache that is in a tree by rename, for whoever comes after this process was killed: with
/// the tree it would be removed.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Lent {
    /// Relative to the root.
    path: OsString,
    home: OsString,
    dev: u64,
    ino: u64,
}

/// End of the name of the file beside a tree that lists the caches in it.
const JOURNAL: &str = ".covers.json";

fn journal_of(tree: &Path) -> PathBuf {
    let mut path = tree.as_os_str().to_owned();
    path.push(JOURNAL);
    path.into()
}

/// The trees below a directory that have caches in them.
pub(super) fn trees_with_caches(home: &Path) -> io::Result<Vec<PathBuf>> {
    let mut trees = Vec::new();
    for item in fs::read_dir(home)? {
        let name = item?.file_name();
        if let Some(tree) = name.to_str().and_then(|name| name.strip_suffix(JOURNAL)) {
            trees.push(home.join(tree));
        }
    }
    Ok(trees)
}

/// Puts caches that are still in a tree back to their homes. `roots` is where its entries may be.
///
/// # Errors
/// A cache is there and cannot be moved: the tree must not be removed.
pub(super) fn return_caches(tree: &Path, roots: &[&Path]) -> io::Result<()> {
    let journal = journal_of(tree);
    let Some(lent) = read_journal::<Vec<Lent>>(&journal)? else { return Ok(()) };
    // A cache can lie in another.
    for cache in lent.iter().rev() {
        let home = Path::new(&cache.home);
        let is_it = |path: &Path| identity(path).is_ok_and(|found| found == (cache.dev, cache.ino));
        if is_it(home) {
            continue;
        }
        let places = roots.iter().map(|root| root.join(&cache.path));
        let Some(at) = places.into_iter().find(|path| is_it(path)) else {
            tracing::warn!(home = %home.display(), "a cache of a killed build is not found");
            continue;
        };
        match return_cache(&at, home) {
            // Somebody has filled it again, or has removed it with all its copies.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound
                ) =>
            {
                tracing::warn!(home = %home.display(), %error, "a cache of a killed build is lost");
            }
            returned => returned?,
        }
    }
    remove(&journal)
}

struct Cover {
    /// For messages.
    path: PathBuf,
    /// The directory it stands in. By descriptor, because a command can put something else in
    /// the place of the directory.
    parent: OwnedFd,
    name: OsString,
    /// Where the original is meanwhile.
    original: Option<PathBuf>,
    /// Where to put the cover back.
    home: Option<PathBuf>,
}

impl Cover {
    fn at(&self) -> PathBuf {
        of_descriptor(&self.parent).join(&self.name)
    }
}

/// A part of a cache; the whole has no slash at its end.
fn part(cache: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { cache.to_owned() } else { cache.join(below) }
}

fn of_descriptor(directory: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

impl<'a> Covers<'a> {
    /// No covers yet; `scratch` is on the file system of the tree where renames are wanted.
    pub(super) fn new(root: &'a Path, way: Way<'a>, scratch: &Path) -> Result<Self, StepError> {
        let made = tempfile::Builder::new().prefix("aside-").tempdir_in(scratch);
        let aside = made.map_err(|error| StepError::io(scratch, error))?.keep();
        let (covers, created, targets) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { root, way, aside, covers, created, targets, lent: Vec::new() })
    }

    /// How the command gets the tree as its root.
    pub(super) fn way(&self) -> Way<'a> {
        self.way
    }

    /// Whether directories had to be made that may be gone afterwards.
    pub(super) fn made_directories(&self) -> bool {
        !self.created.is_empty()
    }

    /// Puts everything that a command asked for.
    pub(super) fn put_all(&mut self, ready: &Ready) -> Result<(), StepError> {
        // A cover that lies below another must come after it.
        let mut mounts: Vec<&ReadyMount> = ready.mounts.iter().collect();
        mounts.sort_by_key(|mount| mount.target.components().count());
        mounts.into_iter().try_for_each(|mount| self.put(mount))
    }

    fn put(&mut self, mount: &ReadyMount) -> Result<(), StepError> {
        let target = self.resolved(&mount.target)?;
        if target.as_os_str().is_empty() {
            return Err(StepError::Mount("invalid mount target \"/\"".to_owned()));
        }
        let is_swap = matches!(self.way, Way::Swap(_));
        if let ReadySource::Cache { directory, below } = &mount.from {
            self.lend(&target, &part(&directory.path, below))?;
        }
        let mode = fs::metadata(self.root.join(&target)).map(|found| found.mode() & 0o7777);
        self.cover(&target, |path| match &mount.from {
            ReadySource::Directory { path: source, ownership: Ownership::Scratch } => {
                move_tree(source, path)
            }
            ReadySource::Directory { path: source, ownership: Ownership::Foreign } => {
                copy_tree(source, path)
            }
            ReadySource::File(source) => copy_one(source, path),
            ReadySource::Cache { directory, below } => {
                let source = part(&directory.path, below);
                match fs::rename(&source, path) {
                    // The original stays where it is until what became of it is complete.
                    Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                        copy_tree(&source, path)
                    }
                    renamed => renamed,
                }
            }
            ReadySource::Tmpfs { .. } => {
                fs::create_dir(path)?;
                let mode = mode.unwrap_or(0o755);
                fs::set_permissions(path, fs::Permissions::from_mode(mode))
            }
            ReadySource::Socket(socket) => match fs::rename(socket, path) {
                // A link does as well where the command sees the same root.
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices && is_swap => {
                    std::os::unix::fs::symlink(socket, path)
                }
                renamed => renamed,
            },
        })?;
        if let (ReadySource::Cache { directory, below }, Some(cover)) =
            (&mount.from, self.covers.last_mut())
        {
            cover.home = Some(part(&directory.path, below));
        }
        Ok(())
    }

    /// Notes that a cache will be in the tree.
    fn lend(&mut self, target: &Path, home: &Path) -> Result<(), StepError> {
        let failed = |error| StepError::io(home, error);
        let (dev, ino) = identity(home).map_err(failed)?;
        let home = std::path::absolute(home).map_err(failed)?.into_os_string();
        self.lent.push(Lent { path: target.as_os_str().to_owned(), home, dev, ino });
        let journal = journal_of(self.root);
        write_journal(&journal, &self.lent).map_err(|error| StepError::io(&journal, error))
    }

    /// The script of a heredoc.
    pub(super) fn script(&mut self, path: &str, content: &str) -> Result<(), StepError> {
        let target = self.resolved(Path::new(path.trim_start_matches('/')))?;
        let mut written = Ok(());
        self.cover(&target, |path| {
            written = sandbox::write_script(path, content);
            Ok(())
        })?;
        written
    }

    /// Name service of this machine.
    pub(super) fn network_files(&mut self) -> Result<(), StepError> {
        for name in NETWORK_FILES {
            let source = Path::new("/").join(name);
            let source = fs::canonicalize(&source).unwrap_or(source);
            if source.is_file() {
                let target = self.resolved(Path::new(name))?;
                self.cover(&target, |path| copy_one(&source, path))?;
            }
        }
        Ok(())
    }

    /// Device nodes for a tree that is entered by chroot, as far as this process may make them.
    pub(super) fn devices(&mut self) -> Result<(), StepError> {
        self.cover(Path::new("dev"), |dev| {
            fs::DirBuilder::new().mode(0o755).create(dev)?;
            for (name, major, minor) in DEVICES {
                let path = dev.join(name);
                let device = rustix::fs::makedev(major, minor);
                let mode = Mode::from_raw_mode(0o666);
                match rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, mode, device) {
                    Err(rustix::io::Errno::PERM) => break,
                    made => made?,
                }
                fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
            }
            let shm = dev.join("shm");
            fs::create_dir(&shm)?;
            fs::set_permissions(&shm, fs::Permissions::from_mode(0o1777))
        })
    }

    /// A way to a path of the pod that must stay reachable, because the builder itself uses it.
    pub(super) fn way_to(&mut self, path: &Path) -> Result<(), StepError> {
        let Way::Swap(swap) = self.way else { return Ok(()) };
        let Some(aside) = swap.aside(path).filter(|_| fs::symlink_metadata(path).is_ok()) else {
            return Ok(());
        };
        let target = self.resolved(path.strip_prefix("/").unwrap_or(path))?;
        if self.targets.iter().any(|other| target.starts_with(other)) {
            return Ok(());
        }
        self.cover(&target, |path| std::os::unix::fs::symlink(aside, path))
    }

    /// Covered paths, relative to the root, whose directory a command moved: where they are now.
    /// The tree is at its place.
    pub(super) fn moved(&self) -> io::Result<Vec<PathBuf>> {
        let root = fs::canonicalize(self.root)?;
        let mut moved = Vec::new();
        for cover in &self.covers {
            // A removed directory, or one on a mount of the pod, is not below the root.
            let parent = fs::read_link(of_descriptor(&cover.parent))?;
            let Ok(below) = parent.strip_prefix(&root) else { continue };
            let path = below.join(&cover.name);
            if !self.targets.contains(&path) && fs::symlink_metadata(root.join(&path)).is_ok() {
                moved.push(path);
            }
        }
        Ok(moved)
    }

    fn resolved(&self, path: &Path) -> Result<PathBuf, StepError> {
        Ok(resolve(&LayerStack::new(vec![self.root.to_owned()]), path)?)
    }

    /// Clears a path, moving aside what is there and making missing parents, and lets `place`
    /// put something else. The times of its directory stay what they are.
    fn cover(
        &mut self,
        target: &Path,
        place: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<(), StepError> {
        let path = match self.way {
            Way::Swap(swap) if swap.shows_own(target) => Path::new("/").join(target),
            Way::Swap(_) | Way::Chroot => self.root.join(target),
        };
        let failed = |error: io::Error| StepError::io(&path, error);
        let mut missing = Vec::new();
        let mut parent = path.parent();
        while let Some(directory) = parent.filter(|directory| !directory.exists()) {
            missing.push(directory.to_owned());
            parent = directory.parent();
        }
        if let Some(existing) = parent.filter(|_| !missing.is_empty()) {
            let times = fs::metadata(existing).map_err(failed)?;
            for directory in missing.into_iter().rev() {
                fs::create_dir(&directory).map_err(failed)?;
                let permissions = fs::Permissions::from_mode(0o755);
                fs::set_permissions(&directory, permissions).map_err(failed)?;
                self.created.push(directory);
            }
            restore_times(existing, &times).map_err(failed)?;
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(StepError::Mount(format!("invalid mount target {:?}", path.display())));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent_fd =
            rustix::fs::open(parent, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let times = fs::metadata(parent).map_err(failed)?;
        let mut original = None;
        if fs::symlink_metadata(&path).is_ok() {
            let aside = self.aside.join(self.covers.len().to_string());
            move_tree(&path, &aside).map_err(failed)?;
            original = Some(aside);
        }
        let placed = place(&path);
        self.covers.push(Cover {
            parent: parent_fd,
            name: name.to_owned(),
            original,
            home: None,
            path: path.clone(),
        });
        self.targets.push(target.to_owned());
        placed.and_then(|()| restore_times(parent, &times)).map_err(failed)
    }

    /// Takes everything away again, the last first.
    pub(super) fn remove(mut self) -> Result<(), StepError> {
        let mut result = Ok(());
        for cover in self.covers.drain(..).rev() {
            let removed = uncover(&cover).map_err(|error| StepError::io(&cover.path, error));
            result = result.and(removed);
        }
        for directory in self.created.iter().rev() {
            // Not empty: the command put something there, which is part of its layer.
            let times = directory.parent().and_then(|parent| fs::metadata(parent).ok());
            if fs::remove_dir(directory).is_ok()
                && let (Some(parent), Some(times)) = (directory.parent(), times)
            {
                // Best effort: at worst a directory carries a later time.
                let _ = restore_times(parent, &times);
            }
        }
        if let Err(error) = remove(&self.aside) {
            tracing::warn!(path = %self.aside.display(), %error, "scratch directory stays");
        }
        if !self.lent.is_empty() && result.is_ok() {
            let journal = journal_of(self.root);
            result = remove(&journal).map_err(|error| StepError::io(&journal, error));
        }
        result
    }
}

fn uncover(cover: &Cover) -> io::Result<()> {
    let parent = of_descriptor(&cover.parent);
    let times = fs::metadata(&parent)?;
    let at = cover.at();
    match &cover.home {
        Some(home) => return_cache(&at, home)?,
        None => remove(&at)?,
    }
    if let Some(original) = &cover.original {
        match move_tree(original, &at) {
            // The command removed the directory, and with it what it could not see.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            moved => moved?,
        }
    }
    let times_set =
        rustix::fs::utimensat(&cover.parent, ".", &times_of(&times), rustix::fs::AtFlags::empty());
    match times_set {
        // The directory was removed.
        Err(rustix::io::Errno::NOENT) => Ok(()),
        set => Ok(set?),
    }
}

/// Puts a cache back where the next build looks for it.
fn return_cache(at: &Path, home: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(at).is_ok_and(|found| found.is_dir()) {
        // The command removed the directory or put something else there: an empty cache.
        remove(at)?;
        return match fs::create_dir(home) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        };
    }
    match fs::rename(at, home) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            let mut complete = home.as_os_str().to_owned();
            complete.push(".new");
            let complete = PathBuf::from(complete);
            remove(&complete)?;
            copy_tree(at, &complete)?;
            match exchange(&complete, home) {
                Ok(()) => remove(&complete)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    fs::rename(&complete, home)?;
                }
                Err(error) => return Err(error),
            }
            remove(at)
        }
        renamed => renamed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(target: &str, from: ReadySource) -> ReadyMount {
        ReadyMount { target: target.into(), from, is_writable: true }
    }

    #[test]
    fn covers_leave_the_tree_as_it_was() {
        let root = tempfile::tempdir().expect("a directory");
        let scratch = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join("data")).expect("a directory");
        fs::write(root.path().join("data/own"), "own").expect("a file");
        let stamp = |path: &str| {
            let found = fs::metadata(root.path().join(path)).expect("there");
            (found.mtime(), found.mtime_nsec())
        };
        let before = stamp("");
        let mut covers =
            Covers::new(root.path(), Way::Chroot, scratch.path()).expect("a directory");
        for target in ["data", "new/deep/dir"] {
            let from = ReadySource::Tmpfs { bytes_max: None };
            covers.put(&mount(target, from)).expect("a cover");
        }
        assert!(!root.path().join("data/own").exists());
        fs::write(root.path().join("data/temporary"), "x").expect("a file");
        covers.remove().expect("taken away");
        assert_eq!(fs::read(root.path().join("data/own")).expect("back"), b"own");
        assert!(!root.path().join("data/temporary").exists());
        assert!(!root.path().join("new").exists());
        assert_eq!(stamp(""), before);
    }

    #[test]
    fn a_cache_that_a_killed_build_left_in_its_tree_goes_home() {
        let directory = tempfile::tempdir().expect("a directory");
        let caches = directory.path().join("caches");
        let open = |id| {
            let look = crate::run::caches::CacheLook { mode: 0o755, uid: 0, gid: 0 };
            crate::run::caches::open(&caches, id, dockerfile::Sharing::Shared, look)
                .expect("a cache")
        };
        let tree = directory.path().join("1");
        fs::create_dir(&tree).expect("a directory");
        let mut covers = Covers::new(&tree, Way::Chroot, directory.path()).expect("a directory");
        let homes = ["outer", "inner"].map(|id| {
            let cache = open(id);
            fs::write(cache.path.join(id), "kept").expect("a file");
            cache.path.clone()
        });
        for (target, id) in [("c", "outer"), ("c/d", "inner")] {
            let from = ReadySource::Cache { directory: open(id), below: PathBuf::new() };
            covers.put(&mount(target, from)).expect("a cover");
        }
        // A killed process runs no destructor.
        std::mem::forget(covers);
        assert!(!homes[0].exists() && !homes[1].exists());
        assert_eq!(
            trees_with_caches(directory.path()).expect("readable"),
            std::slice::from_ref(&tree)
        );
        // Another build has opened one of them meanwhile.
        fs::create_dir(&homes[0]).expect("a directory");
        // The entries of the tree stand in another root.
        let root = directory.path().join("root");
        fs::create_dir(&root).expect("a directory");
        fs::rename(tree.join("c"), root.join("c")).expect("moved");
        return_caches(&tree, &[&tree, &root]).expect("returned");
        assert_eq!(fs::read(homes[0].join("outer")).expect("back"), b"kept");
        assert_eq!(fs::read(homes[1].join("inner")).expect("back"), b"kept");
        assert!(trees_with_caches(directory.path()).expect("readable").is_empty());
        return_caches(&tree, &[&tree]).expect("nothing to do");
    }

    #[test]
    fn caches_are_noted_only_while_they_are_away() {
        let directory = tempfile::tempdir().expect("a directory");
        let home = directory.path().join("0");
        let tree = directory.path().join("1");
        fs::create_dir(&home).expect("a directory");
        fs::create_dir(&tree).expect("a directory");
        let mut covers = Covers::new(&tree, Way::Chroot, directory.path()).expect("a directory");
        covers.lend(Path::new("c"), &home).expect("noted");
        return_caches(&tree, &[&tree]).expect("it never left");
        assert!(home.is_dir());
        covers.lend(Path::new("c"), &home).expect("noted");
        covers.remove().expect("taken away");
        assert!(trees_with_caches(directory.path()).expect("readable").is_empty());
    }

    #[test]
    fn a_directory_that_a_command_replaces_by_a_link_leads_nobody_out() {
        let root = tempfile::tempdir().expect("a directory");
        let outside = tempfile::tempdir().expect("a directory");
        fs::write(outside.path().join("resolv.conf"), "host's").expect("a file");
        fs::create_dir_all(root.path().join("etc")).expect("a directory");
        fs::write(root.path().join("etc/resolv.conf"), "image's").expect("a file");
        let scratch = tempfile::tempdir().expect("a directory");
        let mut covers =
            Covers::new(root.path(), Way::Chroot, scratch.path()).expect("a directory");
        covers.cover(Path::new("etc/resolv.conf"), |path| fs::write(path, "")).expect("a cover");
        fs::remove_dir_all(root.path().join("etc")).expect("there");
        std::os::unix::fs::symlink(outside.path(), root.path().join("etc")).expect("a link");
        covers.remove().expect("taken away");
        let kept = fs::read_to_string(outside.path().join("resolv.conf")).expect("there");
        assert_eq!(kept, "host's");
    }
}
