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

use rustix::fs::{CWD, FlockOperation, RenameFlags};
use serde::{Deserialize, Serialize};

use super::covers::{return_caches, trees_with_caches};
use super::relocate::{exchange, identity, mount_points, read_journal, remove, write_journal};
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

/// Which entries are the pod's, for whoever comes after this process was killed: written before
/// the first rename of [`RootSwap::enter`], removed after the last of [`RootSwap::leave`].
#[derive(Debug, Deserialize, Serialize)]
struct Journal {
    /// Name of the tree below the home.
    tree: OsString,
    of_pod: Vec<Entry>,
    of_tree: Vec<Entry>,
}

/// An entry by what no rename changes.
#[derive(Debug, Deserialize, Serialize)]
struct Entry {
    name: OsString,
    dev: u64,
    ino: u64,
}

impl Entry {
    fn of(directory: &Path, name: OsString) -> io::Result<Self> {
        let (dev, ino) = identity(&directory.join(&name))?;
        Ok(Self { name, dev, ino })
    }

    fn is_at(&self, path: &Path) -> bool {
        identity(path).is_ok_and(|found| found == (self.dev, self.ino))
    }
}

/// One change of the file system.
#[derive(Clone, Copy, Debug)]
enum Act {
    Rename,
    Exchange,
}

/// Makes a change; tests are interrupted between two.
type Acting<'a> = &'a mut dyn FnMut(Act, &Path, &Path) -> io::Result<()>;

fn act(act: Act, from: &Path, to: &Path) -> io::Result<()> {
    match act {
        Act::Rename => fs::rename(from, to),
        Act::Exchange => exchange(from, to),
    }
}

/// Inode and change time.
type Stamp = (u64, i64, i64);

/// What there was to see when a tree went in.
#[derive(Debug)]
pub(crate) struct SwappedIn {
    /// Entries of the tree with their inode and change time: renaming changes it, so what has
    /// the same still afterwards was not touched by the command.
    stamps: BTreeMap<OsString, Stamp>,
    /// What directories that do not move held.
    held: BTreeMap<OsString, BTreeMap<OsString, Stamp>>,
}

