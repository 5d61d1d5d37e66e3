//! The upper directory of an overlay mount as a layer: only what was changed is looked at.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};

use crate::changes::{Change, Emitter, PackError};
use crate::inode_read::{
    TreeReadError, file_type, is_opaque, is_overlay_whiteout, mtime, open_content, sorted_names,
    stat, xattrs,
};
use crate::layer_writer::LayerWriter;

/// Writes what the upper directory changes over its lower directories (topmost first, as in
/// overlayfs's `lowerdir=`), and returns the changes.
///
/// Copies that overlayfs made and nobody changed are left out. An opaque directory becomes a
/// removal for each lower name that is gone, because not every reader knows opaque markers.
/// The root's own entry is left out.
///
/// # Errors
/// See [`PackError`].
pub fn pack_upper<W: Write>(
    upper: &Path,
    lowers: &[PathBuf],
    writer: &mut LayerWriter<W>,
) -> Result<Vec<Change>, PackError> {
    let mut pack = Pack { upper, emitter: Emitter::new(upper), changes: Vec::new() };
    pack.directory(Path::new(""), lowers, Lower::Shows, writer)?;
    Ok(pack.changes)
}

struct Pack<'a> {
    upper: &'a Path,
    emitter: Emitter<'a>,
    changes: Vec<Change>,
}

/// Whether overlayfs merges the lower directories into the one at hand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lower {
    Shows,
    Hidden,
}

impl Pack<'_> {
    /// `lowers` are the directories of lower layers that stand at `path`, topmost first.
    fn directory<W: Write>(
        &mut self,
        path: &Path,
        lowers: &[PathBuf],
        lower: Lower,
        writer: &mut LayerWriter<W>,
    ) -> Result<(), PackError> {
        let full = self.upper.join(path);
        let mut names = sorted_names(&full)?;
        if lower == Lower::Hidden {
            for gone in lower_names(lowers)? {
                if names.binary_search(&gone).is_err() {
                    names.push(gone);
                }
            }
            names.sort_unstable();
        }
        for name in names {
            let path = path.join(&name);
            let full = full.join(&name);
            let below = LowerView::of(lowers, &name)?;
            let found = match stat(&full) {
                Ok(found) if !is_overlay_whiteout(&found) => found,
                Err(error) if error.source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error.into());
                }
                _ => {
                    if below.top.is_some() {
                        self.emitter.parents(&path, writer)?;
                        writer.whiteout(&path)?;
                        self.changes.push(Change::Removed(path));
                    }
                    continue;
                }
            };
            self.entry(&path, &full, &found, &below, lower, writer)?;
        }
        Ok(())
    }

    fn entry<W: Write>(
        &mut self,
        path: &Path,
        full: &Path,
        found: &Stat,
        below: &LowerView,
        lower: Lower,
        writer: &mut LayerWriter<W>,
    ) -> Result<(), PackError> {
        let change = match &below.top {
            None => Some(Change::Added(path.to_owned())),
            Some((lower_full, lower_stat)) => {
                let changed = !is_copy(full, found, lower_full, lower_stat)?;
                changed.then(|| Change::Modified(path.to_owned()))
            }
        };
        if let Some(change) = change {
            self.emitter.emit(path, writer)?;
            if file_type(found) != FileType::Socket {
                self.changes.push(change);
            }
        }
        if file_type(found) == FileType::Directory {
            let hidden = lower == Lower::Hidden || is_opaque(full);
            let lower = if hidden { Lower::Hidden } else { Lower::Shows };
            self.directory(path, &below.directories, lower, writer)?;
        }
        Ok(())
    }
}

/// What lower layers show at one name.
struct LowerView {
    /// The inode that the topmost layer with the name holds.
    top: Option<(PathBuf, Stat)>,
    /// The directories that overlayfs would merge there, topmost first.
    directories: Vec<PathBuf>,
}

impl LowerView {
    fn of(lowers: &[PathBuf], name: &std::ffi::OsStr) -> Result<Self, TreeReadError> {
        let mut view = Self { top: None, directories: Vec::new() };
        for lower in lowers {
            let full = lower.join(name);
            let found = match stat(&full) {
                Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => continue,
                found => found?,
            };
            if is_overlay_whiteout(&found) {
                break;
            }
            let directory = file_type(&found) == FileType::Directory;
            // Anything but a directory ends the merge, also when it stands under one.
            if !directory && view.top.is_some() {
                break;
            }
            if view.top.is_none() {
                view.top = Some((full.clone(), found));
            }
            if !directory {
                break;
            }
            let opaque = is_opaque(&full);
            view.directories.push(full);
            if opaque {
                break;
            }
        }
        Ok(view)
    }
}

/// Names that merged lower directories show.
fn lower_names(lowers: &[PathBuf]) -> Result<Vec<std::ffi::OsString>, TreeReadError> {
    let mut names = Vec::new();
    for lower in lowers {
        names.extend(sorted_names(lower)?);
    }
    names.sort_unstable();
    names.dedup();
    let mut shown = Vec::new();
    for name in names {
        if LowerView::of(lowers, &name)?.top.is_some() {
            shown.push(name);
        }
    }
    Ok(shown)
}

/// Whether the upper inode is an unchanged copy of the lower one.
fn is_copy(
    upper: &Path,
    upper_stat: &Stat,
    lower: &Path,
    lower_stat: &Stat,
) -> Result<bool, PackError> {
    let same = upper_stat.st_mode == lower_stat.st_mode
        && upper_stat.st_uid == lower_stat.st_uid
        && upper_stat.st_gid == lower_stat.st_gid
        && upper_stat.st_rdev == lower_stat.st_rdev
        && mtime(upper_stat) == mtime(lower_stat);
    if !same {
        return Ok(false);
    }
    match file_type(upper_stat) {
        FileType::Directory => Ok(xattrs(upper)? == xattrs(lower)?),
        FileType::RegularFile => {
            let same = upper_stat.st_size == lower_stat.st_size
                && upper_stat.st_nlink == lower_stat.st_nlink
                && xattrs(upper)? == xattrs(lower)?;
            // Times can be set, so only the bytes tell.
            Ok(same && same_content(upper, lower)?)
        }
        FileType::Symlink => {
            let target = |path: &Path| {
                rustix::fs::readlink(path, Vec::new())
                    .map_err(|error| TreeReadError::new(path, error))
            };
            Ok(target(upper)? == target(lower)?)
        }
        FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Fifo
        | FileType::Socket
        | FileType::Unknown => Ok(true),
    }
}

fn same_content(one: &Path, other: &Path) -> Result<bool, PackError> {
    const PART: usize = 64 * 1024;
    let (mut left, mut right) = (open_content(one)?, open_content(other)?);
    let (mut left_part, mut right_part) = (Vec::new(), Vec::new());
    loop {
        for (file, part, path) in
            [(&mut left, &mut left_part, one), (&mut right, &mut right_part, other)]
        {
            part.clear();
            file.take(PART as u64)
                .read_to_end(part)
                .map_err(|source| TreeReadError { path: path.to_owned(), source })?;
        }
        if left_part != right_part {
            return Ok(false);
        }
        if left_part.is_empty() {
            return Ok(true);
        }
    }
}
