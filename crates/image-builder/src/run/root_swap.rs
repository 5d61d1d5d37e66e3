//! A tree becomes the root of this very process for the time of one command, and the root that
//! was there comes back: by renames of the entries of `/`, in time that does not depend on what
//! they hold.
//!
//! Nothing is unpacked over anything. What the pod has in its root (`/etc` with `resolv.conf`,
//! `/var/run/secrets`) moves aside with the mounts in it, because a directory above a mount point
//! can be renamed; only a mount point itself cannot. Those that stand in `/` (`/proc`, a volume)
//! stay where they are, and what the tree has under their names stays in the tree.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::FlockOperation;

use super::covers::{return_caches, trees_with_caches};
use super::relocate::{exchange, move_tree, remove};
use crate::workspace::make_private;

/// Entries of `/` that commands need as the machine has them.
const OF_THE_KERNEL: [&str; 3] = ["proc", "sys", "dev"];

/// The root of this process, ready to be swapped.
#[derive(Debug)]
pub(crate) struct RootSwap {
    /// The root; another directory only in tests.
    root: PathBuf,
    /// On the same file system as the root: where trees may be made.
    pub(crate) home: PathBuf,
    /// Where the entries of the pod are meanwhile.
    pod: PathBuf,
    /// Entries of the root that do not move.
    stays: BTreeSet<OsString>,
    /// Another build must not do the same to this root.
    _lock: File,
}

/// What there was to see when a tree went in.
#[derive(Debug)]
pub(crate) struct SwappedIn {
    /// Entries of the tree with their inode and change time: renaming changes it, so what has
    /// the same still afterwards was not touched by the command.
    stamps: BTreeMap<OsString, (u64, i64, i64)>,
    /// What directories that do not move held.
    held: BTreeMap<OsString, BTreeSet<OsString>>,
}

/// What a command did at the top of the tree.
#[derive(Debug, Default)]
pub(crate) struct SwappedOut {
    /// Entries of the tree that it did not touch themselves.
    pub(crate) untouched: BTreeSet<PathBuf>,
    /// Paths that it wrote to although they are not the image's.
    pub(crate) lost: Vec<PathBuf>,
}

impl RootSwap {
    /// Makes ready the root of this process. `keep` are absolute paths that belong to others;
    /// the first is the executor's own directory, where trees are made.
    ///
    /// # Errors
    /// What cannot be moved, or cannot be written.
    pub(crate) fn new(keep: &[PathBuf]) -> Result<Self, String> {
        let mountinfo =
            fs::read("/proc/self/mountinfo").map_err(|e| format!("/proc/self/mountinfo: {e}"))?;
        Self::of(Path::new("/"), &mount_points(&mountinfo), keep)
    }