/// What a command did at the top of the tree.
#[derive(Debug, Default)]
pub(crate) struct SwappedOut {
    /// Entries of the tree that it did not touch themselves.
    pub(crate) untouched: BTreeSet<PathBuf>,
    /// Entries of volumes of the pod that changed meanwhile; what happens further below them does
    /// not show.
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
        self.bring_home()?;
        // Without a journal: one that was interrupted in trying.
        for name in names(&self.pod)? {
            let (aside, there) = (self.pod.join(&name), self.root.join(&name));
            rename_new(&aside, &there).map_err(|error| {
                let reason = format!("cannot bring back {}: {error}", aside.display());
                io::Error::new(error.kind(), reason)
            })?;
        }
        for name in names(&self.home)? {
            if name != "pod" && name != "lock" {
                remove(&self.home.join(&name))?;
            }
        }
        Ok(())
    }

    fn journal(&self) -> PathBuf {
        self.home.join("pod.json")
    }

    /// Whether no entry of the pod can be anywhere but in the root.
    pub(crate) fn is_settled(&self) -> bool {
        matches!(fs::symlink_metadata(self.journal()), Err(e) if e.kind() == io::ErrorKind::NotFound)
    }

    /// Puts every entry of the pod to its place, wherever an interrupted swap left it, and those
    /// of the tree to the tree. Removes nothing but the journal.
    fn bring_home(&self) -> io::Result<()> {
        let Some(journal) = read_journal::<Journal>(&self.journal())? else { return Ok(()) };
        let tree = self.home.join(&journal.tree);
        fs::create_dir_all(&tree)?;
        for entry in &journal.of_pod {
            let there = self.root.join(&entry.name);
            if entry.is_at(&there) {
                continue;
            }
            let places = [self.pod.join(&entry.name), tree.join(&entry.name)];
            let Some(found) = places.iter().find(|path| entry.is_at(path)) else {
                tracing::warn!(path = %there.display(), "a command removed what the pod had here");
                continue;
            };
            if fs::symlink_metadata(&there).is_ok() {
                exchange(&there, found)?;
            } else {
                fs::rename(found, &there)?;
            }
        }
        for name in names(&self.pod)? {
            self.put_away(&self.pod.join(&name), &tree, &name)?;
        }
        for entry in &journal.of_tree {
            let there = self.root.join(&entry.name);
            if entry.is_at(&there) {
                self.put_away(&there, &tree, &entry.name)?;
            }
        }
        remove(&self.journal())
    }

    /// Moves an entry of a tree into it, or beside it where the tree has such a name.
    fn put_away(&self, path: &Path, tree: &Path, name: &OsStr) -> io::Result<()> {
        match rename_new(path, &tree.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let mut left = OsString::from("left-");
                left.push(name);
                rename_new(path, &self.home.join(left))
            }
            moved => moved,
        }
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

    /// The entry of the root that hides what a tree has there, or its working directory, from a
    /// command.
    pub(crate) fn in_the_way(&self, tree: &Path, cwd: &Path) -> Option<PathBuf> {
        let cwd = cwd.strip_prefix("/").unwrap_or(cwd).components().next();
        let hides = |name: &&OsString| {
            let of_cwd = cwd.is_some_and(|first| first.as_os_str() == name.as_os_str());
            // Even an empty directory: what a command puts there is the image's, and nobody could
            // tell it from what the pod puts on its volume meanwhile.
            of_cwd || fs::symlink_metadata(tree.join(name)).is_ok()
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
        if let Err(error) = self.enter_entries(tree, &mut act) {
            self.bring_home()?;
            return Err(error);
        }
        let mut stamps = BTreeMap::new();
        for name in self.movable()? {
            stamps.insert(name.clone(), stamp(&self.root.join(&name))?);
        }
        let mut held = BTreeMap::new();
        for name in self.volumes() {
            if !self.home.starts_with(self.root.join(name)) {
                held.insert(name.clone(), stamps_in(&self.root.join(name)));
            }
        }
        Ok(SwappedIn { stamps, held })
    }

    fn enter_entries(&self, tree: &Path, act: Acting<'_>) -> io::Result<()> {
        self.bring_home()?;
        let movable = self.movable()?;
        let mut of_tree = names(tree)?;
        of_tree.retain(|name| !self.stays.contains(name));
        let entries = |directory: &Path, names: &[OsString]| -> io::Result<Vec<Entry>> {
            names.iter().map(|name| Entry::of(directory, name.clone())).collect()
        };
        let journal = Journal {
            tree: tree.file_name().unwrap_or_default().to_owned(),
            of_pod: entries(&self.root, &movable)?,
            of_tree: entries(tree, &of_tree)?,
        };
        write_journal(&self.journal(), &journal)?;
        for name in movable {
            let (there, of_tree) = (self.root.join(&name), tree.join(&name));
            let aside = self.pod.join(&name);
            if fs::symlink_metadata(&of_tree).is_ok() {
                act(Act::Exchange, &there, &of_tree)?;
                act(Act::Rename, &of_tree, &aside)?;
            } else {
                act(Act::Rename, &there, &aside)?;
            }
        }
        for name in names(tree)? {
            if !self.stays.contains(&name) {
                act(Act::Rename, &tree.join(&name), &self.root.join(&name))?;
            }
        }
        Ok(())
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
        if let Err(error) = self.leave_entries(tree, &mut act) {
            self.bring_home()?;
            return Err(error);
        }
        for (name, held) in &before.held {
            let volume = self.root.join(name);
            let now = stamps_in(&volume);
            let names: BTreeSet<&OsString> = held.keys().chain(now.keys()).collect();
            let changed = names.into_iter().filter(|name| held.get(*name) != now.get(*name));
            done.lost.extend(changed.map(|name| volume.join(name)));
        }
        Ok(done)
    }

    fn leave_entries(&self, tree: &Path, act: Acting<'_>) -> io::Result<()> {
        // A command that removes everything removes these too, as far as it can.
        fs::create_dir_all(tree)?;
        fs::create_dir_all(&self.pod)?;
        let mut result = Ok(());
        for name in self.movable()? {
            let (there, aside, of_tree) =
                (self.root.join(&name), self.pod.join(&name), tree.join(&name));
            let moved = if fs::symlink_metadata(&aside).is_ok() {
                act(Act::Exchange, &there, &aside).and_then(|()| act(Act::Rename, &aside, &of_tree))
            } else {
                act(Act::Rename, &there, &of_tree)
            };
            result = result.and(moved);
        }
        for name in names(&self.pod)? {
            let moved = act(Act::Rename, &self.pod.join(&name), &self.root.join(&name));
            result = result.and(moved);
        }
        result?;
        remove(&self.journal())
    }
}

/// Renames to a path where nothing is.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
}

