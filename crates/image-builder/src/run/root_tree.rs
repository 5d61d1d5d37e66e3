//! RUN without namespaces: in the root this process runs in, or below a directory.
//!
//! The tree holds exactly the layers of one stage at a time. Changes are found by comparing
//! inventories (stat only), and what is not the image's is never looked at: mount points, the
//! executor's own directory, ignored paths.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use container_runtime::{InPlaceSpec, run_in_place};
use dockerfile::{Network, Security};
use layers::{ApplyOptions, Inventory, Mounts, RootEntry, ScanOptions, Whiteouts, diff_trees};
use oci_model::DiffId;
use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid};

use super::mounts::{Ownership, Ready, ReadyMount, ReadySource};
use super::{Command, check_exit, forward, process, sandbox};
use crate::commit::{self, LayerForm};
use crate::error::StepError;
use crate::layer_source::{LayerRef, LayerSource};
use crate::layer_stack::LayerStack;
use crate::tree::resolve;
use crate::workspace::remove_tree;

/// The tree that commands run in, one after the other.
#[derive(Debug)]
pub(crate) struct RootTree {
    root: PathBuf,
    /// Whether commands get the directory as their root; else it is the root already.
    is_chroot: bool,
    /// Paths relative to the root that belong to others.
    keep: Vec<PathBuf>,
    /// The layers it holds; `None` while nobody knows what it holds.
    applied: Option<Vec<DiffId>>,
    inventory: Option<Inventory>,
}

impl RootTree {
    /// The root of this process, for an executor whose image holds nothing but the executor.
    ///
    /// # Errors
    /// The mounts of the process cannot be read.
    pub(crate) fn in_place(keep: &[PathBuf]) -> io::Result<Self> {
        let mounts = mount_points(&fs::read("/proc/self/mountinfo")?);
        let mut all: Vec<PathBuf> = keep
            .iter()
            .chain(&mounts)
            .map(|path| path.strip_prefix("/").unwrap_or(path).to_owned())
            .filter(|path| !path.as_os_str().is_empty())
            .collect();
        // Where a token is mounted below /var/run, an image's link at /var/run cannot stand.
        if all.iter().any(|path| path.starts_with("var/run") && path != Path::new("var/run")) {
            all.push("var/run".into());
        }
        all.sort();
        all.dedup();
        Ok(Self { root: "/".into(), is_chroot: false, keep: all, applied: None, inventory: None })
    }

    /// A directory that commands take for their root.
    pub(crate) fn below(root: PathBuf, keep: &[PathBuf]) -> Self {
        let keep =
            keep.iter().map(|path| path.strip_prefix("/").unwrap_or(path).to_owned()).collect();
        Self { root, is_chroot: true, keep, applied: None, inventory: None }
    }

    /// Whether the tree holds exactly these layers.
    pub(crate) fn holds(&self, layers: &[LayerRef]) -> bool {
        self.applied.as_ref().is_some_and(|applied| {
            applied.len() == layers.len()
                && applied.iter().zip(layers).all(|(a, b)| *a == b.diff_id)
        })
    }

    /// The tree as files.
    pub(crate) fn files(&self) -> LayerStack {
        LayerStack::new(vec![self.root.clone()])
    }

    /// Runs a command and makes a layer of what it changed; blocking. The blobs of `layers` are
    /// in the store.
    pub(crate) fn run(
        &mut self,
        command: &Command<'_>,
        layers: &[LayerRef],
        ready: &Ready,
        source: &LayerSource,
        form: LayerForm,
    ) -> Result<Option<LayerRef>, StepError> {
        refuse_what_needs_namespaces(command)?;
        self.switch_to(layers, source)?;
        let mut covers = Covers::new(command.scratch)?;
        let result = self.run_covered(command, ready, source, form, &mut covers);
        let restored = covers.remove();
        let layer = match result {
            Ok(layer) => layer,
            Err(error) => {
                // Whatever the command left is not what the next one may start from.
                self.applied = None;
                self.inventory = None;
                return Err(error);
            }
        };
        restored?;
        if let (Some(layer), Some(applied)) = (&layer, &mut self.applied) {
            applied.push(layer.diff_id);
        }
        Ok(layer)
    }