    fn of(root: &Path, mounts: &[PathBuf], keep: &[PathBuf]) -> Result<Self, String> {
        let mut stays: BTreeSet<OsString> = BTreeSet::new();
        for path in mounts.iter().chain(keep) {
            if let Some(name) = only_name(path) {
                stays.insert(name.to_owned());
            }
        }
        let own = keep.first().filter(|path| is_on(path, root)).cloned();
        let own = own.unwrap_or_else(|| root.join(".shipway"));
        let below_root = own.strip_prefix(root).unwrap_or(&own);
        if let Some(Component::Normal(name)) = below_root.components().next() {
            stays.insert(name.to_owned());
        }
        let home = own.join("root");
        let pod = home.join("pod");
        let said = |path: &Path, error: io::Error| match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem => {
                "the root file system is read-only: set readOnlyRootFilesystem false".to_owned()
            }
            _ => format!("{}: {error}", path.display()),
        };
        make_private(&pod).map_err(|error| said(&pod, error))?;
        let lock = home.join("lock");
        let lock = File::create(&lock).map_err(|error| said(&lock, error))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| "another build works in this root".to_owned())?;
        let swap = Self { root: root.to_owned(), home, pod, stays, _lock: lock };
        swap.recover().map_err(|error| said(root, error))?;
        swap.try_moving()?;
        Ok(swap)
    }

    /// Brings back what a killed build left aside.
    fn recover(&self) -> io::Result<()> {
        for tree in trees_with_caches(&self.home)? {
            return_caches(&tree, &[&self.root, &tree, &self.pod])?;
        }
        for name in names(&self.pod)? {
            let there = self.root.join(&name);
            remove(&there)?;
            fs::rename(self.pod.join(&name), there)?;
        }
        for name in names(&self.home)? {
            if name != "pod" && name != "lock" {
                remove(&self.home.join(&name))?;
            }
        }
        Ok(())
    }

    /// Moves every entry of the pod to where it will be, and back.
    fn try_moving(&self) -> Result<(), String> {
        let listed = self.movable().map_err(|e| format!("{}: {e}", self.root.display()))?;
        for name in listed {
            let (there, aside) = (self.root.join(&name), self.pod.join(&name));
            let moved = fs::rename(&there, &aside).and_then(|()| fs::rename(&aside, &there));
            moved.map_err(|error| match error.kind() {
                io::ErrorKind::CrossesDevices => format!(
                    "{} is part of the executor's image, which may hold nothing but the executor",
                    there.display()
                ),
                _ => format!("cannot move {} aside: {error}", there.display()),
            })?;
        }
        Ok(())
    }

    fn movable(&self) -> io::Result<Vec<OsString>> {
        let mut names = names(&self.root)?;
        names.retain(|name| !self.stays.contains(name));
        Ok(names)
    }

    /// The entry of the root that hides files of a tree, or its working directory, from a
    /// command.
    pub(crate) fn in_the_way(&self, tree: &Path, cwd: &Path) -> Option<PathBuf> {
        let cwd = cwd.strip_prefix("/").unwrap_or(cwd).components().next();
        let hides = |name: &&OsString| {
            let of_cwd = cwd.is_some_and(|first| first.as_os_str() == name.as_os_str());
            let path = tree.join(name);
            let has_files = match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => !names(&path).is_ok_and(|n| n.is_empty()),
                Ok(_) => true,
                Err(_) => false,
            };
            of_cwd || has_files
        };
        let name = self.volumes().find(hides)?;
        Some(Path::new("/").join(name))
    }

    /// Entries that stay and are not the kernel's.
    fn volumes(&self) -> impl Iterator<Item = &OsString> {
        self.stays.iter().filter(|name| !OF_THE_KERNEL.iter().any(|of| name.as_os_str() == *of))
    }

    /// Where an absolute path of the pod is while a tree is in.
    pub(crate) fn aside(&self, path: &Path) -> Option<PathBuf> {
        let below = path.strip_prefix(&self.root).ok()?;
        let first = below.components().next()?;
        (!self.stays.contains(first.as_os_str())).then(|| self.pod.join(below))
    }

    /// Whether commands see the machine's own directory at a path of a tree.
    pub(crate) fn shows_own(&self, path: &Path) -> bool {
        let first = path.components().next();
        first.is_some_and(|first| self.stays.contains(first.as_os_str()))
    }

    /// Makes a tree the root.
    ///
    /// # Errors
    /// A rename failed; the root is as before then, as far as that is possible.
    pub(crate) fn enter(&self, tree: &Path) -> io::Result<SwappedIn> {
        let swapped = || -> io::Result<()> {
            for name in self.movable()? {
                let (there, of_tree) = (self.root.join(&name), tree.join(&name));
                if fs::symlink_metadata(&of_tree).is_ok() {
                    exchange(&there, &of_tree)?;
                    fs::rename(&of_tree, self.pod.join(&name))?;
                } else {
                    fs::rename(&there, self.pod.join(&name))?;
                }
            }
            for name in names(tree)? {
                if !self.stays.contains(&name) {
                    fs::rename(tree.join(&name), self.root.join(&name))?;
                }
            }
            Ok(())
        };
        if let Err(error) = swapped() {
            self.leave_entries(tree)?;
            return Err(error);
        }
        let mut stamps = BTreeMap::new();
        for name in self.movable()? {
            stamps.insert(name.clone(), stamp(&self.root.join(&name))?);
        }
        let mut held = BTreeMap::new();
        for name in self.volumes() {
            if !self.home.starts_with(self.root.join(name)) {
                let listed = names(&self.root.join(name)).unwrap_or_default();
                held.insert(name.clone(), listed.into_iter().collect());
            }
        }
        Ok(SwappedIn { stamps, held })
    }

    /// Takes the tree out again, with whatever the command made of it.
    ///
    /// # Errors
    /// A rename failed.
    pub(crate) fn leave(&self, tree: &Path, before: &SwappedIn) -> io::Result<SwappedOut> {
        let mut done = SwappedOut::default();
        for (name, stamp_before) in &before.stamps {
            if stamp(&self.root.join(name)).is_ok_and(|stamp| stamp == *stamp_before) {
                done.untouched.insert(name.into());
            }
        }
        self.leave_entries(tree)?;
        for (name, held) in &before.held {
            let (volume, of_tree) = (self.root.join(name), tree.join(name));
            let is_of_image = fs::symlink_metadata(&of_tree).is_ok_and(|found| found.is_dir());
            for new in names(&volume).unwrap_or_default() {
                if held.contains(&new) {
                    continue;
                }
                // The image has such a directory: a command cannot know that it saw another.
                if is_of_image {
                    move_tree(&volume.join(&new), &of_tree.join(&new))?;
                } else {
                    done.lost.push(volume.join(&new));
                }
            }
        }
        Ok(done)
    }

    fn leave_entries(&self, tree: &Path) -> io::Result<()> {
        // A command that removes everything removes these too, as far as it can.
        fs::create_dir_all(tree)?;
        fs::create_dir_all(&self.pod)?;
        let mut result = Ok(());
        for name in self.movable()? {
            let (there, aside, of_tree) =
                (self.root.join(&name), self.pod.join(&name), tree.join(&name));
            let moved = if fs::symlink_metadata(&aside).is_ok() {
                exchange(&there, &aside).and_then(|()| fs::rename(&aside, &of_tree))
            } else {
                fs::rename(&there, &of_tree)
            };
            result = result.and(moved);
        }
        for name in names(&self.pod)? {
            result = result.and(fs::rename(self.pod.join(&name), self.root.join(&name)));
        }
        result
    }
}