fn stamps_in(directory: &Path) -> BTreeMap<OsString, Stamp> {
    let names = names(directory).unwrap_or_default().into_iter();
    names
        .filter_map(|name| Some((stamp(&directory.join(&name)).ok()?, name)))
        .map(|(s, n)| (n, s))
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

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
        swap_of(root).expect("a root")
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
    fn a_volume_is_in_the_way_of_whatever_the_image_has_there() {
        let root = tempfile::tempdir().expect("a directory");
        let swap = swap(root.path());
        let tree = swap.home.join("1");
        fs::create_dir_all(tree.join("proc")).expect("a directory");
        let in_the_way = |cwd: &str| swap.in_the_way(&tree, Path::new(cwd));
        assert_eq!(in_the_way("/"), None);
        assert_eq!(in_the_way("/work/x"), Some("/work".into()));
        fs::create_dir(tree.join("work")).expect("a directory");
        assert_eq!(in_the_way("/"), Some("/work".into()));
    }

    #[test]
    fn what_changes_on_a_volume_is_said_and_stays_there() {
        let root = tempfile::tempdir().expect("a directory");
        let root = root.path();
        let swap = swap(root);
        write(root, &["work/same/x", "work/gone", "work/deep/x", "work/written"]);
        let tree = swap.home.join("1");
        write(&tree, &["bin/sh"]);
        let before = swap.enter(&tree).expect("swapped");
        write(root, &["work/made", "work/deep/made"]);
        fs::remove_file(root.join("work/gone")).expect("there");
        // The other kind of change of a file: its change time is not its modification time.
        fs::hard_link(root.join("work/written"), root.join("work/linked")).expect("a link");
        let done = swap.leave(&tree, &before).expect("swapped");
        let lost = ["deep", "gone", "linked", "made", "written"];
        assert_eq!(done.lost, lost.map(|name| root.join("work").join(name)));
        assert_eq!(listing(&tree), ["bin/sh"]);
        let left = ["context", "deep/made", "deep/x", "linked", "made", "same/x", "written"];
        assert_eq!(listing(&root.join("work")), left);
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

    /// Lets a number of changes happen and then no more, as if the process were killed.
    fn killed_after(mut count: usize) -> impl FnMut(Act, &Path, &Path) -> io::Result<()> {
        move |what, from, to| {
            count = count.checked_sub(1).ok_or_else(|| io::Error::other("killed"))?;
            act(what, from, to)
        }
    }

    /// What the pod of [`swap`] has when no build is there.
    const OF_POD: [&str; 6] = [
        "etc/hosts",
        "kaniko/executor",
        "kaniko/root/lock",
        "only-pod/x",
        "proc/x",
        "work/context",
    ];

    /// Kills a swap of every kind after every change, and lets the next build repair the root.
    fn repaired_after_every_change(swapping: impl Fn(&RootSwap, &Path, usize) -> bool) -> usize {
        for count in 0.. {
            let root = tempfile::tempdir().expect("a directory");
            let root = root.path();
            let killed = swap(root);
            let tree = killed.home.join("1");
            write(&tree, &["etc/passwd", "bin/sh", "proc/of-image", "only-pod-2/y"]);
            let was_killed = swapping(&killed, &tree, count);
            drop(killed);
            drop(swap_of(root).unwrap_or_else(|error| panic!("after {count}: {error}")));
            assert_eq!(listing(root), OF_POD, "after {count}");
            if !was_killed {
                return count;
            }
        }
        unreachable!("some number of changes is enough")
    }

    fn swap_of(root: &Path) -> Result<RootSwap, String> {
        let mounts = ["/proc", "/work", "/etc/hosts"].map(PathBuf::from);
        RootSwap::of(root, &mounts, &[root.join("kaniko")])
    }

    #[test]
    fn a_root_is_repaired_wherever_going_in_was_killed() {
        let changes = repaired_after_every_change(|swap, tree, count| {
            swap.enter_entries(tree, &mut killed_after(count)).is_err()
        });
        assert_eq!(changes, 5, "an exchange with its rename, one aside, two in");
    }

    #[test]
    fn a_root_is_repaired_wherever_coming_out_was_killed() {
        let changes = repaired_after_every_change(|swap, tree, count| {
            swap.enter(tree).expect("swapped");
            swap.leave_entries(tree, &mut killed_after(count)).is_err()
        });
        assert_eq!(changes, 5);
    }

    #[test]
    fn a_swap_that_fails_leaves_the_root_as_it_was() {
        let root = tempfile::tempdir().expect("a directory");
        let root = root.path();
        let swap = swap(root);
        let tree = swap.home.join("1");
        write(&tree, &["etc/passwd", "bin/sh"]);
        swap.enter_entries(&tree, &mut killed_after(1)).expect_err("killed");
        assert!(!swap.is_settled());
        // The next one repairs it too.
        let before = swap.enter(&tree).expect("swapped");
        swap.leave(&tree, &before).expect("swapped");
        assert!(swap.is_settled());
        assert_eq!(listing(&tree), ["bin/sh", "etc/passwd"]);
        assert_eq!(listing(&root.join("etc")), ["hosts"]);
    }

    #[test]
    fn what_nobody_knows_the_owner_of_is_not_removed() {
        let root = tempfile::tempdir().expect("a directory");
        let root = root.path();
        drop(swap(root));
        write(root, &["kaniko/root/pod/etc/theirs", "kaniko/root/pod/lone/x"]);
        let error = swap_of(root).expect_err("two directories of one name");
        assert!(error.contains("cannot bring back"), "{error}");
        assert_eq!(listing(&root.join("etc")), ["hosts"]);
        assert!(root.join("kaniko/root/pod/etc/theirs").exists());
    }
}