    fn run_covered(
        &mut self,
        command: &Command<'_>,
        ready: &Ready,
        source: &LayerSource,
        form: LayerForm,
        covers: &mut Covers,
    ) -> Result<Option<LayerRef>, StepError> {
        for mount in &ready.mounts {
            covers.put(self, mount)?;
        }
        if let Some(script) = &command.action.script {
            let path = self.root.join(script.path.trim_start_matches('/'));
            covers.script(&path, &script.content)?;
        }
        if self.is_chroot {
            covers.network_files(self)?;
        }
        let mut options = self.scan_options();
        options.exclude.extend(covers.targets.iter().cloned());
        let before = match self.inventory.take() {
            Some(inventory) if covers.is_empty() => inventory,
            Some(_) | None => self.scan(&options)?,
        };
        let spec = InPlaceSpec {
            process: process(command.action, &ready.env),
            chroot: self.is_chroot.then(|| self.root.clone()),
        };
        let mut output = forward(command.events, command.step);
        let outcome = run_in_place(&spec, command.cancel, &mut output)?;
        check_exit(command.action, &outcome)?;
        let mut writer = commit::writer(&source.store, source.lease(), form)?;
        let (after, _) = diff_trees(&before, &self.root, &options, &mut writer)
            .map_err(|error| StepError::layer("cannot read what the command changed", error))?;
        let layer = commit::finish(writer)?.map(|(layer, _)| layer);
        // What covered a path is missing from the inventory, so that it serves only without.
        self.inventory = covers.is_empty().then_some(after);
        Ok(layer)
    }

    fn scan_options(&self) -> ScanOptions {
        ScanOptions { exclude: self.keep.clone(), mounts: Mounts::Skip }
    }

    fn scan(&self, options: &ScanOptions) -> Result<Inventory, StepError> {
        Inventory::scan(&self.root, options)
            .map_err(|error| StepError::layer("cannot read the root file system", error))
    }

    /// Makes the tree hold exactly `layers`, keeping what they have in common with it.
    pub(crate) fn switch_to(
        &mut self,
        layers: &[LayerRef],
        source: &LayerSource,
    ) -> Result<(), StepError> {
        let start = match self.applied.take() {
            Some(applied)
                if applied.len() <= layers.len()
                    && applied.iter().zip(layers).all(|(a, b)| *a == b.diff_id) =>
            {
                applied
            }
            Some(_) | None => {
                self.inventory = None;
                self.wipe()?;
                Vec::new()
            }
        };
        let mut applied = start;
        for layer in &layers[applied.len()..] {
            self.inventory = None;
            self.apply(layer, source)?;
            applied.push(layer.diff_id);
        }
        self.applied = Some(applied);
        Ok(())
    }

    fn apply(&self, layer: &LayerRef, source: &LayerSource) -> Result<(), StepError> {
        let what = || format!("cannot unpack layer {}", layer.diff_id);
        let blob = source
            .store
            .open_blob(&layer.descriptor.digest)
            .map_err(|error| StepError::layer(what(), error))?;
        let mut options = ApplyOptions::for_this_process(Whiteouts::Remove);
        options.exclude = self.keep.clone();
        options.root_entry = if self.is_chroot { RootEntry::Apply } else { RootEntry::Ignore };
        let applied = layers::apply(blob.into_file(), &self.root, &options)
            .map_err(|error| StepError::layer(what(), error))?;
        if applied.diff_id != layer.diff_id {
            let reason = format!("its bytes are {}", applied.diff_id);
            return Err(StepError::layer(what(), reason));
        }
        for skipped in &applied.skipped {
            tracing::debug!(path = %skipped.path.display(), part = ?skipped.part, "left out");
        }
        Ok(())
    }

    /// Removes everything that is not kept.
    pub(crate) fn wipe(&self) -> Result<(), StepError> {
        wipe(&self.root, Path::new(""), &self.keep)
            .map_err(|error| StepError::io(&self.root, error))
    }
}

fn refuse_what_needs_namespaces(command: &Command<'_>) -> Result<(), StepError> {
    let reason = match (&command.action.network, &command.action.security) {
        (Network::None, _) => "--network=none needs a network namespace",
        (_, Security::Insecure) => "--security=insecure needs rights that this builder lacks",
        (Network::Default | Network::Host, Security::Sandbox) => return Ok(()),
    };
    Err(StepError::NoIsolation { reason: reason.to_owned() })
}

fn wipe(root: &Path, below: &Path, keep: &[PathBuf]) -> io::Result<()> {
    for item in fs::read_dir(root.join(below))? {
        let item = item?;
        let path = below.join(item.file_name());
        if keep.contains(&path) {
            continue;
        }
        let is_directory = item.file_type()?.is_dir();
        let holds_kept = keep.iter().any(|kept| kept.starts_with(&path));
        let full = root.join(&path);
        match (is_directory, holds_kept) {
            (true, true) => wipe(root, &path, keep)?,
            (true, false) => remove_tree(&full)?,
            (false, _) => fs::remove_file(&full)?,
        }
    }
    Ok(())
}

