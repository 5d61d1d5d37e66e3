//! A tree as lines with everything that two builders can agree on.

use std::ffi::CStr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

/// One line per path: mode, owner, kind, content, links, extended attributes, and the time unless
/// it is not older than `started`: then it is the time of a build.
pub(crate) fn observe(root: &Path, started: i64) -> Vec<String> {
    let mut lines = Vec::new();
    walk(root, Path::new(""), started, &mut lines);
    lines.sort();
    lines
}

fn walk(root: &Path, below: &Path, started: i64, lines: &mut Vec<String>) {
    for item in std::fs::read_dir(root.join(below)).expect("readable") {
        let item = item.expect("readable");
        let path = below.join(item.file_name());
        let metadata = item.metadata().expect("readable");
        let kind = metadata.file_type();
        let what = if kind.is_dir() {
            "dir".to_owned()
        } else if kind.is_symlink() {
            format!("link {}", std::fs::read_link(item.path()).expect("a link").display())
        } else if kind.is_file() {
            let bytes = std::fs::read(item.path()).expect("readable");
            let text = match std::str::from_utf8(&bytes) {
                Ok(text) if text.len() <= 40 => format!("{text:?}"),
                _ => oci_model::Digest::of(&bytes).short(),
            };
            format!("file {text} links {}", metadata.nlink())
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else {
            format!("device {}", metadata.rdev())
        };
        let mode = if kind.is_symlink() { 0o777 } else { metadata.mode() & 0o7777 };
        let mut line =
            format!("/{} {mode:o} {}:{} {what}", path.display(), metadata.uid(), metadata.gid());
        if kind.is_file() || kind.is_dir() {
            line.push_str(&attributes(&item.path()));
        }
        if metadata.mtime() < started {
            line.push_str(&format!(" @{}", metadata.mtime()));
        }
        lines.push(line);
        if kind.is_dir() {
            walk(root, &path, started, lines);
        }
    }
}

/// What images keep of extended attributes.
fn attributes(path: &Path) -> String {
    let mut text = String::new();
    for name in [c"security.capability", c"user.note"] {
        let mut value = [0; 256];
        if let Ok(size) = rustix::fs::lgetxattr(path, name, &mut value) {
            text.push_str(&format!(" {}={:?}", shown(name), &value[..size]));
        }
    }
    text
}

fn shown(name: &CStr) -> String {
    name.to_string_lossy().into_owned()
}