fn stamp(path: &Path) -> io::Result<(u64, i64, i64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
}

/// The name of an entry of the root itself.
fn only_name(path: &Path) -> Option<&OsStr> {
    let mut components = path.strip_prefix("/").unwrap_or(path).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(name)), None) => Some(name),
        _ => None,
    }
}

/// Whether a directory is on the file system of the root.
fn is_on(path: &Path, root: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|m| (m.is_dir(), m.dev())).ok();
    device(path).is_some_and(|(is_directory, device_of_path)| {
        is_directory && device(root).is_some_and(|(_, device)| device == device_of_path)
    })
}

fn names(directory: &Path) -> io::Result<Vec<OsString>> {
    fs::read_dir(directory)?.map(|item| item.map(|item| item.file_name())).collect()
}

/// The mount points of a process but its root (proc(5), `mountinfo`, fifth field).
fn mount_points(mountinfo: &[u8]) -> Vec<PathBuf> {
    use std::os::unix::ffi::OsStrExt as _;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let text = b"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / /proc rw - proc p rw\n\
                     3 1 0:3 / /with\\040blank rw - tmpfs t rw\n";
        assert_eq!(mount_points(text), [Path::new("/proc"), Path::new("/with blank")]);
    }

    fn write(root: &Path, paths: &[&str]) {
        for path in paths {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, "").expect("a file");
        }
    }

    fn listing(root: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut left = vec![root.to_owned()];
        while let Some(directory) = left.pop() {
            for name in names(&directory).expect("readable") {
                let path = directory.join(name);
                if path.is_dir() {
                    left.push(path);
                } else {
                    let below = path.strip_prefix(root).expect("below");
                    found.push(below.display().to_string());
                }
            }
        }
        found.sort();
        found
    }

    fn swap(root: &Path) -> RootSwap {
        write(root, &["kaniko/executor", "etc/hosts", "proc/x", "work/context", "only-pod/x"]);
        let mounts = ["/proc", "/work", "/etc/hosts"].map(PathBuf::from);
        RootSwap::of(root, &mounts, &[root.join("kaniko")]).expect("a root")
    }

    #[test]
    fn a_tree_goes_in_and_comes_out_with_what_happened_to_it() {
        let root = tempfile::tempdir().expect("a directory");
        let root = root.path();
        let swap = swap(root);
        let tree = swap.home.join("1");
        write(&tree, &["etc/passwd", "bin/sh", "proc/of-image"]);
        let before = swap.enter(&tree).expect("swapped");
        let listed = listing(root);
        let shown = |path: &str| listed.iter().any(|line| line == path);
        assert!(shown("etc/passwd") && shown("bin/sh") && shown("proc/x"), "{listed:?}");
        assert!(!shown("etc/hosts") && !shown("only-pod/x") && !shown("proc/of-image"));
        assert!(shown("kaniko/root/pod/etc/hosts"));
        write(root, &["etc/new", "srv/new", "work/stray"]);
        fs::remove_dir_all(root.join("bin")).expect("there");
        let done = swap.leave(&tree, &before).expect("swapped");
        assert_eq!(listing(&tree), ["etc/new", "etc/passwd", "proc/of-image", "srv/new"]);
        assert_eq!(done.lost, [root.join("work/stray")]);
        fs::remove_dir_all(&tree).expect("there");
        let left = ["etc/hosts", "kaniko/executor", "kaniko/root/lock", "only-pod/x", "proc/x"];
        let mut left = left.map(str::to_owned).to_vec();
        left.extend(["work/context".to_owned(), "work/stray".to_owned()]);
        assert_eq!(listing(root), left);
    }

    #[test]
    fn what_lands_on_a_volume_that_the_image_has_too_is_the_image_s() {
        let root = tempfile::tempdir().expect("a directory");
        let root = root.path();
        let swap = swap(root);
        let tree = swap.home.join("1");
        fs::create_dir_all(tree.join("work")).expect("a directory");
        assert_eq!(swap.in_the_way(&tree, Path::new("/")), None);
        let before = swap.enter(&tree).expect("swapped");
        write(root, &["work/made"]);
        let done = swap.leave(&tree, &before).expect("swapped");
        assert_eq!(listing(&tree), ["work/made"]);
        assert_eq!(listing(&root.join("work")), ["context"]);
        assert!(done.lost.is_empty());
        // From now on the volume would hide it.
        assert_eq!(swap.in_the_way(&tree, Path::new("/")), Some("/work".into()));
        assert_eq!(swap.in_the_way(&swap.pod, Path::new("/work/x")), Some("/work".into()));
    }

    #[test]
    fn only_one_build_swaps_a_root_and_the_next_repairs_what_a_killed_one_left() {
        let root = tempfile::tempdir().expect("a directory");
        let root = root.path();
        let killed = swap(root);
        let tree = killed.home.join("1");
        write(&tree, &["etc/passwd"]);
        let keep = [root.join("kaniko")];
        let second = RootSwap::of(root, &[], &keep).expect_err("the first is there");
        assert_eq!(second, "another build works in this root");
        killed.enter(&tree).expect("swapped");
        drop(killed);
        let mounts = ["/proc", "/work"].map(PathBuf::from);
        RootSwap::of(root, &mounts, &keep).expect("repaired");
        assert_eq!(listing(&root.join("etc")), ["hosts"]);
        assert!(!tree.exists());
    }
}