/// The mount points of a process but its root (proc(5), `mountinfo`, fifth field).
fn mount_points(mountinfo: &[u8]) -> Vec<PathBuf> {
    let lines = mountinfo.split(|byte| *byte == b'\n');
    let points = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    points
        .map(unescape)
        .map(|path| PathBuf::from(std::ffi::OsStr::from_bytes(&path)))
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

/// What stands over paths of the tree while a command runs, in place of mounts.
struct Covers {
    /// Holds what was moved out of the way.
    aside: PathBuf,
    covers: Vec<Cover>,
    /// Directories that did not exist, outermost first.
    created: Vec<PathBuf>,
    /// Covered paths relative to the root: never part of the layer.
    targets: Vec<PathBuf>,
}

struct Cover {
    path: PathBuf,
    /// Where the original is meanwhile.
    original: Option<PathBuf>,
    /// Where to put the cover back.
    home: Option<PathBuf>,
}

impl Covers {
    fn new(scratch: &Path) -> Result<Self, StepError> {
        let made = tempfile::Builder::new().prefix("aside-").tempdir_in(scratch);
        let aside = made.map_err(|error| StepError::io(scratch, error))?.keep();
        Ok(Self { aside, covers: Vec::new(), created: Vec::new(), targets: Vec::new() })
    }

    fn is_empty(&self) -> bool {
        self.covers.is_empty()
    }

    fn put(&mut self, tree: &RootTree, mount: &ReadyMount) -> Result<(), StepError> {
        let target = resolve(&tree.files(), &mount.target)?;
        if target.as_os_str().is_empty() {
            return Err(StepError::Mount("invalid mount target \"/\"".to_owned()));
        }
        let path = tree.root.join(&target);
        let failed = |error| StepError::io(&path, error);
        self.uncover(&path)?;
        let mut home = None;
        match &mount.from {
            ReadySource::Directory { path: source, ownership: Ownership::Scratch } => {
                move_tree(source, &path).map_err(failed)?;
            }
            ReadySource::Directory { path: source, ownership: Ownership::Foreign } => {
                copy_tree(source, &path).map_err(failed)?;
            }
            ReadySource::File(source) => copy_one(source, &path).map_err(failed)?,
            ReadySource::Cache { directory, below } => {
                let source = directory.path.join(below);
                move_tree(&source, &path).map_err(failed)?;
                home = Some(source);
            }
            ReadySource::Tmpfs { .. } => fs::create_dir(&path).map_err(failed)?,
            ReadySource::Socket(socket) => match fs::rename(socket, &path) {
                // A link does as well where the command sees the same root.
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices && !tree.is_chroot => {
                    std::os::unix::fs::symlink(socket, &path).map_err(failed)?;
                }
                renamed => renamed.map_err(failed)?,
            },
        }
        if let Some(cover) = self.covers.last_mut() {
            cover.home = home;
        }
        self.targets.push(target);
        Ok(())
    }

    fn script(&mut self, path: &Path, content: &str) -> Result<(), StepError> {
        self.uncover(path)?;
        sandbox::write_script(path, content)
    }

    /// Name service of this machine for a tree without namespaces of its own.
    fn network_files(&mut self, tree: &RootTree) -> Result<(), StepError> {
        for name in ["etc/resolv.conf", "etc/hosts"] {
            let source = Path::new("/").join(name);
            if source.exists() {
                let target = resolve(&tree.files(), Path::new(name))?;
                let path = tree.root.join(&target);
                self.uncover(&path)?;
                copy_one(&fs::canonicalize(&source).unwrap_or(source), &path)
                    .map_err(|error| StepError::io(&path, error))?;
                self.targets.push(target);
            }
        }
        Ok(())
    }

    /// Clears a path: what is there moves aside, missing parents are made.
    fn uncover(&mut self, path: &Path) -> Result<(), StepError> {
        let failed = |error| StepError::io(path, error);
        let mut missing = Vec::new();
        let mut parent = path.parent();
        while let Some(directory) = parent.filter(|directory| !directory.exists()) {
            missing.push(directory.to_owned());
            parent = directory.parent();
        }
        for directory in missing.into_iter().rev() {
            fs::create_dir(&directory).map_err(failed)?;
            self.created.push(directory);
        }
        let mut original = None;
        if fs::symlink_metadata(path).is_ok() {
            let aside = self.aside.join(self.covers.len().to_string());
            move_tree(path, &aside).map_err(failed)?;
            original = Some(aside);
        }
        self.covers.push(Cover { path: path.to_owned(), original, home: None });
        Ok(())
    }

    /// Takes everything away again, the last first.
    fn remove(mut self) -> Result<(), StepError> {
        let mut result = Ok(());
        for cover in self.covers.drain(..).rev() {
            let failed = |error| StepError::io(&cover.path, error);
            let times = cover.path.parent().and_then(|parent| fs::metadata(parent).ok());
            let mut taken = match &cover.home {
                Some(home) => move_tree(&cover.path, home),
                None if cover.path.is_dir() && !cover.path.is_symlink() => remove_tree(&cover.path),
                None => match fs::remove_file(&cover.path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    removed => removed,
                },
            };
            if let Some(original) = &cover.original {
                taken = taken.and_then(|()| move_tree(original, &cover.path));
            }
            if let (Some(parent), Some(times)) = (cover.path.parent(), times) {
                restore_times(parent, &times);
            }
            result = result.and(taken.map_err(failed));
        }
        for directory in self.created.iter().rev() {
            // Not empty: the command put something there, which is part of its layer.
            let times = directory.parent().and_then(|parent| fs::metadata(parent).ok());
            if fs::remove_dir(directory).is_ok()
                && let (Some(parent), Some(times)) = (directory.parent(), times)
            {
                restore_times(parent, &times);
            }
        }
        if let Err(error) = remove_tree(&self.aside) {
            tracing::warn!(path = %self.aside.display(), %error, "scratch directory stays");
        }
        result
    }
}

fn restore_times(path: &Path, metadata: &fs::Metadata) {
    // Best effort: at worst a directory carries a later time.
    let _ = rustix::fs::utimensat(CWD, path, &times_of(metadata), AtFlags::SYMLINK_NOFOLLOW);
}

fn times_of(metadata: &fs::Metadata) -> Timestamps {
    let at = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    Timestamps {
        last_access: at(metadata.atime(), metadata.atime_nsec()),
        last_modification: at(metadata.mtime(), metadata.mtime_nsec()),
    }
}

/// Renames, or copies and removes where the paths lie on different file systems.
fn move_tree(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            copy_tree(from, to)?;
            if from.is_dir() && !from.is_symlink() {
                remove_tree(from)
            } else {
                fs::remove_file(from)
            }
        }
        renamed => renamed,
    }
}

/// Copies files, directories and links with modes, owners and times; other kinds are left out.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
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

fn copy_one(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(from)?;
    if metadata.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from)?, to)?;
    } else if metadata.is_file() {
        fs::copy(from, to)?;
    } else {
        return Ok(());
    }
    dress(to, &metadata)
}

fn dress(path: &Path, like: &fs::Metadata) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = (Uid::from_raw(like.uid()), Gid::from_raw(like.gid()));
        rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if !like.is_symlink() {
        let mode = Mode::from_raw_mode(like.mode() & 0o7777);
        rustix::fs::chmodat(CWD, path, mode, AtFlags::empty())?;
    }
    rustix::fs::utimensat(CWD, path, &times_of(like), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
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
    fn wiping_spares_what_is_kept_and_its_parents() {
        let root = tempfile::tempdir().expect("a directory");
        for path in ["etc/passwd", "etc/resolv.conf", "usr/bin/x", "kaniko/executor"] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, "").expect("a file");
        }
        let keep = [PathBuf::from("kaniko"), PathBuf::from("/etc/resolv.conf")];
        RootTree::below(root.path().to_owned(), &keep).wipe().expect("ours");
        let left = |path: &str| root.path().join(path).exists();
        assert!(left("kaniko/executor") && left("etc/resolv.conf"));
        assert!(!left("etc/passwd") && !left("usr"));
    }

    #[test]
    fn covers_leave_the_tree_as_it_was() {
        let root = tempfile::tempdir().expect("a directory");
        let scratch = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join("data")).expect("a directory");
        fs::write(root.path().join("data/own"), "own").expect("a file");
        let tree = RootTree::below(root.path().to_owned(), &[]);
        let mut covers = Covers::new(scratch.path()).expect("a directory");
        for target in ["data", "new/deep/dir"] {
            let from = ReadySource::Tmpfs { bytes_max: None };
            let mount = ReadyMount { target: target.into(), from, is_writable: true };
            covers.put(&tree, &mount).expect("a cover");
        }
        assert!(!root.path().join("data/own").exists());
        fs::write(root.path().join("data/temporary"), "x").expect("a file");
        covers.remove().expect("taken away");
        assert_eq!(fs::read(root.path().join("data/own")).expect("back"), b"own");
        assert!(!root.path().join("data/temporary").exists());
        assert!(!root.path().join("new").exists());
    }
}
